//! Opened packets on their way to the overlay: those of one flow are joined to large ones, so that a batch
//! of the underlay costs few system calls and few walks through the local network stack. Called by
//! device.rs; how packets are joined stands in `offload`.

use super::io::Packet;
use super::outbox::Outbox;
use crate::offload::{Coalescer, Group, Offload};

/// Opened packets, in the order in which they came.
pub(super) struct OpenedPackets {
    packets: Outbox<()>,
    coalescer: Coalescer,
    /// The next of the coalescer's groups, once it has seen `packets`.
    next: Option<usize>,
}

impl OpenedPackets {
    pub(super) fn new() -> Self {
        let coalescer = Coalescer::new(Offload::None);
        Self { packets: Outbox::new(), coalescer, next: None }
    }

    pub(super) fn set_offload(&mut self, offload: Offload) {
        self.coalescer.set_offload(offload);
    }

    /// Room for one more packet; it counts once [`OpenedPackets::push`] is called.
    pub(super) fn place(&mut self, len: usize) -> &mut [u8] {
        self.packets.place(len)
    }

    /// Queues the first `len` bytes of the place given last. What was planned and not yet read is planned
    /// once more.
    pub(super) fn push(&mut self, len: usize) {
        self.packets.push((), len);
    }

    /// The next packet to be written; all are read before another one is pushed.
    pub(super) fn poll(&mut self) -> Option<Packet<'_>> {
        let next = match self.next {
            Some(next) => next,
            None => {
                let (bytes, packets) = self.packets.all();
                self.coalescer.plan(bytes, packets);
                0
            }
        };
        let Some(Group { header, parts }) = self.coalescer.group(next) else {
            self.next = None;
            self.packets.clear();
            return None;
        };
        self.next = Some(next + 1);
        Some(Packet { header, bytes: self.packets.bytes(), parts })
    }
}

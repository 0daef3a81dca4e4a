//! What waits for a session: packets of the overlay to one peer, bounded in number and bytes.
//!
//! The oldest goes when there are too many. peer.rs says when they are sent and when they are given up.

use std::collections::VecDeque;

/// Packets that wait for a session (`MAX_STAGED_PACKETS` in the kernel's messages.h); then the oldest
/// goes.
const MAX_STAGED: usize = 128;
/// Bytes that wait for a session: 128 packets of the usual MTU.
const MAX_STAGED_BYTES: usize = 192 * 1024;

/// Packets that wait for a session, the oldest first.
#[derive(Default)]
pub(super) struct Staged {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Staged {
    /// Adds a packet and returns how many old ones had to go for it.
    pub(super) fn push(&mut self, packet: &[u8]) -> usize {
        self.bytes += packet.len();
        self.packets.push_back(packet.to_vec());
        let mut overflow = 0;
        while self.packets.len() > MAX_STAGED || self.bytes > MAX_STAGED_BYTES {
            overflow += usize::from(self.pop().is_some());
        }
        overflow
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    pub(super) fn clear(&mut self) -> usize {
        let count = self.packets.len();
        *self = Self::default();
        count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

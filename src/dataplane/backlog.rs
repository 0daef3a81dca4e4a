//! Large packets that were read from the TUN and wait to be sealed. One of them is up to 60 µs of work, and
//! the kernel hides the TUN's queue from TCP (each packet is orphaned as it is handed over), so that
//! hundreds may stand before a gossip probe. So what is there is read at once, what is small passes by what
//! is large, and a large packet waits here for its turn: not for long ([`Codel`]), and with few others.
//! Packets of one flow keep their order.

use std::collections::VecDeque;
use std::time::Instant;

use super::BUFFER;
use super::codel::Codel;
use crate::offload::{VnetHeader, same_flow};
use crate::sys::tun::HEADROOM;

/// Bytes that may wait: half a millisecond of work, six of the largest packets. A TCP stream fills whatever
/// there is; it loses no speed by this, and a ping beside it half a millisecond less than with twice as much.
const MOST_BYTES: usize = 384 * 1024;

/// Packets that wait for their turn, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Buffers that are free.
    spare: Vec<Vec<u8>>,
    codel: Codel,
}

/// A packet in the buffer that it was read to.
#[derive(Debug)]
pub(super) struct Waiting {
    since: Instant,
    pub(super) header: VnetHeader,
    /// The packet begins at [`HEADROOM`].
    pub(super) buffer: Vec<u8>,
    pub(super) len: usize,
    /// The queue stands: the sender is to slow down, by a mark or by a loss.
    pub(super) is_congested: bool,
}

impl Backlog {
    /// A buffer to read to.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| vec![0; BUFFER])
    }

    /// Takes a buffer back.
    pub(super) fn done(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }

    /// Gives the memory back that a burst needed.
    pub(super) fn shrink(&mut self) {
        self.spare.truncate(1);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a packet has to wait: it is large, or one of its flow waits.
    pub(super) fn holds(&self, header: &VnetHeader, packet: &[u8]) -> bool {
        header.is_large() || self.waiting.iter().any(|waiting| same_flow(waiting.packet(), packet))
    }

    /// Lets a packet wait. Its buffer comes back when too many wait already.
    pub(super) fn push(
        &mut self,
        now: Instant,
        header: VnetHeader,
        buffer: Vec<u8>,
        len: usize,
    ) -> Result<(), Vec<u8>> {
        if self.bytes + len > MOST_BYTES && !self.is_empty() {
            return Err(buffer);
        }
        self.bytes += len;
        self.waiting.push_back(Waiting { since: now, header, buffer, len, is_congested: false });
        Ok(())
    }

    /// The packet whose turn it is. Its buffer goes back by [`Backlog::done`].
    pub(super) fn pop(&mut self, now: Instant) -> Option<Waiting> {
        let mut waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.len;
        let is_last = self.waiting.is_empty();
        waiting.is_congested = self.codel.is_congested(now, waiting.since, is_last);
        Some(waiting)
    }
}

impl Waiting {
    fn packet(&self) -> &[u8] {
        self.buffer.get(HEADROOM..HEADROOM + self.len).unwrap_or_default()
    }
}

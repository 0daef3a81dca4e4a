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
/// Who comes when so many wait, and understands a mark, gets one: a full backlog would drop dozens of segments
/// with each packet, long before time tells that the queue stands.
const CROWDED_BYTES: usize = MOST_BYTES / 2;

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
    /// Many waited before it: the sender is to slow down, if a mark can tell it.
    pub(super) is_crowded: bool,
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
        let is_crowded = self.bytes > CROWDED_BYTES;
        self.bytes += len;
        let waiting = Waiting { since: now, header, buffer, len, is_crowded, is_congested: false };
        self.waiting.push_back(waiting);
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;
    use crate::offload::{GSO_TCPV4, NEEDS_CSUM};

    const LARGE: VnetHeader = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 40,
        gso_size: 1380,
        csum_start: 20,
        csum_offset: 16,
    };
    const SMALL: VnetHeader = VnetHeader {
        flags: 0,
        gso_type: 0,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// A TCP segment of the flow that has this port.
    fn packet(port: u8, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        (packet[9], packet[21], packet[32]) = (6, port, 0x50);
        packet
    }

    /// Reads a packet as the loop does; whether it waits now.
    fn read(backlog: &mut Backlog, now: Instant, header: VnetHeader, packet: &[u8]) -> bool {
        if !backlog.holds(&header, packet) {
            return false;
        }
        let mut buffer = backlog.buffer();
        buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let pushed = backlog.push(now, header, buffer, packet.len());
        pushed.map_err(|buffer| backlog.done(buffer)).is_ok()
    }

    fn pop(backlog: &mut Backlog, now: Instant) -> Option<Vec<u8>> {
        let waiting = backlog.pop(now)?;
        let packet = waiting.packet().to_vec();
        backlog.done(waiting.buffer);
        Some(packet)
    }

    #[test]
    fn what_is_large_waits_and_what_is_small_of_another_flow_passes() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        assert!(!read(&mut backlog, now, SMALL, &packet(1, 100)), "nobody waits before it");
        assert!(read(&mut backlog, now, LARGE, &packet(1, 60_000)));
        assert!(!read(&mut backlog, now, SMALL, &packet(2, 100)));
        assert!(!backlog.is_empty());
    }

    #[test]
    fn packets_of_one_flow_keep_their_order() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        let packets = [(LARGE, packet(1, 3000)), (LARGE, packet(2, 5000)), (SMALL, packet(1, 40))];
        for (header, packet) in &packets {
            assert!(read(&mut backlog, now, *header, packet));
        }
        // Of a fragment nobody knows what it belongs to.
        let mut fragment = packet(3, 60);
        fragment[6] = 0x20;
        assert!(read(&mut backlog, now, SMALL, &fragment));
        for (_, packet) in packets {
            assert_eq!(pop(&mut backlog, now), Some(packet));
        }
        assert_eq!(pop(&mut backlog, now), Some(fragment));
        assert_eq!(pop(&mut backlog, now), None);
        assert!(!read(&mut backlog, now, SMALL, &packet(1, 40)), "nothing of its flow waits now");
    }

    #[test]
    fn no_more_waits_than_is_sealed_in_a_moment() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        let large = packet(1, 65_535);
        let waiting = (0..100).filter(|_| read(&mut backlog, now, LARGE, &large)).count();
        assert_eq!(waiting, MOST_BYTES / large.len());
        assert!(backlog.bytes <= MOST_BYTES);
        assert!(pop(&mut backlog, now).is_some());
        assert!(read(&mut backlog, now, LARGE, &large), "there is room again");
        while pop(&mut backlog, now).is_some() {}
        assert_eq!(backlog.bytes, 0);
    }

    /// Streams that understand marks lost dozens of segments at a time, and were marked never.
    #[test]
    fn who_comes_when_many_wait_is_to_be_marked_before_anybody_is_refused() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        let large = packet(1, 60_000);
        while read(&mut backlog, now, LARGE, &large) {}
        let mut crowded = Vec::new();
        while let Some(waiting) = backlog.pop(now) {
            assert!(!waiting.is_congested, "nobody waited");
            crowded.push(waiting.is_crowded);
        }
        let (calm, marked) = crowded.split_at(CROWDED_BYTES / large.len() + 1);
        assert!(calm.iter().all(|crowded| !crowded) && marked.iter().all(|crowded| *crowded));
        assert!(marked.len() >= 2, "{crowded:?}");
    }

    #[test]
    fn buffers_are_used_again_and_given_back_after_a_burst() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        let large = packet(1, 20_000);
        for _ in 0..3 {
            while read(&mut backlog, now, LARGE, &large) {}
            while pop(&mut backlog, now).is_some() {}
            // One more was refused, and its buffer kept.
            assert_eq!(backlog.spare.len(), MOST_BYTES / large.len() + 1);
        }
        let spare = backlog.spare.last().map(|buffer| buffer.as_ptr());
        let buffer = backlog.buffer();
        assert_eq!(Some(buffer.as_ptr()), spare);
        backlog.done(buffer);
        backlog.shrink();
        assert_eq!(backlog.spare.len(), 1);
    }

    #[test]
    fn a_queue_that_stands_is_congested_and_its_last_packet_never() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        let wait = std::time::Duration::from_millis(20);
        let mut congested = 0;
        for round in 0..20 {
            let now = start + wait * round;
            assert!(read(&mut backlog, now, LARGE, &packet(1, 3000)));
            if round > 0 {
                let waiting = backlog.pop(now).expect("one waits");
                congested += usize::from(waiting.is_congested);
                backlog.done(waiting.buffer);
            }
        }
        assert!((2..6).contains(&congested), "{congested} in 400 ms");
        let last = backlog.pop(start + wait * 20).expect("one waits");
        assert!(!last.is_congested);
    }
}

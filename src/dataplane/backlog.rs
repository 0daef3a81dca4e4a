//! Large packets that were read from the TUN and wait to be sealed. One of them is up to 60 µs of work, and
//! the kernel hides the TUN's queue from TCP (each packet is orphaned as it is handed over), so that
//! hundreds may stand before a gossip probe. So what is there is read at once, what is small passes by what
//! is large, and a large packet waits here for its turn: not for long ([`Codel`]), for less while something
//! passes by, and with few others. Packets of one flow keep their order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::BUFFER;
use super::codel::Codel;
use crate::offload::{VnetHeader, same_flow};
use crate::sys::pages::Pages;
use crate::sys::tun::HEADROOM;

/// How long a packet may wait while others wait behind it. A TCP stream fills whatever there is, and then its
/// receiver's socket as well; when its packets waited for longer than this it is told to slow down. What a
/// machine seals in that time is what a stream needs for its full speed: with bytes for a bound instead, a
/// machine half as fast had twice the delay. With half of this time a stream that slowed down left too little
/// on the way for both ends to work at once: they slept, and it had nine tenths of its speed.
const ENOUGH_WAIT: Duration = Duration::from_millis(4);
/// The same beside packets that pass by: what the stream has on its way they meet in the receiver's socket. A
/// ping beside it takes 0.74 of the time that it takes otherwise, 0.5 at its 99th percentile, for a quarter of
/// the stream's speed.
const ENOUGH_BESIDE: Duration = Duration::from_millis(1);
/// What passes by counts when it does so again and again, for longer than the first and with no pause like the
/// second: not the one acknowledgement of another connection, but all that comes once a second, as memberlist's
/// probes do.
const AGAIN: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_secs(2);
/// With fewer bytes than two large packets behind it, it was the loop that waited for its processor.
const FEW_BYTES: usize = 128 * 1024;
/// How often it is told: a sender takes a round trip to slow down, and slows down once for all that it is
/// told in one.
const TOLD_EVERY: Duration = Duration::from_millis(1);
/// What waits at most, whoever does not slow down: in bytes, and in packets, each of which has a buffer that
/// a large one would fit into.
const MOST_BYTES: usize = 2560 * 1024;
const MOST_PACKETS: usize = 64;
/// Buffers that were not needed for so long are given back: longer than the pauses within a transfer.
const NEEDED_AGAIN: Duration = Duration::from_millis(100);

/// Packets that wait for their turn, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Buffers that are free. The first `unused` of them were not needed since `checked`.
    spare: Vec<Pages>,
    unused: usize,
    checked: Option<Instant>,
    codel: Codel,
    /// When a sender was told last that there is enough.
    told: Option<Instant>,
    /// When packets first and last passed by what waits, with no longer pause between.
    passed_by: Option<(Instant, Instant)>,
}

/// A packet in the buffer that it was read to.
#[derive(Debug)]
pub(super) struct Waiting {
    since: Instant,
    pub(super) header: VnetHeader,
    /// The packet begins at [`HEADROOM`].
    pub(super) buffer: Pages,
    pub(super) len: usize,
    /// Too much waits: the sender is to slow down.
    pub(super) is_congested: bool,
}

impl Backlog {
    /// A buffer to read to.
    pub(super) fn buffer(&mut self) -> Pages {
        let buffer = self.spare.pop().unwrap_or_else(|| Pages::new(BUFFER));
        self.unused = self.unused.min(self.spare.len());
        buffer
    }

    /// Takes a buffer back.
    pub(super) fn done(&mut self, buffer: Pages) {
        self.spare.push(buffer);
    }

    /// Called at each wakeup: gives back what a burst needed and nobody since, but for one buffer.
    pub(super) fn shrink(&mut self, now: Instant) {
        if self.shrinks_at().is_some_and(|at| at <= now) {
            self.spare.drain(..self.unused.min(self.spare.len() - 1));
            self.checked = None;
        }
        if self.spare.len() > 1 && self.checked.is_none() {
            self.checked = Some(now);
            self.unused = self.spare.len();
        }
    }

    /// When [`Backlog::shrink`] has something to do.
    pub(super) fn shrinks_at(&self) -> Option<Instant> {
        self.checked.filter(|_| self.spare.len() > 1).map(|checked| checked + NEEDED_AGAIN)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a packet has to wait: it is large, or one of its flow waits. If not, it passes by what does.
    pub(super) fn holds(&mut self, now: Instant, header: &VnetHeader, packet: &[u8]) -> bool {
        let is_of_flow = |waiting: &Waiting| same_flow(waiting.packet(), packet);
        let holds = header.is_large() || self.waiting.iter().any(is_of_flow);
        if !holds && !self.is_empty() {
            let since = self.passed_by.filter(|(_, last)| now < *last + PAUSE);
            self.passed_by = Some((since.map_or(now, |(first, _)| first), now));
        }
        holds
    }

    /// Lets a packet wait. Its buffer comes back when too many wait already.
    pub(super) fn push(
        &mut self,
        now: Instant,
        header: VnetHeader,
        buffer: Pages,
        len: usize,
    ) -> Result<(), Pages> {
        if self.bytes + len > MOST_BYTES || self.waiting.len() >= MOST_PACKETS {
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
        let stands = self.codel.is_congested(now, waiting.since, is_last);
        // Told by its loss, what is small would be lost whole, and may be gossip behind a fragment.
        waiting.is_congested =
            waiting.header.is_large() && (stands || self.is_enough(now, waiting.since));
        Some(waiting)
    }

    fn is_enough(&mut self, now: Instant, since: Instant) -> bool {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let is_beside =
            self.passed_by.is_some_and(|(first, last)| last >= first + AGAIN && ago(last) < PAUSE);
        let enough = self.bytes >= FEW_BYTES
            && ago(since) >= if is_beside { ENOUGH_BESIDE } else { ENOUGH_WAIT }
            && self.told.is_none_or(|told| ago(told) >= TOLD_EVERY);
        if enough {
            self.told = Some(now);
        }
        enough
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
        if !backlog.holds(now, &header, packet) {
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

    /// Each has a buffer that a large one would fit into.
    #[test]
    fn no_more_packets_wait_than_there_are_buffers_for() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        let short = packet(1, 3000);
        let waiting = (0..100).filter(|_| read(&mut backlog, now, LARGE, &short)).count();
        assert_eq!(waiting, MOST_PACKETS);
        assert!(pop(&mut backlog, now).is_some());
        assert!(read(&mut backlog, now, LARGE, &short), "there is room again");
    }

    /// Streams lost dozens of segments at a time when the backlog was full, and were marked never.
    #[test]
    fn when_many_waited_long_enough_one_sender_is_told_in_each_millisecond() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        let large = packet(1, 60_000);
        let at = |micros| start + Duration::from_micros(micros);
        for _ in 0..9 {
            assert!(read(&mut backlog, start, LARGE, &large));
        }
        let mut told = |micros| backlog.pop(at(micros)).unwrap().is_congested;
        let times = [0, 3999, 4000, 4500, 4999, 5000];
        assert_eq!(times.map(&mut told), [false, false, true, false, false, true]);
        // There are three left: one of them leaves two behind, which are few.
        assert_eq!([9000, 9001].map(&mut told), [false, false]);
    }

    /// It waits for what is large of its flow, or for a fragment, which may be of any.
    #[test]
    fn what_is_small_and_waits_is_told_nothing() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        for _ in 0..9 {
            assert!(read(&mut backlog, start, LARGE, &packet(1, 60_000)));
            assert!(read(&mut backlog, start, SMALL, &packet(1, 100)));
        }
        let late = start + ENOUGH_WAIT;
        let told: Vec<bool> = (0..10)
            .map(|turn| backlog.pop(late + TOLD_EVERY * turn).unwrap().is_congested)
            .collect();
        assert_eq!(told, [true, false, true, false, true, false, true, false, true, false]);
    }

    #[test]
    fn beside_packets_that_pass_by_less_is_enough() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        let large = packet(1, 60_000);
        let waits = |backlog: &mut Backlog, begin: Instant, micros| {
            for _ in 0..4 {
                assert!(read(backlog, begin, LARGE, &large));
            }
            let told = backlog.pop(begin + Duration::from_micros(micros)).unwrap().is_congested;
            while backlog.pop(begin).is_some() {}
            told
        };
        let pass = |backlog: &mut Backlog, now| {
            assert!(read(backlog, now, LARGE, &large));
            assert!(!read(backlog, now, SMALL, &packet(2, 100)));
            let _ = backlog.pop(now);
        };
        for at in [start, start + AGAIN] {
            assert!(!read(&mut backlog, at, SMALL, &packet(2, 100)), "it has nothing to pass by");
        }
        assert!(!waits(&mut backlog, start + AGAIN, 1000));
        pass(&mut backlog, start);
        assert!(!waits(&mut backlog, start, 1000), "it may be the only one");
        let last = start + Duration::from_secs(1);
        pass(&mut backlog, last);
        assert_eq!([999, 1000].map(|micros| waits(&mut backlog, last, micros)), [false, true]);
        let later = last + PAUSE;
        assert_eq!([1000, 4000].map(|micros| waits(&mut backlog, later, micros)), [false, true]);
        pass(&mut backlog, later);
        assert!(!waits(&mut backlog, later, 1000), "again it may be the only one");
    }

    #[test]
    fn what_passes_by_counts_while_it_does_so_again_and_again() {
        let tick = Duration::from_millis(1);
        let told = |pause: Duration, after: Duration| {
            let (mut backlog, start) = (Backlog::default(), Instant::now());
            let large = packet(1, 60_000);
            for _ in 0..4 {
                assert!(read(&mut backlog, start, LARGE, &large));
            }
            for at in [start, start + pause] {
                assert!(!read(&mut backlog, at, SMALL, &packet(2, 100)));
            }
            let now = start + pause + after;
            while pop(&mut backlog, now).is_some() {}
            for _ in 0..4 {
                assert!(read(&mut backlog, now, LARGE, &large));
            }
            // What was told before is long ago.
            backlog.told = None;
            backlog.pop(now + ENOUGH_BESIDE).unwrap().is_congested
        };
        assert!(told(PAUSE - tick, tick));
        assert!(!told(PAUSE, tick), "it paused");
        assert!(told(AGAIN, PAUSE - tick * 2));
        assert!(!told(AGAIN, PAUSE), "it is over");
        assert!(!told(AGAIN - tick, tick), "it may have been two of a moment");
    }

    #[test]
    fn buffers_are_used_again_and_those_of_a_burst_given_back_soon() {
        let (mut backlog, mut now) = (Backlog::default(), Instant::now());
        let large = packet(1, 60_000);
        let fill_and_empty = |backlog: &mut Backlog, packets: usize| {
            for _ in 0..packets {
                assert!(read(backlog, now, LARGE, &large));
            }
            while pop(backlog, now).is_some() {}
        };
        let most = MOST_BYTES / large.len();
        for _ in 0..3 {
            fill_and_empty(&mut backlog, most);
            assert_eq!(backlog.spare.len(), most);
        }
        let spare = backlog.spare.last().map(|buffer| buffer.as_ptr());
        let buffer = backlog.buffer();
        assert_eq!(Some(buffer.as_ptr()), spare);
        backlog.done(buffer);

        // A transfer that needs five of them keeps those, and the end of it all but one.
        assert_eq!(backlog.shrinks_at(), None, "nobody has looked yet");
        backlog.shrink(now);
        assert_eq!(backlog.shrinks_at(), Some(now + NEEDED_AGAIN));
        fill_and_empty(&mut backlog, 5);
        now += NEEDED_AGAIN;
        backlog.shrink(now);
        assert_eq!(backlog.spare.len(), 5);
        now += NEEDED_AGAIN;
        backlog.shrink(now);
        assert_eq!((backlog.spare.len(), backlog.shrinks_at()), (1, None));
    }

    #[test]
    fn a_queue_that_stands_is_congested_and_its_last_packet_never() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        let wait = Duration::from_millis(20);
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

//! How much the packet loop takes at a wakeup. A lone packet costs one read and one send: nothing is read
//! only to hear that there is no more, since the next wait tells that for free. When packets follow one
//! another without a pause, each wakeup takes twice as many as the one before. The time that the loop takes
//! anyway at a wakeup tells the one from the other; there is nothing to wait for and nothing to tune.

use std::time::{Duration, Instant};

use super::BATCH;

/// A wakeup that comes this soon after the one before, beside the work in between, found something waiting:
/// a lone datagram takes the loop 5 to 10 µs, most of it in the kernel.
const LONE: Duration = Duration::from_micros(20);
/// The work for a byte, generously: sealing or opening it takes half a nanosecond.
const NANOSECONDS_PER_BYTE: u64 = 2;

/// How many packets to take.
#[derive(Debug)]
pub(super) struct Pace {
    quota: usize,
    woke: Option<Instant>,
    /// Bytes handled since then.
    bytes: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { quota: 1, woke: None, bytes: 0 }
    }

    /// Called at each wakeup.
    pub(super) fn woke(&mut self, now: Instant) {
        let work = Duration::from_nanos(NANOSECONDS_PER_BYTE * self.bytes as u64);
        let before = self.woke.replace(now);
        self.bytes = 0;
        let pause = before.map(|before| now.saturating_duration_since(before));
        let busy = pause.is_some_and(|pause| pause < LONE + work);
        self.quota = if busy { (self.quota * 2).min(BATCH) } else { 1 };
    }

    /// Tells that so many bytes were handled.
    pub(super) fn worked(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// How many bytes were handled since the last wakeup.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many packets to take from one descriptor now.
    pub(super) fn quota(&self) -> usize {
        self.quota
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;

    #[test]
    fn lone_packets_are_taken_one_by_one_and_a_burst_in_growing_batches() {
        let (mut pace, start) = (Pace::new(), Instant::now());
        let mut at = |micros| {
            pace.woke(start + Duration::from_micros(micros));
            pace.worked(100);
            pace.quota()
        };
        assert_eq!([0, 50, 100, 150].map(&mut at), [1, 1, 1, 1]);
        assert_eq!([155, 160, 170, 180, 190, 200, 210].map(&mut at), [2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(at(260), 1);
    }

    #[test]
    fn the_time_that_large_packets_take_is_not_taken_for_a_pause() {
        let (mut pace, start) = (Pace::new(), Instant::now());
        pace.woke(start);
        pace.worked(65_535);
        pace.woke(start + Duration::from_micros(120));
        assert_eq!(pace.quota(), 2);
    }
}

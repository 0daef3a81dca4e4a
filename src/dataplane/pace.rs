//! How much the packet loop takes at a wakeup. A lone packet costs one read and one send: nothing is read
//! only to hear that there is no more, since the next wait tells that for free. When packets follow one
//! another without a pause, each wakeup takes twice as many as the one before. The time that the loop takes
//! anyway at a wakeup tells the one from the other; there is nothing to wait for and nothing to tune.

use std::time::Duration;

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
    /// Bytes handled since the last wakeup.
    bytes: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { quota: 1, bytes: 0 }
    }

    /// Called at each wakeup, with the time since the one before.
    pub(super) fn woke(&mut self, pause: Duration) {
        let work = Duration::from_nanos(NANOSECONDS_PER_BYTE * self.bytes as u64);
        self.bytes = 0;
        self.quota = if pause < LONE + work { (self.quota * 2).min(BATCH) } else { 1 };
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
mod tests {
    use super::*;

    #[test]
    fn lone_packets_are_taken_one_by_one_and_a_burst_in_growing_batches() {
        let mut pace = Pace::new();
        let mut after = |micros| {
            pace.woke(Duration::from_micros(micros));
            pace.worked(100);
            pace.quota()
        };
        assert_eq!([50, 50, 50].map(&mut after), [1, 1, 1]);
        assert_eq!([5, 5, 10, 10, 10, 10, 10].map(&mut after), [2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(after(50), 1);
    }

    #[test]
    fn the_time_that_large_packets_take_is_not_taken_for_a_pause() {
        let mut pace = Pace::new();
        pace.worked(65_535);
        pace.woke(Duration::from_micros(120));
        assert_eq!(pace.quota(), 2);
    }
}

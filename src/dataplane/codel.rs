//! Controlled delay (RFC 8289): tells a queue that stands for longer than it should by the time that
//! packets wait in it, and marks or drops ever more of them until it no longer does.

use std::time::{Duration, Instant};

/// For how long packets may wait without harm (section 4.3 of the RFC).
const TARGET: Duration = Duration::from_millis(5);
/// A queue above the target for so long is no burst: a round trip on most paths (section 4.3).
const INTERVAL: Duration = Duration::from_millis(100);

/// The state of one queue.
#[derive(Debug, Default)]
pub(super) struct Codel {
    /// When the wait will have been above the target for an interval.
    above: Option<Instant>,
    /// When the next packet is marked or dropped, while the queue stands.
    next: Option<Instant>,
    /// When the last one was.
    last: Option<Instant>,
    /// Packets marked or dropped since the queue stands.
    count: u32,
}

impl Codel {
    /// Called for each packet that leaves the queue: whether its sender is to slow down. `since` is when it
    /// came; the last packet of a queue never is.
    pub(super) fn is_congested(&mut self, now: Instant, since: Instant, is_last: bool) -> bool {
        if is_last || now.saturating_duration_since(since) < TARGET {
            self.above = None;
            self.next = None;
            return false;
        }
        let above = *self.above.get_or_insert(now + INTERVAL);
        if now < above {
            return false;
        }
        match self.next {
            Some(next) if now < next => return false,
            Some(next) => {
                self.count += 1;
                self.next = Some(next + self.gap());
            }
            None => {
                // It stands again soon after it no longer did: go on nearly where that ended.
                let soon = self.last.is_some_and(|last| now < last + INTERVAL * 16);
                self.count = if soon && self.count > 2 { self.count - 2 } else { 1 };
                self.next = Some(now + self.gap());
            }
        }
        self.last = Some(now);
        true
    }

    /// The control law: with each packet the next one follows sooner, by the square root.
    fn gap(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_burst_passes_and_a_standing_queue_does_not() {
        let (mut codel, start) = (Codel::default(), Instant::now());
        let mut marked = Vec::new();
        for at in 0..600 {
            let now = start + ms(at + 10);
            if codel.is_congested(now, now - ms(10), false) {
                marked.push(at);
            }
        }
        // After one interval, then 100/sqrt(2) ms later, 100/sqrt(3), and so on.
        assert_eq!(marked[..5], [100, 200, 271, 329, 379]);
        assert!(marked.len() > 8, "{marked:?}");
    }

    #[test]
    fn packets_that_do_not_wait_are_left_alone() {
        let (mut codel, start) = (Codel::default(), Instant::now());
        for at in 0..600 {
            let now = start + ms(at + 10);
            assert!(!codel.is_congested(now, now - ms(4), false));
            assert!(!codel.is_congested(now, now - ms(10), true), "nobody waits behind it");
        }
    }

    #[test]
    fn one_short_wait_ends_it() {
        let (mut codel, start) = (Codel::default(), Instant::now());
        let mut congested = |at: u64, wait: u64| {
            let now = start + ms(at);
            codel.is_congested(now, now - ms(wait), false)
        };
        assert_eq!([10, 60, 120].map(|at| congested(at, 9)), [false, false, true]);
        assert!(!congested(121, 1));
        assert_eq!([122, 200, 230].map(|at| congested(at, 9)), [false, false, true]);
    }
}

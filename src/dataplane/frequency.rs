//! Whether packets come often. While they do, the packet loop has short slices (scheduling.rs): it runs as soon
//! as a packet is there, whoever has the processor. Mostly that is the program that has just sent it and would
//! have slept in a moment. It has to wait, so that two want this processor, and the kernel wakes whoever the
//! packet goes to on another one: by an interrupt if that sleeps, which costs more than all that is done for
//! the packet. A ping every 2 ms takes 140 µs so and 157 µs otherwise; but gossip every 200 ms takes 1.4 times
//! the processor time, and has none to save by it.

use std::time::{Duration, Instant};

/// Wakeups after which one looks at how long they took.
const WAKEUPS: u32 = 16;
/// They were often when they took less than this, 100 a second, and no longer when they took more than that.
const OFTEN: Duration = Duration::from_millis(160);
const SELDOM: Duration = Duration::from_millis(500);

/// How often the loop wakes up.
#[derive(Debug, Default)]
pub(super) struct Frequency {
    is_high: bool,
    /// Wakeups since then.
    wakeups: u32,
    since: Option<Instant>,
}

impl Frequency {
    /// Called at each wakeup: whether packets come often, when that has changed.
    pub(super) fn woke(&mut self, now: Instant) -> Option<bool> {
        self.wakeups += 1;
        if self.wakeups < WAKEUPS {
            return None;
        }
        self.wakeups = 0;
        let took = now.saturating_duration_since(self.since.replace(now)?);
        let was_high = self.is_high;
        self.is_high = took < if was_high { SELDOM } else { OFTEN };
        (self.is_high != was_high).then_some(self.is_high)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;

    const NONE: [bool; 0] = [];

    /// The changes over so many wakeups with a pause before each.
    fn changes(frequency: &mut Frequency, now: &mut Instant, pause: u64, times: u32) -> Vec<bool> {
        let wakeups = (0..times).filter_map(|_| {
            *now += Duration::from_millis(pause);
            frequency.woke(*now)
        });
        wakeups.collect()
    }

    #[test]
    fn what_comes_every_other_millisecond_is_often_until_it_comes_seldom() {
        let (mut frequency, mut now) = (Frequency::default(), Instant::now());
        let mut changes = |pause, times| changes(&mut frequency, &mut now, pause, times);
        assert_eq!(changes(200, 100), NONE, "gossip");
        assert_eq!(changes(2, 40), [true]);
        assert_eq!(changes(20, 100), NONE, "slower, but not seldom");
        assert_eq!(changes(100, 40), [false]);
        assert_eq!(changes(20, 100), NONE, "faster, but not often");
    }

    #[test]
    fn the_first_wakeups_tell_nothing() {
        let (mut frequency, mut now) = (Frequency::default(), Instant::now());
        assert_eq!(changes(&mut frequency, &mut now, 0, 2 * WAKEUPS - 1), NONE);
        assert_eq!(changes(&mut frequency, &mut now, 0, 1), [true]);
    }
}

//! Whether packets come often. While they do, the packet loop has short slices (scheduling.rs): it runs as soon
//! as a packet is there, whoever has the processor. Mostly that is the program that has just sent it and would
//! have slept in a moment. It has to wait, so that two want this processor, and the kernel wakes whoever the
//! packet goes to on another one: by an interrupt if that sleeps, which costs more than all that is done for
//! the packet. A ping every 2 ms takes 140 µs so and 157 µs otherwise; but gossip every 200 ms takes 1.4 times
//! the processor time, and has none to save by it.

use std::time::Duration;

/// They come often once so many wakeups in a row came this soon after the one before, and no longer after one
/// pause of that length. What is between keeps things as they are.
const IN_A_ROW: u32 = 16;
const SOON: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(50);

/// How often the loop wakes up.
#[derive(Debug, Default)]
pub(super) struct Frequency {
    is_high: bool,
    /// Wakeups in a row that came soon.
    soon: u32,
}

impl Frequency {
    /// Called at each wakeup, with the time since the one before: whether packets come often, when that has
    /// changed.
    pub(super) fn woke(&mut self, pause: Duration) -> Option<bool> {
        self.soon = if pause < SOON { (self.soon + 1).min(IN_A_ROW) } else { 0 };
        let was_high = self.is_high;
        self.is_high = self.soon == IN_A_ROW || (was_high && pause < PAUSE);
        (self.is_high != was_high).then_some(self.is_high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [bool; 0] = [];

    /// The changes over so many wakeups with a pause before each.
    fn changes(frequency: &mut Frequency, pause: u64, times: u32) -> Vec<bool> {
        (0..times).filter_map(|_| frequency.woke(Duration::from_millis(pause))).collect()
    }

    #[test]
    fn what_comes_every_other_millisecond_is_often_until_there_is_a_pause() {
        let mut frequency = Frequency::default();
        let mut changes = |pause, times| changes(&mut frequency, pause, times);
        assert_eq!(changes(200, 100), NONE, "gossip");
        assert_eq!(changes(2, 15), NONE, "a burst");
        assert_eq!(changes(200, 1), NONE);
        assert_eq!(changes(2, 40), [true]);
        assert_eq!(changes(20, 100), NONE, "slower, but without a pause");
        assert_eq!(changes(50, 1), [false]);
        assert_eq!(changes(20, 100), NONE, "faster, but not often");
    }
}

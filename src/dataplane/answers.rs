//! Whether the kernel answers what is written to the TUN within that write, as it answers an echo request and
//! often a segment of TCP. Such an answer is read at once, without a wait. What a program answers comes later,
//! and looking for it costs a read that finds nothing. So the loop looks when two writes in a row were
//! answered soon, until a look finds nothing: a program that is quick costs one such read in three packets.

use std::time::{Duration, Instant};

/// An answer that is there so soon after the wakeup that brought the question is taken for the kernel's. The
/// loop itself takes up to 30 µs of that after a pause.
const SOON: Duration = Duration::from_micros(50);
/// Writes in a row that are no chance.
const SURE: u8 = 2;

/// How the latest writes to the TUN were answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// When the loop woke for a write after which nothing was read.
    asked: Option<Instant>,
    /// So many in a row were answered soon.
    soon: u8,
}

impl Answers {
    /// Called at each wakeup, which something from the overlay may be a reason of.
    pub(super) fn woke(&mut self, now: Instant, overlay: bool) {
        if let Some(asked) = self.asked.take() {
            let is_soon = overlay && now.saturating_duration_since(asked) < SOON;
            self.soon = if is_soon { (self.soon + 1).min(SURE) } else { 0 };
        }
    }

    /// Called after a write, by a loop that woke `now`: whether to look for the answer at once.
    pub(super) fn are_expected(&mut self, now: Instant) -> bool {
        let expected = self.soon == SURE;
        self.asked = (!expected).then_some(now);
        expected
    }

    /// Tells that a look has found nothing.
    pub(super) fn found_none(&mut self) {
        self.soon = 0;
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;

    #[test]
    fn a_look_follows_two_answers_that_came_soon_and_none_that_came_late() {
        let (mut answers, start) = (Answers::default(), Instant::now());
        let mut at = 0;
        let mut ask = |answers: &mut Answers, pause, overlay| {
            at += 1000;
            let woke = start + Duration::from_micros(at);
            let looks = answers.are_expected(woke);
            if !looks {
                answers.woke(woke + Duration::from_micros(pause), overlay);
            }
            looks
        };
        assert_eq!([20, 60, 20, 20].map(|pause| ask(&mut answers, pause, true)), [false; 4]);
        assert!(ask(&mut answers, 0, true) && ask(&mut answers, 0, true), "as long as it is right");
        answers.found_none();
        assert_eq!([20, 20].map(|pause| ask(&mut answers, pause, true)), [false; 2]);
        assert!(ask(&mut answers, 0, true));
        answers.found_none();
        assert_eq!([20, 20, 20].map(|pause| ask(&mut answers, pause, false)), [false; 3]);
    }
}

//! The time of the control plane: how long it runs, and what the clock on the wall said when a thing happened.
//!
//! The device knows instants only; `wg` shows times of the day. This is the one place of the daemon that
//! reads a clock.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// The two clocks drift apart by a few milliseconds an hour; more than this means that somebody set the
/// one on the wall. Following every nanosecond would let the time of a handshake tremble.
const STEP: Duration = Duration::from_millis(500);

/// One moment told by both clocks, to turn a time of one into the other.
pub(super) struct Clock {
    pub(super) started: Instant,
    anchor: Cell<(Instant, SystemTime)>,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the control plane's loop takes the time here")]
    pub(super) fn now() -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "the control plane's loop takes the time here")]
    pub(super) fn start() -> Self {
        let started = Instant::now();
        Self { started, anchor: Cell::new((started, SystemTime::now())) }
    }

    /// Turns instants into times of the clock on the wall, as it is set now.
    #[expect(clippy::disallowed_methods, reason = "the control plane's loop takes the time here")]
    pub(super) fn wall(&self) -> impl Fn(Instant) -> SystemTime + use<> {
        let anchor = follow(self.anchor.get(), Instant::now(), SystemTime::now());
        self.anchor.set(anchor);
        move |at| convert(anchor, at)
    }
}

/// The anchor to go on with: the old one, unless the clock on the wall was set since.
fn follow(anchor: (Instant, SystemTime), now: Instant, wall: SystemTime) -> (Instant, SystemTime) {
    let expected = convert(anchor, now);
    let off = wall.duration_since(expected).unwrap_or_else(|error| error.duration());
    if off > STEP { (now, wall) } else { anchor }
}

fn convert((instant, wall): (Instant, SystemTime), at: Instant) -> SystemTime {
    match at.checked_duration_since(instant) {
        Some(after) => wall + after,
        None => wall - instant.duration_since(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_followed_and_one_that_trembles_is_not() {
        let now = Clock::now();
        let anchor = (now, SystemTime::UNIX_EPOCH);
        let later = now + Duration::from_secs(10);
        let wall = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(follow(anchor, later, wall(10_003)), anchor);
        assert_eq!(follow(anchor, later, wall(9_990)), anchor);
        assert_eq!(follow(anchor, later, wall(3_600_000)), (later, wall(3_600_000)));
        assert_eq!(convert((later, wall(3_600_000)), now), wall(3_590_000));
    }
}

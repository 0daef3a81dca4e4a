//! A peer's timers, named after what happens when they fire.

use std::time::Instant;

/// What is to be done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The last handshake initiation was not answered: send another one or give up.
    Retry,
    /// Data came and nothing went back: tell the peer that we are here.
    Keepalive,
    /// Data went out and nothing came back: the session may be gone on the other side.
    Unanswered,
    /// Gossip went out and nothing came back: the peer may be cut off, and is to learn at once that
    /// it no longer is.
    Silent,
    /// What was missed may be sent once more: the way there is ready by now.
    SendAgain,
    /// The configured persistent keepalive is due.
    PersistentKeepalive,
    /// The initiator did not use the session that we answered: our response may be lost.
    Unconfirmed,
    /// Keys of old sessions are to be wiped.
    Expire,
}

const TIMERS: [Timer; 8] = [
    Timer::Retry,
    Timer::Keepalive,
    Timer::Unanswered,
    Timer::Silent,
    Timer::SendAgain,
    Timer::PersistentKeepalive,
    Timer::Unconfirmed,
    Timer::Expire,
];

/// When each timer fires, if it is set.
#[derive(Debug, Default)]
pub(super) struct Timers {
    at: [Option<Instant>; TIMERS.len()],
    /// The earliest time that one was set to since somebody asked.
    set_to: Option<Instant>,
}

impl Timers {
    /// Sets a timer, or moves it.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(place) = self.at.get_mut(timer as usize) {
            *place = Some(at);
            self.set_to = Some(self.set_to.map_or(at, |earliest| earliest.min(at)));
        }
    }

    /// Sets a timer unless it is set already.
    pub(super) fn set_once(&mut self, timer: Timer, at: Instant) {
        if !self.is_set(timer) {
            self.set(timer, at);
        }
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(place) = self.at.get_mut(timer as usize) {
            *place = None;
        }
    }

    /// When a timer fires, if it is set.
    pub(super) fn get(&self, timer: Timer) -> Option<Instant> {
        self.at.get(timer as usize).copied().flatten()
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.get(timer).is_some()
    }

    /// The earliest time at which one fires.
    pub(super) fn next(&self) -> Option<Instant> {
        self.at.iter().flatten().min().copied()
    }

    /// The earliest time that one was set or moved to since the last call: most packets set none.
    pub(super) fn take_set_to(&mut self) -> Option<Instant> {
        self.set_to.take()
    }

    /// Clears one timer that is due and names it.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let due = |at: &Option<Instant>| at.is_some_and(|at| at <= now);
        let (timer, place) = TIMERS.iter().zip(&mut self.at).find(|(_, at)| due(at))?;
        *place = None;
        Some(*timer)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_timer_fires_once_and_not_early() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        timers.set(Timer::Expire, at(3));
        timers.set_once(Timer::Expire, at(1));
        timers.set(Timer::Retry, at(5));
        timers.set(Timer::Retry, at(2));
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!((timers.take_set_to(), timers.take_set_to()), (Some(at(2)), None));
        assert_eq!(timers.take_due(at(1)), None);
        assert_eq!(timers.take_due(at(4)), Some(Timer::Retry));
        assert_eq!(timers.take_due(at(4)), Some(Timer::Expire));
        assert_eq!(timers.take_due(at(4)), None);
        assert_eq!(timers.next(), None);
    }
}

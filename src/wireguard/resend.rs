//! What a peer may have missed: kept while the peer is silent, sent once more when it is heard.
//!
//! memberlist sends each message about four times within a second or two and then trusts the next full
//! exchange, up to 60 s later. Gossip is idempotent and numbered, so a duplicate is harmless, and the
//! peer needs no change. Echo requests are kept for a moment, so that a probe does not see a restart; a
//! duplicate of these would be seen, so that they wait for a peer that must be new. Called by peer.rs for
//! each such datagram and each authenticated message.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A peer that was silent for longer than this may have missed what was sent to it. Alertmanager's
/// probes time out after the same time.
const GAP: Duration = Duration::from_millis(500);
/// An answer takes no longer than this on any path that gossip is fit for: what is older when the peer
/// is heard was not answered. It keeps the answer to a lone probe, one a second, from counting as an
/// end of silence.
const ROUND_TRIP: Duration = Duration::from_millis(250);
/// Datagrams kept for one peer: 30 s of a cluster that gossips at full rate, 200 ms apart, with room.
const MOST: usize = 512;
/// Bytes kept for one peer: [`MOST`] at the largest size would be 720 kB, and are never that large.
const MOST_BYTES: usize = 512 * 1024;
/// Memory that is kept when nothing is in it: more was needed for an outage, which is over.
const KEPT_BYTES: usize = 16 * 1024;

/// For how long an echo request is kept: whoever probes waits for a second or more.
pub(super) const ECHO_AGE: Duration = Duration::from_secs(1);

/// What is kept to be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Gossip,
    Echo,
}

/// Packets of one kind sent to one peer since it was last heard, the oldest first.
#[derive(Default)]
pub(super) struct Resend {
    sent: VecDeque<Sent>,
    /// The packets, back to back.
    bytes: VecDeque<u8>,
    /// The peer missed these, by all that we know: send them as soon as a session works.
    due: bool,
    /// Packets that never left and were given up, since somebody asked.
    lost: usize,
}

/// A packet that is kept.
struct Sent {
    at: Instant,
    len: usize,
    /// There was no session to send it.
    never_left: bool,
}

impl Resend {
    /// Keeps a packet that was sent, or that could not be sent for want of a session (`missed`).
    pub(super) fn push(&mut self, now: Instant, packet: &[u8], missed: bool) {
        self.sent.push_back(Sent { at: now, len: packet.len(), never_left: missed });
        self.bytes.extend(packet);
        self.due |= missed;
        while self.sent.len() > MOST || self.bytes.len() > MOST_BYTES {
            self.drop_oldest();
        }
    }

    /// Called when the peer was heard, and `before` last: says that it got everything, or that it may
    /// have missed what is kept.
    pub(super) fn heard(&mut self, now: Instant, before: Option<Instant>) {
        let Some(oldest) = self.oldest() else { return };
        let gap = before.is_none_or(|before| now.saturating_duration_since(before) > GAP);
        if gap && now.saturating_duration_since(oldest) > ROUND_TRIP {
            self.due = true;
        } else if !self.due {
            self.clear();
        }
    }

    /// Called when the peer was heard, of packets that it must have got before it said something.
    pub(super) fn answered(&mut self) {
        if !self.due && !self.sent.is_empty() {
            self.clear();
        }
    }

    /// Called when the peer may have missed what it did not answer. It makes a new session: it may have been
    /// started anew, and cannot open what was sealed for the old one. It is heard from another address: what
    /// went to the old one may be lost. Or the kernel did not send.
    pub(super) fn may_be_missed(&mut self) {
        self.due = !self.sent.is_empty();
    }

    /// When the first packet that the peer has not answered was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.sent.front().map(|sent| sent.at)
    }

    /// Whether something is kept for the peer that is not older than `age`.
    pub(super) fn waits(&self, now: Instant, age: Duration) -> bool {
        self.sent.back().is_some_and(|sent| now.saturating_duration_since(sent.at) <= age)
    }

    /// Whether the peer missed something.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// How many packets that never left were given up since the last call.
    pub(super) fn take_lost(&mut self) -> usize {
        std::mem::take(&mut self.lost)
    }

    /// Takes what the peer missed, none of it older than `age`, packet by packet.
    pub(super) fn take_due(&mut self, now: Instant, age: Duration) -> Option<Vec<u8>> {
        while self.due {
            let Some(&Sent { at, len, .. }) = self.sent.front() else {
                self.clear();
                break;
            };
            if now.saturating_duration_since(at) <= age {
                let packet = self.bytes.drain(..len.min(self.bytes.len())).collect();
                self.sent.pop_front();
                return Some(packet);
            }
            self.drop_oldest();
        }
        None
    }

    fn drop_oldest(&mut self) {
        if let Some(Sent { len, never_left, .. }) = self.sent.pop_front() {
            self.bytes.drain(..len.min(self.bytes.len()));
            self.lost += usize::from(never_left);
        }
    }

    pub(super) fn clear(&mut self) {
        self.due = false;
        if self.sent.is_empty() && self.bytes.capacity() <= KEPT_BYTES {
            return;
        }
        self.lost += self.sent.drain(..).filter(|sent| sent.never_left).count();
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.sent.shrink_to(KEPT_BYTES / 64);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(30);

    fn taken(resend: &mut Resend, now: Instant) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| resend.take_due(now, AGE)).collect()
    }

    #[test]
    fn what_was_sent_into_a_silence_comes_back_once_and_in_order() {
        let (mut resend, start) = (Resend::default(), Instant::now());
        for i in 0..5u8 {
            resend.push(start + Duration::from_millis(200) * i.into(), &[i; 3], false);
        }
        let now = start + Duration::from_secs(1);
        assert!(taken(&mut resend, now).is_empty());
        resend.heard(now, Some(start));
        let expected: Vec<Vec<u8>> = (0..5).map(|i| vec![i; 3]).collect();
        assert_eq!(taken(&mut resend, now), expected);
        resend.heard(now, Some(start));
        assert!(taken(&mut resend, now).is_empty());
    }

    #[test]
    fn a_peer_that_answers_has_missed_nothing() {
        let (mut resend, start) = (Resend::default(), Instant::now());
        // Heard often: nothing is kept.
        resend.push(start, b"gossip", false);
        resend.heard(start + Duration::from_millis(400), Some(start));
        // A probe a second, each answered within a round trip.
        let probe = start + Duration::from_secs(1);
        resend.push(probe, b"probe", false);
        resend.heard(probe + Duration::from_millis(3), Some(start + Duration::from_millis(6)));
        assert!(taken(&mut resend, probe + Duration::from_millis(3)).is_empty());
        assert!(resend.sent.is_empty());
    }

    #[test]
    fn what_is_too_old_or_too_much_is_not_sent_again() {
        let (mut resend, start) = (Resend::default(), Instant::now());
        resend.push(start, b"old", false);
        let now = start + AGE + Duration::from_millis(1);
        resend.push(now, b"new", true);
        assert_eq!(taken(&mut resend, now), [b"new"]);
        for i in 0..MOST + 10 {
            resend.push(now, &(i as u32).to_be_bytes(), true);
        }
        let kept = taken(&mut resend, now);
        assert_eq!((kept.len(), kept[0].as_slice()), (MOST, &10u32.to_be_bytes()[..]));
        for _ in 0..MOST {
            resend.push(now, &[0; 1500], true);
        }
        assert!(resend.bytes.len() <= MOST_BYTES);
        assert_eq!(resend.take_lost(), 10 + MOST - resend.sent.len());
        resend.clear();
        assert!(resend.bytes.capacity() <= KEPT_BYTES);
    }
}

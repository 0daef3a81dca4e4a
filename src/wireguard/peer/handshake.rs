//! When a peer shakes hands: at the start, when a packet wants a session, when one grows old; and how
//! an initiation that is not answered is retried.
//!
//! The schedule follows section 6 of the WireGuard paper and drivers/net/wireguard/timers.c, but where
//! gossip needs more: first retries after 1 s and 2 s (memberlist declares a silent member dead 4 s
//! after its suspicion), every address of a peer tried in turn, retries for as long as there is
//! something to send. Called by peer.rs.

use std::time::{Duration, Instant};

use super::{Context, Peer};
use crate::wireguard::drops::DropReason;
use crate::wireguard::ecn::Ecn;
use crate::wireguard::endpoint::Endpoint;
use crate::wireguard::io::Event;
use crate::wireguard::message::INITIATION_LEN;
use crate::wireguard::timers::Timer;

/// Interval of retries once the first ones are through (section 6.4).
pub(super) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a peer with a persistent keepalive, which wants to hear of the peer's return at once.
const WATCHFUL: Duration = Duration::from_millis(1500);
/// Random addition to [`REKEY_TIMEOUT`], in milliseconds (section 6.4).
pub(super) const REKEY_JITTER_MS: u64 = 333;
/// How long an unanswered handshake is retried after the last packet that wanted it (section 6.4).
pub(super) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// The first retries. Responders of every implementation take initiations 20 ms apart, and a cluster of
/// two or three has 4 s before it declares a member dead.
const FIRST_RETRIES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Until the next address of a peer that has several is tried (RFC 8305 section 8).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

impl Peer {
    /// Starts a handshake, unless one is under way or a session is there.
    pub(in crate::wireguard) fn start(&mut self, cx: &mut Context<'_>, patience: Duration) {
        if self.session.as_ref().is_some_and(|session| session.current(cx.now).is_none()) {
            self.want_handshake_until(cx, cx.now + patience);
        }
    }

    /// Tries at once what would have been tried later, now that there is a way out (kernel: device.c,
    /// wg_open).
    pub(in crate::wireguard) fn underlay_opened(&mut self, cx: &mut Context<'_>) {
        if self.persistent_keepalive != 0 {
            self.timers.set(Timer::PersistentKeepalive, cx.now);
        }
        if self.timers.is_set(Timer::Retry) {
            self.attempts = 0;
            self.timers.set(Timer::Retry, cx.now);
        }
    }

    /// Asks for a session: starts a handshake, or keeps the one under way going.
    pub(super) fn want_handshake(&mut self, cx: &mut Context<'_>) {
        self.want_handshake_until(cx, cx.now + REKEY_ATTEMPT_TIME);
    }

    fn want_handshake_until(&mut self, cx: &mut Context<'_>, until: Instant) {
        self.wanted_until = self.wanted_until.max(Some(until));
        if self.session.is_some() && self.endpoint.is_some() && !self.timers.is_set(Timer::Retry) {
            self.attempts = 0;
            self.initiate(cx);
        }
    }

    /// Sends an initiation to the next address and sets the time of the one after it.
    fn initiate(&mut self, cx: &mut Context<'_>) {
        let count = self.targets().count().max(1);
        let Some(target) = self.targets().nth(self.attempts as usize % count) else { return };
        let Some(session) = &mut self.session else { return };
        let out = cx.datagrams.place(INITIATION_LEN);
        if let Some(len) = session.initiate(cx.now, out) {
            self.sent(cx, target, Ecn::NotCapable, len);
        }
        let tried = self.attempts as usize + 1;
        let delay = match tried.checked_sub(count) {
            None => NEXT_ADDRESS,
            Some(round) => FIRST_RETRIES.get(round).copied().unwrap_or_else(|| {
                let jitter = Duration::from_millis(cx.rng.u64(0..=REKEY_JITTER_MS));
                jitter + if self.persistent_keepalive == 0 { REKEY_TIMEOUT } else { WATCHFUL }
            }),
        };
        self.timers.set(Timer::Retry, cx.now + delay);
        self.attempts = self.attempts.saturating_add(1);
        self.counters.unanswered_initiations =
            self.counters.unanswered_initiations.saturating_add(1);
        if self.attempts > 1 {
            let initiations = self.counters.unanswered_initiations;
            cx.events.push_back(Event::Unanswered { peer: self.public_key, initiations });
        }
    }

    pub(super) fn retry(&mut self, cx: &mut Context<'_>) {
        let wanted = self.wanted_until.is_some_and(|until| cx.now < until);
        if !wanted {
            self.drops.add(DropReason::StagedExpired, self.staged.clear());
        }
        if wanted || self.persistent_keepalive != 0 {
            // A local address that stopped working would explain the silence (kernel: timers.c,
            // wg_expired_retransmit_handshake).
            self.forget_source();
            self.initiate(cx);
        } else {
            self.timers.set_once(Timer::Expire, cx.now);
        }
    }

    /// Where initiations go: the endpoint first, then the other addresses of the peer.
    pub(super) fn targets(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let now = self.endpoint.map(|endpoint| endpoint.address);
        let others = self.candidates.iter().filter(move |&&address| Some(address) != now);
        self.endpoint.into_iter().chain(others.map(|&address| address.into()))
    }

    /// Makes the next session when the current one is ours and of this age ([`REKEY_AFTER_TIME`] or more), or of
    /// former keys.
    pub(super) fn keep_fresh(&mut self, cx: &mut Context<'_>, age: Duration) {
        let session = self.session.as_ref();
        if session.is_some_and(|session| session.is_fresh(cx.now)) {
            // Whoever made it: this is what almost every packet finds.
            return;
        }
        match session.and_then(|session| session.current(cx.now)) {
            Some(session) if !session.initiator || session.age(cx.now) < age => {}
            _ => self.want_handshake(cx),
        }
    }
}

//! One peer: its endpoint, its sessions, its timers and its counters. When it shakes hands stands in
//! peer/handshake.rs.
//!
//! Timers follow section 6 of the WireGuard paper and drivers/net/wireguard/timers.c. Called by
//! device.rs, which owns the tables; boringtun is behind session.rs.

mod filtering;
mod handshake;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::filtering::Filtering;
use self::handshake::{REKEY_ATTEMPT_TIME, REKEY_JITTER_MS, REKEY_TIMEOUT};
use super::drops::{DropReason, Drops};
use super::ecn::Ecn;
use super::endpoint::Endpoint;
use super::filter::Allow;
use super::io::{Envelope, Event, PeerId};
use super::keys::{PresharedKey, PublicKey};
use super::message::{DATA_OVERHEAD, INITIATION_LEN};
use super::outbox::Outbox;
use super::resend::{ECHO_AGE, Kept, Resend};
use super::session::{Opened, REJECT_AFTER_TIME, REKEY_AFTER_TIME, Session};
use super::snapshot::{PeerSnapshot, SessionState};
use super::staged::Staged;
use super::timers::{Timer, Timers};

/// Data that came is answered within this time, by an empty packet if need be (section 6.5).
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A responder's session is used by its initiator within a round trip: the initiator confirms at once.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// Initiations of one peer are answered no closer than this (`INITIATIONS_PER_SECOND` 50 in the
/// kernel's messages.h).
const INITIATION_SPACING: Duration = Duration::from_millis(20);
/// Gossip unanswered for so long means that the peer may be cut off. In a cluster of two or three both
/// ends probe once a second, so in good times a peer is heard before.
const SILENT_AFTER: Duration = Duration::from_millis(1250);
/// How often a silent peer is then told that we are here. Its gossip waits for that and ours for its
/// answer, and Alertmanager says nothing by itself for up to 10 s once it has buried a member.
const SILENT_INTERVAL: Duration = Duration::from_millis(250);
/// A path that did not take several datagrams at once is tried again after this time: routes change.
const ALONE_FOR: Duration = Duration::from_secs(60);
/// Keys are wiped this long after they were made. The second is for boringtun, which wipes what is older
/// than 180 s, not what is as old, and reads a clock of its own.
const WIPE_AFTER: Duration = REJECT_AFTER_TIME.saturating_add(Duration::from_secs(1));

/// What a peer's methods need of the device.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) id: PeerId,
    /// For how long gossip to a silent peer is kept; none if nothing is.
    pub(super) resend: Option<Duration>,
    /// What may pass to and from a peer that has no list of its own; none is everything.
    pub(super) allow: Option<&'a Allow>,
    /// When what is sent once more is not lost on its way out.
    pub(super) way_ready: Option<Instant>,
    pub(super) datagrams: &'a mut Outbox<Envelope>,
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) rng: &'a mut fastrand::Rng,
}

/// One peer.
pub(super) struct Peer {
    public_key: PublicKey,
    pub(super) name: Option<String>,
    preshared_key: Option<PresharedKey>,
    /// Where it was heard last or, before that, the first of `candidates`.
    endpoint: Option<Endpoint>,
    /// Addresses to try when it does not answer at `endpoint`.
    candidates: Vec<SocketAddr>,
    /// Until when its datagrams leave one by one: its path did not take several at once.
    alone_until: Option<Instant>,
    persistent_keepalive: u16,
    /// Under the present keys; none while the device has no private key.
    session: Option<Session>,
    /// Under the keys before the last change of keys: carries packets until the new one can.
    retiring: Option<Session>,
    timers: Timers,
    /// Initiations sent in the handshake that is under way.
    attempts: u32,
    /// Until when the handshake that is under way is retried.
    wanted_until: Option<Instant>,
    last_initiation_heard: Option<Instant>,
    staged: Staged,
    resend: Resend,
    /// Echo requests under way.
    echoes: Resend,
    filtering: Filtering,
    counters: Counters,
    pub(super) drops: Drops,
}

#[derive(Default)]
struct Counters {
    last_handshake: Option<Instant>,
    last_heard: Option<Instant>,
    unanswered_initiations: u32,
    rx_bytes: u64,
    tx_bytes: u64,
    rx_packets: u64,
    tx_packets: u64,
    gossip_resent: u64,
}

impl Peer {
    pub(super) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            name: None,
            preshared_key: None,
            endpoint: None,
            candidates: Vec::new(),
            alone_until: None,
            persistent_keepalive: 0,
            session: None,
            retiring: None,
            timers: Timers::default(),
            attempts: 0,
            wanted_until: None,
            last_initiation_heard: None,
            staged: Staged::default(),
            resend: Resend::default(),
            echoes: Resend::default(),
            filtering: Filtering::default(),
            counters: Counters::default(),
            drops: Drops::default(),
        }
    }

    pub(super) fn public_key(&self) -> PublicKey {
        self.public_key
    }

    pub(super) fn preshared_key(&self) -> Option<&PresharedKey> {
        self.preshared_key.as_ref()
    }

    /// Takes another preshared key; it counts once [`Peer::set_session`] brings a session made with it.
    pub(super) fn set_preshared_key(&mut self, key: Option<PresharedKey>) {
        self.preshared_key = key;
    }

    /// Takes fresh keys' state. What former ones established carries packets until the new one has shaken
    /// hands: the last of them that did, since keys may change again before that. Returns whether this is the
    /// one that was there until now.
    pub(super) fn set_session(&mut self, now: Instant, session: Session) -> bool {
        let former = self.session.replace(session);
        let retires = is_usable(&former, now) || !is_usable(&self.retiring, now);
        if retires {
            self.retiring = former;
        }
        self.timers.clear(Timer::Retry);
        self.timers.clear(Timer::Unconfirmed);
        retires
    }

    /// Forgets all keys' state: there is no key any more.
    pub(super) fn clear_sessions(&mut self) {
        (self.session, self.retiring) = (None, None);
        self.timers.clear(Timer::Retry);
        self.timers.clear(Timer::Unconfirmed);
    }

    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint.map(|endpoint| endpoint.address)
    }

    /// Takes other addresses to try. Where the peer is now stays if it is one of them.
    pub(super) fn set_endpoints(&mut self, candidates: Vec<SocketAddr>) {
        let stays = self.endpoint.is_some_and(|endpoint| candidates.contains(&endpoint.address));
        if let Some(&first) = candidates.first()
            && !stays
        {
            self.moved(first.into());
        }
        self.candidates = candidates;
    }

    /// Sends there from now on. What went to another address may be lost.
    fn moved(&mut self, to: Endpoint) {
        if self.endpoint.is_some_and(|endpoint| endpoint.address != to.address) {
            self.resend.may_be_missed();
        }
        self.endpoint = Some(to);
    }

    /// Takes another interval of persistent keepalives, in seconds; the first one goes at once.
    pub(super) fn set_persistent_keepalive(&mut self, seconds: u16, cx: &mut Context<'_>) {
        let was = std::mem::replace(&mut self.persistent_keepalive, seconds);
        if seconds == 0 {
            self.timers.clear(Timer::PersistentKeepalive);
        } else if was == 0 {
            self.timers.set(Timer::PersistentKeepalive, cx.now);
        } else {
            self.passed(cx.now);
        }
    }

    /// Seals a packet (padded already) to the peer, or stages it for the session that it wants. Gossip
    /// is kept until the peer is heard, and waits there if there is no session.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, packet: &[u8], kept: Option<Kept>) {
        if self.endpoint.is_none() {
            self.drops.count(DropReason::NoEndpoint);
        } else if self.seal(cx, packet) {
            match kept {
                Some(Kept::Gossip) => {
                    self.resend.push(cx.now, packet, false);
                    // Not cleared when it is heard: a timer that is moved by every packet costs.
                    self.timers.set_once(Timer::Silent, cx.now + SILENT_AFTER);
                }
                Some(Kept::Echo) => self.echoes.push(cx.now, packet, false),
                None => {}
            }
            self.data_sent(cx);
        } else if kept == Some(Kept::Gossip) {
            self.resend.push(cx.now, packet, true);
            self.count_lost(DropReason::StagedOverflow);
            self.want_handshake(cx);
        } else {
            let overflow = self.staged.push(packet);
            for _ in 0..overflow {
                self.drops.count(DropReason::StagedOverflow);
            }
            self.want_handshake(cx);
        }
    }

    /// Takes a handshake initiation that this peer made, and answers it.
    pub(super) fn receive_initiation(
        &mut self,
        cx: &mut Context<'_>,
        from: Endpoint,
        initiation: &[u8],
    ) -> Result<(), DropReason> {
        let session = self.session.as_mut().ok_or(DropReason::UnknownPeer)?;
        if self.last_initiation_heard.is_some_and(|at| cx.now < at + INITIATION_SPACING) {
            return Err(DropReason::UnderLoad);
        }
        let out = cx.datagrams.place(INITIATION_LEN);
        let len = session.respond(cx.now, initiation, out)?;
        self.last_initiation_heard = Some(cx.now);
        self.resend.may_be_missed();
        if self.counters.last_handshake.is_some_and(|at| cx.now < at + REKEY_AFTER_TIME) {
            // Too early for a peer that still has the session.
            self.echoes.may_be_missed();
        }
        // Not where the peer is: after a start of ours, or a change of keys, somebody may send an initiation again
        // that was seen on the way. Data will tell.
        self.heard(cx, self.endpoint.unwrap_or(from), initiation.len());
        self.sent(cx, from, Ecn::NotCapable, len);
        self.timers.set(Timer::Unconfirmed, cx.now + CONFIRM_TIMEOUT);
        self.timers.set(Timer::Expire, cx.now + WIPE_AFTER);
        Ok(())
    }

    /// Takes a handshake response: the session is there.
    pub(super) fn receive_response(
        &mut self,
        cx: &mut Context<'_>,
        from: Endpoint,
        response: &[u8],
    ) -> Result<(), DropReason> {
        let session = self.session.as_mut().ok_or(DropReason::UnknownIndex)?;
        let out = cx.datagrams.place(INITIATION_LEN);
        let len = session.finish(response, out)?;
        self.heard(cx, from, response.len());
        self.sent(cx, from, Ecn::NotCapable, len);
        self.established(cx);
        Ok(())
    }

    /// Takes a cookie reply: the next initiation will prove our address.
    pub(super) fn receive_cookie_reply(&mut self, reply: &[u8]) -> Result<(), DropReason> {
        self.session.as_mut().ok_or(DropReason::UnknownIndex)?.take_cookie(reply)
    }

    /// Opens transport data into `out`, which must be as long as `data`. Whoever could seal it is the
    /// peer, whatever is inside.
    pub(super) fn receive_data(
        &mut self,
        cx: &mut Context<'_>,
        from: Endpoint,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let sessions = [self.session.as_mut(), self.retiring.as_mut()];
        let mut result = Err(DropReason::UnknownIndex);
        for session in sessions.into_iter().flatten() {
            result = session.open(cx.now, data, out);
            if !matches!(result, Err(DropReason::UnknownIndex)) {
                break;
            }
        }
        let (opened, newer) = result?;
        self.heard(cx, from, data.len());
        if newer {
            self.established(cx);
        }
        self.send_again(cx);
        if let Opened::Packet(_) = opened {
            self.timers.set_once(Timer::Keepalive, cx.now + KEEPALIVE_TIMEOUT);
        }
        // Section 6.2: an initiator that only receives makes the next session in good time.
        self.keep_fresh(cx, REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT);
        Ok(opened)
    }

    /// Counts a packet that is delivered.
    pub(super) fn delivered(&mut self) {
        self.counters.rx_packets += 1;
    }

    /// Tells that datagrams could not be sent: another address of the peer is tried at once, if it has
    /// one that this handshake did not try.
    pub(super) fn send_failed(&mut self, cx: &mut Context<'_>, datagrams: usize, bytes: usize) {
        self.counters.tx_bytes = self.counters.tx_bytes.saturating_sub(bytes as u64);
        self.drops.add(DropReason::SendFailed, datagrams);
        self.resend.may_be_missed();
        if self.timers.is_set(Timer::Retry) && (self.attempts as usize) < self.targets().count() {
            self.timers.set(Timer::Retry, cx.now);
        }
    }

    /// Tells that several datagrams could not leave at once.
    pub(super) fn segmentation_refused(&mut self, now: Instant) {
        self.alone_until = Some(now + ALONE_FOR);
    }

    /// Tells that the local address that datagrams left from is gone.
    pub(super) fn forget_source(&mut self) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.source = None;
        }
    }

    /// When [`Peer::handle_timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The earliest that it may have come to be since the last call.
    pub(super) fn may_be_due(&mut self) -> Option<Instant> {
        self.timers.take_set_to()
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        while let Some(timer) = self.timers.take_due(cx.now) {
            match timer {
                Timer::Retry => self.retry(cx),
                Timer::Keepalive => {
                    self.seal(cx, &[]);
                }
                Timer::Unanswered => {
                    // As in retry; kernel: wg_expired_new_handshake.
                    self.forget_source();
                    self.want_handshake(cx);
                }
                Timer::Silent => self.call(cx),
                Timer::SendAgain => self.send_again(cx),
                Timer::PersistentKeepalive => {
                    if self.seal(cx, &[]) {
                        // As any packet does (kernel: send.c, `keep_key_fresh`): the peer is to stay in reach
                        // when there is nothing else.
                        self.keep_fresh(cx, REKEY_AFTER_TIME);
                    } else {
                        self.want_handshake(cx);
                    }
                    self.passed(cx.now);
                }
                Timer::Unconfirmed => {
                    if !self.staged.is_empty() || self.timers.is_set(Timer::Unanswered) {
                        self.want_handshake(cx);
                    }
                }
                Timer::Expire => self.expire(cx.now),
            }
        }
    }

    pub(super) fn snapshot(&self, now: Instant) -> PeerSnapshot {
        let counters = &self.counters;
        let session = if self.has_session(now) {
            SessionState::Established
        } else if self.timers.is_set(Timer::Retry) {
            SessionState::Handshaking
        } else {
            SessionState::Idle
        };
        PeerSnapshot {
            public_key: self.public_key,
            name: self.name.clone(),
            preshared_key: self.preshared_key.clone(),
            endpoint: self.endpoint.map(|endpoint| endpoint.address),
            persistent_keepalive: self.persistent_keepalive,
            allowed_ips: Vec::new(),
            allow: self.own_allow().cloned(),
            session,
            last_handshake: counters.last_handshake,
            last_heard: counters.last_heard,
            unanswered_initiations: counters.unanswered_initiations,
            rx_bytes: counters.rx_bytes,
            tx_bytes: counters.tx_bytes,
            rx_packets: counters.rx_packets,
            tx_packets: counters.tx_packets,
            gossip_resent: counters.gossip_resent,
            drops: self.drops.clone(),
        }
    }

    fn has_session(&self, now: Instant) -> bool {
        is_usable(&self.session, now) || is_usable(&self.retiring, now)
    }

    /// A session can carry packets, a new one or one that the peer began to use.
    fn established(&mut self, cx: &mut Context<'_>) {
        let silent = self.counters.last_handshake.is_none_or(|at| cx.now >= at + REJECT_AFTER_TIME)
            || self.counters.unanswered_initiations > 1;
        if self.session.as_ref().is_some_and(Session::awaits_response) {
            // Of a newer initiation than the one that led to this session, and Tunn would wipe all 90 s after
            // that: it goes on until it is answered too, which mostly is a moment later.
            self.wanted_until = Some(cx.now + REKEY_ATTEMPT_TIME);
        } else {
            self.timers.clear(Timer::Retry);
        }
        self.timers.clear(Timer::Unconfirmed);
        self.timers.set(Timer::Expire, cx.now + WIPE_AFTER);
        self.counters.unanswered_initiations = 0;
        let at = self.session.as_ref().and_then(|session| session.current(cx.now));
        self.counters.last_handshake =
            self.counters.last_handshake.max(at.map(|session| session.at()));
        if let Some(endpoint) = self.endpoint.filter(|_| silent) {
            let (peer, endpoint) = (self.public_key, endpoint.address);
            cx.events.push_back(Event::Established { peer, endpoint });
        }
        while let Some(packet) = self.staged.pop() {
            self.send_late(cx, &packet);
        }
        self.send_again(cx);
    }

    /// Sends what the peer missed, once. Called when a session is known to work both ways: what is
    /// sealed for one that the peer has lost would be missed again.
    fn send_again(&mut self, cx: &mut Context<'_>) {
        let Some(age) = cx.resend else {
            self.echoes.clear();
            self.resend.clear();
            return self.count_lost(DropReason::StagedExpired);
        };
        if !self.resend.is_due() && !self.echoes.is_due() {
            return;
        }
        if let Some(ready) = cx.way_ready.filter(|&ready| cx.now < ready) {
            return self.timers.set(Timer::SendAgain, ready);
        }
        if !self.has_session(cx.now) {
            return self.want_handshake(cx);
        }
        while let Some(packet) = self.resend.take_due(cx.now, age) {
            self.counters.gossip_resent += u64::from(self.send_late(cx, &packet));
        }
        self.count_lost(DropReason::StagedExpired);
        while let Some(packet) = self.echoes.take_due(cx.now, ECHO_AGE) {
            self.send_late(cx, &packet);
        }
    }

    /// Counts gossip that never left and was given up. Mostly there is none, and no counter is touched.
    fn count_lost(&mut self, reason: DropReason) {
        let lost = self.resend.take_lost();
        if lost > 0 {
            self.drops.add(reason, lost);
        }
    }

    /// Sends a packet that has waited: what may pass may have changed meanwhile.
    fn send_late(&mut self, cx: &mut Context<'_>, packet: &[u8]) -> bool {
        let is_sent = self.lets_out(cx, packet) && self.seal(cx, packet);
        if is_sent {
            self.data_sent(cx);
        }
        is_sent
    }

    /// Calls a peer that leaves gossip unanswered, for as long as there is something to send again.
    /// Without a session the handshake's retries do that.
    fn call(&mut self, cx: &mut Context<'_>) {
        let Some(oldest) = self.resend.oldest() else { return };
        if cx.now < oldest + SILENT_AFTER {
            self.timers.set(Timer::Silent, oldest + SILENT_AFTER);
        } else if cx.resend.is_some_and(|age| self.resend.waits(cx.now, age)) && self.seal(cx, &[])
        {
            self.timers.set(Timer::Silent, cx.now + SILENT_INTERVAL);
        }
    }

    /// Seals a packet, or nothing for a keepalive; false without a session to seal it.
    fn seal(&mut self, cx: &mut Context<'_>, packet: &[u8]) -> bool {
        let Some(endpoint) = self.endpoint else { return false };
        let out = cx.datagrams.place((packet.len() + DATA_OVERHEAD).max(INITIATION_LEN));
        let sessions = [self.session.as_mut(), self.retiring.as_mut()];
        let Some(len) =
            sessions.into_iter().flatten().find_map(|session| session.seal(cx.now, packet, out))
        else {
            return false;
        };
        self.sent(cx, endpoint, Ecn::of(packet), len);
        true
    }

    /// Called after a packet was sealed: its answer is awaited, and an old session is renewed.
    fn data_sent(&mut self, cx: &mut Context<'_>) {
        self.counters.tx_packets += 1;
        if !self.timers.is_set(Timer::Unanswered) {
            let jitter = Duration::from_millis(cx.rng.u64(0..=REKEY_JITTER_MS));
            let at = cx.now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter;
            self.timers.set(Timer::Unanswered, at);
        }
        self.keep_fresh(cx, REKEY_AFTER_TIME);
    }

    /// Queues what was written last to the outbox, an authenticated message.
    fn sent(&mut self, cx: &mut Context<'_>, to: Endpoint, ecn: Ecn, len: usize) {
        let joins = self.alone_until.is_none_or(|until| cx.now >= until);
        cx.datagrams.push(Envelope { peer: Some(cx.id), to, ecn, joins }, len);
        self.counters.tx_bytes += len as u64;
        self.timers.clear(Timer::Keepalive);
        self.passed(cx.now);
    }

    /// Called after an authenticated message was received: the peer is there, and that is where.
    fn heard(&mut self, cx: &mut Context<'_>, from: Endpoint, len: usize) {
        self.counters.rx_bytes += len as u64;
        let before = self.counters.last_heard.replace(cx.now);
        self.moved(from);
        self.resend.heard(cx.now, before);
        self.echoes.answered();
        self.timers.clear(Timer::Unanswered);
        self.passed(cx.now);
    }

    /// Called after an authenticated message passed in either direction.
    fn passed(&mut self, now: Instant) {
        if self.persistent_keepalive != 0 {
            let interval = Duration::from_secs(self.persistent_keepalive.into());
            self.timers.set(Timer::PersistentKeepalive, now + interval);
        }
    }

    fn expire(&mut self, now: Instant) {
        self.retiring.take_if(|session| !session.expire(now));
        let left = self.session.as_mut().is_some_and(|session| session.expire(now));
        if left || self.retiring.is_some() {
            self.timers.set(Timer::Expire, now + WIPE_AFTER);
        }
    }
}

/// Whether a session can carry packets.
fn is_usable(session: &Option<Session>, now: Instant) -> bool {
    session.as_ref().is_some_and(|session| session.current(now).is_some())
}

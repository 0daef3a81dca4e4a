//! One peer's handshakes and sessions: the only file that names boringtun, whose `Tunn` does the
//! cryptography. When to do what is decided in peer.rs.
//!
//! `Tunn` reads the clock itself and has a schedule of its own. Both are contained here. It takes the
//! time only in `update_timers` and stamps everything in between with that moment. [`Session`] calls
//! it just before a handshake message is made or answered and when old keys are to be wiped, never on
//! a tick, and gives it no room for an initiation: what its schedule wants is never made, so that
//! there is no initiation but those that peer.rs sends. The ages of sessions are kept here as well,
//! from the same stamps, and a session is neither used nor accepted past 180 s, whatever `Tunn` thinks.
//!
//! `Tunn` does not wipe its keys. It lies in memory that is wiped as a whole when it is dropped; until then,
//! keys of a session that it gave up stay in it until others take their place.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use x25519_dalek::StaticSecret;

use super::drops::DropReason;
use super::keys::{PresharedKey, PrivateKey, PublicKey};
use super::message::{self, COOKIE_REPLY_LEN, DATA_OVERHEAD, INITIATION_LEN, Message};
use crate::sys::locked::{Locked, wipe_stack};

/// A session is not used past this age (section 6.1 of the paper, `REJECT_AFTER_TIME`).
pub(super) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// The initiator of a session makes the next one when it sends past this age (section 6.2).
pub(super) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Sessions that `Tunn` keeps: the place of one is its index modulo this (`N_SESSIONS` there).
const SESSIONS: usize = 8;

/// Our own key with what is derived from it; shared by all peers.
pub(super) struct Identity {
    secret: StaticSecret,
    public: x25519_dalek::PublicKey,
    /// Checks mac1 and never asks for a cookie: under load is decided per source, in load.rs.
    lenient: Arc<RateLimiter>,
    /// Checks mac1 and always asks for a cookie.
    strict: RateLimiter,
}

impl Identity {
    pub(super) fn new(private_key: &PrivateKey) -> Locked<Self> {
        let identity = Self::in_place(private_key);
        wipe_stack();
        identity
    }

    #[inline(never)]
    fn in_place(private_key: &PrivateKey) -> Locked<Self> {
        let secret = StaticSecret::from(*private_key.as_bytes());
        let public = x25519_dalek::PublicKey::from(&secret);
        Locked::new(Self {
            lenient: Arc::new(RateLimiter::new(&public, u64::MAX)),
            strict: RateLimiter::new(&public, 0),
            secret,
            public,
        })
    }

    pub(super) fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.public.to_bytes())
    }

    /// Checks that a handshake message was made for our public key (mac1).
    pub(super) fn check_mac1(&self, message: &[u8]) -> Result<(), DropReason> {
        match self.lenient.verify_packet(None, message, &mut []) {
            Ok(_) => Ok(()),
            Err(_) => Err(DropReason::InvalidMac),
        }
    }

    /// Checks that the sender of a handshake message proved its address (mac2); if it did not, writes
    /// the cookie reply that lets it do so.
    pub(super) fn check_mac2(
        &self,
        source: IpAddr,
        message: &[u8],
        reply: &mut [u8; COOKIE_REPLY_LEN],
    ) -> Result<(), CookieNeeded> {
        match self.strict.verify_packet(Some(source), message, reply) {
            Ok(_) => Ok(()),
            Err(_) => Err(CookieNeeded),
        }
    }

    /// Who made this initiation. It costs one Curve25519 multiplication, so mac1 comes first.
    pub(super) fn initiator(&self, initiation: &[u8]) -> Result<PublicKey, DropReason> {
        let Ok(Packet::HandshakeInit(packet)) = Tunn::parse_incoming_packet(initiation) else {
            return Err(DropReason::MalformedMessage);
        };
        parse_handshake_anon(&self.secret, &self.public, &packet)
            .map(|half| PublicKey::from_bytes(half.peer_static_public))
            .map_err(|_| DropReason::InvalidHandshake)
    }
}

/// The sender must show a cookie first; a cookie reply was written.
pub(super) struct CookieNeeded;

/// Handshakes and sessions with one peer under one pair of keys.
pub(super) struct Session {
    tunn: Locked<Tunn>,
    /// When `Tunn` last took the time: the stamp of all that it did since.
    stamp: Instant,
    /// Sessions that `Tunn` holds, each at its index modulo [`SESSIONS`].
    established: [Option<Established>; SESSIONS],
    /// The session that seals: the newest one known to work in both directions.
    current: Option<Established>,
    /// The sender index of our newest initiation while `Tunn` waits for its response. `Tunn` wipes
    /// everything, sessions included, if it waits for 90 s.
    awaited: Option<u32>,
}

/// One session: its local index, its age, its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Established {
    index: u32,
    at: Instant,
    /// Until when it need not be renewed, and until when it may be used: each packet asks.
    fresh_until: Instant,
    usable_until: Instant,
    /// We made the initiation: we are the one to make the next (section 6.2).
    pub(super) initiator: bool,
}

impl Established {
    fn new(index: u32, at: Instant, initiator: bool) -> Self {
        let (fresh_until, usable_until) = (at + REKEY_AFTER_TIME, at + REJECT_AFTER_TIME);
        Self { index, at, fresh_until, usable_until, initiator }
    }

    /// When it was made, or up to 6 s earlier.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

/// What transport data held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    Keepalive,
    /// An IP packet of this many bytes, padding taken off.
    Packet(usize),
    /// Authentic, but neither IPv4 nor IPv6.
    Malformed,
}

impl Session {
    /// `index` is the upper 24 bits of each local index that this session uses.
    pub(super) fn new(
        identity: &Identity,
        peer: &PublicKey,
        preshared_key: Option<&PresharedKey>,
        index: u32,
        now: Instant,
    ) -> Self {
        let tunn = new_tunn(identity, peer, preshared_key, index);
        wipe_stack();
        Self { tunn, stamp: now, established: [None; SESSIONS], current: None, awaited: None }
    }

    /// The session that would seal a packet now, if there is one. After crossing handshakes each side
    /// ends up sealing with the session that the other one initiated: it counts as ours if we
    /// initiated one of the same age, or else nobody would make the next one.
    pub(super) fn current(&self, now: Instant) -> Option<Established> {
        let current = self.usable(now)?;
        let ours = |session: &Established| session.initiator && session.at >= current.at;
        let initiator = self.established.iter().flatten().any(ours);
        Some(Established { initiator, ..current })
    }

    /// Whether the session that would seal a packet now is not as old as [`REKEY_AFTER_TIME`].
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.current.is_some_and(|session| now < session.fresh_until)
    }

    fn usable(&self, now: Instant) -> Option<Established> {
        self.current.filter(|session| now < session.usable_until)
    }

    /// Writes a handshake initiation to `out` (at least [`INITIATION_LEN`] bytes); an older one that
    /// is under way is given up, but its response is still taken.
    pub(super) fn initiate(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        self.take_time(now);
        let TunnResult::WriteToNetwork(initiation) =
            self.tunn.format_handshake_initiation(out, true)
        else {
            return None;
        };
        self.awaited = message::sender_index(initiation);
        Some(initiation.len())
    }

    /// Answers a handshake initiation: writes the response to `out`. The new session seals once the
    /// initiator has used it.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        initiation: &[u8],
        out: &mut [u8],
    ) -> Result<usize, DropReason> {
        self.take_time(now);
        let response = self.tunn.decapsulate(None, initiation, out);
        wipe_stack();
        let TunnResult::WriteToNetwork(response) = response else {
            return Err(drop_reason(response, DropReason::InvalidHandshake));
        };
        let index = message::sender_index(response).unwrap_or_default();
        let len = response.len();
        // `Tunn` still takes the response to an initiation of ours, but no longer counts on it.
        self.awaited = None;
        self.add(Established::new(index, self.stamp, false));
        Ok(len)
    }

    /// Takes a handshake response: the new session seals from now on. Writes the keepalive that
    /// confirms it to the responder to `out`.
    pub(super) fn finish(&mut self, response: &[u8], out: &mut [u8]) -> Result<usize, DropReason> {
        let index = match Message::parse(response) {
            Some(Message::Response { receiver }) => receiver,
            _ => return Err(DropReason::MalformedMessage),
        };
        let confirmation = self.tunn.decapsulate(None, response, out);
        wipe_stack();
        let TunnResult::WriteToNetwork(confirmation) = confirmation else {
            return Err(drop_reason(confirmation, DropReason::InvalidHandshake));
        };
        let len = confirmation.len();
        let session = Established::new(index, self.stamp, true);
        self.awaited.take_if(|awaited| *awaited == index);
        self.add(session);
        self.switch_to(session);
        Ok(len)
    }

    /// Whether our newest initiation is unanswered: it must be answered or sent again, see `awaited`.
    pub(super) fn awaits_response(&self) -> bool {
        self.awaited.is_some()
    }

    /// Takes a cookie reply: the next initiation proves our address.
    pub(super) fn take_cookie(&mut self, reply: &[u8]) -> Result<(), DropReason> {
        match self.tunn.decapsulate(None, reply, &mut []) {
            TunnResult::Done => Ok(()),
            other => Err(drop_reason(other, DropReason::InvalidHandshake)),
        }
    }

    /// Seals a padded packet (or nothing, for a keepalive) into `out`, which must be
    /// [`DATA_OVERHEAD`] bytes longer; `None` without a session that may be used.
    pub(super) fn seal(&mut self, now: Instant, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        self.usable(now)?;
        // Tunn panics when `out` is too short, and wants room for an initiation as well.
        if out.len() < (packet.len() + DATA_OVERHEAD).max(INITIATION_LEN) {
            return None;
        }
        match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(data) => Some(data.len()),
            _ => None,
        }
    }

    /// Opens transport data into `out`, which must be as long as `data`. The flag tells whether the
    /// peer used a newer session than we did: from now on we use it too.
    pub(super) fn open(
        &mut self,
        now: Instant,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<(Opened, bool), DropReason> {
        let Some(Message::Data { receiver }) = Message::parse(data) else {
            return Err(DropReason::MalformedMessage);
        };
        let session = self
            .established
            .get(receiver as usize % SESSIONS)
            .copied()
            .flatten()
            .filter(|session| session.index == receiver)
            .ok_or(DropReason::UnknownIndex)?;
        if now >= session.usable_until || !message::counter_is_usable(data) {
            return Err(DropReason::SessionExpired);
        }
        // Tunn panics when `out` is too short.
        if out.len() < data.len() {
            return Err(DropReason::MalformedMessage);
        }
        let opened = match self.tunn.decapsulate(None, data, out) {
            TunnResult::Done => Opened::Keepalive,
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Opened::Packet(packet.len())
            }
            // The message's own form was checked above, so this can only be the packet inside.
            TunnResult::Err(WireGuardError::InvalidPacket) => Opened::Malformed,
            other => return Err(drop_reason(other, DropReason::InvalidTag)),
        };
        Ok((opened, self.switch_to(session)))
    }

    /// Wipes the keys of sessions that are too old to be used and gives up an initiation that has
    /// been unanswered for 90 s; returns whether any of these is left.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.take_time(now);
        self.awaited.is_some() || self.established.iter().any(Option::is_some)
    }

    /// Lets `Tunn` take the time. A keepalive that its schedule wants has room here (`Tunn` panics if
    /// it has none) and goes nowhere; for an initiation there is no room, and `Tunn` makes none.
    fn take_time(&mut self, now: Instant) {
        let mut keepalive = [0; DATA_OVERHEAD];
        let result = self.tunn.update_timers(&mut keepalive);
        self.stamp = now;
        for session in &mut self.established {
            if session.is_some_and(|session| now >= session.usable_until) {
                *session = None;
            }
        }
        if let TunnResult::Err(WireGuardError::ConnectionExpired) = result {
            // 90 s without a response or 540 s without a session: Tunn has wiped everything.
            self.established = [None; SESSIONS];
            self.current = None;
            self.awaited = None;
        } else if self.tunn.time_since_last_handshake().is_none() {
            // Tunn counts time in suspend, `Instant` does not: it may have wiped more than we.
            self.current = None;
        }
    }

    fn add(&mut self, session: Established) {
        if let Some(place) = self.established.get_mut(session.index as usize % SESSIONS) {
            if self.current == *place {
                // Eight handshakes later, and the peer never used one of them: Tunn has put the new
                // session in the place of the one that seals.
                self.current = None;
            }
            *place = Some(session);
        }
    }

    /// Follows `Tunn::set_current_session`: a session that is not older than the current one takes
    /// its place. Returns whether it is newer: after crossing handshakes two of the same age are in
    /// use, one for each direction, and the switch between them is no news.
    fn switch_to(&mut self, session: Established) -> bool {
        let newer = self.current.is_none_or(|current| session.at > current.at);
        if self.current.is_none_or(|current| session.at >= current.at) {
            self.current = Some(session);
        }
        newer
    }
}

/// Leaves keys on the stack: `Tunn` and what it is made of are moved by value.
#[inline(never)]
fn new_tunn(
    identity: &Identity,
    peer: &PublicKey,
    preshared_key: Option<&PresharedKey>,
    index: u32,
) -> Locked<Tunn> {
    Locked::new(Tunn::new(
        identity.secret.clone(),
        x25519_dalek::PublicKey::from(*peer.as_bytes()),
        preshared_key.map(|key| *key.as_bytes()),
        None,
        index,
        Some(identity.lenient.clone()),
    ))
}

/// The name of what `Tunn` refused; `otherwise` stands for what has no name of its own.
fn drop_reason(result: TunnResult<'_>, otherwise: DropReason) -> DropReason {
    use WireGuardError as E;
    match result {
        TunnResult::Err(E::InvalidCounter | E::DuplicateCounter) => DropReason::Replayed,
        TunnResult::Err(E::WrongIndex | E::NoCurrentSession | E::UnexpectedPacket) => {
            DropReason::UnknownIndex
        }
        TunnResult::Err(E::WrongTai64nTimestamp | E::InvalidTai64nTimestamp) => {
            DropReason::ReplayedHandshake
        }
        TunnResult::Err(E::InvalidMac) => DropReason::InvalidMac,
        _ => otherwise,
    }
}

//! The device: peers, the tables that find them, and the contract with the packet loop.
//!
//! `handle_tun`, `handle_udp`, `handle_timeout` and `apply` put things in and take the time;
//! `poll_transmit`, `poll_packet` and `poll_event` are drained after each; `next_timeout` says when
//! `handle_timeout` wants to be called; `snapshot` is the only reader. Nothing here waits, reads a
//! clock or touches a descriptor, and nothing is allocated for a packet once the buffers have grown.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::allowed_ips::AllowedIps;
use super::change::GossipChange;
use super::drops::{DropReason, Drops};
use super::ecn::Ecn;
use super::endpoint::Endpoint;
use super::filter::Allow;
use super::io::{Envelope, Event, PeerId, Transmit};
use super::keys::{PrivateKey, PublicKey};
use super::load::{Load, Verdict};
use super::message::{COOKIE_REPLY_LEN, Message};
use super::outbox::Outbox;
use super::packet::Addresses;
use super::peer::{Context, Peer};
use super::session::{Identity, Opened};
use super::snapshot::{PeerSnapshot, Snapshot};
use crate::offload::{Coalescer, Joined, Offload};
use crate::sys::locked::Locked;

mod apply;
mod outgoing;

/// The most datagrams that leave with one system call (`UDP_MAX_SEGMENTS`, include/linux/udp.h).
const MOST_SEGMENTS: usize = 64;
/// The most bytes that leave with one system call: as much as an IPv4 datagram holds.
const MOST_BYTES: usize = 65_507;
/// The MTU before the first [`Change::Mtu`](super::Change::Mtu): what WireGuard devices start with.
const DEFAULT_MTU: u16 = 1420;
/// For how long a peer that does not answer at the start is tried: as long as one that a packet wants
/// (section 6.4, `REKEY_ATTEMPT_TIME`).
const START_PATIENCE: Duration = Duration::from_secs(90);
/// The same in a device that other tools configure: three initiations.
const BARE_START_PATIENCE: Duration = Duration::from_secs(5);

/// A WireGuard device without sockets: see the head of this file for how it is driven.
pub struct Device {
    private_key: Option<PrivateKey>,
    identity: Option<Locked<Identity>>,
    mtu: usize,
    /// Where our own datagrams leave from; 0 as long as it is not known.
    listen_port: u16,
    /// Without an underlay no handshake is started.
    underlay_open: bool,
    /// For how long a handshake that no packet wants is tried.
    start_patience: Duration,
    peers: BTreeMap<PeerId, Slot>,
    next_id: u32,
    by_key: HashMap<PublicKey, PeerId>,
    /// The upper 24 bits of a receiver index say which peer; the lower 8 belong to its session.
    by_index: HashMap<u32, PeerId, BuildHasherDefault<IndexHasher>>,
    allowed_ips: AllowedIps,
    deadlines: BinaryHeap<Reverse<(Instant, PeerId)>>,
    common: Common,
    /// Opened packets on their way to the overlay.
    opened: Coalescer,
    load: Load,
    drops: Drops,
}

struct Slot {
    peer: Peer,
    /// The entry in `deadlines` that counts for this peer; all others of it are stale.
    queued: Option<Instant>,
    /// Keys of this peer in `by_index`: its present session's and its retiring one's.
    indices: [Option<u32>; 2],
}

/// Hashes a receiver index, one for each message that comes. What is in the table was drawn at random by us: nobody
/// can fill it with what collides.
#[derive(Default)]
struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, index: u32) {
        // Fibonacci hashing: the table takes some bits of either end.
        self.0 = (self.0 ^ u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What the peers share: where they write to, and what they draw from.
struct Common {
    /// What is sent once more to peers that missed it; none in a device without gossip.
    gossip: Option<GossipChange>,
    /// What may pass to and from peers that have no list of their own; none is everything.
    allow: Option<Allow>,
    /// Until then nothing is sent once more: it could be lost on its way out.
    way_ready: Option<Instant>,
    datagrams: Outbox<Envelope>,
    events: VecDeque<Event>,
    rng: fastrand::Rng,
}

impl Common {
    fn new(seed: u64) -> Self {
        Self {
            gossip: None,
            way_ready: None,
            allow: None,
            datagrams: Outbox::new(),
            events: VecDeque::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    fn context(&mut self, now: Instant, id: PeerId) -> Context<'_> {
        Context {
            now,
            id,
            resend: self.gossip.map(|gossip| gossip.resend),
            way_ready: self.way_ready,
            allow: self.allow.as_ref(),
            datagrams: &mut self.datagrams,
            events: &mut self.events,
            rng: &mut self.rng,
        }
    }
}

impl Device {
    /// Makes a device without a key and without peers. `seed` feeds indices and jitter, no key.
    pub fn new(seed: u64) -> Self {
        Self {
            private_key: None,
            identity: None,
            mtu: DEFAULT_MTU.into(),
            listen_port: 0,
            underlay_open: true,
            start_patience: START_PATIENCE,
            peers: BTreeMap::new(),
            next_id: 0,
            by_key: HashMap::new(),
            by_index: HashMap::default(),
            allowed_ips: AllowedIps::default(),
            deadlines: BinaryHeap::new(),
            common: Common::new(seed),
            opened: Coalescer::new(Offload::None),
            load: Load::new(),
            drops: Drops::default(),
        }
    }

    /// Makes it a device for other tools to configure. Its underlay is closed until
    /// [`Device::set_underlay`] opens it, and a handshake that nothing but the start wants is tried for
    /// some seconds only: it tells a peer that had a session with our predecessor to forget it, and an
    /// idle device is silent after that, as any WireGuard is.
    pub fn bare(self) -> Self {
        Self { underlay_open: false, start_patience: BARE_START_PATIENCE, ..self }
    }

    /// Says which packets [`Device::poll_packet`] may join; none before that.
    pub fn set_offload(&mut self, offload: Offload) {
        self.opened.set_offload(offload);
    }

    /// Takes a datagram that the underlay brought, and the mark of its IP header.
    pub fn handle_udp(&mut self, now: Instant, from: Endpoint, ecn: Ecn, datagram: &[u8]) {
        let Some(message) = Message::parse(datagram) else {
            return self.drops.count(DropReason::MalformedMessage);
        };
        let result = match message {
            Message::Initiation => self.receive_initiation(now, from, datagram),
            Message::Response { receiver } => self.receive_response(now, from, datagram, receiver),
            Message::CookieReply { receiver } => self
                .peer_of(receiver)
                .and_then(|id| self.count(now, id, |peer, _| peer.receive_cookie_reply(datagram))),
            Message::Data { receiver } => self.receive_data(now, from, ecn, datagram, receiver),
        };
        if let Err(reason) = result {
            self.drops.count(reason);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&Reverse((at, id))) = self.deadlines.peek()
            && at <= now
        {
            self.deadlines.pop();
            if let Some(slot) = self.peers.get_mut(&id)
                && slot.queued == Some(at)
            {
                slot.queued = None;
                self.with_peer(now, id, |peer, cx| peer.handle_timeout(cx));
            }
        }
    }

    /// When [`Device::handle_timeout`] has something to do; `None` while nothing is due ever.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// The next datagrams for the underlay.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        let (Envelope { peer, to, ecn, .. }, contents, segment_size) = self
            .common
            .datagrams
            .pop_run(MOST_SEGMENTS, MOST_BYTES, |first, other| first.joins && first == other)?;
        Some(Transmit { peer, to, ecn, contents, segment_size })
    }

    /// The next packet for the overlay.
    pub fn poll_packet(&mut self) -> Option<Joined<'_>> {
        self.opened.poll()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.common.events.pop_front()
    }

    /// Tells that several datagrams for this peer could not leave together: its path has no segmentation
    /// offload. They leave one by one for a while.
    #[cold]
    pub fn segmentation_refused(&mut self, now: Instant, peer: Option<PeerId>) {
        if let Some(slot) = peer.and_then(|id| self.peers.get_mut(&id)) {
            slot.peer.segmentation_refused(now);
        }
    }

    /// Tells that so many datagrams for this peer, with so many bytes, could not be sent.
    #[cold]
    pub fn transmit_failed(
        &mut self,
        now: Instant,
        peer: Option<PeerId>,
        datagrams: usize,
        bytes: usize,
    ) {
        let Some(id) = peer else { return self.drops.count(DropReason::SendFailed) };
        self.with_peer(now, id, |peer, cx| peer.send_failed(cx, datagrams, bytes));
    }

    /// Tells that the address which this peer's datagrams left from is gone.
    #[cold]
    pub fn source_gone(&mut self, peer: Option<PeerId>) {
        if let Some(slot) = peer.and_then(|id| self.peers.get_mut(&id)) {
            slot.peer.forget_source();
        }
    }

    /// Tells that a packet was not given to [`Device::handle_tun`]: too much was waiting already.
    pub fn backlog_full(&mut self) {
        self.drops.count(DropReason::Backlog);
    }

    /// Tells that so many packets from [`Device::poll_packet`] could not be written to the TUN.
    pub fn packets_failed(&mut self, packets: usize) {
        self.drops.add(DropReason::TunWriteFailed, packets);
    }

    /// Tells that the underlay can be reached, or no longer. What waits for its next attempt is tried at
    /// once when it opens.
    pub fn set_underlay(&mut self, now: Instant, open: bool) {
        if std::mem::replace(&mut self.underlay_open, open) || !open {
            return;
        }
        let all: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in all {
            self.with_peer(now, id, |peer, cx| peer.underlay_opened(cx));
            self.start(now, id);
        }
    }

    /// The device at this moment.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let peers = self.peers.iter().map(|(id, slot)| PeerSnapshot {
            allowed_ips: self.allowed_ips.of(*id).collect(),
            ..slot.peer.snapshot(now)
        });
        let peers = peers.collect();
        Snapshot {
            private_key: self.private_key.clone(),
            allow: self.common.allow.clone(),
            drops: self.drops.clone(),
            peers,
        }
    }

    #[cold]
    fn receive_initiation(
        &mut self,
        now: Instant,
        from: Endpoint,
        initiation: &[u8],
    ) -> Result<(), DropReason> {
        self.admit(now, from, initiation)?;
        let identity = self.identity.as_ref().ok_or(DropReason::UnknownPeer)?;
        let key = identity.initiator(initiation)?;
        let id = self.by_key.get(&key).copied().ok_or(DropReason::UnknownPeer)?;
        self.count(now, id, |peer, cx| peer.receive_initiation(cx, from, initiation))
    }

    #[cold]
    fn receive_response(
        &mut self,
        now: Instant,
        from: Endpoint,
        response: &[u8],
        receiver: u32,
    ) -> Result<(), DropReason> {
        let id = self.peer_of(receiver)?;
        self.admit(now, from, response)?;
        self.count(now, id, |peer, cx| peer.receive_response(cx, from, response))
    }

    fn receive_data(
        &mut self,
        now: Instant,
        from: Endpoint,
        ecn: Ecn,
        data: &[u8],
        receiver: u32,
    ) -> Result<(), DropReason> {
        let id = self.peer_of(receiver)?;
        let slot = self.peers.get_mut(&id).ok_or(DropReason::UnknownIndex)?;
        let mut cx = self.common.context(now, id);
        let out = self.opened.place(data.len());
        let result = match slot.peer.receive_data(&mut cx, from, data, out) {
            Ok(Opened::Keepalive) => Ok(None),
            Ok(Opened::Malformed) => Err(DropReason::MalformedInner),
            Ok(Opened::Packet(len)) => {
                let packet = out.get_mut(..len).unwrap_or_default();
                let is_peers = |address| self.allowed_ips.route(address) == Some(id);
                admit_inner(ecn, packet, is_peers)
                    .and_then(|()| slot.peer.lets_in(&mut cx, packet, is_peers))
                    .map(|()| Some(len))
            }
            Err(reason) => Err(reason),
        };
        match result {
            Ok(Some(len)) => {
                slot.peer.delivered();
                self.opened.push(len);
            }
            Ok(None) => {}
            Err(reason) => slot.peer.drops.count(reason),
        }
        Self::schedule(&mut self.deadlines, id, slot);
        Ok(())
    }

    /// Checks mac1 and, under load, the cookie of a handshake message.
    fn admit(&mut self, now: Instant, from: Endpoint, message: &[u8]) -> Result<(), DropReason> {
        let identity = self.identity.as_ref().ok_or(DropReason::InvalidMac)?;
        identity.check_mac1(message)?;
        let source = from.address.ip();
        if self.load.judge(now, source) == Verdict::Pass {
            return Ok(());
        }
        let mut reply = [0; COOKIE_REPLY_LEN];
        if identity.check_mac2(source, message, &mut reply).is_ok() {
            return self.load.pass_proven(now, source);
        }
        self.common.datagrams.place(reply.len()).copy_from_slice(&reply);
        let envelope = Envelope { peer: None, to: from, ecn: Ecn::NotCapable, joins: false };
        self.common.datagrams.push(envelope, reply.len());
        Err(DropReason::UnderLoad)
    }

    fn peer_of(&self, receiver: u32) -> Result<PeerId, DropReason> {
        self.by_index.get(&(receiver >> 8)).copied().ok_or(DropReason::UnknownIndex)
    }

    /// Runs something that may drop a packet of this peer, and counts the drop there.
    fn count(
        &mut self,
        now: Instant,
        id: PeerId,
        run: impl FnOnce(&mut Peer, &mut Context<'_>) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        self.with_peer(now, id, |peer, cx| {
            if let Err(reason) = run(peer, cx) {
                peer.drops.count(reason);
            }
        })
        .ok_or(DropReason::UnknownPeer)
    }

    /// Runs something on a peer and queues its next deadline.
    fn with_peer<R>(
        &mut self,
        now: Instant,
        id: PeerId,
        run: impl FnOnce(&mut Peer, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let slot = self.peers.get_mut(&id)?;
        let mut cx = self.common.context(now, id);
        let result = run(&mut slot.peer, &mut cx);
        Self::schedule(&mut self.deadlines, id, slot);
        Some(result)
    }

    /// Queues a peer's next deadline, unless an earlier one is queued: a deadline that moves away with
    /// each packet costs one early look when it would have been due, and nothing for the packets.
    fn schedule(
        deadlines: &mut BinaryHeap<Reverse<(Instant, PeerId)>>,
        id: PeerId,
        slot: &mut Slot,
    ) {
        let may_be_due = slot.peer.may_be_due();
        if slot.queued.is_some_and(|queued| may_be_due.is_none_or(|at| queued <= at)) {
            return;
        }
        if let Some(at) = slot.peer.next_timeout()
            && slot.queued.is_none_or(|queued| at < queued)
        {
            slot.queued = Some(at);
            deadlines.push(Reverse((at, id)));
        }
    }
}

/// Checks what a peer has sealed: its source must route back to that peer. Takes the outer header's mark
/// over.
fn admit_inner(
    outer: Ecn,
    packet: &mut [u8],
    is_peers: impl Fn(IpAddr) -> bool,
) -> Result<(), DropReason> {
    let inner = Addresses::of(packet).ok_or(DropReason::MalformedInner)?;
    if !is_peers(inner.source) {
        return Err(DropReason::DisallowedSource);
    }
    Ecn::decapsulate(outer, packet).then_some(()).ok_or(DropReason::CongestionMarked)
}

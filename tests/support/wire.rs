//! Devices in memory, joined by a wire: bytes go from one to the other as fast as a test wants it, may
//! be listened to, and are lost, kept or changed where the test says so. Time is the test's own.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hushwire::offload::VnetHeader;
use hushwire::wireguard::{
    AllowedIpChange, Change, Device, DropReason, Ecn, Endpoint, Event, PeerChange, PeerSnapshot,
    PresharedKey, PrivateKey, PublicKey,
};

/// One device and what came out of it.
pub struct Station {
    pub device: Device,
    pub key: PrivateKey,
    pub address: SocketAddr,
    pub overlay: String,
    /// Datagrams that left and are not delivered yet.
    pub sent: Vec<(SocketAddr, Vec<u8>)>,
    /// Packets that came through to the overlay.
    pub received: Vec<Vec<u8>>,
    pub events: Vec<Event>,
}

impl Station {
    /// Number `n` has the underlay address 192.0.2.n:51820 and the overlay address 10.99.0.n.
    pub fn new(n: u8, now: Instant) -> Self {
        let key = PrivateKey::from_random([n; 32]);
        let mut device = Device::new(u64::from(n));
        device.apply(now, vec![Change::PrivateKey(Some(key.clone())), Change::Mtu(1440)]);
        Self {
            device,
            key,
            address: SocketAddr::from(([192, 0, 2, n], 51820)),
            overlay: format!("10.99.0.{n}"),
            sent: Vec::new(),
            received: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    /// Adds another station as a peer; with `endpoint`, a handshake starts.
    pub fn know(&mut self, now: Instant, other: &Station, endpoint: bool) {
        let mut change = peer(other);
        change.endpoints = endpoint.then(|| vec![other.address]);
        self.device.apply(now, vec![Change::Peer(change)]);
        self.collect();
    }

    /// Sends an overlay packet.
    pub fn send(&mut self, now: Instant, packet: &[u8]) {
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + 15, 0xee);
        self.device.handle_tun(now, &VnetHeader::default(), &mut buffer, packet.len());
        self.collect();
    }

    /// Takes a datagram from the underlay.
    pub fn take(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.device.handle_udp(now, Endpoint::from(from), Ecn::NotCapable, datagram);
        self.collect();
    }

    pub fn timeout(&mut self, now: Instant) {
        self.device.handle_timeout(now);
        self.collect();
    }

    /// Moves everything that the device has ready to `sent`, `received` and `events`.
    pub fn collect(&mut self) {
        while let Some(transmit) = self.device.poll_transmit() {
            let to = transmit.to.address;
            self.sent.extend(transmit.datagrams().map(|datagram| (to, datagram.to_vec())));
        }
        while let Some(packet) = self.device.poll_packet() {
            self.received.push(packet.parts().flatten().copied().collect());
        }
        while let Some(event) = self.device.poll_event() {
            self.events.push(event);
        }
    }

    pub fn peer(&self, now: Instant, other: &Station) -> PeerSnapshot {
        let peers = self.device.snapshot(now).peers;
        let found = peers.into_iter().find(|peer| peer.public_key == other.public_key());
        found.expect("the other station is a peer of this one")
    }

    /// Drops for this reason, blamed on a peer or on nobody.
    pub fn dropped(&self, now: Instant, reason: DropReason) -> u64 {
        let snapshot = self.device.snapshot(now);
        let blamed = snapshot.peers.iter().map(|peer| peer.drops.get(reason));
        snapshot.drops.get(reason) + blamed.sum::<u64>()
    }

    pub fn all_drops(&self, now: Instant) -> u64 {
        DropReason::ALL.iter().map(|&reason| self.dropped(now, reason)).sum()
    }
}

/// A change that makes `other` a peer with its overlay address, without an endpoint.
pub fn peer(other: &Station) -> PeerChange {
    let mut change = PeerChange::new(other.public_key());
    let prefix = format!("{}/32", other.overlay).parse().expect("an overlay address");
    change.allowed_ips = vec![AllowedIpChange::Add(prefix)];
    change
}

/// Two stations that know each other, and the time.
pub struct Wire {
    pub now: Instant,
    pub a: Station,
    pub b: Station,
    /// What passed, for messages of failed tests: `A -> B initiation 148 B`.
    pub ladder: Vec<String>,
}

impl Wire {
    /// Both know the other's endpoint; both have made an initiation that is not delivered yet.
    pub fn new() -> Self {
        let mut wire = Self::strangers();
        wire.a.know(wire.now, &wire.b, true);
        wire.b.know(wire.now, &wire.a, true);
        wire
    }

    /// They do not know each other yet.
    #[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
    pub fn strangers() -> Self {
        let now = Instant::now();
        Self { now, a: Station::new(1, now), b: Station::new(2, now), ladder: Vec::new() }
    }

    /// The same with a session in use.
    pub fn connected() -> Self {
        let mut wire = Self::new();
        wire.settle();
        wire.b.received.clear();
        wire.a.received.clear();
        wire
    }

    /// Delivers everything until nothing moves.
    pub fn settle(&mut self) {
        self.settle_with(|_, _| Delivery::Deliver);
    }

    /// Delivers until nothing moves, but asks about each datagram.
    pub fn settle_with(&mut self, mut fate: impl FnMut(bool, &[u8]) -> Delivery) {
        for _ in 0..1000 {
            let (from_a, from_b) =
                (std::mem::take(&mut self.a.sent), std::mem::take(&mut self.b.sent));
            if from_a.is_empty() && from_b.is_empty() {
                return;
            }
            for (from_first, datagrams) in [(true, from_a), (false, from_b)] {
                for (to, datagram) in datagrams {
                    self.deliver(from_first, to, &datagram, fate(from_first, &datagram));
                }
            }
        }
        panic!("the wire never falls silent:\n{}", self.ladder.join("\n"));
    }

    fn deliver(&mut self, from_a: bool, to: SocketAddr, datagram: &[u8], fate: Delivery) {
        let (from, target) =
            if from_a { (self.a.address, &mut self.b) } else { (self.b.address, &mut self.a) };
        let arrow = if from_a { "A -> B" } else { "B -> A" };
        self.ladder.push(format!("{arrow} {} {} B {fate:?}", kind(datagram), datagram.len()));
        let times = match fate {
            Delivery::Lose => 0,
            Delivery::Deliver => 1,
            Delivery::Twice => 2,
        };
        for _ in 0..times {
            if to == target.address {
                target.take(self.now, from, datagram);
            }
        }
    }

    /// Lets time pass, deadline by deadline, delivering what is sent.
    pub fn pass(&mut self, time: Duration) {
        self.pass_with(time, |_, _| Delivery::Deliver);
    }

    pub fn pass_with(&mut self, time: Duration, mut fate: impl FnMut(bool, &[u8]) -> Delivery) {
        let end = self.now + time;
        loop {
            self.settle_with(&mut fate);
            let next = [self.a.device.next_timeout(), self.b.device.next_timeout()];
            let Some(at) = next.into_iter().flatten().min().filter(|&at| at <= end) else { break };
            self.now = at.max(self.now);
            self.a.timeout(self.now);
            self.b.timeout(self.now);
        }
        self.now = end;
    }

    /// Sends a marked packet each way and says whether both arrived, once each.
    pub fn both_ways(&mut self) -> bool {
        let (there, back) = (
            udp(&self.a.overlay, &self.b.overlay, b"there"),
            udp(&self.b.overlay, &self.a.overlay, b"back"),
        );
        self.a.send(self.now, &there);
        self.b.send(self.now, &back);
        self.settle();
        let arrived = (self.b.received.as_slice(), self.a.received.as_slice());
        let both = arrived == (&[there], &[back]);
        self.a.received.clear();
        self.b.received.clear();
        both
    }
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Deliver,
    Lose,
    Twice,
}

/// The preshared key number `n`.
pub fn preshared(n: u8) -> PresharedKey {
    PresharedKey::from_bytes([n; 32])
}

/// An IPv4 packet with a UDP datagram; checksums are left out, nobody here reads them.
pub fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let len = (28 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    for address in [from, to] {
        let address: std::net::Ipv4Addr = address.parse().expect("an IPv4 address");
        packet.extend(address.octets());
    }
    packet.extend(9094u16.to_be_bytes());
    packet.extend(9094u16.to_be_bytes());
    packet.extend((len - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The kind of a WireGuard message, for people.
pub fn kind(datagram: &[u8]) -> &'static str {
    match datagram.first() {
        Some(1) => "initiation",
        Some(2) => "response",
        Some(3) => "cookie reply",
        Some(4) if datagram.len() == 32 => "keepalive",
        Some(4) => "data",
        _ => "junk",
    }
}

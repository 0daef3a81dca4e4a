//! One device with 1,000 peers and with 130,560 allowed IPs: what grows with them and what does not. What
//! a bogus datagram costs. Figures are printed, not asserted: the machine may be busy.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hushwire::offload::VnetHeader;
use hushwire::wireguard::{
    AllowedIpChange, Change, Device, DropReason, Ecn, Endpoint, PeerChange, PrivateKey, PublicKey,
    SessionState,
};

const PEERS: u32 = 1000;

/// The hub listens at 192.0.2.1, spoke number `n` at 198.18.0.0 + n.
struct Star {
    now: Instant,
    hub: Device,
    hub_key: PublicKey,
    spokes: Vec<Device>,
}

fn hub_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 51820))
}

fn spoke_address(n: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0xc612_0000 + n), 51820))
}

fn overlay(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a63_0000 + n)
}

fn key(n: u32) -> PrivateKey {
    let mut bytes = [7; 32];
    bytes[4..8].copy_from_slice(&n.to_be_bytes());
    PrivateKey::from_random(bytes)
}

fn peer(key: PublicKey, n: u32, endpoint: Option<SocketAddr>) -> Change {
    let mut change = PeerChange::new(key);
    change.endpoints = endpoint.map(|endpoint| vec![endpoint]);
    change.allowed_ips =
        vec![AllowedIpChange::Add(ipnet::IpNet::from(std::net::IpAddr::from(overlay(n))))];
    Change::Peer(change)
}

/// An IPv4 packet between two overlay addresses.
fn packet(from: u32, to: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(overlay(from).octets());
    packet.extend(overlay(to).octets());
    packet.extend([0; 8 + 15]);
    packet
}

impl Star {
    #[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
    fn new() -> Self {
        let (now, hub_key) = (Instant::now(), key(0).public_key());
        let mut hub = Device::new(0);
        hub.apply(now, vec![Change::PrivateKey(Some(key(0)))]);
        hub.apply(now, (1..=PEERS).map(|n| peer(key(n).public_key(), n, None)).collect());
        let spoke = |n: u32| {
            let mut device = Device::new(n.into());
            let own = Change::PrivateKey(Some(key(n)));
            device.apply(now, vec![own, peer(hub_key, 0, Some(hub_address()))]);
            device
        };
        Self { now, hub, hub_key, spokes: (1..=PEERS).map(spoke).collect() }
    }

    /// Delivers until nothing moves; returns how many packets came through to the hub's overlay.
    fn settle(&mut self) -> usize {
        let mut delivered = 0;
        loop {
            let mut moved = false;
            for (n, spoke) in (1..).zip(&mut self.spokes) {
                while let Some(transmit) = spoke.poll_transmit() {
                    let from = Endpoint::from(spoke_address(n));
                    for datagram in transmit.datagrams() {
                        self.hub.handle_udp(self.now, from, Ecn::NotCapable, datagram);
                    }
                    moved = true;
                }
            }
            while let Some(transmit) = self.hub.poll_transmit() {
                let SocketAddr::V4(to) = transmit.to.address else { unreachable!() };
                let n = u32::from(*to.ip()) - 0xc612_0000;
                let from = Endpoint::from(hub_address());
                let spoke = &mut self.spokes[n as usize - 1];
                for datagram in transmit.datagrams() {
                    spoke.handle_udp(self.now, from, Ecn::NotCapable, datagram);
                }
                moved = true;
            }
            while self.hub.poll_packet().is_some() {
                delivered += 1;
            }
            if !moved {
                return delivered;
            }
        }
    }

    /// Lets time pass; returns how often the hub wanted to be called.
    fn pass(&mut self, time: Duration) -> usize {
        let (end, mut wakeups) = (self.now + time, 0);
        loop {
            self.settle();
            let spokes = self.spokes.iter().filter_map(Device::next_timeout).min();
            let Some(at) = spokes.into_iter().chain(self.hub.next_timeout()).min() else { break };
            if at > end {
                break;
            }
            self.now = at.max(self.now);
            for spoke in &mut self.spokes {
                spoke.handle_timeout(self.now);
            }
            if self.hub.next_timeout().is_some_and(|at| at <= self.now) {
                self.hub.handle_timeout(self.now);
                wakeups += 1;
            }
        }
        self.now = end;
        wakeups
    }

    fn established(&self) -> usize {
        let peers = self.hub.snapshot(self.now).peers;
        peers.iter().filter(|peer| peer.session == SessionState::Established).count()
    }
}

#[test]
fn a_thousand_peers_shake_hands_and_an_idle_hub_sleeps() {
    let mut star = Star::new();
    star.settle();
    println!("{} of {PEERS} sessions without waiting", star.established());
    // All at one instant is more than the common allowance: the others are asked for a cookie, and
    // come back with it after their first retry.
    star.pass(Duration::from_secs(2));
    assert_eq!(star.established(), PEERS as usize);

    for n in 1..=PEERS {
        let mut buffer = packet(n, 0);
        star.spokes[n as usize - 1].handle_tun(star.now, &VnetHeader::default(), &mut buffer, 28);
    }
    assert_eq!(star.settle(), PEERS as usize);

    // Each spoke's packet is answered by one keepalive after 10 s; after that there is nothing to do.
    star.pass(Duration::from_secs(30));
    let wakeups = star.pass(Duration::from_secs(100));
    println!("hub with {PEERS} idle peers: {wakeups} wakeups in 100 s");
    assert!(wakeups <= 5, "{wakeups}");
}

/// 65,280 prefixes of each family on one peer, as tests/netns.sh of wireguard-go has them.
#[test]
#[expect(clippy::disallowed_methods, reason = "a figure is measured")]
fn a_hundred_thousand_allowed_ips_go_in_and_come_out() {
    let now = Instant::now();
    let mut device = Device::new(1);
    let mut change = PeerChange::new(key(1).public_key());
    for (a, b) in (0..=255u16).flat_map(|a| (0..=254u16).map(move |b| (a, b))) {
        for text in [format!("10.{a}.{b}.0/24"), format!("fd00:{a:x}:{b:x}::/48")] {
            change.allowed_ips.push(AllowedIpChange::Add(text.parse().unwrap()));
        }
    }
    let count = change.allowed_ips.len();
    let start = Instant::now();
    device.apply(now, vec![Change::Peer(change)]);
    let set = start.elapsed();
    let snapshot = device.snapshot(now);
    println!("{count} allowed IPs: set in {set:.0?}, read in {:.0?}", start.elapsed() - set);
    assert_eq!(snapshot.peers[0].allowed_ips.len(), count);
    let start = Instant::now();
    device.apply(now, vec![Change::RemoveAllPeers]);
    println!("  removed in {:.0?}", start.elapsed());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "figures are measured")]
fn what_a_bogus_datagram_costs() {
    const TIMES: u32 = 20_000;
    let mut star = Star::new();
    star.pass(Duration::from_secs(2));
    let mut stranger = Device::new(99);
    let own = Change::PrivateKey(Some(key(77_777)));
    stranger.apply(star.now, vec![own, peer(star.hub_key, 0, Some(hub_address()))]);
    let genuine = stranger.poll_transmit().unwrap().contents.to_vec();
    star.hub.handle_udp(star.now, Endpoint::from(spoke_address(1)), Ecn::NotCapable, &[0; 148]);

    let mut wrong_mac = genuine.clone();
    wrong_mac[20] ^= 1;
    let mut data = vec![0x5a; 100];
    data[..4].copy_from_slice(&[4, 0, 0, 0]);
    let cases = [
        ("no WireGuard message", vec![9; 100], DropReason::MalformedMessage),
        ("data for no session", data, DropReason::UnknownIndex),
        ("an initiation without our public key", wrong_mac, DropReason::InvalidMac),
        ("an initiation from a flooding source", genuine, DropReason::UnderLoad),
    ];
    for (what, datagram, reason) in cases {
        let from = Endpoint::from(SocketAddr::from(([203, 0, 113, 66], 1)));
        let before = star.hub.snapshot(star.now).drops.get(reason);
        let start = Instant::now();
        for _ in 0..TIMES {
            star.hub.handle_udp(star.now, from, Ecn::NotCapable, &datagram);
            while star.hub.poll_transmit().is_some() {}
        }
        println!("{what}: {:.2?}", start.elapsed() / TIMES);
        let counted = star.hub.snapshot(star.now).drops.get(reason) - before;
        // The first few of a flood are looked at: they may be a peer's.
        assert!((TIMES as u64 - 10..=TIMES as u64).contains(&counted), "{what}: {counted}");
    }
}

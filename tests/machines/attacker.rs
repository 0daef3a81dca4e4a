//! An attacker who holds a valid peer key and speaks WireGuard himself, so that he can send any packet: he
//! reaches gossip and ping of a real machine, and not its web port, which has real listeners that answer.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hushwire::offload::VnetHeader;
use hushwire::wireguard::{AllowedIpChange, Change, Device, Ecn, Endpoint, PeerChange};

use crate::attempts::{Ends, GOSSIP, Group, SYN, WEB};
use crate::stack::{Overlap, Reached, Stack};
use crate::support::capture::Capture;
use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::tunnel::{GOSSIP_ONLY, Identity, Tunnel, shared_file};
use crate::support::{millis, seconds, wait_for};

/// Packets between two pings: a socket's receive buffer holds some 200.
const BATCH: usize = 64;

/// machine2, as far as machine1 can tell.
struct Attacker {
    device: Device,
    socket: UdpSocket,
    received: Vec<Vec<u8>>,
    pings: u16,
}

impl Attacker {
    fn start(machine: &Machine, identities: &[Identity]) -> Self {
        let [victim, own] = identities else { panic!("two machines") };
        let mut device = Device::new(1);
        let mut peer = PeerChange::new(victim.private_key.public_key());
        peer.endpoints = victim.endpoint.as_ref().map(|text| vec![text.parse().expect("address")]);
        let prefixes = victim.allowed_ips.iter().map(|text| text.parse().expect("a prefix"));
        peer.allowed_ips = prefixes.map(AllowedIpChange::Add).collect();
        let key = Change::PrivateKey(Some(own.private_key.clone()));
        device.apply(Instant::now(), vec![key, Change::Mtu(1420), Change::Peer(peer)]);
        let socket = machine.udp("192.0.2.2:51820").expect("the port is free");
        socket.set_read_timeout(Some(millis(5))).expect("an option of sockets");
        Self { device, socket, received: Vec::new(), pings: 0 }
    }

    fn send(&mut self, packet: &[u8]) {
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + 15, 0);
        self.device.handle_tun(Instant::now(), &VnetHeader::default(), &mut buffer, packet.len());
        self.transmit();
    }

    /// Takes what comes until `done` says so.
    fn until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&[Vec<u8>]) -> bool) {
        let (start, mut buffer) = (Instant::now(), [0; 65_536]);
        while !done(&self.received) {
            assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
            self.device.handle_timeout(Instant::now());
            if let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                let from = Endpoint::from(from);
                self.device.handle_udp(Instant::now(), from, Ecn::NotCapable, &buffer[..len]);
            }
            self.transmit();
            while let Some(packet) = self.device.poll_packet() {
                self.received.push(packet.parts().flatten().copied().collect());
            }
        }
    }

    fn transmit(&mut self) {
        while let Some(transmit) = self.device.poll_transmit() {
            for datagram in transmit.datagrams() {
                self.socket.send_to(datagram, transmit.to.address).expect("there is a way");
            }
        }
    }

    /// Pings and waits for the answer: all that was sent before has been judged then.
    fn ping(&mut self, ends: Ends) {
        self.pings += 1;
        let number = self.pings;
        self.send(&ends.ping(number));
        let answer = ends.back().pong(number);
        let tail = answer[answer.len() - 4..].to_vec();
        self.until("the answer to a ping", seconds(10), |received| {
            received.iter().any(|packet| is_pong(packet) && packet.ends_with(&tail))
        });
    }

    /// Sends all attempts of a group; says how many packets that was.
    fn try_all(&mut self, ends: Ends, group: &Group) -> usize {
        let packets: Vec<_> = group.attempts.concat();
        for batch in packets.chunks(BATCH) {
            batch.iter().for_each(|packet| self.send(packet));
            self.ping(ends);
        }
        packets.len()
    }

    /// Whether the other end spoke from this port, other than to say that it does not listen.
    fn was_answered_from(&self, port: u16) -> bool {
        self.received.iter().any(|packet| {
            let (protocol, transport) = if packet[0] >> 4 == 4 {
                (packet[9], &packet[20..])
            } else {
                (packet[6], &packet[40..])
            };
            let resets = protocol == 6 && transport[13] & 0x04 != 0;
            [6, 17].contains(&protocol) && transport[..2] == port.to_be_bytes() && !resets
        })
    }
}

fn is_pong(packet: &[u8]) -> bool {
    if packet[0] >> 4 == 4 {
        packet[9] == 1 && packet[20] == 0
    } else {
        packet[6] == 58 && packet[40] == 129
    }
}

/// What listens on machine1: a port that answers by TCP and by UDP, and how often it was spoken to.
struct Listener {
    spoken_to: Arc<AtomicUsize>,
}

impl Listener {
    fn start(machine: &Machine, port: u16) -> Self {
        let spoken_to = Arc::new(AtomicUsize::new(0));
        let address = format!("[::]:{port}");
        let tcp: TcpListener = machine.listen(&address).expect("the port is free");
        let udp = machine.udp(&address).expect("the port is free");
        let counter = Arc::clone(&spoken_to);
        // Both end with the test's process.
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            }
        });
        let counter = Arc::clone(&spoken_to);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = udp.recv_from(&mut buffer) {
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = udp.send_to(&buffer[..len], from);
            }
        });
        Self { spoken_to }
    }

    fn count(&self) -> usize {
        self.spoken_to.load(Ordering::Relaxed)
    }
}

fn families() -> [(&'static str, Ends); 2] {
    [Family::V4, Family::V6].map(|family| {
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        (name, Ends::new(&overlay(2, family), &overlay(1, family)))
    })
}

fn refused(tunnel: &Tunnel<'_>) -> u64 {
    let drops = tunnel.peer("machine2").drops;
    ["filtered_in", "filtered_fragment"].iter().map(|reason| drops[*reason]).sum()
}

#[test]
fn who_holds_a_peer_key_reaches_gossip_and_ping_and_not_the_web_port() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4, Family::V6]);
    let file = shared_file(GOSSIP_ONLY, &identities);
    let mut victim = Tunnel::start(lab.machine(1), &identities[0], &file);
    victim.wait_until_attached();
    let [web, gossip] = [WEB, GOSSIP].map(|port| Listener::start(lab.machine(1), port));
    let inside = Capture::start(lab.machine(1), "hush0");
    let mut attacker = Attacker::start(lab.machine(2), &identities);

    println!("{:44}{:>8}{:>8}", "an attacker with a peer key", "tried", "passed");
    let (mut total, mut before) = (0, 0);
    for (family, ends) in families() {
        println!("\n{family}");
        attacker.ping(ends);
        for group in ends.groups() {
            let tried = attacker.try_all(ends, &group);
            let after = refused(&victim);
            let passed = tried - (after - before) as usize;
            println!("  {:42}{tried:8}{passed:8}", group.what);
            assert_eq!(passed, group.passing, "{family}, {}", group.what);
            (before, total) = (after, total + tried);
        }
    }
    println!("\n{total} packets, {before} refused");

    assert!(attacker.was_answered_from(GOSSIP), "gossip was to be reached");
    assert!(gossip.count() > 0, "gossip was to be reached");
    assert!(!attacker.was_answered_from(WEB), "the web port answered");
    assert_eq!(web.count(), 0, "the web port was reached");
    let inside = inside.stop();
    for overlap in [Overlap::FirstWins, Overlap::LastWins] {
        let mut stack = Stack::new(overlap);
        inside
            .raw()
            .iter()
            .filter(|packet| is_attackers(packet))
            .for_each(|packet| stack.take(packet));
        let more: Vec<_> = stack
            .reached
            .iter()
            .filter(|reached| !matches!(reached, Reached::Tcp(GOSSIP) | Reached::Udp(GOSSIP)))
            .collect();
        assert!(more.is_empty(), "{overlap:?}: hush0 carried what reaches {more:?}");
    }
    let told = victim.process().log().matches("filter refused").count();
    println!("{told} lines in the log");
    assert!((1..=3).contains(&told), "one line a minute");

    // Real connections of a real stack, by the key that is still his.
    drop(attacker);
    let mut stock = Tunnel::start(lab.machine(2), &identities[1], &shared_file("", &identities));
    stock.wait_until_attached();
    for family in [Family::V4, Family::V6] {
        let to = |port| SocketAddr::new(overlay(1, family).parse().expect("an address"), port);
        let mut stream = lab.machine(2).connect(to(GOSSIP), seconds(5)).expect("gossip is reached");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("gossip answers");
        assert_eq!(&answer, b"HTTP");
        let refused = lab.machine(2).connect(to(WEB), millis(1500));
        assert!(refused.is_err(), "the web port was reached");
        lab.machine(2).run("ping", &["-c", "1", "-W", "5", &overlay(1, family)]);
    }
    assert_eq!(web.count(), 0);
}

/// Without the filter all of that reaches the web port: the test above can fail.
#[test]
fn without_a_filter_the_same_attacker_reaches_the_web_port() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4, Family::V6]);
    let mut victim = Tunnel::start(lab.machine(1), &identities[0], &shared_file("", &identities));
    victim.wait_until_attached();
    let web = Listener::start(lab.machine(1), WEB);
    let mut attacker = Attacker::start(lab.machine(2), &identities);
    for (_, ends) in families() {
        attacker.ping(ends);
        attacker.send(&ends.segment(GOSSIP, WEB, SYN, 0));
        attacker.send(&ends.datagram(GOSSIP, WEB));
        attacker.ping(ends);
        assert!(attacker.was_answered_from(WEB));
        attacker.received.clear();
    }
    wait_for("the datagrams to be counted", seconds(5), || (web.count() >= 2).then_some(()));
    assert_eq!(refused(&victim), 0);
}

/// What is allowed changes while a connection is open: gossip goes on, and what was allowed for a while
/// is not for longer.
#[test]
fn a_reload_of_the_filter_keeps_gossip_and_the_session() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let tunnels = Tunnel::start_all(&lab, &identities);
    let _web = Listener::start(lab.machine(1), WEB);
    let _gossip = Listener::start(lab.machine(1), GOSSIP);
    let to = |port| SocketAddr::new(overlay(1, Family::V4).parse().expect("an address"), port);
    let reaches = |port| lab.machine(2).connect(to(port), millis(800)).is_ok();
    assert_eq!([GOSSIP, WEB].map(reaches), [true, false]);
    let handshake = tunnels[0].peer("machine2").handshake_age_seconds.expect("a session");
    let start = Instant::now();
    let with = |allow: &str| {
        let mut wider = identities.clone();
        wider.iter_mut().for_each(|identity| identity.extra = format!("allow = {allow}"));
        shared_file(GOSSIP_ONLY, &wider)
    };
    let files = [
        (with("[\"tcp/9093-9094\", \"udp/9094\"]"), [true, true]),
        (with("[\"all\"]"), [true, true]),
        (with("[]"), [false, false]),
        (shared_file(GOSSIP_ONLY, &identities), [true, false]),
    ];
    for (number, (file, expected)) in files.iter().enumerate() {
        for tunnel in &tunnels {
            tunnel.write_config(file);
            tunnel.reload();
        }
        let own = number < 3;
        wait_for("the reload", seconds(5), || {
            let shown =
                tunnels.iter().all(|tunnel| tunnel.status().peers[0].allow.is_some() == own);
            let lists: Vec<_> =
                tunnels.iter().map(|tunnel| tunnel.status().peers[0].allow.clone()).collect();
            let wanted = ["tcp/9093-9094", "all", "", ""][number];
            let fits =
                lists.iter().flatten().all(|list| list.first().is_none_or(|rule| rule == wanted));
            (shown && fits && (number != 2 || lists.iter().flatten().all(Vec::is_empty)))
                .then_some(())
        });
        assert_eq!([GOSSIP, WEB].map(reaches), *expected, "{file}");
    }
    let expected = handshake + start.elapsed().as_secs_f64();
    let now = tunnels[0].peer("machine2").handshake_age_seconds.expect("a session");
    assert!((now - expected).abs() < 1.0, "there was another handshake: {now} s, not {expected} s");
    let check = tunnels[0].hushwire("check", &[]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("filter      tcp/9094 udp/9094 icmp"), "{check}");
    let status = String::from_utf8_lossy(&tunnels[0].hushwire("status", &[]).stdout).into_owned();
    assert!(status.contains("filter      tcp/9094 udp/9094 icmp"), "{status}");
}

/// Whether a packet that was seen on the inside came from the attacker.
fn is_attackers(packet: &[u8]) -> bool {
    let source: IpAddr = if packet[0] >> 4 == 4 {
        <[u8; 4]>::try_from(&packet[12..16]).expect("four bytes").into()
    } else {
        <[u8; 16]>::try_from(&packet[8..24]).expect("sixteen bytes").into()
    };
    families().iter().any(|(_, ends)| ends.from == source)
}

//! wireguard-go, Debian's, at the other end.

use std::io::{Read, Write};
use std::time::Instant;

use hushwire::wireguard::PresharedKey;

use crate::support::alertmanager::{Alertmanager, arrival_times, members};
use crate::support::capture::Capture;
use crate::support::lab::{Family, Lab, overlay, underlay, with_port};
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::wireguard_go::WireguardGo;
use crate::support::{median_and_worst, random_bytes, seconds, wait_for};

/// Proves the harness itself: if this fails, hushwire is not to blame.
#[test]
fn two_alertmanagers_gossip_through_wireguard_go_alone() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let _first = WireguardGo::start(lab.machine(1), &identities[0], &[&identities[1]], None);
    let _second = WireguardGo::start(lab.machine(2), &identities[1], &[&identities[0]], None);
    ping(lab.machine(1), 2);
    let members = members(2, Family::V4);
    let start = |own: usize| {
        let flags = [
            format!("--cluster.listen-address={}", members[own]),
            format!("--cluster.peer={}", members[1 - own]),
        ];
        Alertmanager::start(lab.machine(own + 1), &flags)
    };
    let (alpha, beta) = (start(0), start(1));
    alpha.wait_until_ready(&members);
    beta.wait_until_ready(&members);
    let (median, worst) = median_and_worst(arrival_times(&alpha, &[&beta], 20));
    println!("wireguard-go alone: 20 silences arrive, median {median:.0?}, worst {worst:.0?}");
    alpha.assert_calm();
    beta.assert_calm();
}

#[test]
fn hushwire_initiates_to_wireguard_go() {
    pings_and_transfers(Initiator::Hushwire, false);
}

#[test]
fn hushwire_initiates_to_wireguard_go_with_a_preshared_key() {
    pings_and_transfers(Initiator::Hushwire, true);
}

#[test]
fn hushwire_responds_to_wireguard_go() {
    pings_and_transfers(Initiator::WireguardGo, false);
}

#[test]
fn hushwire_responds_to_wireguard_go_with_a_preshared_key() {
    pings_and_transfers(Initiator::WireguardGo, true);
}

#[test]
fn a_rekey_that_hushwire_initiates_loses_no_packet() {
    passes_a_rekey(Initiator::Hushwire);
}

#[test]
fn a_rekey_that_wireguard_go_initiates_loses_no_packet() {
    passes_a_rekey(Initiator::WireguardGo);
}

/// Who knows the other's endpoint, and so has to speak first.
#[derive(Clone, Copy, PartialEq)]
enum Initiator {
    Hushwire,
    WireguardGo,
}

/// hushwire on machine1, wireguard-go on machine2.
fn neighbours(lab: &Lab, initiator: Initiator, preshared: bool) -> (Tunnel<'_>, WireguardGo<'_>) {
    let identities = Identity::all(2, Family::V4, &[Family::V4, Family::V6]);
    let [own, mut other] = <[Identity; 2]>::try_from(identities).unwrap_or_else(|_| unreachable!());
    let mut seen_by_neighbour = own.clone();
    match initiator {
        Initiator::Hushwire => seen_by_neighbour.endpoint = None,
        Initiator::WireguardGo => other.endpoint = None,
    }
    let key = preshared.then(preshared_key);
    if preshared {
        other.extra = "preshared_key_file = \"machine2.psk\"".to_owned();
    }
    let neighbour =
        WireguardGo::start(lab.machine(2), &other, &[&seen_by_neighbour], key.as_deref());
    let file = shared_file("", &[own.clone(), other]);
    let secrets: Vec<_> = key.iter().map(|key| ("machine2.psk", key.as_str())).collect();
    let mut tunnel = Tunnel::start_with(lab.machine(1), &own, &file, &secrets);
    tunnel.wait_until_attached();
    (tunnel, neighbour)
}

fn preshared_key() -> String {
    PresharedKey::from_bytes(random_bytes()).to_base64().to_string()
}

fn pings_and_transfers(initiator: Initiator, preshared: bool) {
    let lab = Lab::new(2);
    let (tunnel, neighbour) = neighbours(&lab, initiator, preshared);
    let (first, second) = (lab.machine(1), lab.machine(2));
    match initiator {
        Initiator::Hushwire => ping(first, 2),
        Initiator::WireguardGo => ping(second, 1),
    }
    assert!(neighbour.latest_handshake() > 0);
    assert!(tunnel.peer("machine2").handshake_age_seconds.is_some());
    ping(first, 2);
    ping(second, 1);
    for (family, megabytes) in [(Family::V4, 100), (Family::V6, 10)] {
        transfer(first, second, &overlay(2, family), megabytes);
        transfer(second, first, &overlay(1, family), megabytes);
    }
}

fn ping(from: &Machine, to: usize) {
    for family in [Family::V4, Family::V6] {
        let address = overlay(to, family);
        // A test without IPv6 inside has no such route.
        if from.attempt("ip", &["route", "get", &address]).status.success() {
            from.run("ping", &["-c", "3", "-i", "0.1", "-W", "10", &address]);
        }
    }
}

/// Sends by TCP and compares every byte.
fn transfer(from: &Machine, to: &Machine, address: &str, megabytes: usize) {
    let block: [u8; 50_000] = random_bytes();
    let blocks = 20 * megabytes;
    let listener = to.listen(&with_port(address, 7001)).expect("cannot listen");
    let server = listener.local_addr().expect("it is bound");
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("nobody called");
            stream.set_read_timeout(Some(seconds(20))).expect("a timeout above zero");
            let mut received = vec![0; block.len()];
            for number in 0..blocks {
                stream.read_exact(&mut received).expect("the stream broke");
                assert!(received == block, "block {number} was changed on its way");
            }
            assert_eq!(stream.read(&mut received).expect("the stream broke"), 0);
        });
        let mut stream = from.connect(server, seconds(5)).expect("cannot connect");
        stream.set_write_timeout(Some(seconds(20))).expect("a timeout above zero");
        for _ in 0..blocks {
            stream.write_all(&block).expect("the stream broke");
        }
        drop(stream);
        receiver.join().expect("the receiver failed");
    });
    let rate = 8.0 * megabytes as f64 / start.elapsed().as_secs_f64();
    println!("{} to {address}: {rate:.0} Mbit/s", from.name);
}

/// Sessions are renewed after 120 s (REKEY_AFTER_TIME). Five packets a second for 135 s: all arrive,
/// and the handshake afterwards is another one.
fn passes_a_rekey(initiator: Initiator) {
    let lab = Lab::new(2);
    let (tunnel, neighbour) = neighbours(&lab, initiator, false);
    let (from, to) = match initiator {
        Initiator::Hushwire => (1, 2),
        Initiator::WireguardGo => (2, 1),
    };
    ping(lab.machine(from), to);
    let before = neighbour.latest_handshake();
    let wire = Capture::start(lab.machine(1), "eth0");
    let address = overlay(to, Family::V4);
    let mut pings = lab.machine(from).start("ping", &["-c", "675", "-i", "0.2", "-q", &address]);
    let (status, _) = wait_for("675 pings", seconds(150), || pings.ended());
    let log = pings.log();
    assert!(status.success() && log.contains(" 0% packet loss"), "{log}");
    let after = neighbour.latest_handshake();
    assert!((115..=130).contains(&(after - before)), "handshakes at {before} and {after}");
    let initiations: Vec<_> =
        wire.stop().datagrams.into_iter().filter(|d| d.payload[0] == 1).collect();
    let initiator = underlay(from, Family::V4);
    assert!(
        initiations.iter().all(|datagram| datagram.source.to_string() == initiator),
        "the wrong side renewed the session"
    );
    assert!(tunnel.peer("machine2").handshake_age_seconds.is_some_and(|age| age < 30.0));
}

//! Junk, forgeries and replays at the underlay port, and a peer that lies about its inner address.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use crate::support::alertmanager::{Alertmanager, members};
use crate::support::capture::{Capture, HOP_BY_HOP, ICMPV6};
use crate::support::forwarder::{Forwarder, stand_in};
use crate::support::lab::{Family, Lab, overlay, underlay};
use crate::support::message::Message;
use crate::support::neighbour::{Neighbour, Program, Wishes};
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{millis, seconds, wait_for};

/// How many hostile datagrams are sent.
const HOSTILE: u64 = 20_000;

/// Real messages are recorded on their way to machine2; then come random, truncated, bit-flipped and
/// replayed ones, while Alertmanagers gossip and numbered datagrams pass.
#[test]
fn hostile_datagrams_reach_nobody_and_are_counted_under_their_reasons() {
    let lab = Lab::new(2);
    let mut identities = Identity::all(2, Family::V4, &[Family::V4]);
    for (number, identity) in (1..).zip(&mut identities) {
        identity.endpoint = Some(stand_in(number));
    }
    let wire = Forwarder::start(&lab.switch, ["192.0.2.1:52001", "192.0.2.2:52002"]);
    let mut tunnels = Tunnel::start_all_with(&lab, "", &identities);
    // Machine 2 has to have taken what is replayed to it. The first initiation may have come before its
    // socket was open, and a replay of that is as good as the original. So start machine 1 once more, past
    // the 20 ms in which a second initiation is refused.
    std::thread::sleep(millis(100));
    let earlier = wire.ladder().len();
    tunnels[0].kill();
    tunnels[0].restart();
    tunnels[0].wait_until_attached();
    let alertmanagers = Alertmanager::start_all(&lab, &tunnels);
    let [alpha, beta] = &alertmanagers[..] else { unreachable!() };
    alpha.wait_for_members(&members(2, Family::V4), seconds(15));
    wait_for("some gossip to be recorded", seconds(10), || {
        (wire.ladder().len() > earlier + 30).then_some(())
    });

    let inside = Capture::start(lab.machine(2), "hush0");
    let inbox = lab.machine(2).udp(&format!("{}:7002", overlay(2, Family::V4))).expect("free");
    let outbox = lab.machine(1).udp(&format!("{}:7002", overlay(1, Family::V4))).expect("free");
    let before = drops(&tunnels[1]);
    let attacker = lab.switch.udp("192.0.2.254:0").expect("cannot bind in the switch");
    let recorded: Vec<_> = wire
        .ladder()
        .into_iter()
        .skip(earlier)
        .filter(|rung| rung.from == 1)
        .map(|rung| rung.bytes)
        .collect();
    assert!(recorded.iter().any(|bytes| Message::of(bytes) == Message::Data));

    let target = format!("{}:52002", underlay(2, Family::V4));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sent = BTreeMap::<&str, u64>::new();
    let counted = |count: u64| {
        let total = |drops: &BTreeMap<String, u64>| drops.values().sum::<u64>();
        let (drops, _) = wait_for("all hostile datagrams to be counted", seconds(10), || {
            let after = drops(&tunnels[1]);
            (total(&after) - total(&before) >= count).then_some(after)
        });
        drops
    };
    for number in 0..HOSTILE {
        let (kind, bytes) = hostile(&mut random, &recorded);
        *sent.entry(kind).or_default() += 1;
        attacker.send_to(&bytes, &target).expect("cannot send");
        if number % 100 == 0 {
            outbox
                .send_to(&number.to_be_bytes(), inbox.local_addr().expect("bound"))
                .expect("sent");
            // The receive buffer of a stock kernel holds some 200 small datagrams: what it cannot hold
            // would be counted by nobody.
            counted(number + 1);
        }
        if number % 5_000 == 2_500 {
            let id = alpha.silence("under attack");
            beta.wait_for_silence(&id, seconds(5));
        }
    }

    let after = counted(HOSTILE);
    println!("sent: {sent:?}");
    let risen: BTreeMap<_, _> =
        after.iter().map(|(reason, count)| (reason.as_str(), count - before[reason])).collect();
    println!("dropped: {risen:?}");
    for reason in ["malformed_message", "invalid_mac", "unknown_index", "invalid_tag", "replayed"] {
        assert!(risen[reason] > 0, "nothing was counted as {reason}: {risen:?}");
    }
    assert_eq!(risen.values().sum::<u64>(), HOSTILE, "each one is counted once: {risen:?}");

    let numbers = receive_all(&inbox);
    let expected: Vec<_> = (0..HOSTILE).step_by(100).collect();
    assert_eq!(numbers, expected, "each numbered datagram arrives once and in order");
    let inside = inside.stop();
    let peer = overlay(1, Family::V4);
    let own = overlay(2, Family::V4);
    for (source, destination, protocol) in &inside.packets {
        // The kernel itself asks for IPv6 routers on every interface.
        if [ICMPV6, HOP_BY_HOP].contains(protocol) {
            continue;
        }
        let pair = [source.to_string(), destination.to_string()];
        let known = pair == [peer.clone(), own.clone()] || pair == [own.clone(), peer.clone()];
        assert!(known, "{pair:?} passed hush0");
    }
    alertmanagers.iter().for_each(Alertmanager::assert_calm);
}

/// One hostile datagram and what kind it is.
fn hostile(random: &mut fastrand::Rng, recorded: &[Vec<u8>]) -> (&'static str, Vec<u8>) {
    let mut real = recorded[random.usize(..recorded.len())].clone();
    match random.u8(..5) {
        0 => {
            let len = random.usize(..1_500);
            ("random", std::iter::repeat_with(|| random.u8(..)).take(len).collect())
        }
        1 => {
            // The right head and length, the rest at random.
            let (kind, len) = [(1, 148), (2, 92), (3, 64), (4, 128)][random.usize(..4)];
            let mut bytes: Vec<_> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            ("forged", bytes)
        }
        2 => {
            real.truncate(random.usize(..real.len()));
            ("truncated", real)
        }
        3 => {
            // The last 16 bytes of a handshake message are mac2, which counts only under load.
            let bit = random.usize(..8 * (real.len() - 16));
            real[bit / 8] ^= 1 << (bit % 8);
            ("bit-flipped", real)
        }
        _ => ("replayed", real),
    }
}

/// Every drop of a tunnel by reason, peers and all.
fn drops(tunnel: &Tunnel<'_>) -> BTreeMap<String, u64> {
    let status = tunnel.status();
    let mut sum = status.drops;
    for (reason, count) in status.peers.into_iter().flat_map(|peer| peer.drops) {
        *sum.entry(reason).or_default() += count;
    }
    sum
}

fn receive_all(inbox: &UdpSocket) -> Vec<u64> {
    inbox.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout above zero");
    let mut numbers = Vec::new();
    let mut buffer = [0; 8];
    while let Ok(8) = inbox.recv(&mut buffer) {
        numbers.push(u64::from_be_bytes(buffer));
    }
    numbers
}

/// Cryptokey routing works both ways: a peer may only speak as the addresses that route to it.
#[test]
fn a_packet_from_a_source_that_is_not_the_peers_is_dropped_and_counted() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let file = shared_file("", &identities);
    let mut tunnel = Tunnel::start(lab.machine(1), &identities[0], &file);
    tunnel.wait_until_attached();
    let liar = lab.machine(2);
    let (own, peers, wishes) = (&identities[1], [&identities[0]], Wishes::default());
    let _neighbour = Neighbour::start(Program::WireguardGo, liar, own, &peers, wishes);
    liar.run("ping", &["-c", "1", "-W", "10", &overlay(1, Family::V4)]);
    let inside = Capture::start(lab.machine(1), "hush0");
    liar.ip("addr add 10.99.0.77/32 dev wg0");
    let lies = liar.attempt(
        "ping",
        &["-c", "5", "-i", "0.1", "-W", "1", "-I", "10.99.0.77", &overlay(1, Family::V4)],
    );
    assert!(!lies.status.success(), "the lie was answered");
    assert_eq!(tunnel.peer("machine2").drops["disallowed_source"], 5);
    let sources: Vec<_> = inside.stop().packets.iter().map(|packet| packet.0.to_string()).collect();
    assert!(!sources.contains(&"10.99.0.77".to_owned()), "the lie reached the TUN");
}

//! A stranger on the same link as a machine, without a key: it routes the overlay addresses to the machine's
//! underlay address, and tries whatever a frame can hold. With the guard taken away by hand it gets in: the
//! same attempts are counted once more then, so that these tests can fail.
//!
//! ```text
//!      machine1                machine2                machine3
//!   10.99.0.1 fd99::1       10.99.0.2 fd99::2        the stranger:
//!        hush0                   hush0               10.99.0.1 via 192.0.2.1
//!   192.0.2.1               192.0.2.2               192.0.2.3
//!        eth0 ------------------ eth0 ------------------ eth0
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::crafted::{Scene, Try, all, forge, who_has};
use crate::support::alertmanager::{Alertmanager, members};
use crate::support::capture::{Capture, Captured};
use crate::support::frames::{Deliveries, Frames, hardware_address};
use crate::support::lab::{Family, Lab, overlay, underlay, with_port};
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel};
use crate::support::{millis, seconds, wait_for};

/// Takes half of the guard away, as the README says.
fn remove_rules(machine: &Machine) {
    for family in ["-4", "-6"] {
        let script = format!("while ip {family} rule del protocol 107 2>/dev/null; do :; done");
        machine.run("sh", &["-c", &script]);
    }
}

/// Takes the other half away.
fn remove_nftables(machine: &Machine) {
    machine.run("nft", &["delete", "table", "inet", "hushwire"]);
}

#[test]
fn a_stranger_on_the_underlay_cannot_join_the_cluster_nor_read_its_silences() {
    let lab = Lab::new(3);
    let tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    let ours = members(2, Family::V4);
    let alertmanagers = Alertmanager::start_all(&lab, &tunnels);
    for alertmanager in &alertmanagers {
        alertmanager.wait_until_ready(&ours);
    }
    let secret = alertmanagers[0].silence("not for strangers");

    let stranger = lab.machine(3);
    let (to, by) = (overlay(1, Family::V4), underlay(1, Family::V4));
    stranger.ip(&format!("route add {to} via {by}"));
    let own = with_port(&underlay(3, Family::V4), 9094);
    let flags = [
        format!("--cluster.listen-address={own}"),
        format!("--cluster.peer={to}:9094"),
        "--cluster.reconnect-interval=500ms".to_owned(),
    ];
    // It answers when its first attempt has failed, after 10 s; others follow.
    let intruder = Alertmanager::start(stranger, &flags);
    std::thread::sleep(seconds(2));
    assert_eq!(intruder.cluster().1, [own], "the stranger is in the cluster");
    assert_eq!(intruder.comment(&secret), None, "the stranger read a silence");
    for alertmanager in &alertmanagers {
        assert_eq!(alertmanager.cluster().1, ours);
    }
    // While the machine reaches itself.
    let gossip = format!("{to}:9094").parse().expect("an address");
    lab.machine(1)
        .connect(gossip, seconds(2))
        .expect("Alertmanager cannot be reached from its machine");

    remove_rules(lab.machine(1));
    remove_nftables(lab.machine(1));
    let (_, joined) = intruder.wait_for_silence(&secret, seconds(60));
    println!("without the guard the stranger has the silence after {joined:.1?}");
}

/// What is left of the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Whole,
    PolicyRules,
    Nftables,
    None,
}

const GUARDS: [Guard; 4] = [Guard::Whole, Guard::PolicyRules, Guard::Nftables, Guard::None];

/// Tried with each guard, and passed it.
type Count = (usize, [usize; 4]);

#[test]
fn thousands_of_crafted_packets_past_the_tunnel_reach_nothing() {
    let lab = Lab::new(3);
    let families = [Family::V4, Family::V6];
    let tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &families));
    let guard = tunnels[0].status().interface.guard;
    assert!(guard.policy_rules && guard.nftables, "{guard:?}");
    let (target, stranger) = (lab.machine(1), lab.machine(3));
    for conf in ["ipv4/conf/all", "ipv4/conf/eth0", "ipv6/conf/all", "ipv6/conf/eth0"] {
        target.sysctl(&format!("net/{conf}/accept_source_route"), "1");
    }
    let scenes = families.map(|family| scene(&lab, family));
    let saved = target.run("nft", &["list", "table", "inet", "hushwire"]);

    let mut counts: [BTreeMap<String, Count>; 4] = Default::default();
    let mut answers = [[0; 2]; 4];
    for (column, guard) in GUARDS.into_iter().enumerate() {
        match guard {
            Guard::Whole => {}
            Guard::PolicyRules => remove_nftables(target),
            // What nft prints is what it takes.
            Guard::Nftables => {
                remove_rules(target);
                let script = format!("nft -f - <<'END'\n{saved}\nEND");
                target.run("sh", &["-c", &script]);
            }
            Guard::None => remove_nftables(target),
        }
        let (tries, delivered, replies) = attempt_all(target, stranger, &scenes);
        for (number, one) in (0..).zip(&tries) {
            for (count, label) in counts.iter_mut().zip(&one.labels) {
                let count = count.entry(label.clone()).or_default();
                count.0 += usize::from(guard == Guard::Whole);
                count.1[column] += usize::from(delivered.contains(&number));
            }
        }
        answers[column] = answers_in(&replies, &scenes);
    }

    print(&counts, &answers);
    for (label, (_, passed)) in counts.iter().flatten() {
        assert_eq!(passed[..3], [0; 3], "{label}");
    }
    assert_eq!(answers[0], [0, 0]);
    assert_eq!(answers[1], [0, 0]);
    // A chain of IP sees no ARP.
    assert_eq!(answers[2][0], 0);
    // The stranger's ways are real ones.
    assert!(answers[3][0] > 0 && answers[3][1] > 0);
    for protocol in ["TCP SYN", "TCP, other flags", "UDP", "ICMP echo", "ICMP error"] {
        for family in ["IPv4", "IPv6"] {
            let label = format!("{family} {protocol}");
            let (_, passed) = counts[0].get(&label).expect("it was tried");
            assert!(passed[3] > 0, "{label} cannot be seen without a guard");
        }
    }
}

/// Sends everything, and says which of it was delivered and what came back.
fn attempt_all(
    target: &Machine,
    stranger: &Machine,
    scenes: &[Scene; 2],
) -> (Vec<Try>, BTreeSet<u32>, Captured) {
    let frames = Frames::on(stranger, "eth0");
    let replies = Capture::start(stranger, "eth0");
    let deliveries = Deliveries::start(target);
    let mut tries = Vec::new();
    for scene in scenes {
        frames.send(&who_has(scene, scene.sources[0].1));
        let first = u32::try_from(tries.len()).expect("a few thousand");
        tries.extend(all(scene, first));
    }
    for (number, one) in tries.iter().enumerate() {
        one.frames.iter().for_each(|frame| frames.send(frame));
        // No faster than the receiver's queue empties.
        if number % 64 == 63 {
            std::thread::sleep(millis(2));
        }
    }
    std::thread::sleep(millis(300));
    (tries, deliveries.stop(), replies.stop())
}

/// Packets from an overlay address to the stranger, and claims of ARP and NDP to have such an address.
fn answers_in(replies: &Captured, scenes: &[Scene; 2]) -> [usize; 2] {
    let targets: BTreeSet<IpAddr> = scenes.iter().map(|scene| scene.target).collect();
    let own: BTreeSet<IpAddr> = scenes.iter().map(|scene| scene.sources[0].1).collect();
    let to_us =
        |packet: &&(IpAddr, IpAddr, u8)| targets.contains(&packet.0) && own.contains(&packet.1);
    let claims = replies.raw().iter().filter(|packet| claims(packet, &targets)).count();
    [replies.packets.iter().filter(to_us).count(), claims]
}

fn print(counts: &[BTreeMap<String, Count>; 4], answers: &[[usize; 2]; 4]) {
    let row = |label: &str, tried: &str, cells: [String; 4]| {
        println!("{label:50} {tried:>6} {}", cells.map(|cell| format!("{cell:>12}")).concat());
    };
    for count in counts {
        row("passed with this guard:", "tried", GUARDS.map(|guard| format!("{guard:?}")));
        for (label, (tried, passed)) in count {
            row(label, &tried.to_string(), passed.map(|number| number.to_string()));
        }
    }
    let answers = |which: usize| answers.map(|numbers| numbers[which].to_string());
    row("packets from an overlay address on the link", "", answers(0));
    row("ARP and NDP answers for an overlay address", "", answers(1));
}

/// Before any rule is asked, the kernel gives a datagram to the connected socket that it seems to be for,
/// whatever the interface: the reason why there is more than policy rules.
#[test]
fn a_datagram_forged_for_a_connected_socket_does_not_reach_it() {
    for family in [Family::V4, Family::V6] {
        let lab = Lab::new(3);
        let _tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[family]));
        let (ours, theirs) = (overlay(1, family), overlay(2, family));
        let socket = |number, own: &str, other: &str| {
            let socket = lab.machine(number).udp(&with_port(own, 9094)).expect("a free port");
            socket.connect(with_port(other, 9094)).expect("a way to the peer");
            socket.set_read_timeout(Some(millis(300))).expect("a timeout");
            socket
        };
        let (inbox, peer) = (socket(1, &ours, &theirs), socket(2, &theirs, &ours));
        let forged = forge(&scene(&lab, family));
        let frames = Frames::on(lab.machine(3), "eth0");
        let mut buffer = [0; 100];
        for guard in GUARDS {
            match guard {
                Guard::Whole => {}
                Guard::PolicyRules => remove_nftables(lab.machine(1)),
                _ => break,
            }
            let mut passes = || {
                // The kernel takes note of how the peer's datagrams come.
                peer.send(b"from the peer").expect("a way to the peer");
                let length = inbox.recv(&mut buffer).expect("a datagram by the tunnel");
                assert_eq!(buffer[..length], *b"from the peer");
                (0..3).for_each(|_| frames.send(&forged));
                let got = inbox.recv(&mut buffer).is_ok();
                while inbox.recv(&mut buffer).is_ok() {}
                got
            };
            let got = (0..8).any(|_| passes());
            println!("{family:?}, guard {guard:?}: a forged datagram passes: {got}");
            match guard {
                Guard::Whole => assert!(!got),
                // With IPv6 a change of any route may end the note for as long as the socket lives.
                _ => assert!(got || family == Family::V6),
            }
        }
    }
}

/// Without a service manager hushwire goes on, and says what is left.
#[test]
fn a_guard_that_is_taken_away_is_missed_and_found_again() {
    let lab = Lab::new(2);
    let tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4, Family::V6]));
    let machine = lab.machine(1);
    let says = |guard: &str| {
        let status = || tunnels[0].status().interface.guard.to_string();
        wait_for(guard, seconds(5), || (status() == guard).then_some(()));
    };
    says("policy rules, nftables");
    let chains = machine.run("nft", &["list", "table", "inet", "hushwire"]);
    remove_nftables(machine);
    says("policy rules");
    machine.run("sh", &["-c", &format!("nft -f - <<'END'\n{chains}\nEND\n")]);
    says("policy rules, nftables");
    remove_rules(machine);
    says("nftables");
    remove_nftables(machine);
    says("none");
}

fn scene(lab: &Lab, family: Family) -> Scene {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let others: [&str; 5] = match family {
        Family::V4 => ["127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "198.51.100.7"],
        Family::V6 => ["::1", "::", "ff02::1", "fe80::7", "2001:db8:7::7"],
    };
    let mut sources = vec![
        ("from its own address", address(&underlay(3, family))),
        ("from a peer's overlay address", address(&overlay(2, family))),
        ("from the target's overlay address", address(&overlay(1, family))),
        ("from the target's underlay address", address(&underlay(1, family))),
    ];
    sources.extend(others.map(|text| ("from loopback, nowhere or everybody", address(text))));
    let link = |number| hardware_address(lab.machine(number), "eth0");
    Scene {
        stranger_link: link(3),
        target_link: link(1),
        third_link: link(2),
        target: address(&overlay(1, family)),
        target_underlay: address(&underlay(1, family)),
        sources,
    }
}

/// Whether a packet, from its network header on, is an answer of ARP or NDP that claims one of these.
fn claims(packet: &[u8], addresses: &BTreeSet<IpAddr>) -> bool {
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let claimed = match packet {
        [0, 1, 8, 0, 6, 4, 0, 2, ..] => v4(14),
        // A neighbour advertisement, right behind the IPv6 header.
        [0x60..=0x6f, _, _, _, _, _, 58, ..] if packet.get(40) == Some(&136) => v6(48),
        _ => None,
    };
    claimed.is_some_and(|address| addresses.contains(&address))
}

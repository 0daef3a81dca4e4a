//! The same suite of packets (`traffic.rs`) with offloads on and off, at every MTU: every byte arrives, and
//! every checksum is right.
//!
//! ```text
//!     left                home1                home2              right             far
//!   10.99.0.1           192.0.2.1            192.0.2.2          10.99.0.2 lan --- eth0 10.98.0.2
//!   fd00:99::1        2001:db8::1          2001:db8::2         fd00:99::2             fd00:98::2
//!      wg0 - - hushwire - - eth0 ---------- eth0 - - hushwire - - wg0
//! ```
//!
//! Packets are captured at the interfaces of the overlay and tcpdump judges them: all that it has to say of
//! is right, but for the one thing that checksum offload means: what leaves a local stack, and what was
//! joined to a large packet, holds the sum of its pseudo-header until somebody finishes it. Such a
//! checksum is right if it is that sum ([`judge`] looks); and so that each is also seen once it is finished:
//!
//! - what hushwire finishes when it cuts: [`a_receiver_that_joins_nothing`] sees each packet as it was sealed;
//! - what the kernel finishes of packets that hushwire has joined: [`a_receiver_that_forwards`] hands them
//!   to an interface without offloads, before which the kernel cuts them by the header that it was given;
//! - without offload at the TUN, nothing that leaves a local stack is unfinished.

use std::time::Instant;

use crate::pair::{Pair, address, wg_set};
use crate::support::capture::Capture;
use crate::support::checksums::{Verdict, judge};
use crate::support::machine::Machine;
use crate::support::tunnel::HUSHWIRE;
use crate::traffic::{End, exchange};

/// MTU of the overlay, that of the underlay, and the endpoint of the second device. At 1440 a message over
/// IPv4 fills an Ethernet frame; over IPv6, at 1420.
const CELLS: [(usize, usize, &str); 4] = [
    (1280, 1500, "192.0.2.2"),
    (1420, 1500, "[2001:db8::2]"),
    (1440, 1500, "192.0.2.2"),
    (9000, 9100, "[2001:db8::2]"),
];
const TUN_OFF: &str = "tx off sg off tso off gso off gro off tx-udp-segmentation off";

#[track_caller]
fn switch(machines: [&Machine; 2], interface: &str, features: &str) {
    for machine in machines {
        let words = ["-K", interface].into_iter().chain(features.split(' ')).collect::<Vec<_>>();
        machine.run("ethtool", &words);
    }
}

/// What was seen at one interface: what its own machine has sent, and what came from elsewhere.
struct Seen {
    sent: Verdict,
    came: Verdict,
}

/// Sends the suite, and judges what is seen at both ends. Nothing is wrong when this returns.
#[track_caller]
fn run(what: &str, near: End<'_>, far: End<'_>, interfaces: [&str; 2], mtu: usize) -> [Seen; 2] {
    let start = Instant::now();
    let ends = [near, far];
    let captures = [0, 1].map(|at| Capture::start(ends[at].machine, interfaces[at]));
    exchange(near, far, mtu);
    let took = start.elapsed();
    let mut captures = captures.into_iter().zip(ends);
    let seen = [(); 2].map(|()| {
        let (capture, end) = captures.next().expect("two of them");
        let captured = capture.stop();
        let [sent, came] = judge(captured.raw(), end.address);
        for verdict in [&sent, &came] {
            let name = &end.machine.name;
            let wrong = verdict.wrong.iter().take(3).collect::<Vec<_>>();
            assert!(wrong.is_empty(), "{what}, MTU {mtu}, at {name}: {wrong:#?}");
            assert!(verdict.right + verdict.unfinished > 100, "{what} at {name}: {verdict:?}");
        }
        Seen { sent, came }
    });
    let [near, far] = &seen;
    println!(
        "{what:24} MTU {mtu} {}: {took:4.0?}, finished/unfinished: sent {}/{} and came {}/{} at one \
         end, sent {}/{} and came {}/{} at the other",
        if ends[0].address.is_ipv4() { "IPv4" } else { "IPv6" },
        near.sent.right,
        near.sent.unfinished,
        near.came.right,
        near.came.unfinished,
        far.sent.right,
        far.sent.unfinished,
        far.came.right,
        far.came.unfinished,
    );
    seen
}

#[test]
fn every_byte_passes_with_all_offloads() {
    let pair = Pair::new([HUSHWIRE; 2], "");
    for (mtu, underlay, endpoint) in CELLS {
        pair.adjust(mtu, underlay, endpoint);
        for v6 in [false, true] {
            let seen = run("all offloads", pair.left(v6), pair.right(v6), ["wg0"; 2], mtu);
            for Seen { sent, came } in seen {
                // Otherwise this would show nothing of cutting and joining.
                assert!(
                    sent.unfinished > 0 && came.unfinished > 0,
                    "no offload: {sent:?} {came:?}"
                );
            }
        }
    }
}

#[test]
fn every_byte_passes_without_offloads_of_the_tun() {
    let pair = Pair::new([HUSHWIRE; 2], "");
    let [left, right] = &pair.places;
    switch([left, right], "wg0", TUN_OFF);
    for (mtu, underlay, endpoint) in CELLS {
        pair.adjust(mtu, underlay, endpoint);
        for v6 in [false, true] {
            let seen = run("TUN without", pair.left(v6), pair.right(v6), ["wg0"; 2], mtu);
            for Seen { sent, .. } in seen {
                assert_eq!(sent.unfinished, 0, "the kernel has finished all");
            }
        }
    }
}

#[test]
fn every_byte_passes_without_offloads_of_the_underlay() {
    let pair = Pair::new([HUSHWIRE; 2], "");
    let [left, right] = &pair.homes;
    switch([left, right], "eth0", TUN_OFF);
    for (mtu, underlay, endpoint) in CELLS {
        pair.adjust(mtu, underlay, endpoint);
        for v6 in [false, true] {
            run("underlay without", pair.left(v6), pair.right(v6), ["wg0"; 2], mtu);
        }
    }
}

/// The kernel refuses to cut to datagrams that do not fit the path (udp_send_skb() in net/ipv4/udp.c): they
/// go one by one, in fragments.
#[test]
fn every_byte_passes_over_an_underlay_narrower_than_the_segments() {
    let pair = Pair::new([HUSHWIRE; 2], "");
    for (mtu, _, endpoint) in CELLS {
        pair.adjust(mtu, 1280, endpoint);
        for v6 in [false, true] {
            run("narrow underlay", pair.left(v6), pair.right(v6), ["wg0"; 2], mtu);
        }
    }
}

#[test]
fn a_receiver_that_joins_nothing_sees_every_checksum_finished() {
    let pair = Pair::new([HUSHWIRE, "wireguard-go"], "");
    for (mtu, underlay, endpoint) in CELLS {
        pair.adjust(mtu, underlay, endpoint);
        for v6 in [false, true] {
            let seen = run("joins nothing", pair.left(v6), pair.right(v6), ["wg0"; 2], mtu);
            let [Seen { sent, .. }, Seen { came, .. }] = seen;
            assert!(sent.unfinished > 0, "nothing was offloaded: {sent:?}");
            assert_eq!(came.unfinished, 0, "all is finished: {came:?}");
            // The others' checksums of 0 must not have become something else.
            assert_eq!(came.without, if v6 { 0 } else { 8 }, "{came:?}");
        }
    }
}

#[test]
fn a_receiver_that_forwards_finishes_what_was_joined() {
    let pair = Pair::new([HUSHWIRE; 2], ",10.98.0.0/24,fd00:98::/64");
    let ([left, right], far) = (&pair.places, Machine::new("far"));
    right.ip(&format!("link add lan type veth peer name eth0 netns {}", far.pid()));
    for (machine, interface, number) in [(right, "lan", 1), (&far, "eth0", 2)] {
        machine.ip(&format!("addr add 10.98.0.{number}/24 dev {interface}"));
        machine.ip(&format!("addr add fd00:98::{number}/64 dev {interface} nodad"));
        machine.ip(&format!("link set {interface} mtu 9000 up"));
    }
    right.sysctl("net/ipv4/ip_forward", "1");
    right.sysctl("net/ipv6/conf/all/forwarding", "1");
    far.sysctl("net/ipv4/tcp_ecn", "1");
    for (prefix, via) in [("10.98.0.0/24", "10.99.0.2"), ("fd00:98::/64", "fd00:99::2")] {
        left.ip(&format!("route add {prefix} via {via}"));
    }
    for (prefix, via) in [("10.99.0.0/24", "10.98.0.1"), ("fd00:99::/64", "fd00:98::1")] {
        far.ip(&format!("route add {prefix} via {via}"));
    }
    // What is cut here has been joined before.
    switch([right, right], "lan", TUN_OFF);
    switch([&far, &far], "eth0", TUN_OFF);
    wg_set(
        &pair.homes[1],
        &format!("peer {} allowed-ips 10.99.0.1/32,fd00:99::1/128", pair.keys[0].public_key()),
    );
    for (mtu, underlay, endpoint) in CELLS {
        pair.adjust(mtu, underlay, endpoint);
        right.ip(&format!("link set lan mtu {mtu}"));
        far.ip(&format!("link set eth0 mtu {mtu}"));
        for v6 in [false, true] {
            let end = End { machine: &far, address: address(v6, 98, 2) };
            let seen = run("forwards", pair.left(v6), end, ["wg0", "eth0"], mtu);
            let [_, Seen { sent, came }] = seen;
            assert_eq!((sent.unfinished, came.unfinished), (0, 0), "{sent:?} {came:?}");
        }
    }
}

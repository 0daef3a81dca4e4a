//! The filter, tried with thousands of crafted packets, two devices on a wire in memory. What got through
//! is given to a stack of another hand, as credulous as any: it must reach gossip and ping, and nothing else.
//!
//! `cargo test --test filter -- --nocapture` prints the table of tried and passed.
#![allow(clippy::print_stdout, reason = "a test says what it tried")]

#[path = "../support/crafted.rs"]
mod crafted;
#[path = "../support/stack.rs"]
mod stack;
#[path = "../support/wire.rs"]
mod wire;

mod behaviour;

use std::time::Duration;

use crafted::{Ends, GOSSIP, Group};
use hushwire::wireguard::{Allow, AllowedIpChange, Change, DropReason, PortRange, Rule};
use stack::{Overlap, Reached, Stack};
use wire::{Station, Wire, peer};

/// What `hushwire init` writes.
fn gossip_only() -> Allow {
    let port = PortRange::new(GOSSIP, GOSSIP).unwrap();
    Allow::new(vec![Rule::Tcp(port), Rule::Udp(port), Rule::Icmp])
}

/// Two devices with addresses of both families and a session; B has the filter.
fn wire(allow: Option<Allow>) -> Wire {
    let mut wire = Wire::connected();
    let with_v6 = |other: &Station, address: &str| {
        let mut change = peer(other);
        change.allowed_ips.push(AllowedIpChange::Add(address.parse().unwrap()));
        Change::Peer(change)
    };
    let (of_a, of_b) = (with_v6(&wire.b, "fd00:99::2/128"), with_v6(&wire.a, "fd00:99::1/128"));
    wire.a.device.apply(wire.now, vec![of_a]);
    wire.b.device.apply(wire.now, vec![of_b, Change::Filter(allow)]);
    wire
}

/// Which way the packets of the table go, seen from the device with the filter.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    In,
    Out,
}

/// Sends packets and says which got through.
fn passed(wire: &mut Wire, way: Way, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    for packet in packets {
        let now = wire.now;
        let from = if way == Way::In { &mut wire.a } else { &mut wire.b };
        from.send(now, packet);
        wire.settle();
    }
    let to = if way == Way::In { &mut wire.b } else { &mut wire.a };
    std::mem::take(&mut to.received)
}

fn refused(wire: &Wire) -> u64 {
    [DropReason::FilteredIn, DropReason::FilteredOut, DropReason::FilteredFragment]
        .iter()
        .map(|&reason| wire.b.peer(wire.now, &wire.a).drops.get(reason))
        .sum()
}

#[test]
fn thousands_of_crafted_packets_reach_gossip_and_ping_and_nothing_else() {
    println!("{:44}{:>8}{:>8}", "a filter of tcp/9094, udp/9094, icmp", "tried", "passed");
    let mut wrong = Vec::new();
    let mut total = 0;
    for (way, name) in [(Way::In, "from a peer"), (Way::Out, "to a peer")] {
        for (family, ends) in [
            ("IPv4", Ends::new("10.99.0.1", "10.99.0.2")),
            ("IPv6", Ends::new("fd00:99::1", "fd00:99::2")),
        ] {
            println!("\n{name}, {family}");
            let ends = if way == Way::In { ends } else { Ends { from: ends.to, to: ends.from } };
            for Group { what, attempts, passing } in ends.groups() {
                let mut wire = wire(Some(gossip_only()));
                let (mut tried, mut got_through) = (0, Vec::new());
                for attempt in &attempts {
                    // The pieces that are remembered are bounded: let each attempt have its own.
                    wire.now += Duration::from_millis(1);
                    tried += attempt.len();
                    got_through.extend(passed(&mut wire, way, attempt));
                }
                println!("  {what:42}{tried:8}{:8}", got_through.len());
                total += tried;
                // Outwards the ends of an error's quotation are not looked at but for one.
                let to_others = way == Way::Out && what.ends_with("went to others");
                let passing = if to_others { tried } else { passing };
                if got_through.len() != passing {
                    wrong.push(format!(
                        "{name}, {family}, {what}: {} passed, not {passing}",
                        got_through.len()
                    ));
                }
                assert_eq!(
                    refused(&wire) as usize,
                    tried - got_through.len(),
                    "{what}: each refusal is counted"
                );
                for overlap in [Overlap::FirstWins, Overlap::LastWins] {
                    let mut stack = Stack::new(overlap);
                    got_through.iter().for_each(|packet| stack.take(packet));
                    let reached = stack.reached.iter();
                    let more: Vec<_> = reached.filter(|reached| !is_gossip(**reached)).collect();
                    if !more.is_empty() {
                        wrong.push(format!(
                            "{name}, {family}, {what}: {overlap:?} reached {more:?}"
                        ));
                    }
                }
            }
        }
    }
    println!("\n{total} packets");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(total > 10_000, "only {total}");
}

fn is_gossip(reached: Reached) -> bool {
    matches!(reached, Reached::Tcp(GOSSIP) | Reached::Udp(GOSSIP))
}

/// The table above would be of no worth if its packets reached nothing without a filter either.
#[test]
fn without_a_filter_the_same_packets_reach_the_web_port_and_much_else() {
    for ends in [Ends::new("10.99.0.1", "10.99.0.2"), Ends::new("fd00:99::1", "fd00:99::2")] {
        for overlap in [Overlap::FirstWins, Overlap::LastWins] {
            let (mut wire, mut stack) = (wire(None), Stack::new(overlap));
            let mut by_fragments = Stack::new(overlap);
            for Group { what, attempts, .. } in ends.groups() {
                for attempt in &attempts {
                    for packet in passed(&mut wire, Way::In, attempt) {
                        stack.take(&packet);
                        if what.starts_with("fragments, overlapping") {
                            by_fragments.take(&packet);
                        }
                    }
                }
            }
            for reached in
                [Reached::Tcp(9093), Reached::Udp(9093), Reached::Udp(61), Reached::Protocol(132)]
            {
                assert!(stack.reached.contains(&reached), "{overlap:?} did not reach {reached:?}");
            }
            if overlap == Overlap::LastWins {
                for reached in [Reached::Tcp(9093), Reached::Udp(9093)] {
                    assert!(
                        by_fragments.reached.contains(&reached),
                        "no overlap reached {reached:?}"
                    );
                }
            }
        }
    }
}

/// Bytes at random behind a header that leads there, of all kinds, changed here and there.
#[test]
fn packets_at_random_reach_gossip_and_nothing_else() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut wire = wire(Some(gossip_only()));
    let mut stacks = [Overlap::FirstWins, Overlap::LastWins].map(Stack::new);
    let ends = [Ends::new("10.99.0.1", "10.99.0.2"), Ends::new("fd00:99::1", "fd00:99::2")];
    let crafted: Vec<Vec<u8>> = ends
        .iter()
        .flat_map(|ends| ends.groups())
        .flat_map(|group| group.attempts.into_iter().flatten())
        .collect();
    let (mut tried, mut through) = (0, 0);
    for _ in 0..100_000 {
        let mut packet = crafted[random.usize(..crafted.len())].clone();
        // The addresses stay, or the packet would be refused before the filter sees it.
        let addresses = if packet[0] >> 4 == 4 { 12..20 } else { 8..40 };
        for _ in 0..random.usize(..4) {
            let at = random.usize(1..packet.len().min(96));
            if !addresses.contains(&at) {
                packet[at] =
                    if random.bool() { random.u8(..) } else { packet[at] ^ (1 << random.u8(..8)) };
            }
        }
        wire.now += Duration::from_micros(100);
        tried += 1;
        for packet in passed(&mut wire, Way::In, &[packet]) {
            through += 1;
            stacks.iter_mut().for_each(|stack| stack.take(&packet));
        }
    }
    println!("{tried} packets, {through} passed");
    for stack in &stacks {
        let more: Vec<_> = stack.reached.iter().filter(|reached| !is_gossip(**reached)).collect();
        assert!(more.is_empty(), "reached {more:?}, seed {seed}");
    }
    assert!(through > 1000);
}

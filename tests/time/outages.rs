//! Peers that die, networks that go away, and how soon gossip flows again.

use std::cell::Cell;
use std::time::Duration;

use crate::net::{Net, Path, millis, seconds, seed};
use crate::wire::{Delivery, kind};

fn cut(net: &mut Net) {
    net.fate = Box::new(|_, _| Delivery::Lose);
}

fn mend(net: &mut Net) {
    net.fate = Box::new(|_, _| Delivery::Deliver);
}

/// How long after now a packet of each direction arrives, the slower one.
fn heals(net: &mut Net) -> Duration {
    let before = [net.gossip[0].delivered, net.gossip[1].delivered];
    let took = net.run_until(seconds(60), |net| {
        net.gossip[0].delivered > before[0] && net.gossip[1].delivered > before[1]
    });
    took.unwrap_or_else(|| panic!("silence: {}", net.tell()))
}

#[test]
fn gossip_flows_again_within_a_retry_after_an_hour_without_network() {
    let first = seed("hour without network", 1);
    let mut times = Vec::new();
    for number in first..first + 50 {
        let mut net = Net::connected(number, Path::GOOD);
        net.gossip_every(millis(200));
        net.run(seconds(10));
        cut(&mut net);
        let time = millis(3_600_000 + net.rng.u64(0..6000));
        net.run(time);
        mend(&mut net);
        times.push(heals(&mut net));
    }
    times.sort();
    println!(
        "hour without network: healed after {:?} (median), {:?} (worst)",
        times[25], times[49]
    );
    // Both ends retry every 5 to 5.333 s, each on its own.
    assert!(times[49] < millis(5333 + 500), "{times:?}");
}

#[test]
fn gossip_flows_at_once_when_a_peer_that_was_dead_for_an_hour_starts_again() {
    let first = seed("dead for an hour", 2);
    let mut worst = Duration::ZERO;
    for number in first..first + 50 {
        let mut net = Net::connected(number, Path::GOOD);
        net.gossip_from(Some(true), millis(200));
        cut(&mut net);
        let time = millis(3_600_000 + net.rng.u64(0..6000));
        net.run(time);
        mend(&mut net);
        net.restart(false);
        net.gossip_every(millis(200));
        worst = worst.max(heals(&mut net));
    }
    println!("dead for an hour: healed after {worst:?} (worst)");
    assert!(worst < millis(400), "{worst:?}");
}

#[test]
fn a_network_that_returns_within_the_life_of_a_session_needs_no_handshake() {
    let first = seed("short cut", 3);
    for number in first..first + 50 {
        let mut net = Net::connected(number, Path::GOOD);
        net.gossip_every(millis(200));
        net.run(seconds(10));
        cut(&mut net);
        let time = millis(net.rng.u64(100..100_000));
        net.run(time);
        mend(&mut net);
        let took = heals(&mut net);
        assert!(took < millis(300), "seed {number}: {took:?} {}", net.tell());
    }
}

/// Restarts one end at a random time under gossip and returns the longest silence of both directions.
fn restart_at_random(number: u64, lost: Option<&'static str>) -> Duration {
    let mut net = Net::connected(number, Path::GOOD);
    net.gossip_every(millis(200));
    // Renewals are at 120 s and 240 s: half of the restarts are within a second of one.
    let at = match net.rng.bool() {
        true => net.rng.u64(10_000..300_000),
        false => 118_500 + 120_000 * net.rng.u64(0..2) + net.rng.u64(0..2000),
    };
    net.run(millis(at));
    for gossip in &mut net.gossip {
        gossip.measure_from_here();
    }
    if let Some(lost) = lost {
        let once = Cell::new(false);
        net.fate = Box::new(move |_, datagram| {
            if kind(datagram) == lost && !once.replace(true) {
                Delivery::Lose
            } else {
                Delivery::Deliver
            }
        });
    }
    let a = net.rng.bool();
    net.restart(a);
    net.run(seconds(100));
    for gossip in &net.gossip {
        let last = gossip.last().expect("gossip arrived before");
        assert!(net.now() - last < seconds(1), "seed {number}: {}", net.tell());
        assert_eq!(gossip.twice, 0, "seed {number}: {}", net.tell());
    }
    let silence = net.gossip[0].silence.max(net.gossip[1].silence);
    let bound = if lost.is_some() { millis(2500) } else { millis(1500) };
    assert!(silence < bound, "seed {number}, lost {lost:?}: {silence:?} {}", net.tell());
    silence
}

#[test]
fn a_restart_at_any_time_costs_gossip_less_than_one_and_a_half_seconds() {
    let first = seed("restart", 4000);
    for lost in [None, Some("initiation"), Some("response"), Some("keepalive")] {
        let mut gaps: Vec<_> =
            (first..first + 200).map(|number| restart_at_random(number, lost)).collect();
        gaps.sort();
        println!("restart, lost {lost:?}: gap {:?} (median), {:?} (longest)", gaps[100], gaps[199]);
    }
}

#[test]
fn an_outage_of_any_length_ends_and_leaves_a_session_that_lives() {
    let first = seed("any outage", 5000);
    let mut worst = Duration::ZERO;
    for number in first..first + 200 {
        let mut net = Net::connected(number, Path { loss: 0.05, ..Path::GOOD });
        net.gossip_every(millis(200));
        let (before, outage) = (net.rng.u64(1..400_000), net.rng.u64(1..1_200_000));
        net.run(millis(before));
        cut(&mut net);
        net.run(millis(outage));
        mend(&mut net);
        net.path.loss = 0.0;
        worst = worst.max(heals(&mut net));
        for gossip in &mut net.gossip {
            gossip.measure_from_here();
        }
        net.run(seconds(700));
        for gossip in &net.gossip {
            assert!(gossip.silence < millis(300), "seed {number}: {gossip:?}");
        }
        assert!(
            !net.drops().iter().any(|(reason, _)| *reason == "session_expired"),
            "{}",
            net.tell()
        );
    }
    println!("any outage: healed after {worst:?} (worst of 200)");
    assert!(worst < millis(5333 + 500), "{worst:?}");
}

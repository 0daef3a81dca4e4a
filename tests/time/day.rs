//! 24 hours of gossip over a path that loses, duplicates and reorders.

use crate::net::{Net, Path, millis, seconds, seed};

const HOURS: u64 = 24;

fn lossy(loss: f64) -> Path {
    Path { delay: (1, 30), loss, twice: 0.01, held: 0.01 }
}

/// 200-byte datagrams, five a second each way, as memberlist sends them.
fn a_day_of_gossip(test: &str, own_seed: u64, loss: f64, silence: f64) {
    let mut net = Net::connected(seed(test, own_seed), lossy(loss));
    net.gossip_every(millis(200));
    let mut renewed = 0;
    let mut last = None;
    let mut worst_hour = 0;
    for _ in 0..HOURS {
        let before = net.count(true, "initiation") + net.count(false, "initiation");
        for _ in 0..360 {
            net.run(seconds(10));
            let at = net.wire.a.peer(net.wire.now, &net.wire.b).last_handshake;
            renewed += u64::from(std::mem::replace(&mut last, at) != at);
        }
        let sent = net.count(true, "initiation") + net.count(false, "initiation") - before;
        worst_hour = worst_hour.max(sent);
    }
    net.gossip_from(None, millis(200));
    net.run(seconds(1));

    let initiations = net.count(true, "initiation") + net.count(false, "initiation");
    for (way, gossip) in ["A to B", "B to A"].iter().zip(&net.gossip) {
        let share = gossip.delivered as f64 / gossip.sent as f64;
        println!(
            "{test}, {way}: {} sent, {:.3} % delivered, longest silence {:.3} s (at {:.0} s)",
            gossip.sent,
            share * 100.0,
            gossip.silence.as_secs_f64(),
            gossip.silence_ended.as_secs_f64(),
        );
        assert_eq!(gossip.twice, 0, "{}", net.tell());
        assert!((share - (1.0 - loss)).abs() < 0.002, "{share} {}", net.tell());
        assert!(gossip.silence.as_secs_f64() < silence, "{}", net.tell());
    }
    println!(
        "{test}: {renewed} sessions, {:.1} initiations an hour, {worst_hour} in the worst hour; {:?}",
        initiations as f64 / HOURS as f64,
        net.drops(),
    );
    // A renewal takes 120 s and what is lost of it.
    assert!((650..=HOURS * 30 + 1).contains(&renewed), "{renewed}: {}", net.tell());
    // One initiation per renewal, two when both ends make one at the same time, and those again that
    // were lost or whose response was.
    let bound = 2.0 * 30.0 / (1.0 - loss).powi(2) * 1.25;
    assert!((worst_hour as f64) < bound, "{worst_hour} of {bound}: {}", net.tell());
    let expected = ["replayed", "replayed_handshake", "under_load", "unknown_index"];
    let other: Vec<_> = net.drops().into_iter().filter(|(r, _)| !expected.contains(r)).collect();
    assert_eq!(other, [], "{}", net.tell());
    let unknown = net.drops().into_iter().find(|(reason, _)| *reason == "unknown_index");
    // Only copies of handshake responses belong to nothing.
    let responses = net.count(true, "response") + net.count(false, "response");
    let most = (responses as f64 * 0.05).max(10.0);
    assert!(unknown.is_none_or(|(_, count)| (count as f64) < most), "{}", net.tell());
}

#[test]
fn a_day_of_gossip_at_1_percent_loss() {
    a_day_of_gossip("1 % loss", 101, 0.01, 1.5);
}

#[test]
fn a_day_of_gossip_at_5_percent_loss() {
    a_day_of_gossip("5 % loss", 105, 0.05, 2.0);
}

#[test]
fn a_day_of_gossip_at_20_percent_loss() {
    a_day_of_gossip("20 % loss", 120, 0.2, 3.0);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another_one() {
    let number = seed("same run", 7);
    let run = |seed| {
        let mut net = Net::connected(seed, lossy(0.05));
        net.gossip_every(millis(200));
        net.run(seconds(20 * 60));
        net.ladder
    };
    let first = run(number);
    assert!(first.len() > 12_000);
    assert!(first == run(number), "seed {number}: two runs differ");
    assert!(first != run(number ^ 1), "seed {number}: the seed changes nothing");
}

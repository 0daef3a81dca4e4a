//! Handshakes whose messages cross, are lost, or come late.

use std::cell::Cell;
use std::time::Duration;

use hushwire::wireguard::{DropReason, SessionState};

use crate::net::{Net, Path, millis, seconds, seed};
use crate::wire::{Delivery, kind};

/// Loses the first datagram of this kind from this side.
fn lose_first(net: &mut Net, a: bool, what: &'static str) {
    let lost = Cell::new(false);
    net.fate = Box::new(move |from_a, datagram| {
        if from_a == a && kind(datagram) == what && !lost.replace(true) {
            Delivery::Lose
        } else {
            Delivery::Deliver
        }
    });
}

fn initiations(net: &Net) -> u64 {
    net.count(true, "initiation") + net.count(false, "initiation")
}

#[test]
fn simultaneous_initiations_converge_whatever_their_skew() {
    let first = seed("simultaneous", 1000);
    for number in first..first + 200 {
        let mut net = Net::strangers(number, Path::GOOD);
        let skew = millis(net.rng.u64(0..=50));
        net.meet(true);
        net.run(skew);
        net.meet(false);
        net.gossip_every(millis(200));
        net.run(seconds(2));
        let made = initiations(&net);
        assert!(made <= 2, "seed {number}: {made} {}", net.tell());
        net.run(seconds(358));
        for gossip in &net.gossip {
            assert_eq!(gossip.twice, 0, "seed {number}: {}", net.tell());
            assert!(
                gossip.sent - gossip.delivered <= 1,
                "seed {number}: {gossip:?} {}",
                net.tell()
            );
            assert!(gossip.silence < millis(300), "seed {number}: {}", net.tell());
        }
        // Renewed at 120 s and at 240 s, by one end or by both at once, and no more.
        let made = initiations(&net);
        assert!((3..=6).contains(&made), "seed {number}: {made} {}", net.tell());
        assert_eq!(net.drops(), [], "seed {number}: {}", net.tell());
    }
}

#[test]
fn a_lost_response_costs_a_second() {
    let mut net = Net::strangers(2, Path::GOOD);
    lose_first(&mut net, false, "response");
    net.meet(true);
    net.send(true);
    let took = net.run_until(seconds(10), |net| net.gossip[0].delivered == 1);
    assert!(took.is_some_and(|took| took < millis(1100)), "{took:?} {}", net.tell());
    assert_eq!(net.count(true, "initiation"), 2, "{}", net.tell());
}

#[test]
fn a_lost_confirmation_costs_nothing_when_the_initiator_sends_and_a_second_otherwise() {
    let mut net = Net::strangers(3, Path::GOOD);
    lose_first(&mut net, true, "keepalive");
    net.meet(true);
    net.send(true);
    let took = net.run_until(seconds(10), |net| net.gossip[0].delivered == 1);
    assert!(took.is_some_and(|took| took < millis(100)), "{took:?} {}", net.tell());

    let mut net = Net::strangers(3, Path::GOOD);
    lose_first(&mut net, true, "keepalive");
    net.meet(true);
    net.run(millis(100));
    net.meet(false);
    net.send(false);
    let took = net.run_until(seconds(10), |net| net.gossip[1].delivered == 1);
    assert!(took.is_some_and(|took| took < millis(1200)), "{took:?} {}", net.tell());
}

/// boringtun went on waiting for the response to the newer initiation, which was lost. The next time
/// that it took the time, at the renewal after 120 s, it had waited for over 90 s: it wiped all sessions,
/// what was on its way was dropped, and when that renewal's messages were lost too, there was silence.
#[test]
fn a_late_response_to_an_older_initiation_makes_a_session_that_lives() {
    for lost in ["newer response", "none"] {
        let mut net = Net::strangers(4, Path { delay: (600, 650), ..Path::GOOD });
        let responses = Cell::new(0);
        net.fate = Box::new(move |_, datagram| {
            if kind(datagram) == "response" {
                responses.set(responses.get() + 1);
                if lost == "newer response" && responses.get() == 2 {
                    return Delivery::Lose;
                }
            }
            Delivery::Deliver
        });
        net.meet(true);
        net.send(true);
        let took = net.run_until(seconds(10), |net| net.gossip[0].delivered == 1);
        assert!(took.is_some_and(|took| took < millis(2000)), "{took:?} {}", net.tell());
        assert_eq!(net.count(true, "initiation"), 2, "{}", net.tell());

        net.gossip_every(millis(200));
        net.run(seconds(115));
        net.path = Path::GOOD;
        for gossip in &mut net.gossip {
            gossip.measure_from_here();
        }
        // The renewal finds nobody for some seconds: the session that is there must carry on.
        let before = initiations(&net);
        lose_handshakes(&mut net);
        net.run(seconds(12));
        assert!(initiations(&net) > before, "{}", net.tell());
        net.fate = Box::new(|_, _| Delivery::Deliver);
        net.run(seconds(10));
        for gossip in &net.gossip {
            assert!(gossip.silence < millis(1000), "lost {lost}: {gossip:?} {}", net.tell());
        }
    }
}

fn lose_handshakes(net: &mut Net) {
    net.fate = Box::new(|_, datagram| match datagram[0] {
        1 | 2 => Delivery::Lose,
        _ => Delivery::Deliver,
    });
}

#[test]
fn packets_on_their_way_when_their_session_is_replaced_still_arrive() {
    let mut net = Net::connected(5, Path { delay: (1, 400), ..Path::GOOD });
    net.gossip_every(millis(10));
    net.run(seconds(600));
    net.gossip_from(None, millis(10));
    net.run(seconds(1));
    for gossip in &net.gossip {
        assert_eq!(gossip.sent, gossip.delivered, "{}", net.tell());
        assert_eq!(gossip.twice, 0, "{}", net.tell());
    }
    assert!(net.count(true, "response") + net.count(false, "response") >= 4, "{}", net.tell());
}

#[test]
fn a_packet_that_arrives_when_its_session_is_over_180_s_old_is_dropped_and_counted() {
    let mut net = Net::connected(6, Path::GOOD);
    net.run(seconds(178));
    net.path.delay = (1500, 1500);
    lose_handshakes(&mut net);
    net.send(true);
    net.run(seconds(3));
    assert_eq!(net.drops(), [("session_expired", 1)], "{}", net.tell());
    assert_eq!(net.gossip[0].delivered, 0, "{}", net.tell());
}

#[test]
fn both_ends_may_renew_at_the_same_time_every_time() {
    // Crossing initiations make each end the initiator of a session: both renew at 120 s.
    let mut net = Net::strangers(seed("both renew", 7), Path { delay: (20, 20), ..Path::GOOD });
    net.meet(true);
    net.meet(false);
    net.gossip_every(millis(2));
    net.run(seconds(600));
    let (a, b) = (net.count(true, "initiation"), net.count(false, "initiation"));
    println!("both renew: {a} and {b} initiations in 600 s");
    assert!((6..=12).contains(&(a + b)), "{}", net.tell());
    for gossip in &net.gossip {
        assert!(gossip.silence < millis(100), "{:?} {}", gossip.silence, net.tell());
        assert_eq!(gossip.twice, 0, "{}", net.tell());
        assert!(gossip.sent - gossip.delivered < 25, "{}", net.tell());
    }
    assert_eq!(net.drops(), [], "{}", net.tell());
}

/// A device that had given up believed that its last initiation was still under way and took no fresh
/// time for the response: the session was born hours old, and the peer's packets were refused until
/// this end had something to send of its own.
#[test]
fn a_session_answered_long_after_giving_up_lives_its_full_180_s() {
    for (talk, quiet) in [(1, 2), (1, 100), (30, 2), (30, 100), (30, 7200), (100, 2), (100, 600)] {
        let mut net = Net::strangers(8, Path::GOOD);
        net.fate = Box::new(|_, _| Delivery::Lose);
        net.meet(true);
        net.gossip_from(Some(true), millis(200));
        net.run(seconds(talk));
        net.gossip_from(None, millis(200));
        net.run(seconds(96 + quiet));
        let idle = net.wire.a.peer(net.wire.now, &net.wire.b).session;
        assert_eq!(idle, SessionState::Idle, "{}", net.tell());
        net.fate = Box::new(|_, _| Delivery::Deliver);
        net.meet(false);
        // B alone sends, so that A cannot heal by an initiation of its own.
        net.gossip_from(Some(false), millis(200));
        net.run(seconds(119));
        let before = net.count(false, "initiation");
        assert_eq!(before, 1, "{talk} s, {quiet} s: {}", net.tell());
        let gossip = &net.gossip[1];
        assert!(gossip.sent - gossip.delivered <= 1, "{talk} s, {quiet} s: {}", net.tell());
        net.run(seconds(600));
        let gossip = &net.gossip[1];
        assert!(gossip.silence < millis(300), "{talk} s, {quiet} s: {}", net.tell());
        let refused = net.wire.a.dropped(net.wire.now, DropReason::SessionExpired);
        assert_eq!(refused, 0, "{talk} s, {quiet} s: {}", net.tell());
    }
}

/// Of two crossing handshakes one succeeded and one was lost. The end whose initiation was lost took no
/// fresh time at the next renewals: it believed the new session to be 120 s older than it was and
/// refused what the peer sealed with it after 60 s.
#[test]
fn a_lost_initiation_of_a_crossing_does_not_age_later_sessions() {
    for lost in ["initiation", "response"] {
        let mut net = Net::strangers(9, Path { delay: (20, 20), ..Path::GOOD });
        lose_first(&mut net, lost == "initiation", lost);
        net.meet(true);
        net.meet(false);
        net.gossip_from(Some(false), millis(200));
        net.run(seconds(900));
        let gossip = &net.gossip[1];
        assert!(gossip.silence < millis(1300), "lost {lost}: {:?} {}", gossip.silence, net.tell());
        assert!(gossip.sent - gossip.delivered <= 1, "lost {lost}: {}", net.tell());
        assert_eq!(net.drops(), [], "lost {lost}: {}", net.tell());
    }
}

/// Eight initiations after a session was made its place in boringtun's ring is taken again.
#[test]
fn a_renewal_that_takes_eight_initiations_loses_no_packet_of_the_session_in_use() {
    let mut net = Net::connected(10, Path::GOOD);
    net.gossip_every(millis(50));
    let start = net.times(true, "initiation")[0];
    for allowed in 1..=12 {
        let seen = Cell::new(0);
        net.fate = Box::new(move |_, datagram| {
            if kind(datagram) != "initiation" {
                return Delivery::Deliver;
            }
            seen.set(seen.get() + 1);
            if seen.get() <= allowed { Delivery::Lose } else { Delivery::Deliver }
        });
        net.run(seconds(181));
        net.fate = Box::new(|_, _| Delivery::Deliver);
        net.run(seconds(30));
        for (way, gossip) in net.gossip.iter().enumerate() {
            let lost = gossip.sent - gossip.delivered;
            assert!(lost <= 3, "{allowed} lost, way {way}: {lost} packets {}", net.tell());
            assert!(gossip.silence < Duration::from_millis(200), "{allowed}: {}", net.tell());
        }
    }
    assert!(net.now() > start);
}

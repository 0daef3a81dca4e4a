//! The pure device, two of them on a wire in memory: handshakes, sessions, drops, live changes.

#[path = "support/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hushwire::offload::{GSO_UDP_L4, NEEDS_CSUM, Offload, VnetHeader};
use hushwire::wireguard::{
    Allow, AllowedIpChange, Change, Device, DropReason, Ecn, Endpoint, Event, GossipChange,
    PeerChange, PrivateKey, PublicKey, SessionState, Source,
};
use wire::{Delivery, Station, Wire, kind, peer, preshared, udp};

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_packet_sent_before_the_session_arrives_after_the_handshake() {
    let mut wire = Wire::strangers();
    wire.b.know(wire.now, &wire.a, false);
    wire.a.know(wire.now, &wire.b, true);
    let packet = udp("10.99.0.1", "10.99.0.2", b"staged");
    wire.a.send(wire.now, &packet);
    wire.settle();
    assert_eq!(std::mem::take(&mut wire.b.received), [packet], "{:#?}", wire.ladder);
    assert_eq!(wire.a.peer(wire.now, &wire.b).session, SessionState::Established);
    assert_eq!(wire.b.peer(wire.now, &wire.a).session, SessionState::Established);
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn crossing_initiations_converge_at_once() {
    let mut wire = Wire::new();
    assert_eq!(kind(&wire.a.sent[0].1), "initiation");
    assert_eq!(kind(&wire.b.sent[0].1), "initiation");
    wire.settle();
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
    let initiations = wire.ladder.iter().filter(|line| line.contains("initiation")).count();
    assert_eq!(initiations, 2, "{:#?}", wire.ladder);
    wire.pass(seconds(60));
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
    assert_eq!(wire.a.all_drops(wire.now) + wire.b.all_drops(wire.now), 0);
}

#[test]
fn inner_packets_are_padded_to_16_bytes_but_never_past_the_mtu() {
    let mut wire = Wire::connected();
    for (payload, inner) in [(0, 32), (4, 32), (5, 48), (20, 48), (1405, 1440), (1412, 1440)] {
        let packet = udp("10.99.0.1", "10.99.0.2", &vec![7; payload]);
        wire.a.send(wire.now, &packet);
        assert_eq!(wire.a.sent.last().unwrap().1.len(), inner + 32, "payload {payload}");
        wire.settle();
        assert_eq!(wire.b.received.pop().unwrap(), packet);
    }
    wire.a.device.apply(wire.now, vec![Change::Mtu(1433)]);
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", &[7; 1405]));
    assert_eq!(wire.a.sent.last().unwrap().1.len(), 1433 + 32);
}

#[test]
fn a_lost_initiation_is_sent_again_after_1_s_then_2_s_then_5_s_with_jitter() {
    let mut wire = Wire::strangers();
    wire.a.know(wire.now, &wire.b, true);
    let start = wire.now;
    let mut times = Vec::new();
    while times.len() < 6 {
        for (_, datagram) in wire.a.sent.drain(..) {
            assert_eq!(kind(&datagram), "initiation");
            times.push((wire.now - start).as_secs_f64());
        }
        wire.now = wire.a.device.next_timeout().unwrap();
        wire.a.timeout(wire.now);
    }
    assert_eq!(times[..3], [0.0, 1.0, 3.0]);
    let gaps: Vec<f64> = times[2..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (5.0..=5.333).contains(gap)), "{gaps:?}");
    assert_eq!(wire.a.peer(wire.now, &wire.b).unanswered_initiations, 6 + 1);
}

#[test]
fn retries_end_90_s_after_the_last_packet_and_begin_again_with_the_next() {
    let mut wire = Wire::strangers();
    wire.a.know(wire.now, &wire.b, true);
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"lost"));
    wire.pass_with(seconds(120), |_, _| Delivery::Lose);
    assert_eq!(wire.a.peer(wire.now, &wire.b).session, SessionState::Idle);
    assert_eq!(wire.a.dropped(wire.now, DropReason::StagedExpired), 1);
    let before = wire.ladder.len();
    wire.pass_with(seconds(3600), |_, _| Delivery::Lose);
    assert_eq!(wire.ladder.len(), before, "an idle device says nothing: {:#?}", wire.ladder);

    wire.b.know(wire.now, &wire.a, false);
    let packet = udp("10.99.0.1", "10.99.0.2", b"again");
    wire.a.send(wire.now, &packet);
    wire.settle();
    assert_eq!(wire.b.received, [packet], "{:#?}", wire.ladder);
}

/// A persistent keepalive goes on with the handshake, and what waited for it was delivered an hour later.
#[test]
fn a_packet_does_not_outlive_the_handshake_that_it_wanted() {
    let mut wire = Wire::strangers();
    let mut change = peer(&wire.b);
    change.endpoints = Some(vec![wire.b.address]);
    change.persistent_keepalive = Some(25);
    wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
    wire.a.collect();
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"lost"));
    wire.pass_with(seconds(120), |_, _| Delivery::Lose);
    assert_eq!(wire.a.dropped(wire.now, DropReason::StagedExpired), 1);
    wire.b.know(wire.now, &wire.a, false);
    wire.pass(seconds(2));
    assert_eq!(wire.a.peer(wire.now, &wire.b).session, SessionState::Established);
    assert!(wire.b.received.is_empty());
}

/// A survivor holds on to its session for 15 s and more: a bare device that was killed and started again
/// has to speak first, and with nobody there an idle one has to be silent soon.
#[test]
fn a_bare_device_speaks_when_its_underlay_opens_and_not_for_long() {
    let mut wire = Wire::strangers();
    let mut change = peer(&wire.b);
    change.endpoints = Some(vec![wire.b.address]);
    let key = Change::PrivateKey(Some(wire.a.key.clone()));
    wire.a.device = Device::new(1).bare();
    wire.a.device.apply(wire.now, vec![key, Change::Peer(change)]);
    wire.a.collect();
    assert!(wire.a.sent.is_empty(), "there is no underlay yet");
    wire.a.device.set_underlay(wire.now, true);
    wire.a.collect();
    assert_eq!(kind(&wire.a.sent[0].1), "initiation");
    wire.pass_with(seconds(3600), |_, _| Delivery::Lose);
    assert_eq!(wire.ladder.len(), 3, "{:#?}", wire.ladder);
    assert_eq!(wire.a.peer(wire.now, &wire.b).session, SessionState::Idle);
}

#[test]
fn every_address_of_a_peer_is_tried_a_quarter_of_a_second_apart() {
    let mut wire = Wire::strangers();
    wire.b.know(wire.now, &wire.a, false);
    let mut change = peer(&wire.b);
    let dead = ["[2001:db8::dead]:51820".parse().unwrap(), "203.0.113.1:51820".parse().unwrap()];
    change.endpoints = Some(vec![dead[0], dead[1], wire.b.address]);
    wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
    wire.a.collect();
    wire.pass(Duration::from_millis(499));
    assert_eq!(wire.a.peer(wire.now, &wire.b).session, SessionState::Handshaking);
    wire.pass(Duration::from_millis(1));
    wire.settle();
    assert_eq!(wire.a.peer(wire.now, &wire.b).endpoint, Some(wire.b.address));
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn an_address_that_cannot_be_sent_to_is_passed_over_at_once() {
    let mut wire = Wire::strangers();
    let mut change = peer(&wire.b);
    change.endpoints = Some(vec!["[2001:db8::dead]:51820".parse().unwrap(), wire.b.address]);
    wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
    let failed = wire.a.device.poll_transmit().unwrap().peer;
    assert!(wire.a.device.poll_transmit().is_none());
    wire.a.device.transmit_failed(wire.now, failed, 1, 148);
    assert_eq!(wire.a.peer(wire.now, &wire.b).tx_bytes, 0);
    assert_eq!(wire.a.device.next_timeout(), Some(wire.now));
    wire.a.timeout(wire.now);
    assert_eq!(wire.a.sent[0].0, wire.b.address);
    assert_eq!(wire.a.dropped(wire.now, DropReason::SendFailed), 1);
}

#[test]
fn a_lost_response_or_confirmation_heals_within_a_second_or_so() {
    for lost in ["response", "keepalive"] {
        let mut wire = Wire::strangers();
        wire.b.know(wire.now, &wire.a, false);
        wire.a.know(wire.now, &wire.b, true);
        let mut once = false;
        wire.settle_with(|_, datagram| {
            if kind(datagram) == lost && !std::mem::replace(&mut once, true) {
                Delivery::Lose
            } else {
                Delivery::Deliver
            }
        });
        assert!(once, "{:#?}", wire.ladder);
        // The side that does not know yet whether the session works is the one that wants to send.
        let packet = udp("10.99.0.2", "10.99.0.1", b"from the responder");
        wire.b.send(wire.now, &packet);
        wire.pass(Duration::from_millis(1100));
        assert_eq!(wire.a.received, [packet], "lost {lost}: {:#?}", wire.ladder);
    }
}

#[test]
fn the_initiator_makes_a_new_session_when_it_sends_past_120_s() {
    let mut wire = Wire::connected();
    let first = wire.a.peer(wire.now, &wire.b).last_handshake.unwrap();
    wire.pass(seconds(119));
    assert!(wire.both_ways());
    assert_eq!(wire.a.peer(wire.now, &wire.b).last_handshake, Some(first));
    wire.pass(seconds(2));
    assert!(wire.both_ways());
    wire.settle();
    let second = wire.a.peer(wire.now, &wire.b).last_handshake.unwrap();
    assert!(second >= first + seconds(120), "{:#?}", wire.ladder);
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
    assert_eq!(wire.a.all_drops(wire.now) + wire.b.all_drops(wire.now), 0);
}

/// After crossing handshakes both sides sealed with the session that the other one had initiated. Each
/// left the rekey to the other, and every 180 s packets had to wait for a handshake.
#[test]
fn sessions_of_crossing_handshakes_are_renewed_at_120_s_as_well() {
    let mut wire = Wire::connected();
    let first = wire.a.peer(wire.now, &wire.b).last_handshake.unwrap();
    for _ in 0..13 {
        assert!(wire.both_ways(), "{:#?}", wire.ladder);
        wire.pass(seconds(10));
    }
    let second = wire.a.peer(wire.now, &wire.b).last_handshake.unwrap();
    assert_eq!(second, first + seconds(120), "{:#?}", wire.ladder);
}

#[test]
fn a_session_is_neither_used_nor_accepted_past_180_s() {
    let mut wire = Wire::connected();
    let late = udp("10.99.0.1", "10.99.0.2", b"late");
    wire.a.send(wire.now, &late);
    let sealed = std::mem::take(&mut wire.a.sent);
    wire.now += seconds(180);
    wire.b.take(wire.now, wire.a.address, &sealed[0].1);
    assert_eq!(wire.b.dropped(wire.now, DropReason::SessionExpired), 1);
    assert_eq!(wire.a.peer(wire.now, &wire.b).session, SessionState::Idle);
    wire.a.send(wire.now, &late);
    assert_eq!(kind(&wire.a.sent[0].1), "initiation");
    wire.settle();
    assert_eq!(wire.b.received, [late]);
}

#[test]
fn data_without_an_answer_starts_a_handshake_after_15_s_counted_from_the_first() {
    let mut wire = Wire::connected();
    let start = wire.now;
    let packet = udp("10.99.0.1", "10.99.0.2", b"anyone?");
    let mut initiation = None;
    for _ in 0..40 {
        wire.a.send(wire.now, &packet);
        wire.pass_with(Duration::from_millis(500), |from_a, datagram| {
            if from_a && kind(datagram) == "initiation" {
                initiation.get_or_insert(());
            }
            Delivery::Lose
        });
        if initiation.is_some() {
            break;
        }
    }
    let after = (wire.now - start).as_secs_f64();
    assert!((15.0..=16.0).contains(&after), "{after}");
}

#[test]
fn one_way_data_is_answered_by_a_keepalive_after_10_s() {
    let mut wire = Wire::connected();
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"one way"));
    wire.settle();
    let before = wire.ladder.len();
    wire.pass(Duration::from_millis(9_999));
    assert_eq!(wire.ladder.len(), before);
    wire.pass(Duration::from_millis(1));
    wire.settle();
    assert_eq!(wire.ladder[before..], ["B -> A keepalive 32 B Deliver"]);
    wire.pass(seconds(60));
    assert_eq!(wire.ladder.len(), before + 1, "{:#?}", wire.ladder);
}

#[test]
fn a_persistent_keepalive_goes_on_for_ever_and_heals_when_the_peer_is_back() {
    let mut wire = Wire::connected();
    let mut change = PeerChange::new(wire.b.public_key());
    change.persistent_keepalive = Some(5);
    wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
    wire.a.collect();
    wire.pass_with(seconds(3600), |_, _| Delivery::Lose);
    let before = wire.ladder.len();
    wire.pass_with(seconds(60), |_, _| Delivery::Lose);
    let sent = wire.ladder.len() - before;
    assert!((32..=40).contains(&sent), "{sent} in a minute after an hour");
    wire.pass(seconds(2));
    assert_eq!(wire.a.peer(wire.now, &wire.b).session, SessionState::Established);
}

#[test]
fn an_underlay_that_opens_has_a_persistent_keepalive_sent_at_once() {
    let mut wire = Wire::connected();
    let mut change = PeerChange::new(wire.b.public_key());
    for (keepalive, sent) in [(25, 1), (0, 0)] {
        change.persistent_keepalive = Some(keepalive);
        wire.a.device.apply(wire.now, vec![Change::Peer(change.clone())]);
        wire.pass(seconds(5));
        for (open, sent) in [(false, 0), (true, sent)] {
            wire.a.device.set_underlay(wire.now, open);
            wire.a.timeout(wire.now);
            let kinds: Vec<_> = wire.a.sent.iter().map(|(_, datagram)| kind(datagram)).collect();
            assert_eq!(kinds, vec!["keepalive"; sent], "open: {open}");
        }
        wire.settle();
    }
}

/// With nothing else on the way the session was let go at 180 s, until the keepalive after that.
#[test]
fn persistent_keepalives_alone_renew_the_session() {
    for ends in [[true, true], [true, false], [false, true]] {
        let mut wire = Wire::connected();
        let (a, b) = (wire.a.public_key(), wire.b.public_key());
        for (station, other, keeps) in [(&mut wire.a, b, ends[0]), (&mut wire.b, a, ends[1])] {
            let mut change = PeerChange::new(other);
            change.persistent_keepalive = Some(if keeps { 25 } else { 0 });
            station.device.apply(wire.now, vec![Change::Peer(change)]);
            station.collect();
        }
        for second in 0..800 {
            wire.pass(seconds(1));
            let sessions = [wire.a.peer(wire.now, &wire.b), wire.b.peer(wire.now, &wire.a)];
            for peer in sessions {
                assert_eq!(peer.session, SessionState::Established, "{ends:?} after {second} s");
            }
        }
    }
}

#[test]
fn a_killed_peer_that_starts_again_is_heard_at_once() {
    let mut wire = Wire::connected();
    wire.now += seconds(1);
    wire.b = Station::new(2, wire.now);
    wire.b.know(wire.now, &wire.a, true);
    wire.settle();
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn peer_roams_to_a_new_endpoint_after_an_authenticated_packet() {
    let mut wire = Wire::connected();
    wire.a.address = "198.51.100.9:4444".parse().unwrap();
    // Junk from elsewhere moves nothing.
    wire.b.take(wire.now, "203.0.113.66:1".parse().unwrap(), &[4; 64]);
    assert_ne!(wire.b.peer(wire.now, &wire.a).endpoint, Some(wire.a.address));
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"from elsewhere"));
    wire.settle();
    assert_eq!(wire.b.peer(wire.now, &wire.a).endpoint, Some(wire.a.address));
    wire.b.received.clear();
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

/// An address that had been deleted was used for ever where its prefix was still local (127.0.0.0/8), also
/// after `wg set listen-port`, which has every other WireGuard choose its source anew.
#[test]
fn a_new_listen_port_or_mark_has_the_kernel_choose_the_source_anew() {
    let mut wire = Wire::connected();
    let source = Source { address: "192.0.2.77".parse().unwrap(), interface: 7 };
    for (change, kept) in [
        (Change::ListenPort(9999), None),
        (Change::ListenPort(9999), Some(source)),
        (Change::Fwmark(5), None),
        (Change::Mtu(1400), Some(source)),
    ] {
        wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"question"));
        let (_, datagram) = wire.b.sent.pop().expect("a session");
        let from = Endpoint { address: wire.b.address, source: Some(source) };
        wire.a.device.handle_udp(wire.now, from, Ecn::NotCapable, &datagram);
        wire.a.device.apply(wire.now, vec![change.clone()]);
        let mut packet = udp("10.99.0.1", "10.99.0.2", b"answer");
        let len = packet.len();
        wire.a.device.handle_tun(wire.now, &VnetHeader::default(), &mut packet, len);
        let sent = wire.a.device.poll_transmit().expect("a session");
        assert_eq!(sent.to.source, kept, "after {change:?}");
    }
}

#[test]
fn an_initiation_that_is_not_answered_is_sent_again_from_any_address() {
    let mut wire = Wire::connected();
    let source = Source { address: "192.0.2.77".parse().unwrap(), interface: 7 };
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"from here"));
    let (_, datagram) = wire.b.sent.remove(0);
    let from = Endpoint { address: wire.b.address, source: Some(source) };
    wire.a.device.handle_udp(wire.now, from, Ecn::NotCapable, &datagram);
    wire.pass_with(seconds(180), |_, _| Delivery::Lose);
    let mut packet = udp("10.99.0.1", "10.99.0.2", b"are you there?");
    let len = packet.len();
    wire.a.device.handle_tun(wire.now, &VnetHeader::default(), &mut packet, len);
    for expected in [Some(source), None] {
        let sent = wire.a.device.poll_transmit().expect("an initiation");
        assert_eq!((kind(sent.contents), sent.to.source), ("initiation", expected));
        wire.now += seconds(1);
        wire.a.device.handle_timeout(wire.now);
    }
}

#[test]
fn a_replayed_packet_is_delivered_once_and_counted() {
    let mut wire = Wire::connected();
    let packet = udp("10.99.0.1", "10.99.0.2", b"once");
    wire.a.send(wire.now, &packet);
    wire.settle_with(|_, _| Delivery::Twice);
    assert_eq!(wire.b.received, [packet]);
    assert_eq!(wire.b.peer(wire.now, &wire.a).drops.get(DropReason::Replayed), 1);
}

/// Such a counter would close the replay window behind it, so it is refused before it is opened.
#[test]
fn a_counter_past_its_end_is_refused_and_the_session_goes_on() {
    let mut wire = Wire::connected();
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"late"));
    let (_, mut sealed) = wire.a.sent.remove(0);
    for (refused, counter) in [(1, u64::MAX - (1 << 13)), (2, u64::MAX)] {
        sealed[8..16].copy_from_slice(&counter.to_le_bytes());
        wire.b.take(wire.now, wire.a.address, &sealed);
        let drops = wire.b.peer(wire.now, &wire.a).drops;
        assert_eq!(drops.get(DropReason::SessionExpired), refused, "{counter}");
    }
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn a_replayed_initiation_is_refused() {
    let mut wire = Wire::strangers();
    wire.b.know(wire.now, &wire.a, false);
    wire.a.know(wire.now, &wire.b, true);
    let initiation = wire.a.sent[0].1.clone();
    wire.settle();
    wire.now += seconds(1);
    wire.b.take(wire.now, "203.0.113.66:1".parse().unwrap(), &initiation);
    assert_eq!(wire.b.dropped(wire.now, DropReason::ReplayedHandshake), 1);
    assert_eq!(wire.b.peer(wire.now, &wire.a).endpoint, Some(wire.a.address));
    assert!(wire.b.sent.is_empty());
}

/// After a change of keys, as after a start, nothing tells an initiation that was seen on the way from a new one.
#[test]
fn an_initiation_alone_moves_no_peer() {
    let mut wire = Wire::strangers();
    wire.a.know(wire.now, &wire.b, true);
    wire.b.know(wire.now, &wire.a, true);
    let (_, initiation) = wire.b.sent[0].clone();
    wire.settle();
    wire.a.device.apply(wire.now, vec![rekeyed(&wire.b, 1)]);
    wire.a.collect();
    wire.a.sent.clear();
    wire.now += seconds(1);
    let elsewhere = "203.0.113.66:1".parse().unwrap();
    wire.a.take(wire.now, elsewhere, &initiation);
    assert_eq!(kind(&wire.a.sent[0].1), "response", "it cannot tell");
    assert_eq!(wire.a.peer(wire.now, &wire.b).endpoint, Some(wire.b.address));
    // The peer itself is followed, since it goes on to speak.
    wire.b.address = elsewhere;
    wire.b.device.apply(wire.now, vec![rekeyed(&wire.a, 1)]);
    wire.b.collect();
    wire.pass(seconds(2));
    assert_eq!(wire.a.peer(wire.now, &wire.b).endpoint, Some(elsewhere), "{:#?}", wire.ladder);
}

#[test]
fn a_source_outside_the_allowed_ips_is_dropped_and_counted() {
    let mut wire = Wire::connected();
    wire.a.send(wire.now, &udp("10.99.0.77", "10.99.0.2", b"not mine"));
    wire.settle();
    assert!(wire.b.received.is_empty());
    let peer = wire.b.peer(wire.now, &wire.a);
    assert_eq!(peer.drops.get(DropReason::DisallowedSource), 1);
    assert_eq!(peer.rx_packets, 0);
}

#[test]
fn packets_for_nobody_and_packets_that_are_none_are_counted() {
    let mut wire = Wire::connected();
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.3", b"nobody"));
    wire.a.send(wire.now, b"not a packet");
    wire.a.send(wire.now, &[]);
    assert_eq!(wire.a.dropped(wire.now, DropReason::NoPeer), 1);
    assert_eq!(wire.a.dropped(wire.now, DropReason::MalformedPacket), 2);
    let mut wire = Wire::strangers();
    wire.a.know(wire.now, &wire.b, false);
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"where?"));
    assert_eq!(wire.a.dropped(wire.now, DropReason::NoEndpoint), 1);
}

/// With the endpoint in the allowed IPs and a route to match, each datagram came back through the TUN,
/// was sealed and sent again: a storm that only a full queue ended.
#[test]
fn a_datagram_of_our_own_that_comes_back_through_the_tun_is_dropped() {
    let mut wire = Wire::connected();
    let mut change = PeerChange::new(wire.b.public_key());
    change.allowed_ips = vec![AllowedIpChange::Add("192.0.2.0/24".parse().unwrap())];
    let port = Change::ListenPort(9094);
    wire.a.device.apply(wire.now, vec![Change::Peer(change), port]);
    let mut looped = udp("192.0.2.1", "192.0.2.2", &[4; 100]);
    looped[22..24].copy_from_slice(&51820u16.to_be_bytes());
    wire.a.send(wire.now, &looped);
    looped[7] = 100;
    wire.a.send(wire.now, &looped);
    assert_eq!(wire.a.dropped(wire.now, DropReason::RoutingLoop), 2);
    assert!(wire.a.sent.is_empty());
    // Another program's datagram to the same machine passes.
    looped[7] = 0;
    looped[20] ^= 1;
    wire.a.send(wire.now, &looped);
    assert_eq!(wire.a.sent.len(), 1);
}

#[test]
fn staged_packets_are_bounded_and_the_oldest_goes() {
    let mut wire = Wire::strangers();
    wire.b.know(wire.now, &wire.a, false);
    wire.a.know(wire.now, &wire.b, true);
    for i in 0..130u8 {
        wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", &[i]));
    }
    assert_eq!(wire.a.dropped(wire.now, DropReason::StagedOverflow), 2);
    wire.settle();
    let arrived: Vec<u8> = wire.b.received.iter().map(|packet| packet[28]).collect();
    assert_eq!(arrived, (2..130).collect::<Vec<u8>>());
}

#[test]
fn preshared_keys_must_agree() {
    let mut wire = Wire::strangers();
    let with = |other: &Station, key: Option<u8>| {
        let mut change = peer(other);
        change.endpoints = Some(vec![other.address]);
        change.preshared_key = Some(key.map(preshared));
        vec![Change::Peer(change)]
    };
    let (to_b, to_a) = (with(&wire.b, Some(1)), with(&wire.a, Some(2)));
    wire.a.device.apply(wire.now, to_b);
    wire.b.device.apply(wire.now, to_a);
    wire.a.collect();
    wire.b.collect();
    wire.settle();
    assert_ne!(wire.a.peer(wire.now, &wire.b).session, SessionState::Established);
    assert!(wire.a.dropped(wire.now, DropReason::InvalidHandshake) > 0);
    let same = with(&wire.a, Some(1));
    wire.b.device.apply(wire.now, same);
    wire.b.collect();
    wire.pass(seconds(2));
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn a_new_preshared_key_or_private_key_keeps_packets_flowing() {
    let mut wire = Wire::connected();
    let mut change = PeerChange::new(wire.b.public_key());
    change.preshared_key = Some(Some(preshared(1)));
    wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
    wire.a.collect();
    wire.settle();
    assert!(wire.both_ways(), "the old session serves: {:#?}", wire.ladder);
    let mut change = PeerChange::new(wire.a.public_key());
    change.preshared_key = Some(Some(preshared(1)));
    wire.b.device.apply(wire.now, vec![Change::Peer(change)]);
    wire.b.collect();
    wire.pass(seconds(2));
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
    wire.pass(seconds(200));
    assert!(wire.both_ways(), "{:#?}", wire.ladder);

    // B gets another private key and A hears of it a second later.
    let (old, new) = (wire.b.public_key(), PrivateKey::from_random([99; 32]));
    wire.b.key = new.clone();
    wire.b.device.apply(wire.now, vec![Change::PrivateKey(Some(new))]);
    wire.b.collect();
    wire.settle();
    assert!(wire.both_ways(), "the old session serves: {:#?}", wire.ladder);
    wire.pass(seconds(1));
    let mut change = peer(&wire.b);
    change.preshared_key = Some(Some(preshared(1)));
    change.endpoints = Some(vec![wire.b.address]);
    wire.a.device.apply(wire.now, vec![Change::RemovePeer(old), Change::Peer(change)]);
    wire.a.collect();
    wire.pass(seconds(2));
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

/// boringtun wipes all sessions 90 s after an initiation that nobody answers: this one was forgotten when the
/// session that the peer had initiated came to be used.
#[test]
fn an_initiation_that_is_lost_beside_one_of_the_peer_is_sent_again() {
    let mut wire = Wire::strangers();
    wire.a.know(wire.now, &wire.b, false);
    wire.b.know(wire.now, &wire.a, true);
    let (_, initiation) = wire.b.sent.remove(0);
    wire.a.take(wire.now, wire.b.address, &initiation);
    let (_, response) = wire.a.sent.remove(0);
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"within the round trip"));
    let (_, lost) = wire.a.sent.remove(0);
    assert_eq!((kind(&response), kind(&lost)), ("response", "initiation"));
    wire.b.take(wire.now, wire.a.address, &response);
    wire.settle();
    wire.b.received.clear();
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
    let before = wire.ladder.len();
    wire.pass(seconds(2));
    let again = &wire.ladder[before..];
    assert!(again.iter().any(|line| line.starts_with("A -> B initiation")), "{again:#?}");
    // It is answered, and nothing is retried any more.
    let before = wire.ladder.len();
    wire.pass(seconds(5));
    assert_eq!(wire.ladder.len(), before, "{:#?}", wire.ladder);
}

/// Whoever knows our public key would pass for it.
#[test]
fn no_hands_are_shaken_with_a_key_that_is_nobodys() {
    let mut wire = Wire::strangers();
    let mut change = PeerChange::new(PublicKey::from_bytes([0; 32]));
    change.endpoints = Some(vec![wire.b.address]);
    change.allowed_ips = vec![AllowedIpChange::Add("10.99.0.2/32".parse().unwrap())];
    wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"to nobody"));
    wire.pass(seconds(3));
    assert!(wire.ladder.is_empty(), "{:#?}", wire.ladder);
}

/// The keys of a peer at `station`, as a reload of its file changes them.
fn rekeyed(station: &Station, preshared_key: u8) -> Change {
    let mut change = PeerChange::new(station.public_key());
    change.preshared_key = Some(Some(preshared(preshared_key)));
    Change::Peer(change)
}

/// The second change took the place of the session that served, and nothing passed until B followed.
#[test]
fn keys_that_change_twice_before_the_other_end_follows_keep_packets_flowing() {
    let mut wire = Wire::connected();
    for changes in [
        vec![rekeyed(&wire.b, 1)],
        vec![rekeyed(&wire.b, 2)],
        vec![Change::PrivateKey(Some(PrivateKey::from_random([77; 32]))), rekeyed(&wire.b, 3)],
    ] {
        wire.a.device.apply(wire.now, changes);
        wire.a.collect();
        wire.settle();
        assert!(wire.both_ways(), "the first session serves: {:#?}", wire.ladder);
        wire.pass(seconds(3));
    }
    wire.a.key = PrivateKey::from_random([77; 32]);
    wire.b.know(wire.now, &wire.a, true);
    wire.b.device.apply(wire.now, vec![rekeyed(&wire.a, 3)]);
    wire.b.collect();
    wire.pass(seconds(2));
    assert_eq!(wire.b.peer(wire.now, &wire.a).session, SessionState::Established);
    wire.pass(seconds(200));
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn changing_one_peer_does_not_touch_another() {
    let mut wire = Wire::connected();
    let third = Station::new(3, wire.now);
    let before = wire.a.peer(wire.now, &wire.b);
    wire.a.know(wire.now, &third, true);
    wire.a.sent.clear();
    let mut change = PeerChange::new(third.public_key());
    change.preshared_key = Some(Some(preshared(7)));
    change.replace_allowed_ips = true;
    change.allowed_ips = vec![AllowedIpChange::Add("10.99.3.0/24".parse().unwrap())];
    wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
    wire.a.device.apply(wire.now, vec![Change::RemovePeer(third.public_key())]);
    wire.a.collect();
    wire.a.sent.clear();
    assert_eq!(wire.a.peer(wire.now, &wire.b).last_handshake, before.last_handshake);
    assert_eq!(wire.a.peer(wire.now, &wire.b).allowed_ips, before.allowed_ips);
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn an_allowed_ip_moves_from_peer_to_peer_and_back() {
    let mut wire = Wire::connected();
    let third = Station::new(3, wire.now);
    wire.a.know(wire.now, &third, false);
    let prefix = "10.99.0.2/32".parse().unwrap();
    let mut change = PeerChange::new(third.public_key());
    change.allowed_ips = vec![AllowedIpChange::Add(prefix)];
    wire.a.device.apply(wire.now, vec![Change::Peer(change.clone())]);
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"no longer"));
    wire.settle();
    assert_eq!(wire.a.dropped(wire.now, DropReason::DisallowedSource), 1);
    change.allowed_ips = vec![AllowedIpChange::Remove(prefix)];
    let back = peer(&wire.b);
    wire.a.device.apply(wire.now, vec![Change::Peer(change), Change::Peer(back)]);
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn update_only_adds_nobody_and_the_own_key_is_no_peer() {
    let mut wire = Wire::strangers();
    let mut change = peer(&wire.b);
    change.update_only = true;
    let own = PeerChange::new(wire.a.public_key());
    wire.a.device.apply(wire.now, vec![Change::Peer(change), Change::Peer(own)]);
    assert!(wire.a.device.snapshot(wire.now).peers.is_empty());
}

/// It would talk to itself.
#[test]
fn a_peer_whose_key_becomes_our_own_is_one_no_longer() {
    let mut wire = Wire::connected();
    let key = Change::PrivateKey(Some(wire.b.key.clone()));
    wire.a.device.apply(wire.now, vec![key]);
    wire.a.collect();
    assert!(wire.a.device.snapshot(wire.now).peers.is_empty());
    assert!(wire.a.sent.is_empty(), "there is nobody to shake hands with");
}

#[test]
fn a_removed_peer_leaves_no_allowed_ip() {
    let mut wire = Wire::connected();
    wire.a.device.apply(wire.now, vec![Change::RemovePeer(wire.b.public_key())]);
    let mut sent = 0;
    let mut send = |wire: &mut Wire| {
        wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"to nobody"));
        sent += 1;
        assert_eq!(wire.a.dropped(wire.now, DropReason::NoPeer), sent);
    };
    send(&mut wire);
    let without = PeerChange::new(wire.b.public_key());
    wire.a.device.apply(wire.now, vec![Change::Peer(without)]);
    assert!(wire.a.peer(wire.now, &wire.b).allowed_ips.is_empty());
    send(&mut wire);
    wire.a.device.apply(wire.now, vec![Change::Peer(peer(&wire.b)), Change::RemoveAllPeers]);
    send(&mut wire);
}

/// The table of them would grow with each change for ever.
#[test]
fn an_index_of_former_keys_is_nobodys() {
    let mut wire = Wire::connected();
    let mut indices = Vec::new();
    for change in 0..1000 {
        wire.a.device.apply(wire.now, vec![rekeyed(&wire.b, (change % 2) as u8)]);
        wire.a.collect();
        let (_, initiation) = wire.a.sent.remove(0);
        assert_eq!(kind(&initiation), "initiation");
        indices.push(initiation[4..8].to_vec());
    }
    let nobodys = |wire: &mut Wire| {
        let before = wire.a.device.snapshot(wire.now).drops;
        for index in &indices {
            let data = [&[4, 0, 0, 0], index.as_slice(), &[0; 24]].concat();
            wire.a.take(wire.now, wire.b.address, &data);
        }
        let after = wire.a.device.snapshot(wire.now).drops;
        after.get(DropReason::UnknownIndex) - before.get(DropReason::UnknownIndex)
    };
    assert_eq!(nobodys(&mut wire), 999, "the last one may be answered");
    assert!(wire.both_ways(), "the first session serves: {:#?}", wire.ladder);
    wire.a.device.apply(wire.now, vec![Change::PrivateKey(None)]);
    assert_eq!(nobodys(&mut wire), 1000);
}

#[test]
fn a_flooding_source_is_asked_for_cookies_while_a_peer_shakes_hands() {
    let mut wire = Wire::strangers();
    wire.b.know(wire.now, &wire.a, false);
    // A stranger who knows B's public key: each initiation has a valid mac1.
    let mut stranger = Station::new(9, wire.now);
    stranger.know(wire.now, &wire.b, true);
    let initiation = stranger.sent[0].1.clone();
    let flood = "203.0.113.66:7777".parse().unwrap();
    for _ in 0..1000 {
        wire.b.take(wire.now, flood, &initiation);
    }
    let replies = wire.b.sent.iter().filter(|(to, reply)| {
        assert_eq!((*to, kind(reply)), (flood, "cookie reply"));
        reply.len() < initiation.len()
    });
    assert_eq!(replies.count(), 990);
    assert_eq!(wire.b.dropped(wire.now, DropReason::UnknownPeer), 10);
    assert_eq!(wire.b.dropped(wire.now, DropReason::UnderLoad), 990);
    wire.b.sent.clear();
    wire.a.know(wire.now, &wire.b, true);
    wire.settle();
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn a_peer_at_a_flooding_address_gets_through_with_its_cookie() {
    let mut wire = Wire::strangers();
    wire.b.know(wire.now, &wire.a, false);
    let mut stranger = Station::new(9, wire.now);
    stranger.know(wire.now, &wire.b, true);
    let initiation = stranger.sent[0].1.clone();
    for _ in 0..100 {
        wire.b.take(wire.now, wire.a.address, &initiation);
    }
    wire.b.sent.clear();
    wire.a.know(wire.now, &wire.b, true);
    wire.settle();
    assert!(wire.ladder.last().unwrap().contains("cookie reply"), "{:#?}", wire.ladder);
    // The flood goes on: without the cookie the retry would be refused as well.
    wire.now = wire.a.device.next_timeout().unwrap();
    for _ in 0..100 {
        wire.b.take(wire.now, wire.a.address, &initiation);
    }
    wire.b.sent.clear();
    wire.a.timeout(wire.now);
    wire.settle();
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

/// Whoever has seen a response knows a live index and a mac1 that is valid.
#[test]
fn responses_are_let_in_as_initiations_are() {
    let mut wire = Wire::strangers();
    wire.b.know(wire.now, &wire.a, false);
    wire.a.know(wire.now, &wire.b, true);
    let mut response = Vec::new();
    wire.settle_with(|_, datagram| {
        if kind(datagram) == "response" {
            response = datagram.to_vec();
        }
        Delivery::Deliver
    });
    let flood = "203.0.113.66:7777".parse().unwrap();
    let mut broken = response.clone();
    broken[60] ^= 1;
    wire.a.take(wire.now, flood, &broken);
    let drops = wire.a.device.snapshot(wire.now).drops;
    assert_eq!(drops.get(DropReason::InvalidMac), 1, "the peer is not to blame");
    for _ in 0..1000 {
        wire.a.take(wire.now, flood, &response);
    }
    let replies = wire.a.sent.drain(..).filter(|(to, reply)| {
        assert_eq!((*to, kind(reply)), (flood, "cookie reply"));
        reply.len() < response.len()
    });
    assert_eq!(replies.count(), 990);
    assert_eq!(wire.a.dropped(wire.now, DropReason::UnderLoad), 990);
    assert!(wire.both_ways(), "{:#?}", wire.ladder);
}

#[test]
fn a_source_that_floods_with_its_cookie_is_held_to_its_rate() {
    let mut wire = Wire::strangers();
    let mut stranger = Station::new(9, wire.now);
    stranger.know(wire.now, &wire.b, true);
    let (_, initiation) = stranger.sent.remove(0);
    for _ in 0..11 {
        wire.b.take(wire.now, stranger.address, &initiation);
    }
    let (_, cookie) = wire.b.sent.remove(0);
    stranger.take(wire.now, wire.b.address, &cookie);
    wire.now = stranger.device.next_timeout().unwrap();
    stranger.timeout(wire.now);
    let (_, proven) = stranger.sent.remove(0);
    let passed = wire.b.dropped(wire.now, DropReason::UnknownPeer);
    let refused = wire.b.dropped(wire.now, DropReason::UnderLoad);
    for _ in 0..200 {
        wire.b.take(wire.now, stranger.address, &proven);
    }
    let passed = wire.b.dropped(wire.now, DropReason::UnknownPeer) - passed;
    let refused = wire.b.dropped(wire.now, DropReason::UnderLoad) - refused;
    // As many as any source may send, and as many again as one that proved its address may.
    assert_eq!((passed, refused), (10 + 50, 140));
    assert!(wire.b.sent.is_empty(), "it has its cookie");
}

#[test]
fn initiations_of_one_peer_are_answered_20_ms_apart() {
    let mut wire = Wire::strangers();
    wire.b.know(wire.now, &wire.a, false);
    wire.a.know(wire.now, &wire.b, true);
    wire.a.timeout(wire.now + seconds(1));
    let sent = std::mem::take(&mut wire.a.sent);
    let [(_, first), (_, second)] = sent.as_slice() else { panic!("{} sent", sent.len()) };
    let mut answers = |initiation: &[u8], millis| {
        wire.b.take(wire.now + Duration::from_millis(millis), wire.a.address, initiation);
        (wire.b.sent.drain(..).count(), wire.b.dropped(wire.now, DropReason::UnderLoad))
    };
    assert_eq!(answers(first, 0), (1, 0));
    assert_eq!(answers(second, 10), (0, 1));
    assert_eq!(answers(second, 20), (1, 1), "it was too early, not a replay");
}

#[test]
fn twenty_thousand_hostile_datagrams_deliver_nothing_and_are_all_counted() {
    let seed = 20_000;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut wire = Wire::new();
    let mut genuine = Vec::new();
    wire.settle_with(|from_a, datagram| {
        if from_a {
            genuine.push(datagram.to_vec());
        }
        Delivery::Deliver
    });
    for i in 0..50 {
        wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", &vec![7; i * 20]));
        genuine.extend(wire.a.sent.iter().map(|(_, datagram)| datagram.clone()));
        wire.settle();
    }
    wire.b.received.clear();
    let before = wire.b.all_drops(wire.now);
    // The sender's address is its own: the genuine peer is not slowed down by the handshake limit.
    let from = "203.0.113.66:7777".parse().unwrap();
    for _ in 0..20_000 {
        let mut datagram = genuine[rng.usize(..genuine.len())].clone();
        match rng.u8(..4) {
            0 => datagram.truncate(rng.usize(..datagram.len())),
            1 => {
                let bit = rng.usize(..datagram.len() * 8);
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            2 => {
                datagram.truncate(rng.usize(..=datagram.len()));
                datagram.iter_mut().for_each(|byte| *byte = rng.u8(..));
                if let Some(first) = datagram.first_mut() {
                    *first = rng.u8(..6);
                }
            }
            _ => {}
        }
        wire.b.take(wire.now, from, &datagram);
    }
    assert!(wire.b.received.is_empty(), "seed {seed}");
    assert_eq!(wire.b.all_drops(wire.now) - before, 20_000, "seed {seed}");
    let strays = wire.b.sent.drain(..).filter(|(_, sent)| kind(sent) != "cookie reply").count();
    assert_eq!(strays, 0, "seed {seed}");
    assert_eq!(wire.b.peer(wire.now, &wire.a).endpoint, Some(wire.a.address), "seed {seed}");
    assert!(wire.both_ways(), "seed {seed}");
}

#[test]
fn a_peer_is_announced_when_it_comes_up_and_not_at_every_rekey() {
    let mut wire = Wire::connected();
    let ups = |events: &[Event]| {
        events.iter().filter(|event| matches!(event, Event::Established { .. })).count()
    };
    assert_eq!(ups(&wire.a.events), 1);
    for _ in 0..30 {
        wire.pass(seconds(20));
        assert!(wire.both_ways());
    }
    assert_eq!(ups(&wire.a.events), 1, "{:#?}", wire.ladder);
    wire.pass_with(seconds(400), |_, _| Delivery::Lose);
    wire.a.send(wire.now, &udp("10.99.0.1", "10.99.0.2", b"back"));
    wire.pass(seconds(1));
    assert_eq!(ups(&wire.a.events), 2, "{:?}", wire.a.events);
}

/// Gossip is kept for 30 s; port 9094 as in all packets here.
const GOSSIP: Change = Change::Gossip(GossipChange { port: 9094, resend: seconds(30) });

/// The first device keeps gossip.
fn gossiping(mut wire: Wire) -> Wire {
    wire.a.device.apply(wire.now, vec![GOSSIP]);
    wire
}

/// Gossip number `i`, a byte long.
fn gossip(i: u8) -> Vec<u8> {
    udp("10.99.0.1", "10.99.0.2", &[i])
}

fn numbers(packets: &[Vec<u8>]) -> Vec<u8> {
    packets.iter().map(|packet| packet[28]).collect()
}

#[test]
fn gossip_sent_into_an_outage_arrives_when_the_link_is_back() {
    let mut wire = gossiping(Wire::connected());
    for i in 0..10 {
        wire.a.send(wire.now, &gossip(i));
        wire.pass_with(Duration::from_millis(200), |_, _| Delivery::Lose);
    }
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"the link is back"));
    wire.settle();
    assert_eq!(numbers(&wire.b.received), (0..10).collect::<Vec<u8>>(), "{:#?}", wire.ladder);
    assert_eq!(wire.a.peer(wire.now, &wire.b).gossip_resent, 10);
    // Once each: another sign of life brings nothing more.
    wire.pass(seconds(2));
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"still here"));
    wire.settle();
    assert_eq!(wire.b.received.len(), 10, "{:#?}", wire.ladder);
}

/// memberlist buries a member 4 s after it suspects it and is silent then: both ends wait to be spoken to.
#[test]
fn gossip_of_an_outage_arrives_when_nobody_says_anything_after_it() {
    let mut wire = gossiping(Wire::connected());
    wire.b.device.apply(wire.now, vec![GOSSIP]);
    let back = udp("10.99.0.2", "10.99.0.1", b"back");
    wire.a.send(wire.now, &gossip(7));
    wire.b.send(wire.now, &back);
    wire.pass_with(seconds(10), |_, _| Delivery::Lose);
    wire.pass(Duration::from_millis(260));
    assert_eq!(numbers(&wire.b.received), [7], "{:#?}", wire.ladder);
    assert_eq!(wire.a.received, [back], "{:#?}", wire.ladder);
    // It was heard, so it is not called any more.
    let before = wire.ladder.len();
    wire.pass(seconds(5));
    assert_eq!(wire.ladder.len(), before, "{:#?}", wire.ladder);
}

#[test]
fn a_silent_peer_is_called_after_a_probe_interval_and_for_as_long_as_gossip_is_kept() {
    let mut wire = gossiping(Wire::connected());
    let calls = |wire: &mut Wire, time: Duration| {
        let mut calls = 0;
        wire.pass_with(time, |from_a, datagram| {
            calls += usize::from(from_a && kind(datagram) == "keepalive");
            Delivery::Lose
        });
        calls
    };
    wire.a.send(wire.now, &gossip(1));
    assert_eq!(calls(&mut wire, Duration::from_millis(1240)), 0);
    assert_eq!(calls(&mut wire, Duration::from_millis(1010)), 5);
    let rest = calls(&mut wire, seconds(28));
    assert!((110..=112).contains(&rest), "{rest} calls in 28 s");
    assert_eq!(calls(&mut wire, seconds(60)), 0, "{:#?}", wire.ladder);

    // What is no gossip calls nobody.
    let mut wire = Wire::connected();
    wire.a.send(wire.now, &gossip(1));
    assert_eq!(calls(&mut wire, seconds(9)), 0, "{:#?}", wire.ladder);
}

#[test]
fn gossip_for_a_killed_peer_arrives_when_it_is_started_again() {
    let mut wire = gossiping(Wire::connected());
    for i in 0..10 {
        wire.a.send(wire.now, &gossip(i));
        wire.pass_with(Duration::from_millis(200), |_, _| Delivery::Lose);
    }
    wire.b = Station::new(2, wire.now);
    wire.b.know(wire.now, &wire.a, true);
    wire.settle();
    assert_eq!(numbers(&wire.b.received), (0..10).collect::<Vec<u8>>(), "{:#?}", wire.ladder);
}

/// memberlist sends it again after what is newer, which takes seconds when there is much of that.
#[test]
fn gossip_for_a_peer_that_has_moved_arrives_as_soon_as_it_is_heard() {
    for told in [false, true] {
        let mut wire = gossiping(Wire::connected());
        wire.b.address.set_ip([192, 0, 2, 22].into());
        for i in 0..3 {
            wire.a.send(wire.now, &gossip(i));
            wire.pass(Duration::from_millis(50));
        }
        assert!(wire.b.received.is_empty());
        if told {
            // A name resolves to the new address, or somebody has written it to the file.
            let mut change = PeerChange::new(wire.b.public_key());
            change.endpoints = Some(vec![wire.b.address]);
            wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
        }
        wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"from here on"));
        wire.settle();
        assert_eq!(numbers(&wire.b.received), [0, 1, 2], "told: {told}, {:#?}", wire.ladder);
    }
}

#[test]
fn gossip_that_the_kernel_did_not_send_arrives_when_the_peer_is_heard() {
    let mut wire = gossiping(Wire::connected());
    let mut packet = gossip(1);
    let len = packet.len();
    packet.resize(len + 15, 0);
    wire.a.device.handle_tun(wire.now, &VnetHeader::default(), &mut packet, len);
    let peer = wire.a.device.poll_transmit().expect("it is sealed").peer;
    wire.a.device.transmit_failed(wire.now, peer, 1, 64);
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"hello"));
    wire.settle();
    assert_eq!(numbers(&wire.b.received), [1], "{:#?}", wire.ladder);
}

#[test]
fn gossip_to_a_peer_that_is_away_longer_than_its_session_arrives_too() {
    let mut wire = gossiping(Wire::connected());
    wire.pass_with(seconds(200), |_, _| Delivery::Lose);
    for i in 0..10 {
        wire.a.send(wire.now, &gossip(i));
        wire.pass_with(Duration::from_millis(200), |_, _| Delivery::Lose);
    }
    wire.pass(seconds(6));
    assert_eq!(numbers(&wire.b.received), (0..10).collect::<Vec<u8>>(), "{:#?}", wire.ladder);
}

#[test]
fn gossip_that_is_answered_is_not_sent_again() {
    let mut wire = gossiping(Wire::connected());
    for i in 0..20 {
        wire.a.send(wire.now, &gossip(i));
        wire.settle();
        wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"ack"));
        wire.pass(seconds(1));
    }
    assert_eq!(numbers(&wire.b.received), (0..20).collect::<Vec<u8>>(), "{:#?}", wire.ladder);
    assert_eq!(wire.a.peer(wire.now, &wire.b).gossip_resent, 0);
}

#[test]
fn gossip_older_than_its_age_is_not_sent_again_and_none_is_with_the_age_zero() {
    let mut wire = gossiping(Wire::connected());
    wire.a.send(wire.now, &gossip(1));
    wire.pass_with(seconds(29), |_, _| Delivery::Lose);
    wire.a.send(wire.now, &gossip(2));
    wire.pass_with(seconds(2), |_, _| Delivery::Lose);
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"back"));
    wire.settle();
    assert_eq!(numbers(&wire.b.received), [2]);

    let off = Change::Gossip(GossipChange { port: 9094, resend: Duration::ZERO });
    wire.a.device.apply(wire.now, vec![off]);
    wire.b.received.clear();
    wire.a.send(wire.now, &gossip(3));
    wire.pass_with(seconds(2), |_, _| Delivery::Lose);
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"back"));
    wire.settle();
    assert!(wire.b.received.is_empty());
}

/// The way out of a machine is ready a second after its link is back, and the session may end meanwhile.
#[test]
fn gossip_outlives_a_session_that_ends_before_it_could_be_sent_again() {
    let mut wire = gossiping(Wire::connected());
    wire.pass(seconds(177));
    for i in 0..3 {
        wire.a.send(wire.now, &gossip(i));
    }
    wire.a.sent.clear();
    wire.pass_with(seconds(2), |_, _| Delivery::Lose);
    wire.a.device.apply(wire.now, vec![Change::CarrierBack]);
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"back"));
    wire.settle_with(|from_a, datagram| match kind(datagram) {
        "data" if !from_a => Delivery::Deliver,
        _ => Delivery::Lose,
    });
    assert_eq!(wire.a.received.len(), 1, "{:#?}", wire.ladder);
    wire.pass_with(seconds(2), |_, _| Delivery::Lose);
    wire.pass(seconds(12));
    assert_eq!(numbers(&wire.b.received), [0, 1, 2], "{:#?}", wire.ladder);
}

#[test]
fn gossip_that_may_no_longer_pass_is_not_sent_again() {
    let mut wire = gossiping(Wire::connected());
    wire.a.send(wire.now, &gossip(1));
    wire.pass_with(seconds(3), |_, _| Delivery::Lose);
    wire.a.device.apply(wire.now, vec![Change::Filter(Some(Allow::new(vec![])))]);
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"back"));
    wire.settle();
    assert!(wire.b.received.is_empty(), "{:#?}", wire.ladder);
    assert_eq!(wire.a.peer(wire.now, &wire.b).drops.get(DropReason::FilteredOut), 1);
}

#[test]
fn gossip_that_never_left_is_counted_when_it_is_given_up() {
    let mut wire = gossiping(Wire::strangers());
    wire.a.know(wire.now, &wire.b, true);
    for i in 0..600u16 {
        wire.a.send(wire.now, &gossip(i as u8));
    }
    assert_eq!(wire.a.dropped(wire.now, DropReason::StagedOverflow), 600 - 512);
    wire.pass_with(seconds(60), |_, _| Delivery::Lose);
    wire.b.know(wire.now, &wire.a, true);
    wire.pass(seconds(1));
    assert!(wire.b.received.is_empty());
    assert_eq!(wire.a.dropped(wire.now, DropReason::StagedExpired), 512);

    // So is what is given up since nothing is kept any more.
    let mut wire = gossiping(Wire::strangers());
    wire.a.know(wire.now, &wire.b, true);
    wire.a.send(wire.now, &gossip(1));
    wire.a.sent.clear();
    let off = Change::Gossip(GossipChange { port: 9094, resend: Duration::ZERO });
    wire.a.device.apply(wire.now, vec![off]);
    wire.b.know(wire.now, &wire.a, true);
    wire.pass(seconds(1));
    assert_eq!(wire.a.dropped(wire.now, DropReason::StagedExpired), 1);
}

/// Echo request number `i`, as ping sends it.
fn echo(i: u8) -> Vec<u8> {
    let mut packet = gossip(i);
    packet[9] = 1;
    packet[20] = 8;
    packet
}

#[test]
fn a_ping_to_a_peer_that_is_started_again_arrives_and_an_old_one_does_not() {
    let mut wire = gossiping(Wire::connected());
    wire.pass(seconds(100));
    for i in 0..20 {
        wire.a.send(wire.now, &echo(i));
        wire.pass_with(Duration::from_millis(100), |_, _| Delivery::Lose);
    }
    wire.b = Station::new(2, wire.now);
    wire.b.know(wire.now, &wire.a, true);
    wire.settle();
    assert_eq!(numbers(&wire.b.received), (10..20).collect::<Vec<u8>>(), "{:#?}", wire.ladder);
    assert_eq!(wire.a.peer(wire.now, &wire.b).gossip_resent, 0);
}

/// Whoever pings would see a duplicate.
#[test]
fn a_ping_is_not_sent_again_when_a_link_is_back_or_a_session_is_renewed() {
    let mut wire = gossiping(Wire::connected());
    wire.a.send(wire.now, &echo(1));
    wire.pass_with(Duration::from_millis(600), |_, _| Delivery::Lose);
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"the link is back"));
    wire.settle();
    assert!(wire.b.received.is_empty(), "{:#?}", wire.ladder);

    wire.pass(seconds(121));
    let before = wire.a.peer(wire.now, &wire.b).last_handshake;
    // The ping is under way when the peer asks for a new session.
    wire.a.send(wire.now, &echo(2));
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"still here"));
    wire.settle();
    assert!(wire.a.peer(wire.now, &wire.b).last_handshake > before, "{:#?}", wire.ladder);
    assert_eq!(numbers(&wire.b.received), [2], "{:#?}", wire.ladder);
}

/// A peer whose session is of age makes a new one because of that, and got the ping.
#[test]
fn an_initiation_that_is_due_has_no_ping_sent_again() {
    let mut wire = gossiping(Wire::connected());
    wire.pass(seconds(121));
    wire.a.send(wire.now, &echo(1));
    wire.b.send(wire.now, &udp("10.99.0.2", "10.99.0.1", b"still here"));
    let mut initiations = 0;
    wire.settle_with(|from_a, datagram| match (from_a, kind(datagram)) {
        (false, "data") => Delivery::Lose,
        (false, "initiation") => {
            initiations += 1;
            Delivery::Deliver
        }
        _ => Delivery::Deliver,
    });
    assert_eq!((initiations, numbers(&wire.b.received)), (1, vec![1]), "{:#?}", wire.ladder);
}

/// A packet as it leaves A with a mark, and B takes it with another one.
fn marked(inner: u8, outer: Ecn) -> (Ecn, Wire) {
    let mut wire = Wire::connected();
    let mut packet = udp("10.99.0.1", "10.99.0.2", b"marked");
    packet[1] = inner;
    packet.resize(packet.len() + 15, 0);
    let len = packet.len() - 15;
    wire.a.device.handle_tun(wire.now, &VnetHeader::default(), &mut packet, len);
    let transmit = wire.a.device.poll_transmit().unwrap();
    let (mark, from) = (transmit.ecn, Endpoint::from(wire.a.address));
    wire.b.device.handle_udp(wire.now, from, outer, transmit.contents);
    wire.b.collect();
    (mark, wire)
}

#[test]
fn congestion_marks_pass_between_the_inner_and_the_outer_header() {
    let (outer, wire) = marked(0b10, Ecn::Congested);
    assert_eq!(outer, Ecn::Capable0);
    assert_eq!(wire.b.received[0][1], 0b11);
    let (outer, wire) = marked(0b00, Ecn::Congested);
    assert_eq!(outer, Ecn::NotCapable);
    assert!(wire.b.received.is_empty());
    assert_eq!(wire.b.dropped(wire.now, DropReason::CongestionMarked), 1);
}

/// Whole large packets were dropped, dozens of segments each, where one tells a transport as much.
#[test]
fn a_sender_that_is_too_fast_gets_a_mark_or_loses_one_segment() {
    let lone = VnetHeader::default();
    let large = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_UDP_L4,
        hdr_len: 28,
        gso_size: 100,
        csum_start: 20,
        csum_offset: 6,
    };
    let mut wire = Wire::connected();
    for (header, tos, expected, lost) in [
        (large, 0b00, vec![Ecn::NotCapable; 2], 1),
        (large, 0b10, vec![Ecn::Congested; 3], 1),
        (lone, 0b00, vec![], 2),
        (lone, 0b10, vec![Ecn::Congested], 2),
    ] {
        let mut packet = udp("10.99.0.1", "10.99.0.2", &[7; 300]);
        packet[1] = tos;
        let len = packet.len();
        wire.a.device.handle_tun_congested(wire.now, &header, &mut packet, len);
        let mut sent = Vec::new();
        while let Some(transmit) = wire.a.device.poll_transmit() {
            sent.extend(transmit.datagrams().map(|_| transmit.ecn));
        }
        assert_eq!(sent, expected, "{header:?}, {tos}");
        assert_eq!(wire.a.dropped(wire.now, DropReason::Backlog), lost);
    }
}

/// Three packets to each of the peers, and how many datagrams leave together where to.
fn runs(from: &mut Station, now: Instant, overlays: &[&str]) -> Vec<(SocketAddr, usize)> {
    for to in overlays {
        for _ in 0..3 {
            let mut packet = udp(&from.overlay, to, &[7; 500]);
            let len = packet.len();
            packet.resize(len + 15, 0);
            from.device.handle_tun(now, &VnetHeader::default(), &mut packet, len);
        }
    }
    let mut runs = Vec::new();
    while let Some(transmit) = from.device.poll_transmit() {
        runs.push((transmit.to.address, transmit.datagrams().len()));
    }
    runs
}

#[test]
fn a_peer_whose_path_refuses_segmentation_gets_datagrams_one_by_one_for_a_minute() {
    let mut wire = Wire::connected();
    let mut third = Station::new(3, wire.now);
    third.know(wire.now, &wire.a, false);
    wire.a.know(wire.now, &third, true);
    for _ in 0..3 {
        for (_, datagram) in std::mem::take(&mut wire.a.sent) {
            third.take(wire.now, wire.a.address, &datagram);
        }
        for (_, datagram) in std::mem::take(&mut third.sent) {
            wire.a.take(wire.now, third.address, &datagram);
        }
    }
    let (b, c) = (wire.b.address, third.address);
    let both = ["10.99.0.2", "10.99.0.3"];
    let together = [(b, 3), (c, 3)];
    let alone = [(b, 1), (b, 1), (b, 1), (c, 3)];
    assert_eq!(runs(&mut wire.a, wire.now, &both), together);

    wire.a.device.segmentation_refused(wire.now, None);
    assert_eq!(runs(&mut wire.a, wire.now, &both), together, "it was nobody's");
    let mut packet = udp("10.99.0.1", "10.99.0.2", b"whose path this is");
    let len = packet.len();
    wire.a.device.handle_tun(wire.now, &VnetHeader::default(), &mut packet, len);
    let peer = wire.a.device.poll_transmit().expect("a datagram").peer;
    assert!(peer.is_some() && wire.a.device.poll_transmit().is_none());
    wire.a.device.segmentation_refused(wire.now, peer);
    for after in [0, 1, 59] {
        let now = wire.now + seconds(after);
        assert_eq!(runs(&mut wire.a, now, &both), alone, "after {after} s");
    }
    assert_eq!(runs(&mut wire.a, wire.now + seconds(60), &both), together, "it is tried again");
}

/// Segments of one TCP connection with something behind them: an Ethernet frame is filled up like that.
#[test]
fn what_stands_behind_a_packet_is_never_joined_to_the_next_one() {
    let mut wire = Wire::connected();
    wire.b.device.set_offload(Offload::TcpAndUdp);
    let payload = [[1; 100], [2; 100], [3; 100]];
    let mut joined: Vec<u8> = Vec::new();
    for (number, payload) in payload.iter().enumerate() {
        let mut packet = udp("10.99.0.1", "10.99.0.2", &[]);
        packet.truncate(20);
        (packet[3], packet[6], packet[9]) = (140, 0x40, 6);
        packet.extend([
            0x23,
            0x86,
            0x23,
            0x86,
            0,
            0,
            0,
            number as u8 * 100,
            0,
            0,
            0,
            0,
            0x50,
            0x10,
        ]);
        packet.extend([1, 0, 0, 0, 0, 0]);
        packet.extend(payload);
        joined.extend(payload);
        let len = packet.len();
        packet.extend([0xee; 22]);
        // As if it had been read so: what is behind the packet is sealed as well.
        wire.a.device.handle_tun(wire.now, &VnetHeader::default(), &mut packet, len + 7);
    }
    while let Some(transmit) = wire.a.device.poll_transmit() {
        for datagram in transmit.datagrams() {
            let from = Endpoint::from(wire.a.address);
            wire.b.device.handle_udp(wire.now, from, Ecn::NotCapable, datagram);
        }
    }
    let packet = wire.b.device.poll_packet().expect("a packet");
    assert_eq!((packet.packets(), packet.header.gso_size), (3, 100));
    let bytes: Vec<u8> = packet.parts().flatten().copied().collect();
    assert_eq!(bytes[40..], joined);
    assert_eq!(bytes[2..4], 340u16.to_be_bytes());
    assert!(wire.b.device.poll_packet().is_none());
}

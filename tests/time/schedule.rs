//! When a handshake is made, kept going and given up, and when a session ends: sections 6.1 to 6.5 of
//! the WireGuard paper, and where peer.rs departs from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hushwire::wireguard::SessionState;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};

use crate::net::{Net, Path, millis, seconds, seed};
use crate::wire::Delivery;

fn lose_all(net: &mut Net) {
    net.fate = Box::new(|_, _| Delivery::Lose);
}

#[test]
fn the_initiator_renews_the_session_every_120_s_and_no_packet_waits() {
    let mut net = Net::connected(1, Path::GOOD);
    let first = net.times(true, "initiation")[0];
    net.gossip_every(millis(200));
    net.run(seconds(3600));
    let initiations = net.times(true, "initiation");
    assert_eq!(net.times(false, "initiation"), [], "{}", net.tell());
    assert_eq!(initiations.len(), 31, "{}", net.tell());
    assert!(initiations[1] - first >= seconds(120), "{}", net.tell());
    for pair in initiations.windows(2) {
        let age = pair[1] - pair[0];
        assert!((seconds(120)..=millis(120_300)).contains(&age), "{age:?} {}", net.tell());
    }
    for gossip in &net.gossip {
        assert!(gossip.silence < millis(231), "{:?} {}", gossip.silence, net.tell());
    }
    assert_eq!(net.drops(), [], "{}", net.tell());
}

#[test]
fn an_initiator_that_only_receives_renews_the_session_after_165_s() {
    let mut net = Net::connected(2, Path::GOOD);
    net.gossip_from(Some(false), millis(200));
    net.run(seconds(200));
    // Its keepalives are no data: they do not renew at 120 s.
    let initiations = net.times(true, "initiation");
    let age = initiations[1] - initiations[0];
    assert!((seconds(165)..=millis(165_300)).contains(&age), "{age:?} {}", net.tell());
    assert_eq!(net.times(false, "initiation"), [], "{}", net.tell());
    assert_eq!(net.drops(), [], "{}", net.tell());
}

#[test]
fn a_session_seals_for_180_s_and_not_a_moment_longer_when_no_handshake_succeeds() {
    let mut net = Net::connected(3, Path::GOOD);
    let made = net.times(true, "initiation")[0];
    net.gossip_every(millis(200));
    net.fate = Box::new(|_, datagram| match datagram[0] {
        1 | 2 => Delivery::Lose,
        _ => Delivery::Deliver,
    });
    net.run(seconds(400));
    for a in [true, false] {
        let data = *net.times(a, "data").last().unwrap();
        assert!(data > made + millis(179_600), "{data:?} {}", net.tell());
        assert!(data < made + seconds(180) + millis(30), "{data:?} {}", net.tell());
    }
    assert_eq!(net.wire.a.peer(net.wire.now, &net.wire.b).session, SessionState::Handshaking);
}

#[test]
fn data_that_is_not_answered_is_acknowledged_by_a_keepalive_after_10_s() {
    let mut net = Net::connected(4, Path::GOOD);
    net.gossip_from(Some(true), millis(500));
    net.run(seconds(100));
    let keepalives = net.times(false, "keepalive");
    assert!((9..=10).contains(&keepalives.len()), "{}", net.tell());
    for pair in keepalives.windows(2) {
        // Ten seconds from the first packet since the last keepalive.
        let gap = pair[1] - pair[0];
        assert!((seconds(10)..=millis(10_530)).contains(&gap), "{gap:?} {}", net.tell());
    }
}

#[test]
fn retries_come_after_1_2_then_5_s_with_jitter_and_never_end_while_there_is_traffic() {
    let mut net = Net::strangers(seed("retries", 5), Path::GOOD);
    lose_all(&mut net);
    net.meet(true);
    net.gossip_from(Some(true), seconds(60));
    net.run(seconds(12 * 3600));
    let times = net.times(true, "initiation");
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps[..2], [seconds(1), seconds(2)]);
    assert!(gaps[2..].iter().all(|gap| (seconds(5)..=millis(5333)).contains(gap)), "{gaps:?}");
    assert!(gaps[2..].windows(2).any(|pair| pair[0] != pair[1]), "no jitter");
    assert!(*times.last().unwrap() > seconds(12 * 3600 - 6));
    println!("retries: {} initiations in 12 hours", times.len());
}

#[test]
fn a_handshake_is_given_up_90_s_after_the_last_packet_that_wanted_it() {
    let mut net = Net::strangers(seed("given up", 6), Path::GOOD);
    lose_all(&mut net);
    net.meet(true);
    net.gossip_from(Some(true), seconds(1));
    net.run(seconds(300));
    net.gossip_from(None, seconds(1));
    net.run(seconds(24 * 3600));
    let last = *net.times(true, "initiation").last().unwrap();
    assert!((seconds(384)..seconds(390)).contains(&last), "{last:?}");
    assert_eq!(net.wire.a.peer(net.wire.now, &net.wire.b).session, SessionState::Idle);
    assert_eq!(net.wire.a.device.next_timeout(), None, "an idle device has nothing to do");
}

/// Counts the sessions that boringtun says it wiped.
#[derive(Clone, Default)]
struct Wiped(Arc<AtomicU64>);

impl tracing::Subscriber for Wiped {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("boringtun")
    }

    fn event(&self, event: &Event<'_>) {
        if event.fields().any(|field| field.name() == "session")
            && *event.metadata().level() == tracing::Level::DEBUG
        {
            let mut text = Text(String::new());
            event.record(&mut text);
            let expired = text.0.contains("SESSION_EXPIRED");
            self.0.fetch_add(expired.into(), Ordering::Relaxed);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{value:?} "));
    }
}

#[test]
fn keys_are_wiped_soon_after_180_s_without_traffic() {
    let wiped = Wiped::default();
    tracing::subscriber::with_default(wiped.clone(), || {
        let mut net = Net::connected(8, Path::GOOD);
        assert_eq!(net.wire.a.peer(net.wire.now, &net.wire.b).session, SessionState::Established);
        net.run(seconds(178));
        assert_eq!(wiped.0.load(Ordering::Relaxed), 0);
        net.run(seconds(4));
        assert_eq!(wiped.0.load(Ordering::Relaxed), 2, "one session at each end");
        net.run(seconds(3600));
        let idle = (net.wire.a.device.next_timeout(), net.wire.b.device.next_timeout());
        assert_eq!(idle, (None, None), "{}", net.tell());
    });
}

/// The timer fired at 180 s sharp, when boringtun, which wipes what is older than 180 s, found nothing
/// to do yet: the keys of a session that the peer never used stayed in memory while the device was idle.
#[test]
fn keys_of_a_session_that_was_never_used_are_wiped_too() {
    let wiped = Wiped::default();
    tracing::subscriber::with_default(wiped.clone(), || {
        let mut net = Net::strangers(9, Path::GOOD);
        net.fate = Box::new(|from_a, datagram| match (from_a, datagram[0]) {
            (true, 1) => Delivery::Deliver,
            _ => Delivery::Lose,
        });
        net.meet(true);
        net.run(millis(900));
        assert_eq!(net.count(false, "response"), 1, "{}", net.tell());
        lose_all(&mut net);
        net.run(seconds(182));
        assert_eq!(wiped.0.load(Ordering::Relaxed), 1, "{}", net.tell());
        net.run(seconds(3600));
        let idle = (net.wire.a.device.next_timeout(), net.wire.b.device.next_timeout());
        assert_eq!(idle, (None, None), "{}", net.tell());
    });
}

//! Two and three real Alertmanagers form a cluster over their overlay addresses, with the flags that
//! `hushwire alertmanager-flags` prints and nothing else.

use std::time::Instant;

use crate::support::alertmanager::{Alertmanager, arrival_times, members};
use crate::support::capture::{Capture, Datagram, HOP_BY_HOP, ICMP, ICMPV6, IGMP, UDP};
use crate::support::lab::{Family, Lab};
use crate::support::message::Message;
use crate::support::tunnel::{Identity, PORT, Tunnel};
use crate::support::{median_and_worst, millis, random_text, seconds, wait_for};

#[test]
fn two_alertmanagers_gossip_over_an_ipv4_overlay() {
    forms_a_cluster(2, Family::V4, Family::V4);
}

#[test]
fn three_alertmanagers_gossip_over_an_ipv4_overlay() {
    forms_a_cluster(3, Family::V4, Family::V4);
}

#[test]
fn two_alertmanagers_gossip_over_an_ipv6_underlay() {
    forms_a_cluster(2, Family::V6, Family::V4);
}

#[test]
fn two_alertmanagers_gossip_over_an_ipv6_overlay() {
    forms_a_cluster(2, Family::V4, Family::V6);
}

/// Silences made on each member must be on every other in well under a second.
fn forms_a_cluster(count: usize, outside: Family, inside: Family) {
    let lab = Lab::new(count);
    let tunnels = Tunnel::start_all(&lab, &Identity::all(count, outside, &[inside]));
    let alertmanagers = Alertmanager::start_all(&lab, &tunnels);
    for alertmanager in &alertmanagers {
        alertmanager.wait_until_ready(&members(count, inside));
    }
    for (number, from) in alertmanagers.iter().enumerate() {
        let others: Vec<_> = alertmanagers
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != number)
            .map(|(_, a)| a)
            .collect();
        let (median, worst) = median_and_worst(arrival_times(from, &others, 20));
        let who = format!("{count} members, {inside:?} in {outside:?}, machine{}", number + 1);
        println!("{who}: 20 silences arrive, median {median:.0?}, worst {worst:.0?}");
        // Gossip goes out every 200 ms: on a plain network the median is some 125 ms.
        assert!(median < millis(400), "{who}: median {median:?}");
    }
    alertmanagers.iter().for_each(Alertmanager::assert_calm);
}

/// Alertmanager packs gossip into UDP datagrams of up to 1,400 bytes and sends what is over 700 bytes
/// by TCP. Each size must come out as it went in, and a burst fills the datagrams to the brim.
#[test]
fn gossip_of_every_size_and_in_bursts_arrives_intact() {
    let lab = Lab::new(2);
    let tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    let alertmanagers = Alertmanager::start_all(&lab, &tunnels);
    let [alpha, beta] = &alertmanagers[..] else { unreachable!() };
    for alertmanager in &alertmanagers {
        alertmanager.wait_until_ready(&members(2, Family::V4));
    }

    // What a silence's gossip weighs apart from its comment.
    let base = gossip_len(beta, || {
        let id = alpha.silence("x");
        beta.wait_for_silence(&id, seconds(10));
    }) - 1;
    for want in [100_usize, 700, 1300, 1400, 4_000, 50_000] {
        // Longer length fields take about 5 bytes more. Below the weight of an empty silence there is
        // only the smallest one.
        let comment = random_text(want.saturating_sub(base + 5).max(1));
        let len = gossip_len(beta, || {
            let id = alpha.silence(&comment);
            let (arrived, time) = beta.wait_for_silence(&id, seconds(10));
            assert!(arrived == comment, "{want} bytes: the comment was changed on its way");
            println!("gossip of about {want} bytes arrives after {time:.0?}");
        });
        let smallest = base + 1;
        println!("  it had {len} bytes");
        assert!(len.abs_diff(want.max(smallest)) <= 16, "wanted {want} bytes, were {len}");
    }

    let start = Instant::now();
    let capture = Capture::start(lab.machine(2), "hush0");
    // Three of these fill a datagram.
    let made: Vec<_> = (0..300).map(|_| alpha.silence(&random_text(310))).collect();
    let made_in = start.elapsed();
    wait_for("a burst of 300 silences", seconds(60), || {
        let there = beta.silences();
        made.iter().all(|id| there.contains(id)).then_some(())
    });
    let largest = capture.stop().datagrams.iter().map(|datagram| datagram.packet_len).max();
    println!("300 silences made in {made_in:.1?} are there after {:.1?}", start.elapsed());
    println!("largest overlay packet of the burst: {largest:?} bytes");
    assert!(largest > Some(1_300), "the burst was to fill datagrams");
    alertmanagers.iter().for_each(Alertmanager::assert_calm);
}

/// Bytes per gossip message that a member receives while `action` runs, with all repeats.
fn gossip_len(member: &Alertmanager<'_>, action: impl FnOnce()) -> usize {
    let before = settled_gossip(member);
    action();
    let after = settled_gossip(member);
    assert!(after.0 > before.0, "no gossip was received");
    ((after.1 - before.1) / (after.0 - before.0)) as usize
}

/// Messages and bytes of gossip received, once nothing has come for a second: each message is sent
/// some four times, 200 ms apart.
fn settled_gossip(member: &Alertmanager<'_>) -> (f64, f64) {
    let read = || {
        ["", "_size"].map(|what| {
            let name = format!("alertmanager_cluster_messages_received{what}_total");
            member.metric(&format!("{name}{{msg_type=\"update\"}}"))
        })
    };
    let (mut last, mut since) = (read(), Instant::now());
    let what = "the repeats of gossip to end";
    let (seen, _) = wait_for(what, seconds(20), || {
        let now = read();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > seconds(1)).then_some(now)
    });
    (seen[0], seen[1])
}

/// A capture of the underlay while a silence is made: no word of it, and nothing but well-formed
/// WireGuard messages from hushwire's port to hushwire's port. The overlay's own capture shows that
/// the text was there to be found.
#[test]
fn the_underlay_carries_wireguard_messages_and_not_a_word_of_the_gossip() {
    let lab = Lab::new(2);
    let underlay = Capture::start(lab.machine(1), "eth0");
    let mut tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    tunnels.iter_mut().for_each(Tunnel::wait_until_attached);
    let overlay = Capture::start(lab.machine(1), "hush0");
    let alertmanagers = Alertmanager::start_all(&lab, &tunnels);
    let [alpha, beta] = &alertmanagers[..] else { unreachable!() };
    alpha.wait_for_members(&members(2, Family::V4), seconds(15));

    // Short enough to go by UDP, which repeats it.
    let marker = random_text(300);
    let id = alpha.silence(&marker);
    beta.wait_for_silence(&id, seconds(10));
    // Without this the test would be blind.
    wait_for("the marker to pass the overlay three times", seconds(10), || {
        (overlay.count(&marker) >= 3).then_some(())
    });
    // In this order: what is in the overlay's capture must be in the underlay's. What went in last is sealed
    // once an echo behind it is answered.
    let overlay = overlay.stop();
    lab.machine(1).run("ping", &["-n", "-c", "1", "-W", "5", "10.99.0.2"]);
    let underlay = underlay.stop();

    assert_eq!(underlay.count(&marker), 0, "the marker is readable on the underlay");
    assert_eq!(underlay.count(&marker[..16]), 0, "a part of the marker is readable");
    // Beside UDP: what machines on one wire find each other by, and "port unreachable" before the
    // other end's tunnel is up.
    for (source, _, protocol) in &underlay.packets {
        let expected = [UDP, ICMP, IGMP, ICMPV6, HOP_BY_HOP].contains(protocol);
        assert!(expected, "{source} sent IP protocol {protocol} in clear");
    }
    let inside = overlay.packets.iter().filter(|(source, ..)| source.is_ipv4()).count();
    let is_data = |datagram: &&Datagram| Message::of(&datagram.payload) == Message::Data;
    let data = underlay.datagrams.iter().filter(is_data).count();
    println!("{inside} packets in the overlay, {data} transport data messages on the underlay");
    let echoes = 2;
    assert!(data >= inside + echoes, "some packets took another way");
    for datagram in &underlay.datagrams {
        assert_eq!((datagram.source_port, datagram.destination_port), (PORT, PORT), "{datagram:?}");
        let message = Message::of(&datagram.payload);
        assert_ne!(message, Message::Alien, "{datagram:?}");
        let padded = datagram.payload.len() % 16 == 0 || datagram.packet_len == 1_500;
        assert!(message != Message::Data || padded, "{} bytes", datagram.payload.len());
    }
}

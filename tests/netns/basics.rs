//! What one tunnel must do, in the drawing of `main.rs`.

use std::net::SocketAddr;

use hushwire::wireguard::PrivateKey;

use crate::device::{Device, World, ping};
use crate::support::machine::Machine;
use crate::support::{millis, random_bytes, seconds, wait_for};

/// Tells each device where the other is.
pub(crate) fn connect(wg1: &Device<'_>, wg2: &Device<'_>, local: &str) {
    wg1.wg_set_peer(wg2, &format!("endpoint {local}:20000"));
    wg2.wg_set_peer(wg1, &format!("endpoint {local}:10000"));
}

/// Both overlay addresses of the other side, seen from each.
const WAYS: [(bool, &str); 4] =
    [(true, "10.99.0.2"), (true, "fd00:99::2"), (false, "10.99.0.1"), (false, "fd00:99::1")];

#[test]
fn every_ping_of_a_flood_is_answered_in_both_families_and_directions() {
    let world = World::new();
    let [wg1, wg2] = world.devices();
    for underlay in ["127.0.0.1", "[::1]"] {
        connect(&wg1, &wg2, underlay);
        for (from_left, to) in WAYS {
            let from = if from_left { &world.left } else { &world.right };
            ping(from, to);
            // A packet of the size that fits, and one that has to be fragmented before the tunnel.
            for size in ["56", "1372", "4000"] {
                let said = from.run("ping", &["-q", "-f", "-c1000", "-W1", "-s", size, to]);
                let summary = said.lines().find(|line| line.contains("packet loss"));
                let summary = summary.unwrap_or_else(|| panic!("no summary: {said}"));
                println!("over {underlay}: {} to {to}, {size} B: {summary}", from.name);
                assert!(summary.contains(" 0% packet loss"), "{said}");
            }
        }
    }
    world.end([wg1, wg2]);
}

#[test]
fn wg_and_ip_count_exactly_what_was_sent() {
    let world = World::new();
    let [wg1, wg2] = world.devices();
    connect(&wg1, &wg2, "127.0.0.1");
    ping(&world.left, "10.99.0.2");
    ping(&world.left, "fd00:99::2");

    // An echo of 84 bytes is padded to 96, one of 104 (IPv6) to 112; header and tag are 32 more.
    for (to, inner, message) in [("10.99.0.2", 84, 96 + 32), ("fd00:99::2", 104, 112 + 32)] {
        let before = [&wg1, &wg2].map(|device| (device.transfer(), device.statistics()));
        world.left.run("ping", &["-q", "-f", "-c100", to]);
        for (device, ((rx, tx), kernel)) in [&wg1, &wg2].into_iter().zip(before) {
            let (now, counted) = (device.transfer(), device.statistics());
            let name = device.interface;
            assert_eq!((now.0 - rx, now.1 - tx), (100 * message, 100 * message), "{name}, {to}");
            assert_eq!(counted.rx_bytes - kernel.rx_bytes, 100 * inner, "{name}, {to}");
            // The kernel speaks to its neighbourhood now and then; that goes to no peer.
            let sent = counted.tx_bytes - kernel.tx_bytes;
            assert!((100 * inner..100 * inner + 1000).contains(&sent), "{name}, {to}: {sent}");
        }
    }
    for (device, other) in [(&wg1, &wg2), (&wg2, &wg1)] {
        let (status, peer) = (device.status(), device.peer(&other.public_key()));
        let passed = peer.tx_packets + status.drops["no_peer"];
        assert_eq!(passed, device.statistics().tx_packets, "each packet went or was counted");
        assert_eq!(device.statistics().tx_dropped, 0);
        assert_eq!(peer.drops.values().sum::<u64>(), 0, "{:?}", peer.drops);
    }
    world.end([wg1, wg2]);
}

#[test]
fn roams_when_its_local_address_is_deleted_and_when_its_port_changes() {
    let world = World::new();
    let [wg1, wg2] = world.devices();
    connect(&wg1, &wg2, "127.0.0.1");
    ping(&world.left, "10.99.0.2");
    assert_eq!(wg2.endpoint(), address("127.0.0.1:10000"));
    let session = wg2.peer(&wg1.public_key()).handshake_age_seconds;

    // Now no interface has 127.0.0.1, but the whole of 127.0.0.0/8 is still local: the kernel would go on
    // taking the old source.
    world.underlay.ip("addr del 127.0.0.1/8 dev lo");
    world.underlay.ip("addr add 127.212.121.99/8 dev lo");
    wg1.wg_set("listen-port 9999");
    ping(&world.left, "fd00:99::2");
    assert_eq!(wg2.endpoint(), address("127.212.121.99:9999"));
    ping(&world.right, "10.99.0.1");

    // To the other family, with a new port on the way.
    wg1.wg_set("listen-port 9998");
    wg1.wg_set_peer(&wg2, "endpoint [::1]:20000");
    ping(&world.left, "10.99.0.2");
    assert_eq!(wg2.endpoint(), address("[::1]:9998"));
    ping(&world.right, "10.99.0.1");
    let later = wg2.peer(&wg1.public_key()).handshake_age_seconds;
    assert!(session.is_some() && later > session, "a new session: {session:?}, {later:?}");
    world.end([wg1, wg2]);
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

#[test]
fn a_more_specific_key_takes_the_traffic_away_in_both_directions() {
    let world = World::new();
    let [wg1, wg2] = world.devices();
    connect(&wg1, &wg2, "127.0.0.1");
    let peer = wg2.public_key();
    wg1.wg_set_peer(&wg2, "allowed-ips 10.99.0.0/24");
    let inbox = world.left.udp("10.99.0.1:1111").expect("cannot bind");
    inbox.set_read_timeout(Some(millis(1000))).unwrap();
    let mut buffer = [0; 9];
    send(&world.right, b"one");
    assert_eq!(inbox.recv(&mut buffer).ok(), Some(3), "the wide prefix lets it in");

    let third = PrivateKey::from_random(random_bytes()).public_key().to_string();
    wg1.wg_set(&format!("peer {third} allowed-ips 10.99.0.2/32"));
    // From a new port: what is dropped by its inner source is authentic all the same, and tells where
    // its sender is (kernel: receive.c, wg_packet_consume_data_done).
    wg2.wg_set("listen-port 9997");
    send(&world.right, b"two");
    wait_for("a counted drop", seconds(2), || {
        (wg1.peer(&peer).drops["disallowed_source"] == 1).then_some(())
    });
    inbox.set_read_timeout(Some(millis(100))).unwrap();
    assert!(inbox.recv(&mut buffer).is_err(), "the source belongs to another key");
    assert_eq!(wg1.peer(&peer).endpoint, Some(address("127.0.0.1:9997")));

    // And the way back leads to the third key, which nobody has ever heard.
    let before = wg1.peer(&peer).tx_packets;
    let _ = inbox.send_to(b"lost", "10.99.0.2:1111");
    wait_for("a packet for the third key", seconds(2), || {
        (wg1.peer(&third).drops["no_endpoint"] == 1).then_some(())
    });
    assert_eq!(wg1.peer(&peer).tx_packets, before);

    wg1.wg_set(&format!("peer {third} remove"));
    send(&world.right, b"three");
    inbox.set_read_timeout(Some(millis(1000))).unwrap();
    assert_eq!(inbox.recv(&mut buffer).ok(), Some(5), "the wide prefix is what is left");
    drop(inbox);
    world.end([wg1, wg2]);
}

fn send(from: &Machine, bytes: &[u8]) {
    let socket = from.udp("10.99.0.2:0").expect("cannot bind");
    socket.send_to(bytes, "10.99.0.1:1111").expect("cannot send");
}

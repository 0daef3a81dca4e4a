//! What must end by itself: a tunnel that leads into itself, and calls that nobody answers.
//!
//! ```text
//!       left                              right
//!   wg1, UDP 10000                    wg2, UDP 20000
//!   10.0.0.1/24 -------- eth0 ------- 10.0.0.2/24
//!   fd00:aa::1/96                     fd00:aa::2/96
//! ```
//!
//! Processor time is printed and never asserted: the computer may be busy.

use std::fmt::Write;
use std::time::Instant;

use hushwire::wireguard::PrivateKey;

use crate::device::{Device, introduce, nothing_is_left, ping};
use crate::support::machine::Machine;
use crate::support::{Scratch, millis, random_bytes, seconds, wait_for};

const PEERS: u16 = 1000;
const FLOOD: u64 = 200;

/// Prints the processor time that a device takes over 5 s.
fn print_processor_time(device: &Device<'_>, what: &str) {
    let before = device.processor_time();
    std::thread::sleep(seconds(5));
    let used = device.processor_time() - before;
    println!("{what}: {used:.1?} of processor time in 5 s");
}

#[test]
fn a_tunnel_that_leads_into_itself_drops_each_datagram_once() {
    let [left, right] = ["left", "right"].map(Machine::new);
    left.ip(&format!("link add eth0 type veth peer name eth0 netns {}", right.pid()));
    for (machine, number) in [(&left, 1), (&right, 2)] {
        machine.ip(&format!("addr add 10.0.0.{number}/24 dev eth0"));
        machine.ip(&format!("addr add fd00:aa::{number}/96 dev eth0 nodad"));
        machine.ip("link set eth0 up");
    }
    let [wg1, wg2] = [Device::start(1, &left, &left), Device::start(2, &right, &right)];
    introduce(&wg1, &wg2);
    // Everything that is routed there may go through the tunnel, also the way to its other end.
    wg1.wg_set_peer(&wg2, "allowed-ips 0.0.0.0/0,::/0");
    let loops = || wg1.status().drops["routing_loop"];
    for (far, route) in [
        ("10.0.0.2", "route add 10.0.0.2/32 dev wg1"),
        ("[fd00:aa::2]", "-6 route add fd00:aa::2/128 dev wg1"),
    ] {
        wg1.wg_set_peer(&wg2, &format!("endpoint {far}:20000"));
        ping(&left, "10.99.0.2");
        left.ip(route);
        // The second size makes datagrams past the MTU, which come back in two fragments each.
        for (size, fragments) in [("56", 1), ("1392", 2)] {
            let before = loops();
            let count = format!("-c{FLOOD}");
            let flood = left.attempt("ping", &["-q", "-f", &count, "-W1", "-s", size, "10.99.0.2"]);
            assert!(!flood.status.success(), "nothing can come back");
            let counted = loops() - before;
            println!("{far}: {counted} packets came back for {FLOOD} pings of {size} B");
            // Beside them a handshake's, since nobody answers; a storm would be millions.
            let each = FLOOD * fragments;
            assert!((each..each + 20).contains(&counted), "{counted}");
        }
        let counted = loops();
        print_processor_time(&wg1, "after a routing loop");
        let later = loops() - counted;
        assert!(later < 20, "{later} more without a packet of anybody's");
        left.ip(&route.replace("add", "del"));
        wait_for("the tunnel to work again", seconds(8), || {
            crate::device::answers(&left, "10.99.0.2").then_some(())
        });
    }
    wg1.delete();
    wg2.delete();
    nothing_is_left(&[&left, &right]);
}

#[test]
fn a_first_handshake_into_the_tunnel_itself_is_dropped_too() {
    let left = Machine::new("left");
    let wg1 = Device::start(1, &left, &left);
    let key = PrivateKey::from_random(random_bytes()).public_key();
    left.ip("route add 10.0.0.2/32 dev wg1");
    wg1.wg_set(&format!("peer {key} allowed-ips 0.0.0.0/0 endpoint 10.0.0.2:20000"));
    assert!(!crate::device::answers(&left, "10.99.0.2"));
    wait_for("a counted drop", seconds(2), || {
        (wg1.status().drops["routing_loop"] > 0).then_some(())
    });
    print_processor_time(&wg1, "while handshakes go round");
    let loops = wg1.status().drops["routing_loop"];
    println!("{loops} initiations in 6 s");
    // At 0, 1, 3 and 8 s, and once more for each thing that was started in between.
    assert!(loops < 20, "{loops}");
    wg1.delete();
    nothing_is_left(&[&left]);
}

#[test]
fn a_thousand_peers_that_do_not_answer_are_given_up_and_left_alone() {
    let left = Machine::new("left");
    let wg1 = Device::start(1, &left, &left);
    print_processor_time(&wg1, "no peer");
    let mut text = format!("[Interface]\nPrivateKey = {}\n", wg1.key.to_base64().as_str());
    for number in 0..PEERS {
        let key = PrivateKey::from_random(random_bytes()).public_key();
        let (high, low) = (number >> 8, number & 255);
        let _ = write!(
            text,
            "[Peer]\nPublicKey = {key}\nAllowedIPs = 10.98.{high}.{low}/32\n\
             Endpoint = 127.0.0.1:{}\n",
            20_000 + number
        );
    }
    let directory = Scratch::new("thousand");
    let file = directory.path().join("wg1.conf");
    std::fs::write(&file, text).expect("cannot write a file");
    let start = Instant::now();
    left.run("wg", &["setconf", "wg1", &file.display().to_string()]);
    println!("{PEERS} peers set in {:.0?}", start.elapsed());

    // Each is called when its endpoint is set, to tell it that we are new; then again for some seconds.
    let (mut sent, mut since) = (0, Instant::now());
    wait_for("silence for 6 s", seconds(60), || {
        std::thread::sleep(millis(200));
        let now = wg1.transfer().1;
        if now != sent {
            (sent, since) = (now, Instant::now());
        }
        (since.elapsed() > seconds(6)).then_some(())
    });
    assert!(sent >= u64::from(PEERS) * 148, "{sent} B is not an initiation for each");
    println!("{} initiations, the last one {:.1?} after setconf", sent / 148, since - start);
    print_processor_time(&wg1, "1,000 peers, idle");
    assert_eq!(wg1.transfer().1, sent, "still silent");
    wg1.delete();
    nothing_is_left(&[&left]);
}

//! A peer behind a translator with a short memory.
//!
//! ```text
//!   client                   router                    server
//!   wg1                       nft                       wg2
//!   UDP 10000         masquerade, new ports             UDP 20000
//!   10.1.0.2 --- 10.1.0.1 [inside][outside] 10.2.0.1 --- 10.2.0.2
//! ```
//!
//! The router forgets a UDP mapping after 2 s, and gives the next one a random port. The server has no
//! route inside and knows no endpoint: it can only answer where it was spoken to.

use std::net::IpAddr;

use crate::device::{Device, answers, introduce, nothing_is_left, ping};
use crate::support::machine::Machine;
use crate::support::{seconds, wait_for};

/// Longer than the router remembers.
const SILENCE: u64 = 4;

#[test]
fn a_keepalive_keeps_the_way_through_a_translator_open() {
    let [client, router, server] = ["client", "router", "server"].map(Machine::new);
    wire(&router, "inside", "10.1.0.1", &client, "10.1.0.2");
    wire(&router, "outside", "10.2.0.1", &server, "10.2.0.2");
    client.ip("route add default via 10.1.0.1");
    router.sysctl("net/ipv4/ip_forward", "1");
    router.run("nft", &["add table ip nat"]);
    router.run("nft", &["add chain ip nat out { type nat hook postrouting priority srcnat; }"]);
    router.run("nft", &["add rule ip nat out ip saddr 10.1.0.0/24 masquerade random"]);
    for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        router.sysctl(&format!("net/netfilter/{timeout}"), "2");
    }

    let wg1 = Device::start(1, &client, &client);
    let wg2 = Device::start(2, &server, &server);
    introduce(&wg1, &wg2);
    wg1.wg_set_peer(&wg2, "endpoint 10.2.0.2:20000 persistent-keepalive 1");
    ping(&client, "10.99.0.2");
    ping(&server, "10.99.0.1");
    let mapping = wg2.endpoint();
    assert_eq!(mapping.ip(), "10.2.0.1".parse::<IpAddr>().unwrap(), "the router's address");
    std::thread::sleep(seconds(SILENCE));
    ping(&server, "10.99.0.1");
    ping(&server, "fd00:99::1");
    assert_eq!(wg2.endpoint(), mapping, "one mapping all the time");

    // Without it the router forgets: else this test would show nothing.
    wg1.wg_set_peer(&wg2, "persistent-keepalive 0");
    std::thread::sleep(seconds(SILENCE));
    assert!(!answers(&server, "10.99.0.1"), "the mapping is still there");
    // The client opens another one, and the server follows it there.
    ping(&client, "10.99.0.2");
    ping(&server, "10.99.0.1");
    println!("mapped as {mapping}, and after a silence as {}", wg2.endpoint());

    // With a keepalive again a server that the router has cut off is heard without a word of the client's.
    std::thread::sleep(seconds(SILENCE));
    wg1.wg_set_peer(&wg2, "persistent-keepalive 1");
    wait_for("the server to reach the client", seconds(3), || {
        answers(&server, "10.99.0.1").then_some(())
    });
    wg1.delete();
    wg2.delete();
    nothing_is_left(&[&client, &router, &server]);
}

/// Joins `port` of the router to `eth0` of a machine.
fn wire(router: &Machine, port: &str, near: &str, machine: &Machine, far: &str) {
    router.ip(&format!("link add {port} type veth peer name eth0 netns {}", machine.pid()));
    router.ip(&format!("addr add {near}/24 dev {port}"));
    router.ip(&format!("link set {port} up"));
    machine.ip(&format!("addr add {far}/24 dev eth0"));
    machine.ip("link set eth0 up");
}

//! 1 GiB at a time through the tunnel (`iperf3 -n 1G`), in the drawing of `main.rs`.
//!
//! All 32 cases send the whole of it: TCP and UDP, inside over IPv4 and IPv6, both directions, outside over
//! IPv4 and IPv6, at the default MTU (1,420) and at 34,736 (what fits into 34,816 bytes with 80 of overhead;
//! loopback carries 65,536). UDP is sent as fast as iperf3 can (`-b 0`): what the
//! interface's queue does not take is lost, and the loss is printed. Speeds are printed, never asserted.

use serde_json::Value;

use crate::basics::connect;
use crate::device::{Device, World};
use crate::support::iperf3::iperf3;

const GIB: u64 = 1 << 30;
const ONE_GIB: [&str; 2] = ["-n", "1G"];
const DEFAULT_MTU: u32 = 1420;
const LARGE_MTU: u32 = 34_816 - 80;

#[test]
fn a_gibibyte_passes_over_ipv4_at_the_default_mtu() {
    every_case("127.0.0.1", DEFAULT_MTU);
}

#[test]
fn a_gibibyte_passes_over_ipv4_at_a_large_mtu() {
    every_case("127.0.0.1", LARGE_MTU);
}

#[test]
fn a_gibibyte_passes_over_ipv6_at_the_default_mtu() {
    every_case("[::1]", DEFAULT_MTU);
}

#[test]
fn a_gibibyte_passes_over_ipv6_at_a_large_mtu() {
    every_case("[::1]", LARGE_MTU);
}

fn every_case(underlay: &str, mtu: u32) {
    let world = World::new();
    let [wg1, wg2] = world.devices();
    for device in [&wg1, &wg2] {
        let shown = device.place.ip(&format!("link show {}", device.interface));
        assert!(shown.contains(&format!("mtu {DEFAULT_MTU} ")), "{shown}");
        device.place.ip(&format!("link set {} mtu {mtu}", device.interface));
    }
    connect(&wg1, &wg2, underlay);
    for network in ["10.99.0.", "fd00:99::"] {
        for (sender, receiver, number) in [(&wg1, &wg2, 2), (&wg2, &wg1, 1)] {
            let to = format!("{network}{number}");
            let before = (sender.transfer().1, receiver.transfer().0, receiver.statistics());
            let tcp = iperf3(sender.place, receiver.place, &to, &ONE_GIB);
            println!("over {underlay}, MTU {mtu}: TCP to {to:10} {}", speed(&tcp));
            // When the sender says that it is done, the receiver leaves the last of it unread: a receive
            // buffer at most. What it has read has passed all counters, with a header for each packet.
            let (sent, received) = (bytes(&tcp, "sum_sent"), bytes(&tcp, "sum_received"));
            assert!(sent >= GIB && received > GIB - (16 << 20), "{sent} sent, {received} received");
            let (rx, tx) = (receiver.transfer().0 - before.1, sender.transfer().1 - before.0);
            assert!(tx >= rx && rx > received, "{tx} B sent and {rx} received by the devices");
            let delivered = receiver.statistics().rx_bytes - before.2.rx_bytes;
            assert!(delivered > received && delivered < rx, "{delivered} of {rx} B delivered");

            let before = sender.statistics();
            let udp = iperf3(
                sender.place,
                receiver.place,
                &to,
                &[&ONE_GIB[..], &["-u", "-b", "0"]].concat(),
            );
            let dropped = sender.statistics().tx_dropped - before.tx_dropped;
            println!(
                "over {underlay}, MTU {mtu}: UDP to {to:10} {}, {}",
                speed(&udp),
                loss(&udp, dropped)
            );
            assert!(bytes(&udp, "sum_sent") >= GIB && bytes(&udp, "sum_received") > 0, "{udp}");
        }
    }
    for device in [&wg1, &wg2] {
        print_drops(device);
    }
    world.end([wg1, wg2]);
}

fn bytes(report: &Value, sum: &str) -> u64 {
    report["end"][sum]["bytes"].as_u64().unwrap_or_else(|| panic!("no bytes in {sum}: {report}"))
}

fn speed(report: &Value) -> String {
    let gigabits = |sum: &str| report["end"][sum]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9;
    format!("{:5.2} Gbit/s", gigabits("sum_received"))
}

fn loss(report: &Value, dropped: u64) -> String {
    let sum = &report["end"]["sum_received"];
    let (lost, of) = (&sum["lost_packets"], &sum["packets"]);
    format!("{lost} of {of} datagrams lost ({dropped} packets before the device)")
}

fn print_drops(device: &Device<'_>) {
    let status = device.status();
    let all = status.drops.iter().chain(status.peers.iter().flat_map(|peer| &peer.drops));
    let counted: Vec<_> = all.filter(|(_, count)| **count > 0).collect();
    println!("{}: drops {counted:?}", device.interface);
}

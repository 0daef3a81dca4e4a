//! Nothing is allocated for a packet: counted around `Device` once its buffers have grown.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use counting::allocations;
use hushwire::offload::{Coalescer, Offload, VnetHeader};
use hushwire::wireguard::{Change, Device, Ecn, Endpoint, GossipChange};
use wire::{Wire, udp};

/// Carries one packet from device to device the way the packet loop does: no copy of ours in between.
fn carry(wire: &mut Wire, from_a: bool, buffer: &mut [u8], packet: &[u8]) {
    let (address, from, to) = if from_a {
        (wire.a.address, &mut wire.a.device, &mut wire.b.device)
    } else {
        (wire.b.address, &mut wire.b.device, &mut wire.a.device)
    };
    buffer[..packet.len()].copy_from_slice(packet);
    from.handle_tun(wire.now, &VnetHeader::default(), buffer, packet.len());
    while let Some(transmit) = from.poll_transmit() {
        for datagram in transmit.datagrams() {
            to.handle_udp(wire.now, Endpoint::from(address), transmit.ecn, datagram);
        }
    }
    let received = to.poll_packet().unwrap();
    assert!(received.parts().eq([packet]));
    assert!(to.poll_packet().is_none());
    run_timeouts(to, wire.now);
}

fn run_timeouts(device: &mut Device, now: std::time::Instant) {
    if device.next_timeout().is_some_and(|at| at <= now) {
        device.handle_timeout(now);
    }
}

#[test]
fn counting_works() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 1);
}

#[test]
fn a_packet_in_the_steady_state_allocates_nothing() {
    let mut wire = Wire::connected();
    // With gossip kept, as `hushwire up` does: it is copied into memory that is there already.
    let gossip = GossipChange { port: 9094, resend: Duration::from_secs(30) };
    wire.a.device.apply(wire.now, vec![Change::Gossip(gossip)]);
    let there = udp("10.99.0.1", "10.99.0.2", &[7; 1405]);
    let back = udp("10.99.0.2", "10.99.0.1", &[7; 200]);
    let mut buffer = vec![0; 2048];
    let rounds = |wire: &mut Wire, buffer: &mut [u8], n: u32| {
        for _ in 0..n {
            wire.now += Duration::from_millis(5);
            carry(wire, true, buffer, &there);
            carry(wire, false, buffer, &back);
        }
    };
    // 20 s: longer than any timer that moves with packets, so that the queue of deadlines has its size.
    rounds(&mut wire, &mut buffer, 4_000);
    // 10,000 packets each way over 50 s: timers are set, moved and looked at many times.
    assert_eq!(allocations(|| rounds(&mut wire, &mut buffer, 10_000)), 0);
}

#[test]
fn a_dropped_datagram_allocates_nothing() {
    let mut wire = Wire::connected();
    let stranger = Endpoint::from(std::net::SocketAddr::from(([203, 0, 113, 66], 1)));
    let mut junk = [0x5a; 148];
    let mut drop_some = |n: u32| {
        for i in 0..n {
            junk[..4].copy_from_slice(&(i % 6).to_le_bytes());
            let len = [0, 31, 32, 64, 92, 148][i as usize % 6];
            wire.b.device.handle_udp(wire.now, stranger, Ecn::NotCapable, &junk[..len]);
            while wire.b.device.poll_transmit().is_some() {}
        }
    };
    drop_some(100);
    assert_eq!(allocations(|| drop_some(10_000)), 0);
}

#[test]
fn a_batch_of_packets_is_joined_without_an_allocation() {
    let mut packets = Vec::new();
    for index in 0..64u16 {
        let mut packet = udp("10.99.0.1", "10.99.0.2", &[7; 1400]);
        packet[4..6].copy_from_slice(&index.to_be_bytes());
        // Some checksum: it is not verified, only whether there is one.
        packet[26..28].fill(7);
        packets.push(packet);
    }
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    let mut join = || {
        for packet in &packets {
            coalescer.place(packet.len()).copy_from_slice(packet);
            coalescer.push(packet.len());
        }
        let mut most = 0;
        while let Some(joined) = coalescer.poll() {
            most = most.max(joined.packets());
        }
        most
    };
    assert_eq!(join(), 46);
    assert_eq!(allocations(|| assert_eq!(join(), 46)), 0);
}

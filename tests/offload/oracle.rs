//! The same packets through tun-rs, which took its offloads over from wireguard-go.
//!
//! Where it asks less of packets that it joins (window, flow label, identification) or turns their order
//! round, it is no model: what is compared has nothing of that.

use fastrand::Rng;
use hushwire::offload::{Coalescer, Offload, VnetHeader};
use tun_rs::{GROTable, VIRTIO_NET_HDR_LEN, VirtioNetHdr, gso_split};

use crate::inner::{ACK, Inner, PSH};
use crate::{cut, join};

#[test]
fn tun_rs_cuts_a_large_packet_into_the_same_segments() {
    let mut random = Rng::with_seed(6);
    for round in 0..1000 {
        let inner = Inner::any(&mut random);
        if inner.payload.is_empty() {
            // Of such a one it makes nothing at all.
            continue;
        }
        let least = inner.payload.len().div_ceil(128) as u16;
        let (header, mut packet) = inner.large(random.u16(least..=1500.max(least)));
        let ours = cut(&header, &packet).unwrap();
        let mut theirs = vec![vec![0; 66_000]; ours.len()];
        let mut sizes = vec![0; ours.len()];
        let theirs_header = VirtioNetHdr::decode(&header.to_bytes()).unwrap();
        let count =
            gso_split(&mut packet, theirs_header, &mut theirs, &mut sizes, 0, inner.v6).unwrap();
        assert_eq!(count, ours.len(), "round {round}");
        for ((ours, theirs), size) in ours.iter().zip(theirs).zip(sizes) {
            assert_eq!(ours, &theirs[..size], "round {round}: {inner:?}");
        }
    }
}

#[test]
fn tun_rs_joins_flows_in_the_same_groups() {
    let mut random = Rng::with_seed(7);
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    let mut table = GROTable::default();
    let mut joined = 0;
    for round in 0..200 {
        let packets = stream(&mut random);
        let ours = join(&mut coalescer, &packets);
        joined += packets.len() - ours.len();

        let mut buffers = Vec::new();
        for packet in &packets {
            let mut buffer = Vec::with_capacity(70_000);
            buffer.resize(VIRTIO_NET_HDR_LEN, UNTOUCHED);
            buffer.extend(packet);
            buffers.push(buffer);
        }
        table.apply_gro(&mut buffers, VIRTIO_NET_HDR_LEN, true).unwrap();
        // It gives a header to what is to be written, and to nothing else.
        let written = buffers.iter().filter_map(|buffer| {
            let (header, packet) = VnetHeader::split(buffer).unwrap();
            (header.to_bytes() != [UNTOUCHED; VnetHeader::LEN]).then_some((header, packet))
        });
        let written: Vec<_> = written.collect();
        let ours: Vec<_> =
            ours.iter().map(|(header, _, write)| (*header, write.as_slice())).collect();
        assert_eq!(ours.len(), written.len(), "round {round}");
        for (ours, written) in ours.iter().zip(&written) {
            assert_eq!(ours, written, "round {round}");
        }
    }
    assert!(joined > 3000, "only {joined} packets were joined");
}

const UNTOUCHED: u8 = 0xee;

/// Flows that take turns at random, each in its order, with short packets and PSH here and there.
fn stream(random: &mut Rng) -> Vec<Vec<u8>> {
    let mut flows = Vec::new();
    for port in 0..random.u16(1..8) {
        let mut inner = Inner::any(random);
        (inner.ip_options, inner.extensions) = (Vec::new(), Vec::new());
        (inner.ports[1], inner.flags) = (port, ACK);
        inner.payload.resize(random.usize(2..=1380), 7);
        flows.push(inner);
    }
    let mut packets = Vec::new();
    // So few that none of its limits is met, which are others than ours.
    for _ in 0..random.usize(2..46) {
        let flow = random.usize(..flows.len());
        let flow = &mut flows[flow];
        let mut packet = flow.clone();
        random.fill(&mut packet.payload);
        match random.u8(..20) {
            0 => packet.flags |= PSH,
            1 => packet.payload.truncate(packet.payload.len() / 2),
            _ => {}
        }
        packets.push(packet.bytes());
        flow.sequence = flow.sequence.wrapping_add(packet.payload.len() as u32);
        flow.id = flow.id.wrapping_add(1);
    }
    packets
}

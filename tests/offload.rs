//! Large packets: cut apart and joined again, against a reference that does it byte by byte.
//!
//! What is drawn at random has fixed seeds, so that a failure comes again.

#[path = "support/inner.rs"]
mod inner;

use std::ops::Range;

use fastrand::Rng;
use hushwire::offload::{
    Coalescer, GSO_ECN, GSO_NONE, Offload, Segments, Unusable, VnetHeader, finish_checksum,
};
use inner::{ACK, CWR, FIN, Inner, PSH, SYN, UDP};

/// All segments of a large packet; what lies behind them must stay as it is.
fn cut(header: &VnetHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, Unusable> {
    let segments = Segments::of(header, packet)?;
    let cut = (0..segments.count()).map(|index| {
        let last = index + 1 == segments.count();
        let expected = if last { segments.last_len() } else { segments.segment_len() };
        let mut out = vec![0xa5; expected + 3];
        assert_eq!(segments.write(index, &mut out), Some(expected));
        assert_eq!(out.split_off(expected), [0xa5; 3]);
        assert_eq!(segments.write(index, &mut out[1..]), None, "no room");
        out
    });
    let cut = cut.collect();
    assert_eq!(segments.write(segments.count(), &mut [0; 65_600]), None);
    assert_eq!(segments.write(usize::MAX, &mut [0; 65_600]), None);
    Ok(cut)
}

#[test]
fn a_large_packet_becomes_what_the_reference_cuts() {
    let mut random = Rng::with_seed(1);
    for round in 0..4000 {
        let inner = Inner::any(&mut random);
        let sizes = [random.u16(1..=64), random.u16(500..=1400), random.u16(1..)];
        let smallest = (inner.payload.len() / 200) as u16;
        let gso_size = sizes[random.usize(..3)].max(smallest);
        let (mut header, packet) = inner.large(gso_size.max(1));
        // The kernel's may say more, and need not say anything.
        header.hdr_len = random.u16(..);
        if random.bool() {
            header.gso_type |= GSO_ECN;
        }
        let expected = inner.cut(gso_size.max(1));
        let cut = cut(&header, &packet).unwrap();
        assert_eq!(cut.len(), expected.len(), "round {round}");
        for (index, (cut, expected)) in cut.iter().zip(&expected).enumerate() {
            assert_eq!(cut, expected, "round {round}, segment {index} of {inner:?}");
        }
    }
}

/// What the TUN would be given for the packets: a virtio header and the bytes of one `writev` each.
fn join(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<(VnetHeader, usize, Vec<u8>)> {
    // As they lie after opening: one after the other, something else between them.
    let (mut buffer, mut ranges) = (Vec::new(), Vec::<Range<usize>>::new());
    for packet in packets {
        buffer.extend([0xa5; 16]);
        ranges.push(buffer.len()..buffer.len() + packet.len());
        buffer.extend(packet);
    }
    coalescer.plan(&mut buffer, ranges);
    let groups = coalescer.groups().map(|group| {
        let write = group.parts.iter().flat_map(|range| buffer[range.clone()].to_vec()).collect();
        (group.header, group.parts.len(), write)
    });
    groups.collect()
}

#[test]
fn segments_of_a_large_packet_are_joined_to_that_packet() {
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    let mut random = Rng::with_seed(2);
    for round in 0..2000 {
        let mut inner = Inner::any(&mut random);
        inner.flags = [ACK, ACK | PSH][random.usize(..2)];
        (inner.ip_options, inner.extensions) = (Vec::new(), Vec::new());
        inner.payload.truncate(65_535 - inner.headers());
        inner.payload.push(1);
        inner.payload.truncate(65_535 - inner.headers());
        let least = inner.payload.len().div_ceil(64);
        let gso_size = random.usize(least..=least * 2).min(inner.payload.len()) as u16;
        let cut = inner.cut(gso_size);
        let joined = join(&mut coalescer, &cut);
        if cut.len() == 1 {
            assert_eq!(joined, [(VnetHeader::default(), 1, cut[0].clone())]);
        } else {
            let (header, packet) = inner.large(gso_size);
            assert_eq!(joined.len(), 1, "round {round}: {inner:?}");
            assert_eq!(joined[0], (header, cut.len(), packet), "round {round}: {inner:?}");
        }
    }
}

#[test]
fn whatever_is_joined_comes_apart_again_in_the_order_of_each_flow() {
    let mut random = Rng::with_seed(3);
    let mut coalescers = [Coalescer::new(Offload::Tcp), Coalescer::new(Offload::TcpAndUdp)];
    let mut joined = 0;
    for round in 0..6000 {
        let stream = stream(&mut random);
        let udp = random.bool();
        let groups = join(&mut coalescers[usize::from(udp)], &stream);
        let mut begun = 0;
        let mut out = Vec::new();
        for (header, count, write) in &groups {
            let lone = *header == VnetHeader::default();
            let packets = if lone { vec![write.clone()] } else { cut(header, write).unwrap() };
            assert_eq!((packets.len(), *count == 1), (*count, lone), "round {round}");
            assert!(udp || lone || protocol(&packets[0]) != UDP, "round {round}");
            joined += count - 1;
            // Where in the batch it began: later than the group before it.
            let first = stream.iter().skip(begun).position(|sent| alike(sent, &packets[0]));
            begun += first.unwrap_or_else(|| panic!("round {round}: group out of order")) + 1;
            out.extend(packets);
        }
        // Each packet once: a packet is taken for the first like it that is not taken yet, since what is
        // alike is of one flow.
        let mut places = Vec::new();
        for packet in &out {
            let place = (0..stream.len())
                .find(|place| !places.contains(place) && alike(&stream[*place], packet));
            places
                .push(place.unwrap_or_else(|| panic!("round {round}: {packet:02x?} was not sent")));
        }
        assert_eq!(places.len(), stream.len(), "round {round}");
        for (index, place) in places.iter().enumerate() {
            for later in &places[index + 1..] {
                let overtook = later < place && may_be_one_flow(&stream[*later], &stream[*place]);
                assert!(!overtook, "round {round}: {place} was before {later}");
            }
        }
    }
    assert!(joined > 20_000, "only {joined} packets were joined");
}

/// Up to 70 packets of a few flows, mostly in streaks that can be joined, with everything that ends one.
fn stream(random: &mut Rng) -> Vec<Vec<u8>> {
    let mut flows: Vec<(Inner, u16)> = (0..random.usize(1..6))
        .map(|_| {
            let mut inner = Inner::any(random);
            (inner.ip_options, inner.extensions) = (Vec::new(), Vec::new());
            // Few addresses and ports: flows differ in one of them, or only in the protocol.
            (inner.from, inner.to) = (random.u8(1..3), 1);
            inner.ports = [random.u16(1..3), 9094];
            inner.flags = ACK;
            inner.payload.resize([1, 100, 1380][random.usize(..3)], 7);
            // Some senders leave the identification as it is.
            (inner, u16::from(random.u8(..4) != 0))
        })
        .collect();
    let mut packets = Vec::new();
    for _ in 0..random.usize(2..70) {
        let index = random.usize(..flows.len());
        let (flow, step) = &mut flows[index];
        let mut inner = flow.clone();
        random.fill(&mut inner.payload);
        match random.u8(..60) {
            0 => inner.flags |= PSH,
            1 => inner.flags |= [FIN, SYN, CWR, 0x20, 0x40, 0x04][random.usize(..6)],
            2 => inner.flags = 0,
            3 => inner.payload.clear(),
            4 => inner.payload.truncate(random.usize(1..=inner.payload.len())),
            5 => inner.payload.push(1),
            6 => inner.sequence = inner.sequence.wrapping_add(1),
            7 => flow.id = flow.id.wrapping_sub(1),
            8 => inner.tos ^= 1,
            9 => inner.ttl ^= 1,
            10 => inner.window ^= 1,
            11 => inner.ack ^= 1,
            12 => inner.dont_fragment ^= true,
            13 => inner.label ^= 1,
            14 => inner.tcp_options.extend([1; 4]),
            15 => inner.ip_options = vec![1; 4],
            16 => inner.extensions = vec![(60, vec![1, 4, 0, 0, 0, 0])],
            _ => {}
        }
        flow.sequence = inner.sequence.wrapping_add(inner.payload.len() as u32);
        flow.id = flow.id.wrapping_add(*step);
        let mut bytes = inner.bytes();
        match random.u8(..100) {
            0 if !inner.v6 => bytes[6] |= 0x20,
            1 if !inner.v6 => bytes[7] = 1,
            2 => bytes.extend([0; 3]),
            3 => bytes.truncate(inner.headers() - 1),
            4 if inner.protocol == UDP => bytes[inner.headers() - 2..][..2].fill(0),
            5 => bytes[if inner.v6 { 6 } else { 9 }] = if inner.v6 { 58 } else { 1 },
            _ => {}
        }
        packets.push(bytes);
    }
    packets
}

fn protocol(packet: &[u8]) -> u8 {
    packet[if packet[0] >> 4 == 6 { 6 } else { 9 }]
}

/// The same packet; or the same but for the identification and so the checksum of an IPv4 header with
/// DF, where it means nothing (RFC 6864 section 4.1).
fn alike(a: &[u8], b: &[u8]) -> bool {
    let atomic = a.len() == b.len() && a[0] == 0x45 && a[6] & 0x40 != 0;
    a == b || atomic && a[..4] == b[..4] && a[6..10] == b[6..10] && a[12..] == b[12..]
}

/// Addresses and protocol the same, and ports as well if both have some.
fn may_be_one_flow(a: &[u8], b: &[u8]) -> bool {
    let ((a, a_ports), (b, b_ports)) = (ends(a), ends(b));
    a == b && (a_ports == b_ports || a_ports.is_none() || b_ports.is_none())
}

type Ends<'a> = (u8, &'a [u8]);

fn ends(packet: &[u8]) -> (Ends<'_>, Option<&[u8]>) {
    match packet[0] >> 4 {
        4 => {
            let later = packet[6] & 0x1f != 0 || packet[7] != 0;
            let at = usize::from(packet[0] & 0x0f) * 4;
            ((packet[9], &packet[12..20]), packet.get(at..at + 4).filter(|_| !later))
        }
        _ if packet[6] == 60 => ((packet[40], &packet[8..40]), Some(&packet[48..52])),
        _ => ((packet[6], &packet[8..40]), packet.get(40..44)),
    }
}

#[test]
fn a_lone_checksum_is_finished() {
    let mut random = Rng::with_seed(4);
    for _ in 0..2000 {
        let inner = Inner::any(&mut random);
        let (header, mut packet) = inner.large(1);
        let header = VnetHeader { gso_type: GSO_NONE, gso_size: 0, ..header };
        finish_checksum(&header, &mut packet).unwrap();
        let mut expected = inner.bytes();
        // All protocols take the other zero.
        let at = usize::from(header.csum_start + header.csum_offset);
        if expected[at..at + 2] == [0, 0] {
            expected[at..at + 2].fill(0xff);
        }
        assert_eq!(packet, expected);
        finish_checksum(&VnetHeader::default(), &mut packet).unwrap();
        assert_eq!(packet, expected, "nothing was to be done");
    }
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_all_ones() {
    let mut inner = Inner::udp(false, 4);
    inner.payload.fill(0);
    let (header, packet) = inner.large(2);
    let at = usize::from(header.csum_start + header.csum_offset);
    // What lacks to all ones, in the first two bytes of the payload of the one segment.
    let expected = inner.cut(2);
    let missing = u16::from_be_bytes([expected[0][at], expected[0][at + 1]]);
    inner.payload[..2].copy_from_slice(&missing.to_be_bytes());
    let (header, packet) = (header, [&packet[..28], &inner.payload].concat());
    let cut = cut(&header, &packet).unwrap();
    assert_eq!(cut[0][at..at + 2], [0xff, 0xff]);
    assert_eq!(cut, inner.cut(2));

    inner.payload.truncate(2);
    let (header, mut packet) = inner.large(1);
    let sum_before = inner.bytes();
    finish_checksum(&header, &mut packet).unwrap();
    assert_eq!(packet, sum_before);
    assert_eq!(packet[at..at + 2], [0xff, 0xff]);
}

#[test]
fn bytes_that_make_no_sense_never_panic() {
    let mut random = Rng::with_seed(5);
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    let mut usable = 0;
    for _ in 0..60_000 {
        let mut inner = Inner::any(&mut random);
        inner.payload.truncate(random.usize(..300));
        let (header, mut packet) = inner.large(random.u16(..100));
        let mut header = header.to_bytes();
        for _ in 0..random.usize(..3) {
            header[random.usize(..header.len())] = random.u8(..);
        }
        for _ in 0..random.usize(..4) {
            let at = random.usize(..packet.len().min(80));
            packet[at] = random.u8(..);
        }
        packet.truncate(packet.len().saturating_sub(random.usize(..200).saturating_sub(120)));
        let header = VnetHeader::from_bytes(&header);
        if let Ok(cut) = cut(&header, &packet) {
            usable += 1;
            join(&mut coalescer, &cut);
        }
        let _ = finish_checksum(&header, &mut packet);
        let half = packet.split_off(packet.len() / 2);
        join(&mut coalescer, &[packet.clone(), half, packet, Vec::new()]);
    }
    assert!(usable > 5000, "only {usable} packets were cut");
}

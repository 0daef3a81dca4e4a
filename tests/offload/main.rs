//! Large packets: cut apart and joined again, against a reference that does it byte by byte.
//!
//! What is drawn at random has fixed seeds, so that a failure comes again.

mod inner;
mod joined;
mod oracle;

use fastrand::Rng;
use hushwire::offload::{
    Coalescer, GSO_ECN, GSO_NONE, Offload, ROOM, Segments, Unusable, VnetHeader, finish_checksum,
};
use inner::Inner;

/// All segments of a large packet, with something written behind each as padding would be.
fn cut(header: &VnetHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, Unusable> {
    let (len, mut cuts) = (packet.len(), Vec::new());
    // With room behind the last segment, and without.
    for room in [ROOM, 0] {
        let mut buffer = packet.to_vec();
        buffer.resize(len + room, 0xa5);
        let mut segments = Segments::of(header, &mut buffer, len)?;
        let (count, most, last) = (segments.count(), segments.segment_len(), segments.last_len());
        let mut cut = Vec::new();
        while let Some((segment, len)) = segments.next() {
            assert_eq!(len, if cut.len() + 1 == count { last } else { most });
            cut.push(segment[..len].to_vec());
            segment[len..].fill(0x5a);
        }
        assert_eq!(cut.len(), count);
        assert!(segments.next().is_none());
        cuts.push(cut);
    }
    assert_eq!(cuts[0], cuts[1]);
    Ok(cuts.swap_remove(0))
}

/// What the TUN would be given for the packets: a virtio header and the bytes of one `writev` each.
fn join(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<(VnetHeader, usize, Vec<u8>)> {
    for packet in packets {
        // Something that could not be opened, and padding behind what could.
        coalescer.place(packet.len() + 7).fill(0x5a);
        let place = coalescer.place(packet.len() + 16);
        place.fill(0xa5);
        place[..packet.len()].copy_from_slice(packet);
        coalescer.push(packet.len());
    }
    let mut joined = Vec::new();
    while let Some(write) = coalescer.poll() {
        let bytes = write.parts().collect::<Vec<_>>().concat();
        joined.push((write.header, write.packets(), bytes));
    }
    joined
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

//! Large packets: any virtio header before any packet to be cut, any packets in a batch to be joined.
//!
//! What must hold: segments have the payload of the large packet between them, in its order, and right
//! lengths and IPv4 checksums; each packet of a batch is written once; alone it is written as it is; and
//! what was joined is cut again into the same packets, but for checksums, which nobody looked at, and
//! identifications that mean nothing.
#![no_main]

use hushwire::offload::{Coalescer, Offload, ROOM, Segments, VnetHeader, finish_checksum};
use hushwire_fuzz::Script;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let settings = script.byte();
    if settings & 1 == 0 {
        let mut header = [0; VnetHeader::LEN];
        let given = script.bytes(VnetHeader::LEN);
        header[..given.len()].copy_from_slice(given);
        let header = VnetHeader::from_bytes(&header);
        let mut packet = next_packet(&mut script);
        cut(&header, &packet);
        let _ = finish_checksum(&header, &mut packet);
    } else {
        let offload = if settings & 2 != 0 { Offload::TcpAndUdp } else { Offload::Tcp };
        join(&mut Coalescer::new(offload), &batch(&mut script));
    }
});

/// The segments, if the packet can be cut.
fn cut(header: &VnetHeader, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut buffer = packet.to_vec();
    buffer.resize(packet.len() + ROOM, 0);
    let mut segments = Segments::of(header, &mut buffer, packet.len()).ok()?;
    let headers = headers(packet, header.csum_start.into());
    let mut payload = packet[headers..].chunks(header.gso_size.into());
    let (count, most, last) = (segments.count(), segments.segment_len(), segments.last_len());
    let mut cut = Vec::new();
    while let Some((segment, len)) = segments.next() {
        let (segment, behind) = segment.split_at_mut(len);
        behind.fill(0x5a);
        assert_eq!(len, if cut.len() + 1 == count { last } else { most });
        assert_eq!(&segment[headers..], payload.next().unwrap_or_default());
        assert_eq!(total(segment), len);
        if segment[0] >> 4 == 4 {
            let header = &segment[..usize::from(segment[0] & 15) * 4];
            let sum: u32 =
                header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff, "IPv4 checksum");
        }
        cut.push(segment.to_vec());
    }
    assert_eq!(cut.len(), count);
    assert_eq!(payload.next(), None, "payload is left");
    Some(cut)
}

fn join(coalescer: &mut Coalescer, packets: &[Vec<u8>]) {
    for packet in packets {
        coalescer.place(packet.len() + 16)[..packet.len()].copy_from_slice(packet);
        coalescer.push(packet.len());
    }
    let mut written = vec![false; packets.len()];
    // In the order in which they are written, each is the first that is left of those like it: packets that
    // are alike are of one flow, and none overtakes another one of its flow.
    while let Some(joined) = coalescer.poll() {
        let write = joined.parts().collect::<Vec<_>>().concat();
        let mut from = 0;
        let mut find = |is_it: &dyn Fn(&[u8]) -> bool| {
            let left = |&index: &usize| !written[index] && is_it(&packets[index]);
            let found =
                (from..packets.len()).find(left).expect("a packet that was not written yet");
            written[found] = true;
            from = found + 1;
        };
        if joined.packets() == 1 {
            assert_eq!(joined.header, VnetHeader::default());
            find(&|packet| packet == write);
            continue;
        }
        let cut = cut(&joined.header, &write).expect("what was joined can be cut");
        assert_eq!(cut.len(), joined.packets());
        for segment in cut {
            let segment = unchecked(&segment);
            find(&|packet| packet.len() == segment.len() && unchecked(packet) == segment);
        }
    }
    assert!(written.iter().all(|written| *written));
}

/// The packet without what may differ.
fn unchecked(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (protocol, transport) = if packet[0] >> 4 == 6 { (packet[6], 40) } else { (packet[9], 20) };
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        if packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
        }
    }
    let at = transport + if protocol == 17 { 6 } else { 16 };
    if let Some(checksum) = packet.get_mut(at..at + 2) {
        checksum.fill(0);
    }
    packet
}

/// Packets that go on where the one before ended, with a byte changed here and there, or new ones.
fn batch(script: &mut Script<'_>) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while !script.is_over() && packets.len() < 100 {
        let form = script.byte();
        let back = usize::from(form >> 4);
        let before = packets.len().checked_sub(1 + back).map(|index| packets[index].clone());
        let mut packet = match before {
            Some(mut packet) if form & 1 != 0 => {
                go_on(&mut packet);
                packet
            }
            _ => next_packet(script),
        };
        if form & 2 != 0 {
            let (at, byte) = (usize::from(script.byte()), script.byte());
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        if form & 4 != 0 {
            packet.truncate(packet.len().saturating_sub(script.byte().into()));
            put_length(&mut packet);
        }
        packets.push(packet);
    }
    packets
}

/// The sequence number and the identification of the packet after this one.
fn go_on(packet: &mut [u8]) {
    let transport = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 40 => 20,
        Some(6) if packet.len() >= 60 => 40,
        _ => return,
    };
    if transport == 20 {
        let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(1);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
    }
    if packet[if transport == 20 { 9 } else { 6 }] == 6 {
        let payload = packet.len().saturating_sub(headers(packet, transport));
        let place = &mut packet[transport + 4..transport + 8];
        let sequence = place.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        place.copy_from_slice(&sequence.wrapping_add(payload as u32).to_be_bytes());
    }
}

/// A packet whose first bytes are given, of any length, whose length fields may be right.
fn next_packet(script: &mut Script<'_>) -> Vec<u8> {
    let (form, len, given) = (script.byte(), script.word(), script.byte());
    let mut packet = script.bytes(given.into()).to_vec();
    packet.resize(usize::from(len) % 5000, form);
    if form & 1 != 0 {
        put_length(&mut packet);
    }
    packet
}

fn put_length(packet: &mut [u8]) {
    let len = packet.len() as u16;
    let put = |packet: &mut [u8], at: usize, length: u16| {
        if let Some(field) = packet.get_mut(at..at + 2) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    };
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            put(packet, 2, len);
            if packet.get(9) == Some(&17) {
                put(packet, 24, len.saturating_sub(20));
            }
        }
        Some(6) => {
            put(packet, 4, len.saturating_sub(40));
            if packet.get(6) == Some(&17) {
                put(packet, 44, len.saturating_sub(40));
            }
        }
        _ => {}
    }
}

/// Length by the IP header.
fn total(packet: &[u8]) -> usize {
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 { word(2) } else { 40 + word(4) }
}

/// Bytes of all headers, told by what stands at the transport header and the protocol.
fn headers(packet: &[u8], transport: usize) -> usize {
    let mut protocol = packet[if packet[0] >> 4 == 4 { 9 } else { 6 }];
    let mut at = 40;
    while packet[0] >> 4 == 6 && at < transport {
        protocol = packet[at];
        at += (usize::from(packet[at + 1]) + 1) * 8;
    }
    let length = if protocol == 17 { 8 } else { usize::from(packet[transport + 12] >> 4) * 4 };
    transport + length
}

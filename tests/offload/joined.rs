//! What is joined, what is not, and in which order it is written.

use fastrand::Rng;
use hushwire::offload::{Coalescer, Offload, VnetHeader};

use crate::inner::{ACK, CWR, FIN, Inner, PSH, SYN, UDP};
use crate::{cut, join};

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

/// How many packets there are in each write.
fn counts(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<usize> {
    join(coalescer, packets).into_iter().map(|(_, count, _)| count).collect()
}

/// Packets of 100 bytes of payload that can be joined.
fn streak(first: &Inner, count: usize) -> Vec<Inner> {
    let streak = (0..count).map(|index| Inner {
        id: first.id.wrapping_add(index as u16),
        sequence: first.sequence.wrapping_add(index as u32 * 100),
        payload: vec![index as u8; 100],
        ..first.clone()
    });
    streak.collect()
}

#[test]
fn a_packet_that_differs_in_its_headers_begins_anew_and_the_flow_goes_on_after_it() {
    type Change = (&'static str, fn(&mut Inner));
    let of_all: [Change; 3] = [
        ("congestion mark", |inner| inner.tos = 3),
        ("traffic class", |inner| inner.tos = 0x20),
        ("hops", |inner| inner.ttl -= 1),
    ];
    let of_tcp: [Change; 15] = [
        ("FIN", |inner| inner.flags |= FIN),
        ("SYN", |inner| inner.flags |= SYN),
        ("RST", |inner| inner.flags |= 0x04),
        ("URG", |inner| inner.flags |= 0x20),
        ("ECE", |inner| inner.flags |= 0x40),
        ("CWR", |inner| inner.flags |= CWR),
        ("no ACK", |inner| inner.flags = 0),
        ("acknowledgement", |inner| inner.ack += 1),
        ("window", |inner| inner.window += 1),
        ("timestamp", |inner| inner.tcp_options[7] += 1),
        ("more options", |inner| inner.tcp_options.extend([1; 4])),
        ("gap", |inner| inner.sequence += 1),
        ("sent again", |inner| inner.sequence -= 100),
        ("too long", |inner| inner.payload.push(0)),
        ("pure acknowledgement", |inner| inner.payload.clear()),
    ];
    let of_v4: [Change; 3] = [
        ("identification", |inner| inner.id += 7),
        ("DF", |inner| inner.dont_fragment = false),
        ("IP options", |inner| inner.ip_options = vec![1; 4]),
    ];
    let of_v6: [Change; 2] = [
        ("flow label", |inner| inner.label += 1),
        ("extension header", |inner| inner.extensions = vec![(60, vec![1, 4, 0, 0, 0, 0])]),
    ];
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut first = if udp { Inner::udp(v6, 0) } else { Inner::tcp(v6, 0) };
        first.id = 7;
        let mut changes = of_all.to_vec();
        changes.extend(if v6 { of_v6.as_slice() } else { &of_v4 });
        changes.extend(of_tcp.iter().filter(|_| !udp));
        for (what, change) in changes {
            let mut streak = streak(&first, 6);
            change(&mut streak[2]);
            let packets: Vec<_> = streak.iter().map(Inner::bytes).collect();
            let counts = counts(&mut coalescer, &packets);
            assert_eq!(counts, [2, 1, 3], "{what}, v6 {v6}, udp {udp}");
        }
    }
}

#[test]
fn a_shorter_packet_and_one_with_push_are_the_last_of_their_group() {
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    for v6 in [false, true] {
        let mut shorter = streak(&Inner::tcp(v6, 0), 5);
        shorter[1].payload.truncate(60);
        for later in &mut shorter[2..] {
            later.sequence = later.sequence.wrapping_sub(40);
        }
        let packets: Vec<_> = shorter.iter().map(Inner::bytes).collect();
        assert_eq!(counts(&mut coalescer, &packets), [2, 3]);

        let mut push = streak(&Inner::tcp(v6, 0), 5);
        push[0].flags |= PSH;
        push[2].flags |= PSH;
        let packets: Vec<_> = push.iter().map(Inner::bytes).collect();
        let joined = join(&mut coalescer, &packets);
        let flags =
            joined.iter().map(|(_, count, write)| (*count, write[if v6 { 40 } else { 20 } + 13]));
        assert_eq!(flags.collect::<Vec<_>>(), [(1, ACK | PSH), (2, ACK | PSH), (2, ACK)]);
    }
}

#[test]
fn flags_that_go_with_one_packet_are_not_joined_even_if_all_have_them() {
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    for v6 in [false, true] {
        // The last four are beside the data offset: AE of Accurate ECN, and what is reserved.
        for flag in [0x001, 0x002, 0x004, 0x020, 0x040, 0x080, 0x100, 0x200, 0x400, 0x800u16] {
            let packets = streak(&Inner::tcp(v6, 0), 3).into_iter().map(|inner| {
                let mut packet = inner.bytes();
                let at = inner.transport() + 12;
                packet[at] |= (flag >> 8) as u8;
                packet[at + 1] |= flag as u8;
                packet
            });
            let packets: Vec<_> = packets.collect();
            assert_eq!(counts(&mut coalescer, &packets), [1, 1, 1], "{flag:#x}, v6 {v6}");
        }
    }
}

#[test]
fn an_identification_that_stays_is_joined_only_where_it_means_nothing() {
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    for (dont_fragment, ids, expected) in [
        (true, [9, 9, 9, 9], vec![4]),
        (false, [9, 9, 9, 9], vec![1, 1, 1, 1]),
        (true, [9, 9, 10, 11], vec![2, 2]),
        (true, [9, 10, 10, 10], vec![2, 2]),
        (false, [0xfffe, 0xffff, 0, 1], vec![4]),
    ] {
        let mut streak = streak(&Inner::tcp(false, 0), 4);
        for (packet, id) in streak.iter_mut().zip(ids) {
            (packet.id, packet.dont_fragment) = (id, dont_fragment);
        }
        let packets: Vec<_> = streak.iter().map(Inner::bytes).collect();
        assert_eq!(counts(&mut coalescer, &packets), expected, "{ids:?}, DF {dont_fragment}");
    }
}

#[test]
fn a_write_is_no_longer_than_a_packet_can_be() {
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    for (v6, longest) in [(false, 65_535), (true, 65_535)] {
        let mut inner = Inner::tcp(v6, longest);
        inner.payload.truncate(longest - inner.headers());
        let mut packets = inner.cut(1380);
        let joined = join(&mut coalescer, &packets);
        assert_eq!((joined.len(), joined[0].2.len()), (1, longest));
        // One byte more, in the last and shortest.
        inner.payload.push(0);
        let longer = inner.payload.len() % 1380;
        inner.sequence = inner.sequence.wrapping_add((packets.len() as u32 - 1) * 1380);
        inner.id = inner.id.wrapping_add(packets.len() as u16 - 1);
        inner.payload.truncate(longer);
        *packets.last_mut().unwrap() = inner.bytes();
        assert_eq!(counts(&mut coalescer, &packets), [packets.len() - 1, 1]);
    }
}

/// Where the flows of a batch alternate, each packet is a part of its own.
#[test]
fn a_write_has_no_more_than_64_parts() {
    let first = Inner::tcp(false, 0);
    let second = Inner { ports: [40_001, 9094], ..first.clone() };
    let alternating = streak(&first, 100).into_iter().zip(streak(&second, 100));
    let packets: Vec<_> = alternating.flat_map(|(a, b)| [a.bytes(), b.bytes()]).collect();
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    assert_eq!(counts(&mut coalescer, &packets), [64, 64, 36, 36]);
    // In one piece they are one part.
    let packets: Vec<_> = streak(&first, 100).iter().map(Inner::bytes).collect();
    assert_eq!(counts(&mut coalescer, &packets), [100]);
}

#[test]
fn datagrams_are_joined_by_64_and_only_where_the_kernel_takes_them() {
    for v6 in [false, true] {
        let packets: Vec<_> = streak(&Inner::udp(v6, 0), 130).iter().map(Inner::bytes).collect();
        assert_eq!(counts(&mut Coalescer::new(Offload::TcpAndUdp), &packets), [64, 64, 2]);
        assert_eq!(counts(&mut Coalescer::new(Offload::Tcp), &packets), [1; 130]);
        // The longer one begins anew, and the next is the shorter one that may end it.
        let mut longer = streak(&Inner::udp(v6, 0), 6);
        longer[2].payload.push(0);
        let longer: Vec<_> = longer.iter().map(Inner::bytes).collect();
        assert_eq!(counts(&mut Coalescer::new(Offload::TcpAndUdp), &longer), [2, 2, 2]);
        // A datagram without a checksum would get one when it is cut again.
        let mut without = packets[..3].to_vec();
        let at = packets[0].len() - 102;
        without[1][at..at + 2].fill(0);
        assert_eq!(counts(&mut Coalescer::new(Offload::TcpAndUdp), &without), [1, 1, 1]);
    }
}

#[test]
fn each_of_64_interleaved_flows_is_joined() {
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    let flows = (0..64).map(|port| {
        let mut inner =
            [Inner::tcp(false, 0), Inner::tcp(true, 0), Inner::udp(true, 0)][port % 3].clone();
        inner.ports[0] = 40_000 + port as u16;
        streak(&inner, 4)
    });
    let flows: Vec<_> = flows.collect();
    let packets: Vec<_> =
        (0..4).flat_map(|turn| flows.iter().map(move |flow| flow[turn].bytes())).collect();
    assert_eq!(counts(&mut coalescer, &packets), [4; 64]);
    // More flows than have places: some begin anew, and all is there.
    let many = (0..2000u16).map(|port| {
        let mut inner = Inner::tcp(false, 10);
        inner.ports[0] = port % 1000;
        inner.bytes()
    });
    let many: Vec<_> = many.collect();
    assert_eq!(counts(&mut coalescer, &many).iter().sum::<usize>(), 2000);
}

#[test]
fn what_follows_without_a_gap_is_written_in_one_piece() {
    let other = Inner { from: 9, ..Inner::tcp(false, 100) };
    for v6 in [false, true] {
        for first in [Inner::tcp(v6, 0), Inner::udp(v6, 0)] {
            let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
            let mut packets: Vec<_> = streak(&first, 10).iter().map(Inner::bytes).collect();
            assert_eq!(pieces(&mut coalescer, &packets), [1]);
            // One of another flow has to be moved away; after it nobody knows what comes.
            packets.insert(4, other.bytes());
            assert_eq!(pieces(&mut coalescer, &packets), [3, 1]);
            packets.truncate(5);
            assert_eq!(pieces(&mut coalescer, &packets), [1, 1]);
        }
    }
}

/// In how many pieces each write is.
fn pieces(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<usize> {
    for packet in packets {
        coalescer.place(packet.len()).copy_from_slice(packet);
        coalescer.push(packet.len());
    }
    let mut pieces = Vec::new();
    while let Some(joined) = coalescer.poll() {
        pieces.push(joined.parts().len());
    }
    pieces
}

#[test]
fn a_packet_alone_is_written_as_it_is() {
    let mut coalescer = Coalescer::new(Offload::TcpAndUdp);
    assert_eq!(join(&mut coalescer, &[]), []);
    for packet in [Inner::tcp(false, 100).bytes(), Inner::udp(true, 9).bytes(), vec![0], vec![]] {
        let lone = (VnetHeader::default(), 1, packet.clone());
        assert_eq!(join(&mut coalescer, &[packet]), [lone]);
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

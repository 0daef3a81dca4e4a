//! What a stranger may send to an overlay address past the tunnel: every mix of protocol, shape, source and
//! way on the link, as frames.

use std::net::{IpAddr, Ipv6Addr};

use crate::support::capture::{ICMP, ICMPV6, UDP};
use crate::support::frames::marked;

const TCP: u8 = 6;
/// A frame with a priority and no VLAN (IEEE 802.1Q): Linux takes it as if it had no tag.
const TAG: [u8; 4] = [0x81, 0, 0xe0, 0];

/// One attempt.
pub(crate) struct Try {
    /// The frames; more than one only for fragments.
    pub(crate) frames: Vec<Vec<u8>>,
    /// What it is: a protocol, a shape, a source, a way on the link.
    pub(crate) labels: [String; 4],
}

/// Who is where.
pub(crate) struct Scene {
    /// Hardware addresses: of the stranger, of its target, and of a third machine.
    pub(crate) stranger_link: [u8; 6],
    pub(crate) target_link: [u8; 6],
    pub(crate) third_link: [u8; 6],
    /// The overlay address that is to be reached.
    pub(crate) target: IpAddr,
    /// The underlay address of the same machine.
    pub(crate) target_underlay: IpAddr,
    /// Sources, with what they are.
    pub(crate) sources: Vec<(&'static str, IpAddr)>,
}

/// Everything, numbered from `first` on.
pub(crate) fn all(scene: &Scene, first: u32) -> Vec<Try> {
    let family = if scene.target.is_ipv4() { "IPv4" } else { "IPv6" };
    let (stranger, target) = (&scene.stranger_link, &scene.target_link);
    let group: [u8; 6] =
        if scene.target.is_ipv4() { [1, 0, 0x5e, 0, 0, 1] } else { [0x33, 0x33, 0, 0, 0, 1] };
    let ether_type = if scene.target.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
    let ways = [
        ("to its hardware address", [&target[..], stranger, &ether_type].concat()),
        (
            "to its hardware address, tagged VLAN 0",
            [&target[..], stranger, &TAG, &ether_type].concat(),
        ),
        ("broadcast", [&[0xff; 6][..], stranger, &ether_type].concat()),
        ("multicast", [&group[..], stranger, &ether_type].concat()),
        (
            "to another machine's hardware address",
            [&scene.third_link[..], stranger, &ether_type].concat(),
        ),
    ];
    let shapes: &[Shape] = if scene.target.is_ipv4() { &V4_SHAPES } else { &V6_SHAPES };
    let mut tries = Vec::new();
    for (protocol, kind) in KINDS {
        for &(source, from) in &scene.sources {
            for (way, ethernet) in &ways {
                for (shape, make) in shapes {
                    let number = first + u32::try_from(tries.len()).expect("a few thousand");
                    let packets = make(&Inner::new(scene, from, kind, number));
                    let framed = |packet: Vec<u8>| [&ethernet[..], &packet].concat();
                    let frames = packets.into_iter().map(framed).collect();
                    let labels =
                        [protocol, shape, source, way].map(|word| format!("{family} {word}"));
                    tries.push(Try { frames, labels });
                }
            }
        }
    }
    tries
}

#[derive(Clone, Copy)]
enum Kind {
    Tcp { flags: u8, port: u16 },
    Udp { port: u16 },
    Echo,
    Error,
}

const KINDS: [(&str, Kind); 13] = [
    ("TCP SYN", Kind::Tcp { flags: 0x02, port: 9094 }),
    ("TCP SYN", Kind::Tcp { flags: 0x02, port: 9093 }),
    ("TCP, other flags", Kind::Tcp { flags: 0, port: 9094 }),
    ("TCP, other flags", Kind::Tcp { flags: 0x01, port: 9094 }),
    ("TCP, other flags", Kind::Tcp { flags: 0x04, port: 9094 }),
    ("TCP, other flags", Kind::Tcp { flags: 0x10, port: 9094 }),
    ("TCP, other flags", Kind::Tcp { flags: 0x12, port: 9094 }),
    ("TCP, other flags", Kind::Tcp { flags: 0x29, port: 9094 }),
    ("TCP, other flags", Kind::Tcp { flags: 0xff, port: 9094 }),
    ("UDP", Kind::Udp { port: 9094 }),
    ("UDP", Kind::Udp { port: 9093 }),
    ("ICMP echo", Kind::Echo),
    ("ICMP error", Kind::Error),
];

/// A transport's packet, and between whom.
struct Inner {
    from: IpAddr,
    to: IpAddr,
    underlay: IpAddr,
    protocol: u8,
    body: Vec<u8>,
    id: u16,
}

type Shape = (&'static str, fn(&Inner) -> Vec<Vec<u8>>);

const V4_SHAPES: [Shape; 8] = [
    ("whole", |inner| vec![inner.v4(inner.to, &[], 0)]),
    ("in two fragments", |inner| inner.v4_fragments(false)),
    ("in two fragments, the last first", |inner| inner.v4_fragments(true)),
    // RFC 791: record route, timestamp; RFC 2113: router alert. Each is padded by an end of options.
    ("option record route", |inner| vec![inner.v4(inner.to, &[7, 7, 4, 0, 0, 0, 0, 0], 0)]),
    ("option timestamp", |inner| vec![inner.v4(inner.to, &[68, 8, 5, 0, 0, 0, 0, 0], 0)]),
    ("option router alert", |inner| vec![inner.v4(inner.to, &[148, 4, 0, 0], 0)]),
    ("loose source route", |inner| vec![inner.source_routed(131)]),
    ("strict source route", |inner| vec![inner.source_routed(137)]),
];

/// Extension headers of 8 bytes (RFC 8200): the next header, no further words, and padding (option PadN).
const V6_SHAPES: [Shape; 9] = [
    ("whole", |inner| vec![inner.v6(inner.to, &[])]),
    ("in two fragments", |inner| inner.v6_fragments(false)),
    ("in two fragments, the last first", |inner| inner.v6_fragments(true)),
    ("one fragment that is all", |inner| {
        vec![inner.v6(inner.to, &[(44, fragment(0, false, inner.id))])]
    }),
    ("hop-by-hop options", |inner| vec![inner.v6(inner.to, &[(0, PADDING.to_vec())])]),
    ("destination options", |inner| vec![inner.v6(inner.to, &[(60, PADDING.to_vec())])]),
    ("both options", |inner| {
        vec![inner.v6(inner.to, &[(0, PADDING.to_vec()), (60, PADDING.to_vec())])]
    }),
    ("routing header type 0", |inner| vec![inner.routed(0)]),
    ("routing header type 2", |inner| vec![inner.routed(2)]),
];

const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

impl Inner {
    fn new(scene: &Scene, from: IpAddr, kind: Kind, number: u32) -> Self {
        let (to, underlay) = (scene.target, scene.target_underlay);
        let port = 1024 + (number % 60_000) as u16;
        let mark = marked(number);
        let v4 = to.is_ipv4();
        let (protocol, mut body, sum_at) = match kind {
            Kind::Tcp { flags, port: to } => {
                let head = [&port.to_be_bytes()[..], &to.to_be_bytes(), &number.to_be_bytes()];
                let rest = [0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0];
                (TCP, [&head.concat()[..], &rest, &mark].concat(), 16)
            }
            Kind::Udp { port: to } => {
                let len = 8 + mark.len() as u16;
                let head = [port, to, len, 0].map(u16::to_be_bytes).concat();
                (UDP, [head, mark].concat(), 6)
            }
            Kind::Echo => {
                let (protocol, kind) = if v4 { (ICMP, 8) } else { (ICMPV6, 128) };
                (protocol, [&[kind, 0, 0, 0, 0, 1, 0, 1][..], &mark].concat(), 2)
            }
            // Too big, about a datagram that the target is said to have sent to its peer.
            Kind::Error => {
                let (protocol, kind, code) = if v4 { (ICMP, 3, 4) } else { (ICMPV6, 2, 0) };
                let ports = [9094, 9094, 8 + mark.len() as u16, 0].map(u16::to_be_bytes).concat();
                let said = Self {
                    from: to,
                    to: scene.sources[1].1,
                    underlay,
                    protocol: UDP,
                    body: [ports, mark].concat(),
                    id: 1,
                };
                let said = if v4 { said.v4(said.to, &[], 0) } else { said.v6(said.to, &[]) };
                (protocol, [&[kind, code, 0, 0, 0, 0, 5, 0][..], &said].concat(), 2)
            }
        };
        let sum = if protocol == ICMP {
            checksum(&body)
        } else {
            let pseudo = [0, 0, 0, 0, 0, 0, 0, protocol];
            let length = (body.len() as u32).to_be_bytes();
            checksum(&[&bytes(from)[..], &bytes(to), &length, &pseudo, &body].concat())
        };
        body[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        Self { from, to, underlay, protocol, body, id: number as u16 }
    }

    fn v4(&self, to: IpAddr, options: &[u8], fragment: u16) -> Vec<u8> {
        self.v4_part(to, options, fragment, &self.body)
    }

    fn v4_part(&self, to: IpAddr, options: &[u8], fragment: u16, body: &[u8]) -> Vec<u8> {
        let header_len = 20 + options.len();
        let words = [(header_len + body.len()) as u16, self.id, fragment];
        let mut header = vec![0x40 | (header_len / 4) as u8, 0];
        header.extend(words.map(u16::to_be_bytes).concat());
        header.extend([64, self.protocol, 0, 0]);
        header.extend([bytes(self.from), bytes(to), options.to_vec()].concat());
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        [&header, body].concat()
    }

    fn v4_fragments(&self, last_first: bool) -> Vec<Vec<u8>> {
        let (head, tail) = self.body.split_at(8);
        let first = self.v4_part(self.to, &[], 0x2000, head);
        let last = self.v4_part(self.to, &[], 1, tail);
        if last_first { vec![last, first] } else { vec![first, last] }
    }

    /// To the underlay address, with the overlay address as the next and last stop (RFC 791, page 18).
    fn source_routed(&self, option: u8) -> Vec<u8> {
        let options = [&[option, 7, 4][..], &bytes(self.to), &[0]].concat();
        self.v4(self.underlay, &options, 0)
    }

    fn v6(&self, to: IpAddr, extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
        self.v6_part(to, extensions, &self.body)
    }

    fn v6_part(&self, to: IpAddr, extensions: &[(u8, Vec<u8>)], body: &[u8]) -> Vec<u8> {
        let mut rest = body.to_vec();
        let mut next = self.protocol;
        for (number, header) in extensions.iter().rev() {
            rest = [&[next], &header[1..], &rest].concat();
            next = *number;
        }
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((rest.len() as u16).to_be_bytes());
        packet.extend([next, 64]);
        [packet, bytes(self.from), bytes(to), rest].concat()
    }

    fn v6_fragments(&self, last_first: bool) -> Vec<Vec<u8>> {
        let (head, tail) = self.body.split_at(8);
        let part = |offset, more, body| {
            self.v6_part(self.to, &[(44, fragment(offset, more, self.id))], body)
        };
        let (first, last) = (part(0, true, head), part(1, false, tail));
        if last_first { vec![last, first] } else { vec![first, last] }
    }

    fn routed(&self, kind: u8) -> Vec<u8> {
        let header = [&[0, 2, kind, 1, 0, 0, 0, 0][..], &bytes(self.to)].concat();
        self.v6(self.underlay, &[(43, header)])
    }
}

fn fragment(offset: u16, more: bool, id: u16) -> Vec<u8> {
    let place = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[0, 0][..], &place, &u32::from(id).to_be_bytes()].concat()
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(data: &[u8]) -> u16 {
    let words = data
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| low.into()));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A datagram from the peer's gossip port to the target's, as if it had come by the tunnel.
pub(crate) fn forge(scene: &Scene) -> Vec<u8> {
    let from = scene.sources[1].1;
    // Its number makes the source port.
    let inner = Inner::new(scene, from, Kind::Udp { port: 9094 }, 9094 - 1024);
    let v4 = from.is_ipv4();
    let ether_type = if v4 { [8, 0] } else { [0x86, 0xdd] };
    let packet = if v4 { inner.v4(inner.to, &[], 0) } else { inner.v6(inner.to, &[]) };
    [&scene.target_link[..], &scene.stranger_link, &ether_type, &packet].concat()
}

/// The question for the owner of an address on the link: ARP (RFC 826), or a neighbour solicitation
/// (RFC 4861) to everybody.
pub(crate) fn who_has(scene: &Scene, from: IpAddr) -> Vec<u8> {
    let link = &scene.stranger_link;
    match scene.target {
        IpAddr::V4(target) => {
            let head = [&[0xff; 6][..], link, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], link].concat();
            [&head[..], &bytes(from), &[0; 6], &target.octets()].concat()
        }
        IpAddr::V6(target) => {
            let mut inner = Inner::new(scene, from, Kind::Echo, 0);
            let everybody = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
            inner.to = everybody;
            inner.body =
                [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], link].concat();
            let length = (inner.body.len() as u32).to_be_bytes();
            let sum = checksum(
                &[&bytes(from)[..], &bytes(everybody), &length, &[0, 0, 0, ICMPV6], &inner.body]
                    .concat(),
            );
            inner.body[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut packet = inner.v6(everybody, &[]);
            packet[7] = 255;
            [&[0x33, 0x33, 0, 0, 0, 1][..], link, &[0x86, 0xdd], &packet].concat()
        }
    }
}

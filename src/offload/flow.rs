//! What the coalescer has to know of a packet, read from its headers once.
//!
//! Ports and sequence numbers are a peer's: nothing is trusted but the length of the slice. A packet
//! whose flow cannot be told, though it may be one of TCP or UDP, is a [`Class::Barrier`].

use super::{PSH, TCP, UDP};

/// What a packet means to the flows that are being joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Belongs to no flow that is joined: ICMP, or UDP where it is not allowed.
    Aside,
    /// May belong to any: a fragment, IPv4 options, IPv6 extension headers, or a header cut short.
    Barrier,
    Segment(Segment),
}

/// Both ends of a TCP connection or of an exchange of UDP datagrams, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    addresses: [u64; 4],
    ports: u32,
    v6: bool,
    udp: bool,
}

/// One whole packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) flow: Flow,
    /// Bytes of the IP header and of all headers.
    pub(super) transport: usize,
    pub(super) headers: usize,
    pub(super) payload: usize,
    /// All fields that packets must have in common, and that are not in the flow.
    pub(super) alike: [u64; 2],
    pub(super) sequence: u32,
    /// The identification of IPv4.
    pub(super) id: Option<u16>,
    /// Routers must not fragment it, and so its identification means nothing (RFC 6864 section 4.1).
    pub(super) atomic: bool,
    pub(super) joins: Joins,
}

/// Where in a group the packet may stand, from what it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joins {
    /// No payload, no checksum, or flags that go with one packet alone.
    Nowhere,
    /// PSH: the receiver is to hand over what it has.
    Last,
    Anywhere,
}

/// Whether two packets may be of one flow, so that neither may overtake the other.
pub fn same_flow(one: &[u8], other: &[u8]) -> bool {
    match (Class::of(one, true), Class::of(other, true)) {
        (Class::Segment(one), Class::Segment(other)) => one.flow == other.flow,
        (Class::Barrier, _) | (_, Class::Barrier) => true,
        (Class::Aside, _) | (_, Class::Aside) => false,
    }
}

impl Class {
    pub(super) fn of(packet: &[u8], udp: bool) -> Self {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::v4(packet, udp),
            Some(6) => Self::v6(packet, udp),
            _ => Class::Aside,
        }
    }

    fn v4(packet: &[u8], udp: bool) -> Self {
        let Some((header, rest)) = packet.split_first_chunk::<20>() else {
            return Class::Aside;
        };
        let [first, tos, a, b, c, d, e, f, ttl, protocol, ..] = *header;
        if !(protocol == TCP || protocol == UDP && udp) {
            return Class::Aside;
        }
        let flags = u16::from_be_bytes([e, f]);
        let total = usize::from(u16::from_be_bytes([a, b]));
        if first != 0x45 || flags & 0x3fff != 0 || total != packet.len() {
            return Class::Barrier;
        }
        let addresses = [word(header, 12), 0, 0, 0];
        let alike = u64::from(tos) << 48 | u64::from(flags) << 32 | u64::from(ttl);
        let id = u16::from_be_bytes([c, d]);
        let ip = Ip { transport: 20, addresses, alike, id: Some(id), atomic: flags & DF != 0 };
        ip.with(protocol, rest)
    }

    fn v6(packet: &[u8], udp: bool) -> Self {
        let Some((header, rest)) = packet.split_first_chunk::<40>() else {
            return Class::Aside;
        };
        let [a, b, c, d, e, f, next, hops, ..] = *header;
        match next {
            TCP => {}
            UDP if udp => {}
            UDP | ICMPV6 => return Class::Aside,
            _ => return Class::Barrier,
        }
        if usize::from(u16::from_be_bytes([e, f])) != rest.len() {
            return Class::Barrier;
        }
        let addresses = [word(header, 8), word(header, 16), word(header, 24), word(header, 32)];
        let class_and_label = u32::from_be_bytes([a, b, c, d]);
        let alike = u64::from(class_and_label) << 32 | u64::from(hops);
        let ip = Ip { transport: 40, addresses, alike, id: None, atomic: false };
        ip.with(next, rest)
    }
}

/// What the IP header had to say.
struct Ip {
    transport: usize,
    addresses: [u64; 4],
    alike: u64,
    id: Option<u16>,
    atomic: bool,
}

/// What the TCP or UDP header has to say beyond that.
struct Transport {
    ports: [u8; 4],
    header: usize,
    payload: usize,
    alike: [u64; 2],
    sequence: u32,
    joins: Joins,
}

impl Ip {
    fn with(self, protocol: u8, rest: &[u8]) -> Class {
        let udp = protocol == UDP;
        let read = if udp { Transport::udp(rest) } else { Transport::tcp(rest) };
        let Some(Transport { ports, header, payload, alike: [a, b], sequence, joins }) = read
        else {
            return Class::Barrier;
        };
        let ports = u32::from_be_bytes(ports);
        let flow = Flow { addresses: self.addresses, ports, v6: self.id.is_none(), udp };
        Class::Segment(Segment {
            flow,
            transport: self.transport,
            headers: self.transport + header,
            payload,
            alike: [self.alike | a, b],
            sequence,
            id: self.id,
            atomic: self.atomic,
            joins,
        })
    }
}

impl Transport {
    fn tcp(rest: &[u8]) -> Option<Self> {
        let fields: &[u8; 20] = rest.first_chunk()?;
        let [a, b, c, d, e, f, g, h, _, _, _, _, offset, flags, _, _, _, _, i, j] = *fields;
        let header = usize::from(offset >> 4) * 4;
        let payload = rest.len().checked_sub(header).filter(|_| header >= 20)?;
        // The four bits beside the data offset are flags as well.
        let joins = match u16::from_be_bytes([offset & 0x0f, flags]) {
            _ if payload == 0 => Joins::Nowhere,
            ACK => Joins::Anywhere,
            ACK_PSH => Joins::Last,
            _ => Joins::Nowhere,
        };
        // The urgent pointer beside what the IP header left free; then acknowledgement, data offset,
        // flags and window, as the kernel compares them (tcp_gro_receive() in net/ipv4/tcp_offload.c).
        let alike = [u64::from(u16::from_be_bytes([i, j])) << 8, word(fields, 8) & !PSH_IN_WORD];
        let sequence = u32::from_be_bytes([e, f, g, h]);
        Some(Self { ports: [a, b, c, d], header, payload, alike, sequence, joins })
    }

    fn udp(rest: &[u8]) -> Option<Self> {
        let (fields, payload) = rest.split_first_chunk::<8>()?;
        let [a, b, c, d, e, f, checksum @ ..] = *fields;
        if usize::from(u16::from_be_bytes([e, f])) != rest.len() {
            return None;
        }
        // Joined datagrams get their checksums anew when they are cut apart: one that has none must not
        // gain one.
        let nowhere = checksum == [0, 0] || payload.is_empty();
        Some(Self {
            ports: [a, b, c, d],
            header: 8,
            payload: payload.len(),
            alike: [0, 0],
            sequence: 0,
            joins: if nowhere { Joins::Nowhere } else { Joins::Anywhere },
        })
    }
}

impl Flow {
    /// Spreads flows over a table: each word is mixed in as by the finisher of MurmurHash3. Whoever can
    /// choose addresses and ports has a key to the overlay, and collisions cost no more than writes.
    pub(super) fn hash(&self) -> usize {
        let mixed = self.addresses.iter().fold(u64::from(self.ports), |mixed, word| {
            let mixed = (mixed ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
            mixed ^ mixed >> 33
        });
        mixed as usize
    }

    pub(super) fn is_udp(&self) -> bool {
        self.udp
    }

    pub(super) fn is_v6(&self) -> bool {
        self.v6
    }
}

/// Eight bytes of a header as one number.
fn word(header: &[u8], at: usize) -> u64 {
    header
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

const ICMPV6: u8 = 58;
const DF: u16 = 0x4000;
const ACK: u16 = 0x10;
const ACK_PSH: u16 = ACK | PSH as u16;
/// PSH in the word of the TCP header that begins with the acknowledgement.
const PSH_IN_WORD: u64 = (PSH as u64) << 16;

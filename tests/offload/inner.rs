//! Inner packets for the offload tests, and a reference for what is done to them: written after the RFCs,
//! byte by byte, with no thought of speed and nothing from the crate.

use std::ops::Range;

use fastrand::Rng;
use hushwire::offload::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// What the headers of a packet say.
#[derive(Clone, Debug)]
pub(crate) struct Inner {
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
    /// The last byte of either address: the rest is the same for all.
    pub(crate) from: u8,
    pub(crate) to: u8,
    pub(crate) ports: [u16; 2],
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) label: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) id: u16,
    /// IPv4 options, a multiple of 4 bytes.
    pub(crate) ip_options: Vec<u8>,
    /// IPv6 extension headers: number and content behind next header and length.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) sequence: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) payload: Vec<u8>,
}

impl Inner {
    pub(crate) fn tcp(v6: bool, payload: usize) -> Self {
        Self {
            v6,
            protocol: TCP,
            from: 1,
            to: 2,
            ports: [40_000, 9094],
            tos: 0,
            ttl: 64,
            label: 0x1234,
            dont_fragment: true,
            id: 0xfffe,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            tcp_options: vec![1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4],
            sequence: 0xffff_fc00,
            ack: 77,
            flags: ACK,
            window: 501,
            payload: (0..payload).map(|n| (n * 7 + n / 251) as u8).collect(),
        }
    }

    pub(crate) fn udp(v6: bool, payload: usize) -> Self {
        Self { protocol: UDP, ..Self::tcp(v6, payload) }
    }

    /// Anything that a kernel may hand over to be cut.
    pub(crate) fn any(random: &mut Rng) -> Self {
        let (v6, udp) = (random.bool(), random.bool());
        let mut inner = if udp { Self::udp(v6, 0) } else { Self::tcp(v6, 0) };
        inner.from = random.u8(..);
        inner.ports = [random.u16(..), random.u16(..)];
        (inner.tos, inner.ttl, inner.label) = (random.u8(..), random.u8(..), random.u16(..));
        (inner.dont_fragment, inner.id) = (random.bool(), random.u16(..));
        (inner.sequence, inner.ack) = (random.u32(..), random.u32(..));
        (inner.flags, inner.window) = (random.u8(..), random.u16(..));
        inner.tcp_options = bytes(random, 0..11, 4);
        if random.u8(..4) == 0 {
            inner.ip_options = bytes(random, 0..11, 4);
            for _ in 0..random.usize(0..3) {
                let number = [0, 60, 43][random.usize(..3)];
                let length = random.usize(0..4) * 8 + 6;
                let mut content: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                // Of a routing header the segments that are left: none.
                content[1] = 0;
                inner.extensions.push((number, content));
            }
        }
        let most = 65_535 - inner.headers() + if v6 { 40 } else { 0 };
        let length = [random.usize(0..=200), random.usize(0..=3000), random.usize(0..=most)];
        inner.payload = (0..length[random.usize(..3)]).map(|_| random.u8(..)).collect();
        inner
    }

    /// Where the TCP or UDP header begins.
    pub(crate) fn transport(&self) -> usize {
        if self.v6 {
            40 + self.extensions.iter().map(|(_, content)| content.len() + 2).sum::<usize>()
        } else {
            20 + self.ip_options.len()
        }
    }

    pub(crate) fn headers(&self) -> usize {
        self.transport() + if self.protocol == UDP { 8 } else { 20 + self.tcp_options.len() }
    }

    /// The packet as it goes over the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (mut packet, at) = self.without_checksum();
        let sum = self.pseudo_sum(&packet) + sum(&packet[self.transport()..]);
        put(&mut packet, at, not_zero(!fold(sum), self.protocol));
        packet
    }

    /// The packet as the kernel hands it over with a partial checksum, and what it says of it.
    pub(crate) fn large(&self, gso_size: u16) -> (VnetHeader, Vec<u8>) {
        let (mut packet, at) = self.without_checksum();
        let partial = fold(self.pseudo_sum(&packet));
        put(&mut packet, at, partial);
        let gso_type = match (self.protocol, self.v6) {
            (UDP, _) => GSO_UDP_L4,
            (_, true) => GSO_TCPV6,
            (_, false) => GSO_TCPV4,
        };
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: self.headers() as u16,
            gso_size,
            csum_start: self.transport() as u16,
            csum_offset: (at - self.transport()) as u16,
        };
        (header, packet)
    }

    /// The packets that the large one has to be cut into.
    pub(crate) fn cut(&self, gso_size: u16) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = match self.payload.as_slice() {
            [] => vec![&[]],
            payload => payload.chunks(gso_size.into()).collect(),
        };
        let last = chunks.len() - 1;
        let mut begin = 0;
        let cut = chunks.iter().enumerate().map(|(index, chunk)| {
            let mut segment = self.clone();
            segment.payload = chunk.to_vec();
            segment.id = self.id.wrapping_add(index as u16);
            segment.sequence = self.sequence.wrapping_add(begin);
            begin += chunk.len() as u32;
            if index > 0 {
                segment.flags &= !CWR;
            }
            if index < last {
                segment.flags &= !(FIN | PSH);
            }
            segment.bytes()
        });
        cut.collect()
    }

    fn without_checksum(&self) -> (Vec<u8>, usize) {
        let mut transport = Vec::new();
        transport.extend(self.ports.iter().flat_map(|port| port.to_be_bytes()));
        let checksum_at = if self.protocol == UDP {
            transport.extend((8 + self.payload.len() as u16).to_be_bytes());
            transport.extend([0; 2]);
            6
        } else {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(self.ack.to_be_bytes());
            transport.extend([((20 + self.tcp_options.len()) / 4 * 16) as u8, self.flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0; 4]);
            transport.extend(&self.tcp_options);
            16
        };
        transport.extend(&self.payload);

        let mut packet = Vec::new();
        let total = self.transport() + transport.len();
        if self.v6 {
            let next = self.extensions.first().map_or(self.protocol, |(number, _)| *number);
            packet.extend([0x60 | self.tos >> 4, self.tos << 4]);
            packet.extend(self.label.to_be_bytes());
            packet.extend(((total - 40) as u16).to_be_bytes());
            packet.extend([next, self.ttl]);
            packet.extend(address(true, self.from));
            packet.extend(address(true, self.to));
            for (index, (_, content)) in self.extensions.iter().enumerate() {
                let next = self.extensions.get(index + 1).map_or(self.protocol, |next| next.0);
                packet.extend([next, (content.len() / 8) as u8]);
                packet.extend(content);
            }
        } else {
            packet.extend([0x40 | (self.transport() / 4) as u8, self.tos]);
            packet.extend((total as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, self.protocol]);
            packet.extend([0; 2]);
            packet.extend(address(false, self.from));
            packet.extend(address(false, self.to));
            packet.extend(&self.ip_options);
            let checksum = !fold(sum(&packet));
            put(&mut packet, 10, checksum);
        }
        assert_eq!(packet.len(), self.transport());
        packet.extend(transport);
        (packet, self.transport() + checksum_at)
    }

    fn pseudo_sum(&self, packet: &[u8]) -> u64 {
        let mut header = address(self.v6, self.from);
        header.extend(address(self.v6, self.to));
        header.extend([0, self.protocol]);
        sum(&header) + (packet.len() - self.transport()) as u64
    }
}

/// The sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes
        .chunks(2)
        .map(|word| u64::from(word[0]) * 256 + u64::from(word.get(1).copied().unwrap_or_default()));
    words.sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// RFC 768: what is computed as zero goes as all ones.
fn not_zero(checksum: u16, protocol: u8) -> u16 {
    if checksum == 0 && protocol == UDP { 0xffff } else { checksum }
}

fn address(v6: bool, last: u8) -> Vec<u8> {
    if v6 {
        vec![0xfd, 0x6f, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xee, 0xdd, 0xcc, last]
    } else {
        vec![10, 99, 200, last]
    }
}

fn bytes(random: &mut Rng, count: Range<usize>, of: usize) -> Vec<u8> {
    (0..random.usize(count) * of).map(|_| random.u8(..)).collect()
}

fn put(packet: &mut [u8], at: usize, number: u16) {
    packet[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

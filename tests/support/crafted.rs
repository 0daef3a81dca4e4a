//! Packets that try a filter: every set of TCP flags, options, extension headers, fragments, quotations. Each
//! group says what it is and how many of it may pass a filter that allows tcp/9094, udp/9094 and icmp.
//! Checksums are right, so that a real stack takes what gets through.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::net::IpAddr;

pub const GOSSIP: u16 = 9094;
pub const WEB: u16 = 9093;
const EPHEMERAL: u16 = 40_000;

const TCP: u8 = 6;
const UDP: u8 = 17;
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

/// Packets of one kind.
pub struct Group {
    pub what: &'static str,
    /// Attempts; those of several packets are sent in order.
    pub attempts: Vec<Vec<Vec<u8>>>,
    /// How many packets may pass.
    pub passing: usize,
}

/// The two ends of what is sent.
#[derive(Clone, Copy)]
pub struct Ends {
    pub from: IpAddr,
    pub to: IpAddr,
}

impl Ends {
    pub fn new(from: &str, to: &str) -> Self {
        let address = |text: &str| text.parse().expect("an address");
        Self { from: address(from), to: address(to) }
    }

    /// An echo request.
    pub fn ping(self, number: u16) -> Vec<u8> {
        self.echo(if self.is_v4() { 8 } else { 128 }, number)
    }

    /// An echo reply.
    pub fn pong(self, number: u16) -> Vec<u8> {
        self.echo(if self.is_v4() { 0 } else { 129 }, number)
    }

    fn echo(self, kind: u8, number: u16) -> Vec<u8> {
        let [high, low] = number.to_be_bytes();
        let protocol = if self.is_v4() { 1 } else { 58 };
        self.packet(protocol, &self.summed(protocol, vec![kind, 0, 0, 0, 0, 1, high, low]))
    }

    pub fn back(self) -> Self {
        Self { from: self.to, to: self.from }
    }

    fn is_v4(self) -> bool {
        self.from.is_ipv4()
    }

    /// All groups of one family.
    pub fn groups(self) -> Vec<Group> {
        let mut groups = self.tcp();
        groups.extend(self.udp());
        groups.extend(self.icmp());
        groups.extend(self.fragments());
        groups.extend(if self.is_v4() { self.options() } else { self.extensions() });
        groups.extend(self.others());
        groups
    }

    fn tcp(self) -> Vec<Group> {
        let flags = |source, destination| {
            single((0..=255).map(|flags| self.segment(source, destination, flags, 0)))
        };
        // All data offsets, the ones that cannot be as well.
        let offsets = |destination| {
            single((0..16).map(|offset| {
                let mut segment = segment(GOSSIP, destination, SYN, &[1; 40]);
                segment[12] = offset << 4;
                self.packet(TCP, &self.summed(TCP, segment))
            }))
        };
        let ports = (0..=u16::MAX).step_by(61).filter(|port| *port != GOSSIP);
        let ports = single(ports.map(|port| self.segment(GOSSIP, port, SYN, 0)));
        vec![
            group("tcp, all flags, to 9094", 256, flags(EPHEMERAL, GOSSIP)),
            group("tcp, all flags, to 9093", 0, flags(EPHEMERAL, WEB)),
            group("tcp, all flags, from 9094 to 9093", 112, flags(GOSSIP, WEB)),
            group("tcp, all flags, from 9093 to 40000", 0, flags(WEB, EPHEMERAL)),
            group("tcp, data offsets, to 9094", 16, offsets(GOSSIP)),
            group("tcp, data offsets, to 9093", 0, offsets(WEB)),
            group("tcp, SYN from 9094 to other ports", 0, ports),
        ]
    }

    fn udp(self) -> Vec<Group> {
        let ports = |source: u16| {
            let others = (0..=u16::MAX).step_by(61).filter(|port| *port != GOSSIP);
            single(others.map(move |port| self.datagram(source, port)))
        };
        let sources = (1..=u16::MAX).step_by(997);
        let sources = single(sources.map(|source| self.datagram(source, GOSSIP)));
        vec![
            group("udp, from any port to 9094", sources.len(), sources),
            group("udp, from 9094 to other ports", 0, ports(GOSSIP)),
            group("udp, from 53 to other ports", 0, ports(53)),
        ]
    }

    fn icmp(self) -> Vec<Group> {
        let (protocol, errors) =
            if self.is_v4() { (1, &[3, 11, 12][..]) } else { (58, &[1, 2, 3, 4][..]) };
        let message = |kind: u8, rest: &[u8]| {
            let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0];
            message.extend(rest);
            self.packet(protocol, &self.summed(protocol, message))
        };
        let about = |quoted: &[u8]| single(errors.iter().map(|kind| message(*kind, quoted)));
        let back = self.back();
        let kinds = (0..=255).filter(|kind| !errors.contains(kind));
        let kinds = single(kinds.map(|kind| message(kind, &[0; 56])));
        let stranger = Ends { from: back.from, to: other(self.from) };
        let not_ours = Ends { from: other(self.to), to: back.to };
        let gossip = back.segment(EPHEMERAL, GOSSIP, SYN, 0);
        let cut = single((0..gossip.len()).map(|length| message(errors[0], &gossip[..length])));
        // The ports are there, and not all of the rest.
        let readable = gossip.len() - if self.is_v4() { 28 } else { 48 };
        let mut quoting_error = vec![errors[0], 0, 0, 0, 0, 0, 0, 0];
        quoting_error.extend(&gossip);
        let nested = back.packet(protocol, &back.summed(protocol, quoting_error));
        let mut later = back.pieces(7, UDP, &back.datagram_bytes(EPHEMERAL, GOSSIP, 64), &[16]);
        let fragments = errors.len();
        let echoes = [back.ping(1), back.pong(1)];
        vec![
            group("icmp, all types but errors", 2, kinds),
            group("icmp, error about tcp to 9094", errors.len(), about(&gossip)),
            group(
                "icmp, error about tcp from 9094",
                errors.len(),
                about(&back.segment(GOSSIP, EPHEMERAL, ACK, 0)),
            ),
            group(
                "icmp, error about udp to 9094",
                errors.len(),
                about(&back.datagram(GOSSIP, GOSSIP)),
            ),
            group(
                "icmp, error about ping",
                2 * errors.len(),
                echoes.iter().flat_map(|echo| about(echo)).collect(),
            ),
            group("icmp, error about a first fragment", fragments, about(&later[0])),
            group("icmp, error about a later fragment", 0, about(&later.remove(1))),
            group("icmp, error about tcp to 9093", 0, about(&back.segment(EPHEMERAL, WEB, SYN, 0))),
            group("icmp, error about udp to 53", 0, about(&back.datagram(EPHEMERAL, 53))),
            group(
                "icmp, error about what went to others",
                0,
                about(&stranger.segment(EPHEMERAL, GOSSIP, SYN, 0)),
            ),
            group(
                "icmp, error about what others sent",
                0,
                about(&not_ours.segment(EPHEMERAL, GOSSIP, SYN, 0)),
            ),
            group("icmp, error about an error", 0, about(&nested)),
            group("icmp, error with a quotation cut short", readable, cut),
        ]
    }

    fn fragments(self) -> Vec<Group> {
        let syn = |port| self.summed(TCP, segment(GOSSIP, port, SYN, &[0; 44]));
        let datagram = |port| self.datagram_bytes(EPHEMERAL, port, 92);
        let (mut tiny, mut overlapping, mut lone, mut second, mut good) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut id = 100;
        for first in [8, 16] {
            for port in [GOSSIP, WEB] {
                id += 1;
                tiny.push(self.pieces(id, TCP, &syn(port), &[first]));
            }
        }
        for (protocol, gossip, web) in
            [(TCP, syn(GOSSIP), syn(WEB)), (UDP, datagram(GOSSIP), datagram(WEB))]
        {
            for first in (24..gossip.len()).step_by(8) {
                id += 10;
                good.push(self.pieces(id, protocol, &gossip, &[first]));
                // A whole datagram to the other port, over the first fragment from every place on.
                for from in (0..first).step_by(8) {
                    id += 10;
                    let begin = self.piece(id, protocol, &gossip[..first], 0, true);
                    let over = self.piece(id, protocol, &web[from..], from, false);
                    overlapping.push(vec![begin, over]);
                }
                id += 10;
                lone.push(self.pieces(id, protocol, &web, &[first]).split_off(1));
                // In the wrong order, and a first one to the other port that comes later.
                id += 10;
                let mut pieces = self.pieces(id, protocol, &web, &[first]);
                pieces.reverse();
                lone.push(pieces);
                let id = id + 1;
                second.push(vec![
                    self.piece(id, protocol, &gossip[..first], 0, true),
                    self.piece(id, protocol, &web[..first], 0, true),
                    self.piece(id, protocol, &web[first..], first, false),
                ]);
            }
        }
        let count = |attempts: &[Vec<Vec<u8>>]| attempts.len();
        let (goods, overlaps, seconds) = (count(&good), count(&overlapping), count(&second));
        vec![
            group("fragments, to 9094", 2 * goods, good),
            group("fragments, first without ports or flags", 0, tiny),
            group("fragments, overlapping the first", overlaps, overlapping),
            group("fragments, without a first", 0, lone),
            group("fragments, second first to 9093", 2 * seconds, second),
        ]
    }

    /// IPv4: what stands before the ports looks like ports.
    fn options(self) -> Vec<Group> {
        let with = |port| {
            let all = (1..=10).flat_map(move |words: usize| {
                [0x01, 0x00, 0x07, 0x44, 0x82, 0x83, 0x89, 0x94].map(move |kind| {
                    let mut options = vec![0; words * 4];
                    options[0] = kind;
                    if kind > 1 {
                        options[1] = (words * 4) as u8;
                    }
                    options[2..4].copy_from_slice(&GOSSIP.to_be_bytes());
                    let segment = self.summed(TCP, segment(GOSSIP, port, SYN, &[]));
                    self.v4(TCP, &options, 0x4000, 1, &segment)
                })
            });
            single(all)
        };
        let short = single((0..5).map(|words| {
            let mut packet = self.segment(GOSSIP, WEB, SYN, 0);
            packet[0] = 0x40 | words;
            // Where a header of this length would end stand other ports.
            packet
        }));
        let long = single((6..16).map(|words| {
            let mut packet = self.segment(GOSSIP, WEB, SYN, 0);
            packet[0] = 0x40 | words;
            packet
        }));
        vec![
            group("options, SYN to 9094", 80, with(GOSSIP)),
            group("options, SYN to 9093", 0, with(WEB)),
            group("options, header shorter than it can be", 0, short),
            group("options, header longer than the packet", 0, long),
        ]
    }

    /// IPv6: chains of up to three extension headers, and those that nobody may follow.
    fn extensions(self) -> Vec<Group> {
        let kinds = [0, 43, 60, 44];
        let mut chains = vec![vec![]];
        for kind in kinds {
            chains.push(vec![kind]);
            for second in kinds {
                chains.push(vec![kind, second]);
                chains.extend(kinds.map(|third| vec![kind, second, third]));
            }
        }
        let with = |port, lengths: &[u8]| {
            let segment = self.summed(TCP, segment(GOSSIP, port, SYN, &[]));
            let all =
                chains.iter().flat_map(|chain| lengths.iter().map(move |length| (chain, *length)));
            single(all.map(|(chain, length)| self.chain(chain, length, TCP, &segment)))
        };
        let syn = self.summed(TCP, segment(GOSSIP, GOSSIP, SYN, &[]));
        let unknown = (0..=255).filter(|kind| ![0, 6, 17, 43, 44, 58, 60].contains(kind));
        let unknown = single(unknown.map(|kind| self.chain(&[60], 0, kind, &syn)));
        let mut onward = Vec::new();
        for (kind, left) in [(0, 1), (2, 1), (3, 1), (4, 1), (4, 255)] {
            let mut packet = self.chain(&[43], 1, TCP, &syn);
            (packet[42], packet[43]) = (kind, left);
            onward.push(vec![packet]);
        }
        let mut lying = Vec::new();
        for length in 1..=255u8 {
            let mut packet =
                self.chain(&[60], 0, TCP, &self.summed(TCP, segment(GOSSIP, WEB, SYN, &[])));
            packet[41] = length;
            lying.push(vec![packet]);
        }
        let deep = single((8..40).map(|count| self.chain(&vec![60; count], 0, TCP, &syn)));
        let hidden = self.datagram_bytes(EPHEMERAL, WEB, 40);
        // The second header says what the pieces are once they are put together.
        let nested = single((0..8).map(|id| {
            let mut header = vec![UDP, 0, 0, 1, 0, 0, 0, id];
            header.extend(&hidden);
            self.piece(1000 + u32::from(id), 44, &header, 0, true)
        }));
        vec![
            group("extension headers, SYN to 9094", 2 * chains.len(), with(GOSSIP, &[0, 3])),
            group("extension headers, SYN to 9093", 0, with(WEB, &[0, 3])),
            group("extension headers, that go on elsewhere", 0, onward),
            group("extension headers, length that lies", 0, lying),
            group("extension headers, too many", 0, deep),
            group("extension headers, before no transport", 0, unknown),
            group("extension headers, fragments of fragments", 0, nested),
        ]
    }

    fn others(self) -> Vec<Group> {
        let syn = self.summed(TCP, segment(GOSSIP, GOSSIP, SYN, &[]));
        let known = if self.is_v4() { &[1, 6, 17][..] } else { &[0, 6, 17, 43, 44, 58, 60] };
        let protocols = (0..=255).filter(|protocol| !known.contains(protocol));
        let protocols = single(protocols.map(|protocol| self.packet(protocol, &syn)));
        let cut = |port| {
            let whole = self.summed(TCP, segment(EPHEMERAL, port, SYN, &[]));
            single((0..whole.len()).map(|length| self.packet(TCP, &whole[..length])))
        };
        let short = |port| {
            let whole = self.datagram_bytes(EPHEMERAL, port, 0);
            single((0..whole.len()).map(|length| self.packet(UDP, &whole[..length])))
        };
        vec![
            group("other protocols", 0, protocols),
            group("tcp to 9094, cut short", 0, cut(GOSSIP)),
            group("udp to 9094, cut short", 0, short(GOSSIP)),
        ]
    }

    /// A TCP segment with some payload.
    pub fn segment(self, source: u16, destination: u16, flags: u8, payload: usize) -> Vec<u8> {
        let segment = segment(source, destination, flags, &vec![0x55; payload]);
        self.packet(TCP, &self.summed(TCP, segment))
    }

    /// A UDP datagram.
    pub fn datagram(self, source: u16, destination: u16) -> Vec<u8> {
        self.packet(UDP, &self.datagram_bytes(source, destination, 8))
    }

    fn datagram_bytes(self, source: u16, destination: u16, payload: usize) -> Vec<u8> {
        let mut datagram = Vec::new();
        for word in [source, destination, 8 + payload as u16, 0] {
            datagram.extend(word.to_be_bytes());
        }
        datagram.extend(vec![0x55; payload]);
        self.summed(UDP, datagram)
    }

    /// A whole packet.
    pub fn packet(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        if self.is_v4() {
            self.v4(protocol, &[], 0x4000, 1, payload)
        } else {
            self.chain(&[], 0, protocol, payload)
        }
    }

    /// The same in pieces, cut at these places.
    pub fn pieces(self, id: u32, protocol: u8, payload: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let begins = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([payload.len()]);
        begins
            .zip(ends)
            .map(|(begin, end)| {
                self.piece(id, protocol, &payload[begin..end], begin, end != payload.len())
            })
            .collect()
    }

    fn piece(self, id: u32, protocol: u8, bytes: &[u8], offset: usize, more: bool) -> Vec<u8> {
        let offset = offset as u16;
        if self.is_v4() {
            let place = (offset / 8) | if more { 0x2000 } else { 0 };
            return self.v4(protocol, &[], place, id as u16, bytes);
        }
        let mut payload = vec![protocol, 0];
        payload.extend((offset | u16::from(more)).to_be_bytes());
        payload.extend(id.to_be_bytes());
        payload.extend(bytes);
        self.chain(&[], 0, 44, &payload)
    }

    fn v4(self, protocol: u8, options: &[u8], place: u16, id: u16, payload: &[u8]) -> Vec<u8> {
        let header = 20 + options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(((header + payload.len()) as u16).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(place.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(bytes(self.from));
        packet.extend(bytes(self.to));
        packet.extend(options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// IPv6 with extension headers of 8 bytes and as many times 8 more.
    fn chain(self, kinds: &[u8], longer: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut rest = payload.to_vec();
        let mut next = protocol;
        for &kind in kinds.iter().rev() {
            // A fragment that is the whole (RFC 6946) has no length.
            let longer = if kind == 44 { 0 } else { longer };
            let mut header = vec![0; 8 * (usize::from(longer) + 1)];
            header[0] = next;
            header[1] = longer;
            if kind == 0 || kind == 60 {
                // PadN (RFC 8200 section 4.2), in pieces that are not too long for anybody.
                for at in (2..header.len()).step_by(6) {
                    header[at] = 1;
                    header[at + 1] = (header.len() - at - 2).min(4) as u8;
                }
            }
            header.extend(rest);
            (rest, next) = (header, kind);
        }
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((rest.len() as u16).to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(bytes(self.from));
        packet.extend(bytes(self.to));
        packet.extend(rest);
        packet
    }

    /// With its checksum, pseudo-header and all.
    fn summed(self, protocol: u8, mut message: Vec<u8>) -> Vec<u8> {
        let at = match protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        let mut summed = Vec::new();
        if protocol != 1 {
            summed.extend(bytes(self.from));
            summed.extend(bytes(self.to));
            summed.extend((message.len() as u32).to_be_bytes());
            summed.extend([0, 0, 0, protocol]);
        }
        summed.extend(&message);
        let sum = match checksum(&summed) {
            0 if protocol == UDP => 0xffff,
            sum => sum,
        };
        message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        message
    }
}

fn segment(source: u16, destination: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.to_be_bytes());
    segment.extend(destination.to_be_bytes());
    segment.extend([0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

fn group(what: &'static str, passing: usize, attempts: Vec<Vec<Vec<u8>>>) -> Group {
    Group { what, attempts, passing }
}

/// Attempts of one packet each.
fn single(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    packets.into_iter().map(|packet| vec![packet]).collect()
}

/// Some other machine.
fn other(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([10, 99, 0, 77]),
        IpAddr::V6(_) => IpAddr::from([0xfd00, 0x99, 0, 0, 0, 0, 0, 0x77]),
    }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071) of bytes in whose field stands 0.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

//! One large packet from the TUN becomes the packets that go over the wire, each with its own headers
//! and a whole checksum: what net/ipv4/tcp_offload.c and udp_offload.c do for a device without offloads.
//!
//! Nothing is copied: [`Segments`] makes each segment where it stands in the large packet, with its headers
//! written before its payload, over the end of the segment before, which was sealed by then. The partial
//! sum that the kernel left in the checksum field is taken over, as the kernel does itself: the final
//! destination of a routing header is in it, which would be wrong if it were computed from the IP header.

use std::fmt;

use super::checksum::{fold, sum};
use super::header::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};
use super::{PSH, TCP, UDP};

/// Why nothing can be made of a packet with its virtio header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The GSO type is none of `TCPV4`, `TCPV6` and `UDP_L4`, or is of the other address family.
    GsoType,
    /// The segments would have no payload.
    GsoSize,
    /// The IP header is cut short, is a fragment's, or tells another length than was read.
    IpHeader,
    /// The checksum is not to be finished, or the place given is none of the packet's TCP or UDP header.
    Checksum,
    /// The TCP or UDP header is cut short, or all headers together are longer than 256 bytes.
    TransportHeader,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unusable::GsoType => {
                "the GSO type is not TCPV4, TCPV6 or UDP_L4 of the packet's family"
            }
            Unusable::GsoSize => "the GSO size is 0",
            Unusable::IpHeader => "the IP header does not fit what was read",
            Unusable::Checksum => "the place of the checksum is not that of TCP or UDP",
            Unusable::TransportHeader => "the TCP or UDP header does not fit what was read",
        })
    }
}

impl std::error::Error for Unusable {}

/// Bytes behind a segment that may be overwritten until the next one is asked for, if the buffer has so many:
/// room for padding.
pub const ROOM: usize = 16;
/// The longest headers: what options of IPv4 and TCP can come to, and as much for IPv6 extension headers.
const MOST_HEADERS: usize = 256;

/// The segments of one large packet, one after the other.
#[derive(Debug)]
pub struct Segments<'a> {
    buffer: &'a mut [u8],
    headers: [u8; MOST_HEADERS],
    /// Bytes of the headers, and of the payload of all segments.
    header_len: usize,
    payload_len: usize,
    size: usize,
    count: usize,
    /// Where the transport header begins.
    transport: usize,
    ip: Ip,
    kind: Kind,
    next: usize,
    /// What is behind the segment that was given last, and where.
    behind: Option<(usize, [u8; ROOM])>,
}

/// What differs between the IP headers of the segments, and the sum of what does not.
#[derive(Clone, Copy, Debug)]
enum Ip {
    V4 { sum: u64, id: u16 },
    V6,
}

/// What differs between the transport headers. `sum` is that of the header and the pseudo-header
/// without it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp { sum: u64, sequence: u32, flags: u8 },
    Udp { sum: u64 },
}

impl<'a> Segments<'a> {
    /// Checks the headers against each other and what was read: the first `len` bytes of `buffer`. `hdr_len`
    /// is not trusted: the kernel may tell more.
    ///
    /// # Errors
    ///
    /// The packet is no TCP segment and no UDP datagram with a partial checksum, or not whole.
    pub fn of(header: &VnetHeader, buffer: &'a mut [u8], len: usize) -> Result<Self, Unusable> {
        let packet = buffer.get(..len).ok_or(Unusable::IpHeader)?;
        let version = packet.first().ok_or(Unusable::IpHeader)? >> 4;
        let protocol = match (header.gso_type & !GSO_ECN, version) {
            (GSO_TCPV4, 4) | (GSO_TCPV6, 6) => TCP,
            (GSO_UDP_L4, 4 | 6) => UDP,
            _ => return Err(Unusable::GsoType),
        };
        if header.gso_size == 0 {
            return Err(Unusable::GsoSize);
        }
        let transport = usize::from(header.csum_start);
        let ip = if version == 4 {
            Ip::v4(packet, transport, protocol)?
        } else {
            Ip::v6(packet, transport, protocol)?
        };
        let rest = packet.get(transport..).ok_or(Unusable::Checksum)?;
        let (kind, length, checksum) =
            if protocol == TCP { Kind::tcp(rest)? } else { Kind::udp(rest)? };
        if header.flags & NEEDS_CSUM == 0 || usize::from(header.csum_offset) != checksum {
            return Err(Unusable::Checksum);
        }
        let header_len = transport + length;
        let mut headers = [0; MOST_HEADERS];
        headers
            .get_mut(..header_len)
            .zip(packet.get(..header_len))
            .ok_or(Unusable::TransportHeader)
            .map(|(to, from)| to.copy_from_slice(from))?;
        let payload_len = len - header_len;
        let size = usize::from(header.gso_size);
        let count = payload_len.div_ceil(size).max(1);
        let (next, behind) = (0, None);
        Ok(Self {
            buffer,
            headers,
            header_len,
            payload_len,
            size,
            count,
            transport,
            ip,
            kind,
            next,
            behind,
        })
    }

    /// How many there are: at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of each segment but the last, IP header included.
    pub fn segment_len(&self) -> usize {
        self.header_len + self.size.min(self.payload_len)
    }

    /// Bytes of the last segment, IP header included.
    pub fn last_len(&self) -> usize {
        self.header_len + self.payload_len - (self.count - 1) * self.size
    }

    /// Makes the next segment: a slice that begins with it, and its length. The [`ROOM`] bytes behind it
    /// belong to the slice if the buffer has them; what is written there is gone when the next one is made.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not lend the buffer out")]
    pub fn next(&mut self) -> Option<(&mut [u8], usize)> {
        if let Some((at, bytes)) = self.behind.take() {
            self.buffer.get_mut(at..)?.first_chunk_mut().map(|place| *place = bytes)?;
        }
        let (index, last) = (self.next, self.count - 1);
        if index > last {
            return None;
        }
        self.next += 1;
        let begin = index * self.size;
        let length = if index == last { self.last_len() } else { self.segment_len() };
        let end = begin + length;
        let behind = self.buffer.get(end..).and_then(|rest| rest.first_chunk());
        self.behind = behind.map(|bytes| (end, *bytes));
        // Without a copy of what is behind, nobody may write there.
        let room = if self.behind.is_some() { end + ROOM } else { end };
        let segment = self.buffer.get_mut(begin..room)?;
        let (headers, payload) =
            segment.get_mut(..length)?.split_at_mut_checked(self.header_len)?;
        headers.copy_from_slice(self.headers.get(..self.header_len)?);
        let payload_sum = sum(payload);
        let (ip, transport) = headers.split_at_mut_checked(self.transport)?;
        self.ip.write(index, length, ip)?;
        let transport_length = length - self.transport;
        match self.kind {
            Kind::Tcp { sum, sequence, flags } => {
                let header: &mut [u8; 20] = transport.first_chunk_mut()?;
                let sequence = sequence.wrapping_add(begin as u32);
                [header[4], header[5], header[6], header[7]] = sequence.to_be_bytes();
                let mut flags = flags;
                if index != 0 {
                    // The receiver takes it once for what it did (RFC 3168 section 6.1.2).
                    flags &= !CWR;
                }
                if index != last {
                    flags &= !(FIN | PSH);
                }
                header[13] = flags;
                let sequence = u64::from(sequence >> 16) + u64::from(sequence & 0xffff);
                let sum = sum + sequence + u64::from(flags) + transport_length as u64 + payload_sum;
                [header[16], header[17]] = (!fold(sum)).to_be_bytes();
            }
            Kind::Udp { sum } => {
                let header: &mut [u8; UDP_HEADER] = transport.first_chunk_mut()?;
                [header[4], header[5]] = (transport_length as u16).to_be_bytes();
                // Once in the pseudo-header and once in the header.
                let sum = sum + 2 * transport_length as u64 + payload_sum;
                [header[6], header[7]] = not_zero(!fold(sum)).to_be_bytes();
            }
        }
        Some((segment, length))
    }
}

impl Ip {
    fn v4(packet: &[u8], transport: usize, protocol: u8) -> Result<Self, Unusable> {
        let header = *packet.first_chunk::<20>().ok_or(Unusable::IpHeader)?;
        let length = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        if length < 20 || total != packet.len() || fragment != 0 || header[9] != protocol {
            return Err(Unusable::IpHeader);
        }
        if transport != length {
            return Err(Unusable::Checksum);
        }
        let options = packet.get(20..length).ok_or(Unusable::IpHeader)?;
        let id = u16::from_be_bytes([header[4], header[5]]);
        let mut same = header;
        // Total length, identification and checksum.
        (same[2], same[3], same[4], same[5], same[10], same[11]) = (0, 0, 0, 0, 0, 0);
        Ok(Ip::V4 { sum: sum(&same) + sum(options), id })
    }

    fn v6(packet: &[u8], transport: usize, protocol: u8) -> Result<Self, Unusable> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const DESTINATION: u8 = 60;
        let (header, payload) = packet.split_first_chunk::<40>().ok_or(Unusable::IpHeader)?;
        if usize::from(u16::from_be_bytes([header[4], header[5]])) != payload.len() {
            return Err(Unusable::IpHeader);
        }
        let (mut next, mut at) = (header[6], 40);
        // Each header takes 8 bytes at least (RFC 8200 section 4.3), and so there is an end.
        while at < transport && [HOP_BY_HOP, ROUTING, DESTINATION].contains(&next) {
            let extension = packet.get(at..).and_then(|rest| rest.first_chunk::<2>());
            let [its_next, length] = *extension.ok_or(Unusable::IpHeader)?;
            next = its_next;
            at += (usize::from(length) + 1) * 8;
        }
        if at != transport || next != protocol {
            return Err(Unusable::Checksum);
        }
        Ok(Ip::V6)
    }

    fn write(self, index: usize, length: usize, header: &mut [u8]) -> Option<()> {
        match self {
            Ip::V4 { sum, id } => {
                let header: &mut [u8; 20] = header.first_chunk_mut()?;
                let id = id.wrapping_add(index as u16);
                [header[2], header[3]] = (length as u16).to_be_bytes();
                [header[4], header[5]] = id.to_be_bytes();
                let checksum = !fold(sum + u64::from(id) + length as u64);
                [header[10], header[11]] = checksum.to_be_bytes();
            }
            Ip::V6 => {
                let header: &mut [u8; 40] = header.first_chunk_mut()?;
                [header[4], header[5]] = (length.saturating_sub(40) as u16).to_be_bytes();
            }
        }
        Some(())
    }
}

impl Kind {
    /// From the whole segment; also the length of its header and where the checksum stands in it.
    fn tcp(segment: &[u8]) -> Result<(Self, usize, usize), Unusable> {
        let mut header = *segment.first_chunk::<20>().ok_or(Unusable::TransportHeader)?;
        let length = usize::from(header[12] >> 4) * 4;
        if length < 20 {
            return Err(Unusable::TransportHeader);
        }
        let options = segment.get(20..length).ok_or(Unusable::TransportHeader)?;
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let flags = header[13];
        (header[4], header[5], header[6], header[7], header[13]) = (0, 0, 0, 0, 0);
        // The partial sum in the field has the length of all; each segment has its own.
        let sum = sum(&header) + sum(options) + minus(segment.len());
        Ok((Kind::Tcp { sum, sequence, flags }, length, 16))
    }

    /// As [`Kind::tcp`].
    fn udp(datagram: &[u8]) -> Result<(Self, usize, usize), Unusable> {
        let mut header = *datagram.first_chunk::<UDP_HEADER>().ok_or(Unusable::TransportHeader)?;
        if usize::from(u16::from_be_bytes([header[4], header[5]])) != datagram.len() {
            return Err(Unusable::TransportHeader);
        }
        [header[4], header[5]] = [0, 0];
        Ok((Kind::Udp { sum: sum(&header) + minus(datagram.len()) }, UDP_HEADER, 6))
    }
}

/// Completes the checksum of a packet that does not have to be cut, in place. Without [`NEEDS_CSUM`]
/// nothing is to be done.
///
/// # Errors
///
/// [`Unusable::Checksum`]: there is no such place in the packet.
pub fn finish_checksum(header: &VnetHeader, packet: &mut [u8]) -> Result<(), Unusable> {
    if header.flags & NEEDS_CSUM == 0 {
        return Ok(());
    }
    let rest = packet.get_mut(usize::from(header.csum_start)..).ok_or(Unusable::Checksum)?;
    let sum = sum(rest);
    let place = rest.get_mut(usize::from(header.csum_offset)..);
    let place = place.and_then(|rest| rest.first_chunk_mut()).ok_or(Unusable::Checksum)?;
    // As skb_checksum_help() in net/core/dev.c: all protocols take the other zero, UDP has to.
    *place = not_zero(!fold(sum)).to_be_bytes();
    Ok(())
}

const UDP_HEADER: usize = 8;
const FIN: u8 = 0x01;
const CWR: u8 = 0x80;

/// What takes a length out of a sum (RFC 1624).
fn minus(length: usize) -> u64 {
    u64::from(!fold(length as u64))
}

/// A UDP checksum of 0 would say that there is none (RFC 768).
fn not_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

//! The headers of a packet, as far as the filter asks: addresses, fragment, ports, flags, what an ICMP error
//! quotes. Whatever cannot be read is `None`; no length of the packet is trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Bytes of a transport header that every quotation holds (RFC 792), the ports among them.
const PORTS: usize = 8;
const TCP_HEADER: usize = 20;
/// Extension headers before the transport header: no packet that makes sense has more (RFC 8200 section 4.1).
const MOST_EXTENSIONS: usize = 8;

/// A packet's headers up to that of its transport.
#[derive(Clone, Copy, Debug)]
pub(in crate::wireguard) struct Headers<'p> {
    pub(in crate::wireguard) source: IpAddr,
    pub(in crate::wireguard) destination: IpAddr,
    pub(in crate::wireguard) protocol: u8,
    pub(super) fragment: Option<Fragment>,
    /// From the transport header on; of a later fragment, what it carries.
    rest: &'p [u8],
}

/// A piece of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub(super) id: u32,
    /// Where it belongs, in bytes; 0 is the first one.
    pub(super) offset: usize,
    /// How many bytes it brings.
    pub(super) length: usize,
}

/// What decides about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport<'p> {
    Tcp { source: u16, destination: u16, flags: u8 },
    Udp { source: u16, destination: u16 },
    Icmp(Icmp<'p>),
    Other,
}

/// Kinds of ICMP, of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Icmp<'p> {
    /// A request or a reply of ping.
    Echo,
    /// What could not be delivered begins here.
    Error(&'p [u8]),
    /// What would change routes or neighbours, and what nobody uses.
    Other,
}

impl<'p> Headers<'p> {
    /// Reads a packet that was checked to be as long as it says.
    pub(in crate::wireguard) fn of(packet: &'p [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                Self::v4(packet.get(..u16::from_be_bytes([header[2], header[3]]).into())?)
            }
            6 => {
                let header: &[u8; 40] = packet.first_chunk()?;
                let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
                Self::v6(packet.get(..40 + length)?)
            }
            _ => None,
        }
    }

    /// Reads what an ICMP error quotes, which may be cut short.
    pub(super) fn quoted(quoted: &'p [u8]) -> Option<Self> {
        match quoted.first()? >> 4 {
            4 => Self::v4(quoted),
            6 => Self::v6(quoted),
            _ => None,
        }
    }

    #[inline]
    fn v4(packet: &'p [u8]) -> Option<Self> {
        const MORE: u16 = 0x2000;
        const OFFSET: u16 = 0x1fff;
        let header: &[u8; 20] = packet.first_chunk()?;
        let length = usize::from(header[0] & 15) * 4;
        if length < 20 {
            return None;
        }
        let rest = packet.get(length..)?;
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let fragment = (flags & (MORE | OFFSET) != 0).then(|| Fragment {
            id: u16::from_be_bytes([header[4], header[5]]).into(),
            offset: usize::from(flags & OFFSET) * 8,
            length: rest.len(),
        });
        Some(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol: header[9],
            fragment,
            rest,
        })
    }

    fn v6(packet: &'p [u8]) -> Option<Self> {
        let (header, mut rest) = packet.split_first_chunk::<40>()?;
        let (_, addresses) = header.split_last_chunk::<32>()?;
        let (source, destination) = addresses.split_first_chunk::<16>()?;
        let destination: &[u8; 16] = destination.try_into().ok()?;
        let (mut protocol, mut fragment) = (header[6], None);
        for _ in 0..MOST_EXTENSIONS {
            match extension(protocol, rest, fragment)? {
                Step::Transport => {
                    return Some(Self {
                        source: Ipv6Addr::from(*source).into(),
                        destination: Ipv6Addr::from(*destination).into(),
                        protocol,
                        fragment,
                        rest,
                    });
                }
                Step::Extension { next, behind } => (protocol, rest) = (next, behind),
                Step::Fragment { next, behind, piece } => {
                    (protocol, rest, fragment) = (next, behind, Some(piece));
                }
                // Not cut after all (RFC 6946).
                Step::Whole { next, behind } => (protocol, rest) = (next, behind),
            }
        }
        None
    }

    /// What decides; `None` if its header is cut short.
    #[inline]
    pub(super) fn transport(&self) -> Option<Transport<'p>> {
        match self.protocol {
            TCP => {
                let header: &[u8; TCP_HEADER] = self.rest.first_chunk()?;
                let (source, destination) = ports(self.rest)?;
                Some(Transport::Tcp { source, destination, flags: header[13] })
            }
            _ => self.quoted_transport(),
        }
    }

    /// The same of what is quoted, where the flags of TCP may be missing; they show as none.
    pub(super) fn quoted_transport(&self) -> Option<Transport<'p>> {
        let v4 = self.source.is_ipv4();
        let (source, destination) = ports(self.rest)?;
        Some(match self.protocol {
            TCP => Transport::Tcp { source, destination, flags: 0 },
            UDP => Transport::Udp { source, destination },
            ICMP if v4 => Transport::Icmp(icmp(self.rest)?),
            ICMPV6 if !v4 => Transport::Icmp(icmpv6(self.rest)?),
            _ => Transport::Other,
        })
    }

    /// Source and destination port, for people.
    pub(in crate::wireguard) fn ports(&self) -> Option<(u16, u16)> {
        let first = self.fragment.is_none_or(|fragment| fragment.offset == 0);
        ports(self.rest).filter(|_| first && [TCP, UDP].contains(&self.protocol))
    }
}

/// What stands behind one header of IPv6.
enum Step<'p> {
    Transport,
    Extension { next: u8, behind: &'p [u8] },
    Fragment { next: u8, behind: &'p [u8], piece: Fragment },
    Whole { next: u8, behind: &'p [u8] },
}

/// Looks at the header that `protocol` names, if it is an extension that a packet may have here.
fn extension(protocol: u8, rest: &[u8], fragment: Option<Fragment>) -> Option<Step<'_>> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    // What a later fragment carries is no header, whatever it looks like.
    if fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Some(Step::Transport);
    }
    match protocol {
        HOP_BY_HOP | ROUTING | DESTINATION => {
            let &[next, length, _, left] = rest.first_chunk()?;
            // The packet would go on to somewhere else (RFC 8200 section 4.4).
            if protocol == ROUTING && left != 0 {
                return None;
            }
            Some(Step::Extension { next, behind: rest.get((usize::from(length) + 1) * 8..)? })
        }
        FRAGMENT => {
            let (header, behind) = rest.split_first_chunk::<8>()?;
            let place = u16::from_be_bytes([header[2], header[3]]);
            let (offset, more) = (usize::from(place & !7), place & 1 != 0);
            let next = header[0];
            if offset == 0 && !more {
                return Some(Step::Whole { next, behind });
            }
            // Pieces of pieces: nobody makes them.
            if fragment.is_some() {
                return None;
            }
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let piece = Fragment { id, offset, length: behind.len() };
            Some(Step::Fragment { next, behind, piece })
        }
        _ => Some(Step::Transport),
    }
}

fn ports(transport: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d, ..] = transport.first_chunk::<PORTS>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// RFC 792: destination unreachable (with "fragmentation needed"), time exceeded, parameter problem.
fn icmp(message: &[u8]) -> Option<Icmp<'_>> {
    const ECHO: [u8; 2] = [8, 0];
    const ERRORS: [u8; 3] = [3, 11, 12];
    kind(message, ECHO, ERRORS)
}

/// RFC 4443: destination unreachable, packet too big, time exceeded, parameter problem.
fn icmpv6(message: &[u8]) -> Option<Icmp<'_>> {
    const ECHO: [u8; 2] = [128, 129];
    const ERRORS: [u8; 4] = [1, 2, 3, 4];
    kind(message, ECHO, ERRORS)
}

fn kind<const N: usize>(message: &[u8], echo: [u8; 2], errors: [u8; N]) -> Option<Icmp<'_>> {
    let (header, quoted) = message.split_first_chunk::<8>()?;
    Some(match header[0] {
        kind if echo.contains(&kind) => Icmp::Echo,
        kind if errors.contains(&kind) => Icmp::Error(quoted),
        _ => Icmp::Other,
    })
}

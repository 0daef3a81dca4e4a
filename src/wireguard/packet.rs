//! Checked views of the packets inside the tunnel: no more of IPv4 and IPv6 than routing needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Source and destination of an IP packet whose header is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
}

impl Addresses {
    /// Reads the addresses; `None` if this is no whole IPv4 or IPv6 packet.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let total = u16::from_be_bytes([header[2], header[3]]);
                (20..=packet.len()).contains(&usize::from(total)).then(|| Self {
                    source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
                    destination: Ipv4Addr::new(header[16], header[17], header[18], header[19])
                        .into(),
                })
            }
            6 => {
                let header: &[u8; 40] = packet.first_chunk()?;
                let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
                let (_, addresses) = header.split_last_chunk::<32>()?;
                let (source, destination) = addresses.split_first_chunk::<16>()?;
                let destination: &[u8; 16] = destination.try_into().ok()?;
                (total <= packet.len()).then(|| Self {
                    source: Ipv6Addr::from(*source).into(),
                    destination: Ipv6Addr::from(*destination).into(),
                })
            }
            _ => None,
        }
    }
}

/// What can be told of a UDP datagram inside an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Udp {
    Ports {
        source: u16,
        destination: u16,
    },
    /// A fragment but the first: only the first one has the ports.
    LaterFragment,
}

impl Udp {
    /// Reads the ports; `None` if this is something else than UDP.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let (begins_here, datagram) = udp_datagram(packet)?;
        if !begins_here {
            return Some(Udp::LaterFragment);
        }
        let [a, b, c, d] = *datagram.first_chunk()?;
        let (source, destination) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Some(Udp::Ports { source, destination })
    }

    /// Whether it goes to this port, or may do so.
    pub(super) fn may_go_to(self, port: u16) -> bool {
        match self {
            Udp::Ports { destination, .. } => destination == port,
            Udp::LaterFragment => true,
        }
    }
}

/// The UDP datagram inside, and whether it begins here.
fn udp_datagram(packet: &[u8]) -> Option<(bool, &[u8])> {
    const UDP: u8 = 17;
    const FRAGMENT: u8 = 44;
    match packet.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
            let length = usize::from(header[0] & 15) * 4;
            (header[9] == UDP).then_some((offset == 0, packet.get(length..)?))
        }
        6 => {
            let (header, rest) = packet.split_first_chunk::<40>()?;
            match header[6] {
                UDP => Some((true, rest)),
                FRAGMENT => {
                    let (fragment, rest) = rest.split_first_chunk::<8>()?;
                    let offset = u16::from_be_bytes([fragment[2], fragment[3]]) >> 3;
                    (fragment[0] == UDP).then_some((offset == 0, rest))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether it asks for an echo, as ping does: ICMP type 8, or ICMPv6 type 128.
pub(super) fn is_echo_request(packet: &[u8]) -> bool {
    let asks = || match packet.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let is_first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
            let length = usize::from(header[0] & 15) * 4;
            Some(header[9] == 1 && is_first && *packet.get(length)? == 8)
        }
        6 => Some(*packet.get(6)? == 58 && *packet.get(40)? == 128),
        _ => None,
    };
    asks().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_families() {
        let mut v4 = vec![0; 28];
        v4[0] = 0x45;
        v4[3] = 28;
        v4[12..16].copy_from_slice(&[10, 99, 0, 1]);
        v4[16..20].copy_from_slice(&[10, 99, 0, 2]);
        let addresses = Addresses::of(&v4).unwrap();
        assert_eq!(addresses.source.to_string(), "10.99.0.1");
        assert_eq!(addresses.destination.to_string(), "10.99.0.2");

        let mut v6 = vec![0; 48];
        v6[0] = 0x60;
        v6[5] = 8;
        v6[8] = 0xfd;
        v6[23] = 1;
        v6[24] = 0xfd;
        v6[39] = 2;
        let addresses = Addresses::of(&v6).unwrap();
        assert_eq!(addresses.source.to_string(), "fd00::1");
        assert_eq!(addresses.destination.to_string(), "fd00::2");
    }

    fn is_udp_to(packet: &[u8], port: u16) -> bool {
        Udp::of(packet).is_some_and(|udp| udp.may_go_to(port))
    }

    #[test]
    fn gossip_is_known_by_its_port_and_later_fragments_by_their_protocol() {
        let mut v4 = vec![0; 28];
        (v4[0], v4[9]) = (0x45, 17);
        v4[22..24].copy_from_slice(&9094u16.to_be_bytes());
        assert!(is_udp_to(&v4, 9094));
        assert!(!is_udp_to(&v4, 9093));
        // With options the ports stand further back.
        let mut options = v4.clone();
        options[0] = 0x46;
        options.splice(20..20, [0; 4]);
        assert!(is_udp_to(&options, 9094));
        let mut later = v4.clone();
        later[7] = 1;
        assert!(is_udp_to(&later, 9093));
        v4[9] = 6;
        assert!(!is_udp_to(&v4, 9094));

        let mut v6 = vec![0; 48];
        (v6[0], v6[6]) = (0x60, 17);
        v6[42..44].copy_from_slice(&9094u16.to_be_bytes());
        assert!(is_udp_to(&v6, 9094));
        let mut fragment = v6.clone();
        fragment[6] = 44;
        fragment.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 0]);
        assert!(is_udp_to(&fragment, 9094));
        assert!(!is_udp_to(&fragment, 9093));
        fragment[43] = 0x08;
        assert!(is_udp_to(&fragment, 9093));
        for short in [&[][..], &[0x45; 19], &[0x60; 39], &v6[..41]] {
            assert!(!is_udp_to(short, 9094));
        }
    }

    #[test]
    fn an_echo_request_is_known_in_both_families() {
        let mut v4 = vec![0; 28];
        (v4[0], v4[9], v4[20]) = (0x45, 1, 8);
        assert!(is_echo_request(&v4));
        let with = |place: usize, byte: u8| {
            let mut other = v4.clone();
            other[place] = byte;
            other
        };
        // A reply, a later fragment, UDP, and options that put the type elsewhere.
        for other in [with(20, 0), with(7, 1), with(9, 17), with(0, 0x46)] {
            assert!(!is_echo_request(&other));
        }
        let mut v6 = vec![0; 48];
        (v6[0], v6[6], v6[40]) = (0x60, 58, 128);
        assert!(is_echo_request(&v6));
        v6[40] = 129;
        assert!(!is_echo_request(&v6));
        for short in [&[][..], &v4[..20], &v6[..40], &[0x4f; 20]] {
            assert!(!is_echo_request(short));
        }
    }

    #[test]
    fn a_length_that_is_not_there_is_refused() {
        let mut v4 = vec![0; 28];
        v4[0] = 0x45;
        for total in [0, 19, 29] {
            v4[3] = total;
            assert_eq!(Addresses::of(&v4), None, "{total}");
        }
        let mut v6 = vec![0; 48];
        v6[0] = 0x60;
        v6[5] = 9;
        assert_eq!(Addresses::of(&v6), None);
        for short in [&[][..], &[0x45], &[0x60; 39], &[0x00; 60], &[0x50; 60]] {
            assert_eq!(Addresses::of(short), None);
        }
    }
}

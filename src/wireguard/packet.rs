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

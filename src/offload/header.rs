//! `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h): what stands before each packet of a TUN
//! with `IFF_VNET_HDR`.
//!
//! Only its layout is known here. Whether it tells the truth about the packet is for the readers to find
//! out: [`super::Segments`] and [`super::finish_checksum`].

/// Flag: the checksum at `csum_start + csum_offset` holds only the sum of the pseudo-header.
pub const NEEDS_CSUM: u8 = 1;
/// Flag: whoever made the packet has verified its checksum.
pub const DATA_VALID: u8 = 2;
/// GSO type: a packet as it goes over the wire.
pub const GSO_NONE: u8 = 0;
/// GSO type: TCP over IPv4 to be cut.
pub const GSO_TCPV4: u8 = 1;
/// GSO type: a UDP datagram to be fragmented (UFO). Linux offers it no more.
pub const GSO_UDP: u8 = 3;
/// GSO type: TCP over IPv6 to be cut.
pub const GSO_TCPV6: u8 = 4;
/// GSO type: UDP datagrams of one size, of either family, to be cut apart (USO).
pub const GSO_UDP_L4: u8 = 5;
/// Bit of the GSO type: CWR is set, which goes on the first segment alone.
pub const GSO_ECN: u8 = 0x80;

/// What the kernel says of a packet that is read, or is told of one that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`] and its kin, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of the IP and transport headers. On reading a hint that may say more.
    pub hdr_len: u16,
    /// Payload bytes of each packet but the last.
    pub gso_size: u16,
    /// Where the transport header begins, in bytes from the IP header.
    pub csum_start: u16,
    /// Where the checksum stands in the transport header, in bytes.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Length in bytes: the header without `num_buffers`, which is what a TUN starts with.
    pub const LEN: usize = 10;

    /// Reads the header, whose numbers are in the byte order of the machine.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// Splits what was read from the TUN into the header and the packet; `None` if it is too short.
    pub fn split(read: &[u8]) -> Option<(Self, &[u8])> {
        let (header, packet) = read.split_first_chunk()?;
        Some((Self::from_bytes(header), packet))
    }

    /// Writes the header as the kernel reads it.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Whether the packet has to be cut.
    pub fn is_large(&self) -> bool {
        self.gso_type != GSO_NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_kernel_has_them() {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6 | GSO_ECN,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
        };
        let mut expected = vec![0x01, 0x84];
        for number in [0x0102u16, 0x0304, 0x0506, 0x0708] {
            expected.extend(number.to_ne_bytes());
        }
        assert_eq!(header.to_bytes().as_slice(), expected);
        expected.extend(b"packet");
        assert_eq!(VnetHeader::split(&expected), Some((header, &b"packet"[..])));
        assert_eq!(VnetHeader::split(&expected[..9]), None);
    }
}

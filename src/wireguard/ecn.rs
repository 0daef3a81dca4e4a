//! Explicit congestion notification, carried between inner and outer header as RFC 6040 says.
//!
//! A router that is congested marks the outer header of a packet whose inner one says that its transport
//! understands the mark; the mark must reach the transport, and must never be lost in silence.

/// The two ECN bits of an IP header (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// `Not-ECT`: the transport does not understand marks.
    #[default]
    NotCapable = 0b00,
    /// `ECT(1)`: it does.
    Capable1 = 0b01,
    /// `ECT(0)`: it does.
    Capable0 = 0b10,
    /// `CE`: a router was congested.
    Congested = 0b11,
}

impl Ecn {
    /// Reads the lower two bits of a TOS or traffic class byte.
    pub fn from_bits(byte: u8) -> Self {
        match byte & 0b11 {
            0b00 => Ecn::NotCapable,
            0b01 => Ecn::Capable1,
            0b10 => Ecn::Capable0,
            _ => Ecn::Congested,
        }
    }

    /// The mark of an IP packet, which the outer header takes over (RFC 6040 section 4.1, normal mode).
    pub(super) fn of(packet: &[u8]) -> Self {
        match packet {
            [first, tos, ..] if first >> 4 == 4 => Self::from_bits(*tos),
            [first, class, ..] if first >> 4 == 6 => Self::from_bits(class >> 4),
            _ => Ecn::NotCapable,
        }
    }

    /// What becomes of an inner mark behind an outer one: `None` is "drop", since a transport that does
    /// not understand marks must learn of the congestion by a loss (RFC 6040 section 4.2, figure 4).
    fn behind(self, outer: Ecn) -> Option<Ecn> {
        match (self, outer) {
            (Ecn::NotCapable, Ecn::Congested) => None,
            (Ecn::NotCapable, _) => Some(Ecn::NotCapable),
            (_, Ecn::Congested) => Some(Ecn::Congested),
            (Ecn::Capable0, Ecn::Capable1) => Some(Ecn::Capable1),
            (inner, _) => Some(inner),
        }
    }

    /// Marks an IP packet as one that met congestion; false if its transport does not understand marks,
    /// and must learn of it by a loss.
    pub fn mark_congested(packet: &mut [u8]) -> bool {
        Self::decapsulate(Ecn::Congested, packet)
    }

    /// Brings the mark of the outer header into the packet that was inside; false if the packet must be
    /// dropped.
    pub(super) fn decapsulate(outer: Ecn, packet: &mut [u8]) -> bool {
        let inner = Ecn::of(packet);
        match inner.behind(outer) {
            None => false,
            Some(mark) if mark == inner => true,
            Some(mark) => {
                write(packet, mark);
                true
            }
        }
    }
}

fn write(packet: &mut [u8], mark: Ecn) {
    let mark = mark as u8;
    match packet {
        [first, tos, _, _, _, _, _, _, _, _, high, low, ..] if *first >> 4 == 4 => {
            let old = u16::from_be_bytes([*first, *tos]);
            *tos = (*tos & !0b11) | mark;
            let new = u16::from_be_bytes([*first, *tos]);
            // RFC 1624 equation 3: the checksum after one 16-bit word has changed.
            let sum = u32::from(!u16::from_be_bytes([*high, *low])) + u32::from(!old);
            let sum = sum + u32::from(new);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            [*high, *low] = (!(sum as u16)).to_be_bytes();
        }
        [first, class, ..] if *first >> 4 == 6 => *class = (*class & !0b11_0000) | (mark << 4),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ecn::{Capable0, Capable1, Congested, NotCapable};

    const ALL: [Ecn; 4] = [NotCapable, Capable0, Capable1, Congested];

    #[test]
    fn marks_combine_as_in_figure_4_of_rfc_6040() {
        // A row an inner mark, a column an outer one, both in the order of the figure.
        let figure = [
            [Some(NotCapable), Some(NotCapable), Some(NotCapable), None],
            [Some(Capable0), Some(Capable0), Some(Capable1), Some(Congested)],
            [Some(Capable1), Some(Capable1), Some(Capable1), Some(Congested)],
            [Some(Congested), Some(Congested), Some(Congested), Some(Congested)],
        ];
        for (inner, row) in ALL.into_iter().zip(figure) {
            for (outer, expected) in ALL.into_iter().zip(row) {
                assert_eq!(inner.behind(outer), expected, "{inner:?} in {outer:?}");
            }
        }
    }

    /// The sum of a header with a right checksum is all ones (RFC 1071).
    fn sum(header: &[u8]) -> u16 {
        let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum();
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn an_ipv4_header_keeps_its_checksum_right_and_its_dscp() {
        for tos in 0..=255u8 {
            let mut header =
                [0x45, tos, 0, 20, 0x12, 0x34, 0, 0, 64, 17, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2];
            let checksum = !sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            assert_eq!(sum(&header), 0xffff);
            let passed = Ecn::decapsulate(Congested, &mut header);
            assert_eq!(passed, tos & 0b11 != 0);
            assert_eq!(sum(&header), 0xffff, "tos {tos}");
            assert_eq!(header[1], if passed { tos | 0b11 } else { tos });
        }
    }

    #[test]
    fn an_ipv6_header_keeps_the_rest_of_its_class_and_label() {
        let mut header = [0x6a, 0xa5, 0x55, 0x55];
        header[1] = 0xa5; // class 0xaa, whose mark is ECT(0)
        assert_eq!(Ecn::of(&header), Capable0);
        assert!(Ecn::decapsulate(Congested, &mut header));
        assert_eq!(header, [0x6a, 0xb5, 0x55, 0x55]);
    }

    #[test]
    fn no_packet_is_no_mark() {
        for short in [&[][..], &[0x45], &[0x00, 0xff]] {
            assert_eq!(Ecn::of(short), NotCapable);
            assert!(Ecn::decapsulate(Capable1, &mut short.to_vec()));
        }
    }
}

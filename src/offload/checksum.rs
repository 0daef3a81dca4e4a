//! The Internet checksum (RFC 1071), fast enough to be paid for each byte of a large packet.
//!
//! Sums are 16-bit words in network order, not complemented, and need not be folded before they are
//! added. The order of bytes does not matter to the sum (RFC 1071 section 2), so words are loaded as they
//! lie. The loop is a plain one, in a function of its own: so the compiler makes vector instructions of
//! any processor from it, which it no longer did with lanes written out and inlined.

/// Sums the bytes, the first of which is the upper one of a word; behind an odd last one comes a zero.
#[inline(never)]
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    // Modulo 2^64, of the whole words; and of their upper halves, from which that of the lower ones
    // follows: no carry to look after.
    let (mut wholes, mut uppers) = (0u64, 0u64);
    for word in words {
        let word = u64::from_ne_bytes(*word);
        wholes = wholes.wrapping_add(word);
        uppers += word >> 32;
    }
    let mut sum = wholes.wrapping_sub(uppers << 32) + uppers;
    let (words, rest) = rest.as_chunks();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks();
    for word in words {
        sum += u64::from(u16::from_ne_bytes(*word));
    }
    for byte in rest {
        sum += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    u64::from(u16::from_be(fold(sum)))
}

/// Folds a sum into 16 bits.
pub(super) fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1): the source and
/// the destination address after each other, the protocol and the length of header and payload.
pub(super) fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    sum(addresses) + u64::from(protocol) + length as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for word in bytes.chunks(2) {
            sum += u64::from(word[0]) * 256 + u64::from(*word.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_section_3_sums_to_ddf2() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn each_length_sums_as_byte_by_byte() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut bytes = [0; 200];
        random.fill(&mut bytes);
        for begin in 0..16 {
            for end in begin..bytes.len() {
                let bytes = &bytes[begin..end];
                assert_eq!(sum(bytes), u64::from(naive(bytes)));
            }
        }
    }

    #[test]
    fn as_many_ones_as_a_packet_can_hold_do_not_overflow() {
        let ones = vec![0xff; 65_575];
        assert_eq!(sum(&ones), u64::from(naive(&ones)));
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0x1_ffff_ffff), 1);
    }
}

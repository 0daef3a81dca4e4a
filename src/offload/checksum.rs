//! The Internet checksum (RFC 1071), fast enough to be paid for each byte of a large packet.
//!
//! Sums are 16-bit words in network order, not complemented, and need not be folded before they are
//! added. The loops add lanes that the compiler turns into vector instructions of any processor; the
//! order of bytes does not matter to the sum (RFC 1071 section 2), so they are loaded as they lie.

/// One step of the loops: one load of words for each of 16 lanes.
const BLOCK: usize = 64;

/// Sums the bytes from an even offset on; an odd last byte is followed by a zero.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0; LANES];
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        add(&mut lanes, block);
    }
    finish(lanes, rest)
}

/// Copies the bytes and sums them on the way. Both slices have the same length, or the longer one is
/// cut.
pub(super) fn copy_and_sum(from: &[u8], to: &mut [u8]) -> u64 {
    let mut lanes = [0; LANES];
    let (blocks, rest) = from.as_chunks::<BLOCK>();
    let (to_blocks, to_rest) = to.as_chunks_mut::<BLOCK>();
    for (block, to_block) in blocks.iter().zip(to_blocks) {
        *to_block = *block;
        add(&mut lanes, block);
    }
    for (byte, to_byte) in rest.iter().zip(to_rest) {
        *to_byte = *byte;
    }
    finish(lanes, rest)
}

/// Folds a sum into 16 bits.
pub(super) fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1): the source and
/// the destination address after each other, the protocol and the length of header and payload.
pub(super) fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    sum(addresses) + u64::from(protocol) + length as u64
}

const LANES: usize = BLOCK / 4;

#[inline(always)]
fn add(lanes: &mut [u64; LANES], block: &[u8; BLOCK]) {
    let (words, _) = block.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
}

#[inline(always)]
fn finish(lanes: [u64; LANES], rest: &[u8]) -> u64 {
    let (words, rest) = rest.as_chunks::<4>();
    let mut last = [0; 4];
    for (byte, last) in rest.iter().zip(&mut last) {
        *last = *byte;
    }
    let words = words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word)));
    let sum = lanes.iter().sum::<u64>() + words.sum::<u64>();
    u64::from(u16::from_be(fold(sum)))
}

//! What a [`Device`](super::Device) hands out: plain data between it and the loop that drives it.

use std::net::SocketAddr;
use std::ops::Range;

use super::ecn::Ecn;
use super::endpoint::Endpoint;
use super::keys::PublicKey;
use crate::offload::VnetHeader;

/// Which peer, inside one device; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(super) u32);

/// Datagrams for the underlay that may leave with one system call: of one peer, of one size but the last.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// The peer they are for; none for a cookie reply to a stranger.
    pub peer: Option<PeerId>,
    /// Where they go, and where they leave from.
    pub to: Endpoint,
    /// The mark for their IP headers.
    pub ecn: Ecn,
    /// Whole WireGuard messages, back to back.
    pub contents: &'a [u8],
    /// How many bytes each has but the last, which may have fewer; at least 1.
    pub segment_size: usize,
}

impl<'a> Transmit<'a> {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        self.contents.chunks(self.segment_size.max(1))
    }
}

/// What stands on the outside of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) peer: Option<PeerId>,
    pub(super) to: Endpoint,
    pub(super) ecn: Ecn,
    /// Whether it may leave together with others.
    pub(super) joins: bool,
}

/// One packet for the overlay, or a large one that several were joined to.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Says how the kernel is to take it apart.
    pub header: VnetHeader,
    pub(super) bytes: &'a [u8],
    pub(super) parts: &'a [Range<usize>],
}

impl<'a> Packet<'a> {
    /// How many packets it is.
    pub fn packets(&self) -> usize {
        self.parts.len()
    }

    /// Its bytes: these parts, one behind the other.
    pub fn parts(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.parts.iter().filter_map(|part| bytes.get(part.clone()))
    }
}

/// What people and the control plane want to know as it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Packets can pass, for the first time or again.
    Established {
        /// Which peer.
        peer: PublicKey,
        /// Where it is.
        endpoint: SocketAddr,
    },
    /// A handshake initiation was not answered and another one was sent.
    Unanswered {
        /// Which peer.
        peer: PublicKey,
        /// Initiations since the last answer.
        initiations: u32,
    },
}

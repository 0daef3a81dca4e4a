//! What a [`Device`](super::Device) hands out: plain data between it and the loop that drives it.

use std::net::SocketAddr;

use super::ecn::Ecn;
use super::endpoint::Endpoint;
use super::keys::PublicKey;

/// Which peer, inside one device; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(super) u32);

/// A datagram for the underlay.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// The peer it is for; none for a cookie reply to a stranger.
    pub peer: Option<PeerId>,
    /// Where it goes, and where it leaves from.
    pub to: Endpoint,
    /// The mark for its IP header.
    pub ecn: Ecn,
    /// One whole WireGuard message.
    pub datagram: &'a [u8],
}

/// What stands on the outside of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub(super) peer: Option<PeerId>,
    pub(super) to: Endpoint,
    pub(super) ecn: Ecn,
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

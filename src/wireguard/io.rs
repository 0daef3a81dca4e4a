//! What a [`Device`](super::Device) hands out: plain data between it and the loop that drives it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::ecn::Ecn;
use super::endpoint::Endpoint;
use super::keys::PublicKey;

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
    /// The filter refused packets: told of the first one, and then at most once a minute for each peer.
    Filtered {
        /// Which peer.
        peer: PublicKey,
        /// Whether that packet was to the peer or from it.
        way: Way,
        /// Packets refused since this was told before, this one included.
        packets: u64,
        /// What that packet was, if it could be read.
        what: Option<Refused>,
    },
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a peer.
    Out,
    /// From a peer.
    In,
}

/// A packet that the filter refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where it came from.
    pub source: IpAddr,
    /// Where it was to go.
    pub destination: IpAddr,
    /// Its protocol, as IANA numbers them.
    pub protocol: u8,
    /// Source and destination port, where there are ports.
    pub ports: Option<(u16, u16)>,
}

impl fmt::Display for Refused {
    /// `tcp 10.99.0.2:40000 to 10.99.0.1:9093`, or without ports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            1 | 58 => f.write_str("icmp")?,
            6 => f.write_str("tcp")?,
            17 => f.write_str("udp")?,
            other => write!(f, "protocol {other}")?,
        }
        let (from, to) = (self.source, self.destination);
        match self.ports {
            Some((source, destination)) => {
                let (from, to) = (SocketAddr::new(from, source), SocketAddr::new(to, destination));
                write!(f, " {from} to {to}")
            }
            None => write!(f, " {from} to {to}"),
        }
    }
}

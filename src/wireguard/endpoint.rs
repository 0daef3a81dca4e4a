//! Where a peer's datagrams go and where they leave from: plain data that the sockets fill and use.

use std::net::{IpAddr, SocketAddr};

/// A peer's underlay address, and the local address that its datagrams came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The peer's address and UDP port.
    pub address: SocketAddr,
    /// Where answers leave from, if it is known: the kernel's "sticky" source.
    pub source: Option<Source>,
}

/// A local address and the interface it was reached by (`IP_PKTINFO`, `IPV6_PKTINFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The local address.
    pub address: IpAddr,
    /// Index of the interface.
    pub interface: u32,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address, source: None }
    }
}

//! Large packets of the TUN: one read that is many packets inside, and many packets that are one write.
//!
//! A TUN with `IFF_VNET_HDR` puts a virtio header before each packet: [`Segments`] cuts what is larger
//! than the MTU and finishes checksums on the way, [`Coalescer`] joins opened packets of one flow. Called
//! by the device in `wireguard` and by the packet loop in `dataplane`. No descriptors, no clock; a packet
//! is cut and joined where it stands, and bytes of a peer or of the kernel cannot panic here.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod checksum;
mod coalesce;
mod flow;
mod header;
mod segment;

pub use coalesce::{Coalescer, Joined};
pub use flow::same_flow;
pub use header::{
    DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, NEEDS_CSUM,
    VnetHeader,
};
pub use segment::{ROOM, Segments, Unusable, finish_checksum};

/// What the TUN takes joined, and hands over uncut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Packets as they go over the wire.
    #[default]
    None,
    /// Segments of TCP connections.
    Tcp,
    /// Datagrams of UDP, too (Linux 6.2).
    TcpAndUdp,
}

/// Protocol numbers as IP headers have them.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Flag of TCP (RFC 9293 section 3.1).
const PSH: u8 = 0x08;

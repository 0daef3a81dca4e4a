//! What `sendmsg` and `recvmmsg` carry beside the bytes: socket addresses and control messages, as the
//! kernel lays them out, turned into std's types and back.
//!
//! Only `udp` calls this. Nothing here makes a system call, and what the kernel filled in is checked
//! (family, level, type, length) before it is believed.

use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ptr;

use crate::wireguard::{Ecn, Source};

/// Room for a socket address of either family.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    /// An address of no family.
    pub(super) fn empty() -> Self {
        // SAFETY: all variants are plain C data, for which all zeros is a valid value.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// Lays out an address, and says how many bytes the kernel is to read.
    pub(super) fn from_std(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut raw = Self::empty();
        let length = match address {
            SocketAddr::V4(v4) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    // Which link a link-local address is on; the kernel ignores it for the others.
                    sin6_scope_id: v6.scope_id(),
                };
                size_of::<libc::sockaddr_in6>()
            }
        };
        (raw, length as libc::socklen_t)
    }

    /// Reads an address that the kernel has filled.
    pub(super) fn to_std(self) -> Option<SocketAddr> {
        // SAFETY: every variant begins with the family, and the union never holds uninitialised bytes.
        match i32::from(unsafe { self.family }) {
            libc::AF_INET => {
                // SAFETY: all of the union is initialised, and any bytes are a valid `sockaddr_in`.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for `sockaddr_in6`.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                // The kernel gives a scope to link-local addresses alone, so that the same peer always
                // compares equal. The flow label is no part of where a peer is.
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Bytes of the three control messages that a datagram has: packet information, of which the IPv6 form is
/// the larger, the TOS or traffic class, and the size of segments.
const CONTROL_LEN: usize = space::<libc::in6_pktinfo>() + 2 * space::<libc::c_int>();

/// Bytes of a control message with this value, padding included.
const fn space<T>() -> usize {
    // SAFETY: CMSG_SPACE is arithmetic on its argument.
    unsafe { libc::CMSG_SPACE(size_of::<T>() as libc::c_uint) as usize }
}

/// Bytes of a control message before its value.
const CONTROL_HEADER_LEN: usize =
    // SAFETY: CMSG_LEN is arithmetic on its argument.
    unsafe { libc::CMSG_LEN(0) } as usize;

/// Room for the control messages of one datagram.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Control {
    /// `cmsghdr` must be aligned to a machine word.
    align: [libc::cmsghdr; 0],
    bytes: [u8; CONTROL_LEN],
}

impl Control {
    /// No control message.
    pub(super) fn empty() -> Self {
        Self { align: [], bytes: [0; CONTROL_LEN] }
    }

    /// Bytes that the kernel may fill.
    pub(super) const LEN: usize = CONTROL_LEN;

    /// The packet information that makes a datagram leave from `source`, hooked into `message`.
    ///
    /// The interface is named for link-local sources alone, where the address means nothing without it.
    /// For the others it would force the datagram out there: for IPv4 the kernel then takes any
    /// destination that it has no route to for a neighbour (net/ipv4/route.c,
    /// `ip_route_output_key_hash_rcu`: "Assume, that the destination is on link"), and a route that moved
    /// away would be a silent hole. drivers/net/wireguard/socket.c, too, routes by the address alone.
    pub(super) fn put_source(&mut self, source: &Source, message: &mut libc::msghdr) {
        match source.address {
            IpAddr::V4(address) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: if address.is_link_local() { source.interface as i32 } else { 0 },
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(address).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, info, message);
            }
            IpAddr::V6(address) => {
                let link_local = address.is_unicast_link_local();
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
                    ipi6_ifindex: if link_local { source.interface } else { 0 },
                };
                self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info, message);
            }
        }
    }

    /// The mark for the datagram's IP header, hooked into `message` behind what is there.
    pub(super) fn put_ecn(&mut self, ecn: Ecn, ipv4: bool, message: &mut libc::msghdr) {
        let (level, kind) = if ipv4 {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        self.put(level, kind, ecn as libc::c_int, message);
    }

    /// The size of the datagrams that the bytes are to be cut into, hooked into `message` behind what is
    /// there.
    pub(super) fn put_segment_size(&mut self, bytes: u16, message: &mut libc::msghdr) {
        self.put(libc::IPPROTO_UDP, libc::UDP_SEGMENT, bytes, message);
    }

    fn put<T: KernelData>(&mut self, level: i32, kind: i32, value: T, message: &mut libc::msghdr) {
        let at: usize = message.msg_controllen as _;
        let Some(room) = self.bytes.get_mut(at..at + space::<T>()) else { return };
        // SAFETY: CMSG_LEN is arithmetic.
        let length = unsafe { libc::CMSG_LEN(size_of::<T>() as libc::c_uint) };
        let header = libc::cmsghdr { cmsg_len: length as _, cmsg_level: level, cmsg_type: kind };
        let start = room.as_mut_ptr();
        // SAFETY: `room` has CMSG_SPACE bytes: a header, a value behind it, padding. Both are plain
        // data and are written unaligned.
        unsafe {
            start.cast::<libc::cmsghdr>().write_unaligned(header);
            start.add(CONTROL_HEADER_LEN).cast::<T>().write_unaligned(value);
        }
        message.msg_control = ptr::from_mut(self).cast();
        message.msg_controllen = (at + space::<T>()) as _;
    }

    /// Reads what the kernel says about a datagram that came.
    ///
    /// `length` is what the kernel says it has filled (`msg_controllen`).
    pub(super) fn read(&self, length: usize) -> Ancillary {
        let mut ancillary = Ancillary::default();
        let mut rest = self.bytes.get(..length.min(CONTROL_LEN)).unwrap_or_default();
        while let Some((header, value, next)) = first_control(rest) {
            ancillary.take(header.cmsg_level, header.cmsg_type, value);
            rest = next;
        }
        ancillary
    }
}

/// What the kernel says about a datagram that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ancillary {
    /// The local address that it came to, and the interface that it came by.
    pub(super) source: Option<Source>,
    /// The mark of its IP header.
    pub(super) ecn: Ecn,
    /// How many bytes each of several joined datagrams has, but the last.
    pub(super) segment_size: Option<usize>,
}

impl Ancillary {
    fn take(&mut self, level: i32, kind: i32, value: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                self.source = read::<libc::in_pktinfo>(value).map(|info| Source {
                    address: Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into(),
                    interface: info.ipi_ifindex as u32,
                });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let source = read::<libc::in6_pktinfo>(value).map(|info| Source {
                    address: Ipv6Addr::from(info.ipi6_addr.s6_addr).into(),
                    interface: info.ipi6_ifindex,
                });
                // Nothing can leave from a multicast address.
                self.source = source.filter(|source| !source.address.is_multicast());
            }
            // One byte for IPv4 (net/ipv4/ip_sockglue.c, ip_cmsg_recv_tos), an int for IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                let class = read::<libc::c_int>(value).map(|class| class as u8);
                self.ecn = Ecn::from_bits(class.or(value.first().copied()).unwrap_or(0));
            }
            (libc::IPPROTO_UDP, libc::UDP_GRO) => {
                let size = read::<libc::c_int>(value).and_then(|size| usize::try_from(size).ok());
                self.segment_size = size.filter(|size| *size > 0);
            }
            _ => {}
        }
    }
}

/// The first control message: its header, its value, and what is behind it.
fn first_control(bytes: &[u8]) -> Option<(libc::cmsghdr, &[u8], &[u8])> {
    let header = read::<libc::cmsghdr>(bytes)?;
    // 32 bits wide in musl.
    let length: usize = header.cmsg_len as _;
    let value = bytes.get(CONTROL_HEADER_LEN..length)?;
    // The next one begins at a multiple of a machine word (CMSG_ALIGN).
    let next = length.checked_next_multiple_of(size_of::<usize>())?;
    Some((header, value, bytes.get(next..).unwrap_or_default()))
}

/// What the kernel lays out in a control message.
///
/// # Safety
///
/// Any bytes must be a valid value: integers and arrays of them, no padding that matters.
unsafe trait KernelData: Copy {}

// SAFETY: three structures of integers.
unsafe impl KernelData for libc::cmsghdr {}
// SAFETY: as above.
unsafe impl KernelData for libc::in_pktinfo {}
// SAFETY: as above.
unsafe impl KernelData for libc::in6_pktinfo {}
// SAFETY: an integer.
unsafe impl KernelData for libc::c_int {}
// SAFETY: an integer.
unsafe impl KernelData for u16 {}

/// Reads a value from the beginning of some bytes, if they are enough for it.
fn read<T: KernelData>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: so many bytes are there, any of them make a T, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(source: Source) -> Option<Source> {
        // SAFETY: plain C data.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut control = Control::empty();
        control.put_source(&source, &mut message);
        control.read(message.msg_controllen as _).source
    }

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:51820", "[fe80::1%7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::from_std(address).0.to_std(), Some(address));
        }
        assert_eq!(RawAddress::empty().to_std(), None);
    }

    #[test]
    fn a_source_names_its_interface_only_where_the_address_needs_it() {
        let source = |text: &str| Source { address: text.parse().unwrap(), interface: 7 };
        let interface = |text: &str| round_trip(source(text)).unwrap().interface;
        assert_eq!(interface("fe80::1"), 7);
        assert_eq!(interface("169.254.1.1"), 7);
        assert_eq!(interface("192.0.2.1"), 0);
        assert_eq!(interface("2001:db8::1"), 0);
        let address = round_trip(source("2001:db8::1")).unwrap().address;
        assert_eq!(address, source("2001:db8::1").address);
    }

    #[test]
    fn a_control_message_that_is_cut_or_foreign_gives_no_source() {
        // SAFETY: plain C data.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut control = Control::empty();
        let source = Source { address: "2001:db8::1".parse().unwrap(), interface: 7 };
        control.put_source(&source, &mut message);
        assert_eq!(control.read(0).source, None);
        assert_eq!(control.read(size_of::<libc::cmsghdr>() - 1).source, None);
        // SAFETY: `control` is aligned for, and begins with, the `cmsghdr` that was put there.
        let header = unsafe { &mut *(&raw mut control).cast::<libc::cmsghdr>() };
        header.cmsg_len = (size_of::<libc::cmsghdr>() + 1) as _;
        assert_eq!(control.read(Control::LEN).source, None, "one byte of a value");
        // SAFETY: as above.
        let header = unsafe { &mut *(&raw mut control).cast::<libc::cmsghdr>() };
        header.cmsg_len = usize::MAX as _;
        header.cmsg_type = libc::IPV6_TCLASS;
        assert_eq!(control.read(Control::LEN).source, None, "another kind that runs past the end");
        assert_eq!(Control::empty().read(Control::LEN).source, None);
    }

    #[test]
    fn a_mark_stands_beside_a_source() {
        for (address, ipv4) in [("192.0.2.1", true), ("2001:db8::1", false)] {
            // SAFETY: plain C data.
            let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
            let mut control = Control::empty();
            let source = Source { address: address.parse().unwrap(), interface: 0 };
            control.put_source(&source, &mut message);
            control.put_ecn(Ecn::Congested, ipv4, &mut message);
            let read = control.read(message.msg_controllen as _);
            let marked =
                Ancillary { source: Some(source), ecn: Ecn::Congested, segment_size: None };
            assert_eq!(read, marked);
        }
    }
}

//! The underlay: one UDP port on an IPv4 and an IPv6 socket, and on some that are connected to a peer each.
//!
//! Datagrams are received and sent in batches, without allocation; each says which local address it came
//! to, and answers leave from there (sticky source). The sockets send without DF: an outer packet may
//! be cut on a path with a small MTU, but never vanishes there. This room does not read a datagram; the
//! packet loop is the only caller, but for [`path_mtu`] and [`Paths`].

use std::fmt;
use std::io;
use std::mem::{self, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::message::{Control, RawAddress};
use super::{call, checked};
use crate::wireguard::{Ecn, Endpoint};

mod adopt;
mod connected;
mod receive;

use connected::Connected;
pub use receive::{ReceiveBatch, Received};

/// Bytes asked for each socket buffer; the kernel doubles it for its bookkeeping.
///
/// A full datagram is charged 2,304 bytes, so 4 MiB hold about 1,800 of them: what arrives at 1 Gbit/s in
/// 21 ms, longer than a scheduler on a busy machine makes the packet loop wait. The default of 208 KiB
/// holds 1 ms. The memory is taken only while datagrams wait.
const BUFFER_BYTES: libc::c_int = 2 << 20;

/// How often another free port is tried when the kernel's choice for one family is taken in the other.
const PORT_ATTEMPTS: usize = 16;

/// How many pending socket errors one call reads away before it gives up.
const PENDING_ERRORS: usize = 8;

/// How many sockets an underlay has at most: that of IPv4, that of IPv6, and those that are connected.
pub const SOCKETS: usize = 2 + 2 * connected::PLACES;

/// Of which family a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// The IPv4 one.
    V4,
    /// The IPv6 one.
    V6,
}

impl Family {
    /// The socket that reaches an address.
    pub fn of(address: &SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn any(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
            Self::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What became of a datagram that the kernel took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// It left as asked.
    AsAsked,
    /// It left from another source, because the sticky one or its route is gone: forget it.
    WithoutSource,
}

/// The underlay sockets: one port, one or two families.
#[derive(Debug)]
pub struct Udp {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    connected: Connected,
    port: u16,
}

impl Udp {
    /// Opens both sockets in the network namespace of the calling thread; port 0 takes a port that is
    /// free in both families. A family that this machine does not have is left out.
    ///
    /// # Errors
    ///
    /// When the port is in use (`AddrInUse`), neither family is there, or `fwmark` is not 0 and
    /// `CAP_NET_ADMIN` is missing.
    pub fn bind(port: u16, fwmark: u32) -> io::Result<Self> {
        let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::bind_once(port, fwmark) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                result => return result,
            }
        }
    }

    /// Opens no socket, but keeps a port in mind: nothing comes, and nothing can be sent.
    pub fn closed(port: u16) -> Self {
        Self::of(None, None, port, 0)
    }

    /// Whether there is no socket.
    pub fn is_closed(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    fn bind_once(port: u16, fwmark: u32) -> io::Result<Self> {
        let v4 = open(Family::V4, port, fwmark)?;
        let port = v4.as_ref().map_or(Ok(port), |socket| local_port(socket.as_fd()))?;
        let v6 = open(Family::V6, port, fwmark)?;
        let port = v6.as_ref().map_or(Ok(port), |socket| local_port(socket.as_fd()))?;
        if v4.is_none() && v6.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("UDP port {port}: this machine has neither IPv4 nor IPv6"),
            ));
        }
        Ok(Self::of(v4, v6, port, fwmark))
    }

    fn of(v4: Option<OwnedFd>, v6: Option<OwnedFd>, port: u16, fwmark: u32) -> Self {
        let families =
            [v4.as_ref().map(|_| Family::V4), v6.as_ref().map(|_| Family::V6)].into_iter();
        Self { connected: Connected::open(families.flatten(), fwmark), v4, v6, port }
    }

    /// The port that both sockets have, or are to have.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Marks what is sent from now on (`SO_MARK`); 0 takes the mark away.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn set_fwmark(&self, fwmark: u32) -> io::Result<()> {
        let shared = [&self.v4, &self.v6].into_iter().flatten();
        shared.chain(self.connected.all()).try_for_each(|socket| set_fwmark(socket.as_fd(), fwmark))
    }

    /// Every socket that something may come to, now or later, each with its index for [`Udp::recv`].
    pub fn fds(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        (0..SOCKETS).filter_map(|index| Some((index, self.at(index)?.as_fd())))
    }

    fn at(&self, index: usize) -> Option<&OwnedFd> {
        match index {
            0 => self.v4.as_ref(),
            1 => self.v6.as_ref(),
            _ => self.connected.at(index - 2),
        }
    }

    /// The socket of one family; none if the machine does not have that family.
    pub fn fd(&self, family: Family) -> Option<BorrowedFd<'_>> {
        self.socket(family).map(|socket| socket.as_fd())
    }

    fn socket(&self, family: Family) -> Option<&OwnedFd> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// Receives what waits at one of [`Udp::fds`], at most `most` times and as often as the batch has room,
    /// and says how often something was taken from the kernel: less than that means that no more waited. Each
    /// time is a datagram, or several of one sender that the kernel has joined. The batch forgets what it had.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when none waits or this socket is not there.
    pub fn recv(&self, index: usize, batch: &mut ReceiveBatch, most: usize) -> io::Result<usize> {
        batch.forget();
        let Some(socket) = self.at(index) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        // A socket that is not connected and does not ask for IP_RECVERR hears of no ICMP error (net/ipv4/udp.c,
        // `__udp4_lib_err`). For the others one may be pending: reading it clears it, and it says nothing
        // about the datagrams that wait behind it.
        let mut pending_errors = PENDING_ERRORS;
        loop {
            match batch.fill(socket.as_fd(), most) {
                Err(error) if is_pending_error(&error) && pending_errors > 0 => pending_errors -= 1,
                result => return result,
            }
        }
    }

    /// Sends datagrams that stand back to back in `contents`, each of `segment_size` bytes but the last,
    /// which may be shorter: with one system call, cut apart by the kernel or the network card (UDP_SEGMENT,
    /// udp(7)). They leave from the sticky source if the endpoint has one. When the kernel refuses that
    /// source, sends them again from wherever the route leads, as drivers/net/wireguard/socket.c does.
    ///
    /// A source is refused once its address is gone. One whose address is still there while the route
    /// left its interface is not noticed here: forget a source, too, when a handshake is retried
    /// (drivers/net/wireguard/timers.c, `wg_expired_retransmit_handshake`).
    ///
    /// # Errors
    ///
    /// What the kernel says, see also [`refuses_segmentation`]: `WouldBlock` when too much waits to leave;
    /// `Unsupported` when the endpoint's family is not there.
    pub fn send(
        &mut self,
        to: &Endpoint,
        ecn: Ecn,
        contents: &[u8],
        segment_size: usize,
    ) -> io::Result<Sent> {
        let shared = if to.address.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some(shared) = shared
            && let Some(socket) = self.connected.socket(to, shared.as_fd(), self.port)
        {
            match send_once(socket, true, to, ecn, contents, segment_size) {
                Ok(()) => return Ok(Sent::AsAsked),
                Err(error) if contents.len() <= segment_size && blames_source(&error) => {
                    self.connected.forget(to);
                }
                // By the shared socket it would overtake what waits here, by more than a peer allows for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // The shared socket says better what is wrong, if anything is.
                Err(_) => {}
            }
        }
        self.send_shared(to, ecn, contents, segment_size)
    }

    /// The same, never by a connected socket: for strangers, of whom none is to get one.
    ///
    /// # Errors
    ///
    /// As [`Udp::send`].
    pub fn send_shared(
        &self,
        to: &Endpoint,
        ecn: Ecn,
        contents: &[u8],
        segment_size: usize,
    ) -> io::Result<Sent> {
        let Some(shared) = self.fd(Family::of(&to.address)) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        match send_once(shared, false, to, ecn, contents, segment_size) {
            Ok(()) => Ok(Sent::AsAsked),
            Err(error) if to.source.is_some() && blames_source(&error) => {
                let to = Endpoint { source: None, ..*to };
                send_once(shared, false, &to, ecn, contents, segment_size)
                    .map(|()| Sent::WithoutSource)
            }
            Err(error) => Err(error),
        }
    }
}

/// Opens the socket of one family; none if the machine does not have that family.
fn open(family: Family, port: u16, fwmark: u32) -> io::Result<Option<OwnedFd>> {
    let explain = |error: io::Error| {
        let hint = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => format!(
                "; stop the process that has it (`ss -ulpn 'sport = :{port}'` shows it), or set another \
                 listen_port"
            ),
            Some(libc::EPERM) if fwmark != 0 => "; a fwmark needs CAP_NET_ADMIN".to_owned(),
            // Of bind(2); `up` has given the right up by the time of a reload.
            Some(libc::EACCES) => "; a port below 1024 needs CAP_NET_BIND_SERVICE, and a restart if hushwire \
                 runs: start it as root, give its unit the right (`systemctl edit hushwire`, below [Service]: \
                 AmbientCapabilities=CAP_NET_BIND_SERVICE, CapabilityBoundingSet=CAP_NET_BIND_SERVICE), or \
                 set another listen_port"
                .to_owned(),
            _ => String::new(),
        };
        io::Error::new(error.kind(), format!("UDP port {port} on {family}: {error}{hint}"))
    };
    match open_raw(family, port, fwmark) {
        Ok(socket) => Ok(Some(socket)),
        // No IPv6 in the kernel, or switched off by ipv6.disable=1 or on every interface.
        Err(error) => match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => Ok(None),
            _ => Err(explain(error)),
        },
    }
}

fn open_raw(family: Family, port: u16, fwmark: u32) -> io::Result<OwnedFd> {
    let socket = open_unbound(family, fwmark)?;
    connected::bind(socket.as_fd(), family.any(port))?;
    Ok(socket)
}

fn open_unbound(family: Family, fwmark: u32) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; on success the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(checked(libc::socket(domain, kind, 0))?) };
    if family == Family::V6 {
        set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    prepare(socket.as_fd(), family, fwmark)?;
    Ok(socket)
}

/// Sets what the packet loop expects of a socket, bound or not.
fn prepare(fd: BorrowedFd<'_>, family: Family, fwmark: u32) -> io::Result<()> {
    match family {
        Family::V4 => {
            set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        }
        Family::V6 => {
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            let never = libc::IPV6_PMTUDISC_DONT;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, never)?;
        }
    }
    // Several datagrams of one sender come with one system call (since Linux 5.0); without it they come one
    // by one.
    let _ = set_option(fd, libc::IPPROTO_UDP, libc::UDP_GRO, 1);
    // The forced form goes past net.core.rmem_max, but needs CAP_NET_ADMIN. A small buffer loses
    // datagrams in a burst and nothing else, so that it is no reason to fail.
    for (forced, plain) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        let _ = set_option(fd, libc::SOL_SOCKET, forced, BUFFER_BYTES)
            .or_else(|_| set_option(fd, libc::SOL_SOCKET, plain, BUFFER_BYTES));
    }
    if fwmark != 0 {
        set_fwmark(fd, fwmark)?;
    }
    Ok(())
}

fn local_port(socket: BorrowedFd<'_>) -> io::Result<u16> {
    Ok(local_address(socket)?.map_or(0, |address| address.port()))
}

fn local_address(socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
    let mut address = RawAddress::empty();
    let mut length = size_of::<RawAddress>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `address` has.
    checked(unsafe {
        libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length)
    })?;
    Ok(address.to_std())
}

fn set_fwmark(socket: BorrowedFd<'_>, fwmark: u32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, fwmark as libc::c_int)
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of an int, which lives through the call.
    checked(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    })
    .map(|_| ())
}

/// Sends to an endpoint, to which the socket may be connected.
fn send_once(
    socket: BorrowedFd<'_>,
    is_connected: bool,
    to: &Endpoint,
    ecn: Ecn,
    contents: &[u8],
    segment_size: usize,
) -> io::Result<()> {
    let is_ipv4 = to.address.is_ipv4();
    let (mut address, length) = RawAddress::from_std(to.address);
    let mut payload =
        libc::iovec { iov_base: contents.as_ptr().cast_mut().cast(), iov_len: contents.len() };
    let mut control = Control::empty();
    let mut message = empty_message();
    message.msg_iov = &raw mut payload;
    message.msg_iovlen = 1;
    if !is_connected {
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = length;
    }
    // A socket that is connected has its source. Whether that is still there the kernel asks itself for IPv4,
    // and for IPv6 only when it is named.
    let source = to.source.filter(|source| source.address.is_ipv4() == is_ipv4);
    if let Some(source) = source.filter(|_| !is_connected || !is_ipv4) {
        control.put_source(&source, &mut message);
    }
    // Most packets carry no mark, and no control message costs least.
    if ecn != Ecn::NotCapable {
        control.put_ecn(ecn, is_ipv4, &mut message);
    }
    if contents.len() > segment_size {
        let segment_size = u16::try_from(segment_size).map_err(io::Error::other)?;
        control.put_segment_size(segment_size, &mut message);
    }
    loop {
        // SAFETY: address, payload and control live through the call, which only reads them.
        match unsafe { call::sendmsg(socket, &message) } {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn empty_message() -> libc::msghdr {
    // SAFETY: `msghdr` is plain C data (integers and nullable pointers): all zeros is a valid value.
    unsafe { mem::zeroed() }
}

/// Whether another source might help.
///
/// `EINVAL`: the address is no longer ours (`ip_route_output_key_hash_rcu`, `ip6_datagram_send_ctl`);
/// `ENODEV`: a link-local address's interface is gone; the others: no route from there, or it is down.
fn blames_source(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINVAL
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
        )
    )
}

/// Whether several datagrams in one call were refused for being several: the way there has no checksum
/// offload (`EIO`) or carries no datagram of that size in one piece (`EINVAL`, since Linux 6.14 `EMSGSIZE`),
/// see `udp_send_skb` in net/ipv4/udp.c. One by one they can be sent.
pub fn refuses_segmentation(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

fn is_pending_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EMSGSIZE
                | libc::EPROTO
        )
    )
}

/// Asks the kernel for the path MTU to an address, in bytes of IP packet: the route's, or a smaller one
/// that it has learned. No packet is sent.
///
/// # Errors
///
/// When there is no route (`NetworkUnreachable`, `HostUnreachable`), or `fwmark` is not 0 and
/// `CAP_NET_ADMIN` is missing.
pub fn path_mtu(to: SocketAddr, fwmark: u32) -> io::Result<u32> {
    ask_path_mtu(&probe(Family::of(&to), fwmark)?, to)
}

/// Asks for path MTUs for as long as there is no right to set a mark: its sockets were marked before.
#[derive(Debug, Default)]
pub struct Paths {
    marked: Vec<(Family, UdpSocket)>,
}

impl Paths {
    /// Opens what takes a right later on: with a mark, a socket for each family that this machine has.
    pub fn open(fwmark: u32) -> Self {
        let families = [Family::V4, Family::V6].into_iter().filter(|_| fwmark != 0);
        let marked =
            families.filter_map(|family| Some((family, probe(family, fwmark).ok()?))).collect();
        Self { marked }
    }

    /// The same as [`path_mtu`], with the mark that was given.
    ///
    /// # Errors
    ///
    /// When there is no route.
    pub fn mtu(&self, to: SocketAddr) -> io::Result<u32> {
        match self.marked.iter().find(|(family, _)| *family == Family::of(&to)) {
            Some((_, probe)) => ask_path_mtu(probe, to),
            None => path_mtu(to, 0),
        }
    }
}

fn probe(family: Family, fwmark: u32) -> io::Result<UdpSocket> {
    let probe = UdpSocket::bind(family.any(0))?;
    if fwmark != 0 {
        set_fwmark(probe.as_fd(), fwmark)?;
    }
    Ok(probe)
}

fn ask_path_mtu(probe: &UdpSocket, to: SocketAddr) -> io::Result<u32> {
    let family = Family::of(&to);
    probe.connect(to)?;
    let (level, name) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut mtu: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `mtu` has.
    checked(unsafe {
        libc::getsockopt(probe.as_raw_fd(), level, name, (&raw mut mtu).cast(), &raw mut length)
    })?;
    u32::try_from(mtu).map_err(io::Error::other)
}

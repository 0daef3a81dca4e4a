//! Taking over sockets that an earlier process has bound, with the datagrams that wait in them.
//!
//! Nothing about them is believed: family, type, protocol, port and network namespace must be what [`Udp::bind`]
//! would have made; the mark and what else can be set is set anew. Called by the daemon at its start, with what
//! the service manager held.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{Family, Udp, local_address, open, prepare, set_fwmark};
use crate::sys::checked;
use crate::sys::inherit::socket_option;

impl Udp {
    /// Makes the underlay of these sockets, at most one a family; a family without one is opened as
    /// [`Udp::bind`] does it.
    ///
    /// # Errors
    ///
    /// When one of them is something else than wanted (`InvalidInput`), or what [`Udp::bind`] says. All are
    /// closed then.
    pub fn adopt(sockets: Vec<OwnedFd>, port: u16, fwmark: u32) -> io::Result<Self> {
        let mut places = [None, None];
        for socket in sockets {
            let family = check(socket.as_fd(), port)?;
            if socket_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK)? as u32 != fwmark {
                set_fwmark(socket.as_fd(), fwmark)?;
            }
            prepare(socket.as_fd(), family, fwmark)?;
            let socket = UdpSocket::from(socket);
            socket.set_nonblocking(true)?;
            let socket = OwnedFd::from(socket);
            let [v4, v6] = &mut places;
            let place = if family == Family::V4 { v4 } else { v6 };
            if place.replace(socket).is_some() {
                return Err(unfit(format!("a second socket of {family}")));
            }
        }
        let [v4, v6] = places;
        if v4.is_none() && v6.is_none() {
            return Err(unfit("no socket at all"));
        }
        let or_open = |socket: Option<OwnedFd>, family| match socket {
            Some(socket) => Ok(Some(socket)),
            None => open(family, port, fwmark),
        };
        Ok(Self::of(or_open(v4, Family::V4)?, or_open(v6, Family::V6)?, port, fwmark))
    }
}

/// Says of which family a socket is, if it is one of ours.
fn check(socket: BorrowedFd<'_>, port: u16) -> io::Result<Family> {
    let of_socket = |name| socket_option(socket, libc::SOL_SOCKET, name);
    let family = match of_socket(libc::SO_DOMAIN)? {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        other => return Err(unfit(format!("a socket of address family {other}"))),
    };
    if (of_socket(libc::SO_TYPE)?, of_socket(libc::SO_PROTOCOL)?)
        != (libc::SOCK_DGRAM, libc::IPPROTO_UDP)
    {
        return Err(unfit("a socket of another protocol than UDP"));
    }
    let (bound, wanted) = (local_address(socket)?, family.any(port));
    if bound != Some(wanted) {
        let bound = bound.map_or_else(|| "nothing".to_owned(), |address| address.to_string());
        return Err(unfit(format!("it is bound to {bound}, not to {wanted}")));
    }
    // Without it the IPv4 socket would get nothing.
    if family == Family::V6 && socket_option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)? != 1 {
        return Err(unfit("it takes IPv4, too"));
    }
    let ours = UdpSocket::bind(family.any(0))?;
    if namespace(socket)? != namespace(ours.as_fd())? {
        return Err(unfit("it is in another network namespace"));
    }
    Ok(family)
}

/// What tells network namespaces apart; nothing before Linux 5.14, which cannot tell.
fn namespace(socket: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `cookie` has.
    let result = checked(unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut length)
    });
    match result {
        Ok(_) => Ok(Some(cookie)),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unfit(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.into())
}

//! Sockets that are connected to a peer each. For what comes from there and goes there the kernel then looks
//! up no route, neither way (`udp_v4_early_demux` and `udp_sendmsg` in net/ipv4/udp.c), which is a tenth of
//! the time that a lone datagram takes.
//!
//! They share the port with the family's own socket, which takes what comes from anywhere else and sends what
//! a connected socket refuses: who has moved, or whose source is gone, is reached there. So they may come and
//! go as they like. All are opened when the port is, since a process that gave up its rights gets no large
//! buffer and no mark; until they are bound the kernel does not know them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{Family, open_unbound, set_option};
use crate::sys::checked;
use crate::sys::message::RawAddress;
use crate::wireguard::Endpoint;

/// Sockets of each family: for as many peers as ten machines have, and one for whom an address has changed.
pub(super) const PLACES: usize = 10;
/// Datagrams or batches that went to an endpoint before a socket is connected to it: more than a handshake
/// and what waited for it.
const SETTLED: u32 = 16;
/// An endpoint that nothing went to while so much went elsewhere gives its place away.
const LEFT: u64 = 4096;

/// The connected sockets of one port.
#[derive(Debug, Default)]
pub(super) struct Connected {
    places: Vec<Place>,
    /// What was sent in all, as a clock.
    sends: u64,
}

#[derive(Debug)]
struct Place {
    family: Family,
    socket: OwnedFd,
    /// Its own address, which it keeps once it has one.
    bound: Option<IpAddr>,
    to: Option<Endpoint>,
    is_connected: bool,
    /// Sent to that endpoint, and when that was last.
    sends: u32,
    last: u64,
}

impl Connected {
    /// Opens what may be connected later on; fewer if there are no more to be had.
    pub(super) fn open(families: impl IntoIterator<Item = Family>, fwmark: u32) -> Self {
        let families = families.into_iter().flat_map(|family| std::iter::repeat_n(family, PLACES));
        let places = families.map_while(|family| {
            let socket = open_unbound(family, fwmark).ok()?;
            share(socket.as_fd(), true).ok()?;
            Some(Place {
                family,
                socket,
                bound: None,
                to: None,
                is_connected: false,
                sends: 0,
                last: 0,
            })
        });
        Self { places: places.collect(), sends: 0 }
    }

    /// The socket in a place, which nothing comes to until it was connected once.
    pub(super) fn at(&self, place: usize) -> Option<&OwnedFd> {
        self.places.get(place).map(|place| &place.socket)
    }

    /// All sockets.
    pub(super) fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        self.places.iter().map(|place| &place.socket)
    }

    /// The socket that is connected to an endpoint. One that was asked for often gets one, which takes its
    /// port beside `shared`, the socket of its family.
    pub(super) fn socket(
        &mut self,
        to: &Endpoint,
        shared: BorrowedFd<'_>,
        port: u16,
    ) -> Option<BorrowedFd<'_>> {
        self.sends += 1;
        let now = self.sends;
        let place = self.place(to)?;
        place.last = now;
        place.sends = place.sends.saturating_add(1);
        if place.sends == SETTLED {
            // Without it the shared socket goes on.
            place.is_connected = place.connect(shared, port).is_ok();
        }
        place.is_connected.then(|| place.socket.as_fd())
    }

    /// Gives the place of an endpoint away.
    #[cold]
    pub(super) fn forget(&mut self, to: &Endpoint) {
        if let Some(place) = self.places.iter_mut().find(|place| place.to.as_ref() == Some(to)) {
            place.to = None;
        }
    }

    /// The place of an endpoint, or one that is free.
    fn place(&mut self, to: &Endpoint) -> Option<&mut Place> {
        if let Some(index) = self.places.iter().position(|place| place.to.as_ref() == Some(to)) {
            return self.places.get_mut(index);
        }
        // A link-local address means nothing without its interface, which a socket would be bound to.
        let source = to.source?.address;
        let is_link_local = match source {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if is_link_local {
            return None;
        }
        let (family, now) = (Family::of(&to.address), self.sends);
        let place = self.places.iter_mut().find(|place| {
            let is_free = place.to.is_none() || now - place.last > LEFT;
            is_free && place.family == family && place.bound.is_none_or(|bound| bound == source)
        })?;
        (place.to, place.is_connected, place.sends) = (Some(*to), false, 0);
        Some(place)
    }
}

impl Place {
    #[cold]
    fn connect(&mut self, shared: BorrowedFd<'_>, port: u16) -> io::Result<()> {
        let Some(Endpoint { address, source: Some(source) }) = self.to else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        if self.bound.is_none() {
            // For a moment only: another program that starts is to hear that the port is taken.
            share(shared, true)?;
            let result = bind(self.socket.as_fd(), SocketAddr::new(source.address, port));
            share(shared, false)?;
            result?;
            self.bound = Some(source.address);
        }
        let (address, length) = RawAddress::from_std(address);
        // SAFETY: the address is initialised, and `length` bytes of it are readable.
        checked(unsafe {
            libc::connect(self.socket.as_raw_fd(), (&raw const address).cast(), length)
        })
        .map(|_| ())
    }
}

/// Whether a socket lets others have its port that let it have theirs.
fn share(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, on.into())
}

/// Gives a socket its own address.
pub(super) fn bind(socket: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
    let (address, length) = RawAddress::from_std(to);
    // SAFETY: the address is initialised, and `length` bytes of it are readable.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
        .map(|_| ())
}

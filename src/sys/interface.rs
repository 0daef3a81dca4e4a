//! Where the interface of a TUN is now, and what it looks like there.
//!
//! An interface may be moved to another network namespace while its descriptor stays here. Looking at it
//! there leaves nothing open in that namespace: a socket kept there would keep a namespace alive whose
//! container has gone, and the interface with it. The daemon of a bare device follows its interface so;
//! `attach` looks at one that it is to take over.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use ipnet::IpNet;

use super::checked;
use super::netlink::Netlink;
use super::netns;
use super::tun::{Tun, interface_of};

/// How often a look is repeated when the interface was moved or renamed in the middle of it.
const ATTEMPTS: usize = 3;

/// An interface at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Whether it is in the network namespace of this process.
    pub here: bool,
}

/// A second descriptor of a TUN, to ask about its interface and for nothing else. It keeps the interface
/// alive as the first one does.
#[derive(Debug)]
pub struct TunWatch(OwnedFd);

impl AsFd for TunWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl TunWatch {
    /// Watches the interface of a TUN.
    ///
    /// # Errors
    ///
    /// When no descriptor is left.
    pub fn new(tun: &Tun) -> io::Result<Self> {
        tun.as_fd().try_clone_to_owned().map(Self)
    }

    /// The same for a descriptor that is a TUN's.
    pub(super) fn of(fd: &OwnedFd) -> io::Result<Self> {
        fd.try_clone().map(Self)
    }

    /// Looks at the interface; none when it was deleted.
    ///
    /// # Errors
    ///
    /// When it is in a namespace that this process may not enter (`PermissionDenied`), or the kernel
    /// refuses.
    pub fn look(&self) -> io::Result<Option<Sight>> {
        let mut result = Ok(None);
        for _ in 0..ATTEMPTS {
            result = match self.namespace() {
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Ok(None),
                // Linux before 5.2, or no CAP_NET_ADMIN: it is here, or it cannot be seen.
                Err(_) => self.look_inside(true),
                Ok(namespace) if netns::is_ours(&namespace) => self.look_inside(true),
                Ok(namespace) => netns::entered(namespace.as_fd(), || self.look_inside(false))
                    .and_then(|seen| seen),
            };
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                break;
            }
        }
        result
    }

    /// Whether it is in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell: Linux before 5.2, no `CAP_NET_ADMIN` over that namespace, or the
    /// interface is deleted.
    pub fn is_here(&self) -> io::Result<bool> {
        self.namespace().map(|namespace| netns::is_ours(&namespace))
    }

    /// Looks at it in the namespace of the calling thread.
    fn look_inside(&self, here: bool) -> io::Result<Option<Sight>> {
        let name = match interface_of(self.0.as_fd()) {
            Ok(interface) => interface.name,
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut kernel = Netlink::open().map_err(io::Error::other)?;
        let link = kernel.link(&name).map_err(io::Error::other)?;
        let link = link
            .filter(|link| link.kind.as_deref() == Some("tun"))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not in this namespace"))?;
        let addresses = kernel.addresses(link.index).map_err(io::Error::other)?;
        let (index, mtu, up) = (link.index, link.mtu, link.up);
        Ok(Some(Sight { index, name: link.name, mtu, up, addresses, here }))
    }

    /// The network namespace that the interface is in.
    pub(super) fn namespace(&self) -> io::Result<OwnedFd> {
        // SAFETY: TUNGETDEVNETNS takes no argument and returns a new descriptor, which is nobody else's.
        unsafe {
            let fd = checked(libc::ioctl(self.0.as_raw_fd(), libc::TUNGETDEVNETNS))?;
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

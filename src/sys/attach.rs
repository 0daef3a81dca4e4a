//! Attaching the overlay: a TUN interface that is addressed, sized, routed and up, and fails closed.
//!
//! This is the one thing that needs rights. It takes plain data, and a thread that has entered the network
//! namespace of the request does the work there and ends: nothing is left outside of it. It deletes nothing
//! that is not a TUN without an owner. The daemon calls it at start, on reload and when a container has
//! come; it blocks, for up to three seconds when a previous process is slow to die.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::guard::{self, Guard, GuardError, Guarded};
use super::netlink::{Link, Netlink, NetlinkError, Route, RouteTarget};
use super::netns::{self, Namespace};
use super::tun::{self, Tun};

mod adopt;
mod error;
mod others;
pub mod sandbox;

pub use adopt::adopt;
pub use error::AttachError;
use others::{into_other_tunnels, refuse_taken};

/// Metric of the `unreachable` routes that stay behind when the interface goes.
///
/// Within one prefix the lowest metric wins: the tunnel's routes have the kernel's default (0 for IPv4,
/// 1024 for IPv6), and any route that an operator puts in should win as well, so this is the worst that
/// there is but one: `u32::MAX` is the kernel's own null route (net/ipv6/route.c,
/// `ip6_null_entry`). Nobody else picks it, so that it also says which routes are ours.
pub const FAIL_CLOSED_METRIC: u32 = u32::MAX - 1;

/// Waits between two attempts to take a TUN that another process still holds.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Attempts to take it: 3 s in all. A killed process gives its TUN back some milliseconds after its end.
const BUSY_ATTEMPTS: u32 = 60;

/// Packets that the interface queues for us. The kernel's 500 are 4 ms of a flood of small ones, less than
/// a busy scheduler makes the packet loop wait: at 130,000 packets a second half were lost there.
const QUEUE: u32 = 4096;

/// Segments in one large packet: sealed, so many of an MTU up to 1,440 are just under 64 KiB, and leave
/// with one system call. The kernel's own limit makes 47 and so a second call, and a second packet for the
/// peer's kernel to carry: 9 % of all processor time.
const MOST_SEGMENTS: u32 = 44;

/// What the overlay interface is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// Where it is to be.
    pub namespace: Namespace,
    /// Name of the TUN interface, 1 to 15 bytes.
    pub name: String,
    /// Its addresses, each with its prefix length: these and no others.
    pub addresses: Vec<IpNet>,
    /// What is behind it: the peers' allowed IPs.
    pub routes: Vec<IpNet>,
    /// Its MTU, in bytes; at least 1280 with IPv6.
    pub mtu: u16,
}

impl AttachRequest {
    /// The prefixes that need a route of their own: the kernel makes one for the network of each address
    /// (but none for a single IPv4 address), and a second one would be in its way.
    pub fn tunnel_routes(&self) -> BTreeSet<IpNet> {
        let mut routes = self.fail_closed_prefixes();
        for address in &self.addresses {
            if address.addr().is_ipv6() || address.prefix_len() < address.max_prefix_len() {
                routes.remove(&address.trunc());
            }
        }
        routes
    }

    /// What must not leave by another route: also the networks of our own addresses, in which peers come by a
    /// reload, when there may be no right to close their prefixes one by one.
    fn fail_closed_prefixes(&self) -> BTreeSet<IpNet> {
        let networks = self.addresses.iter();
        let networks = networks.filter(|address| address.prefix_len() < address.max_prefix_len());
        self.routes.iter().chain(networks).map(IpNet::trunc).collect()
    }
}

/// An interface that is there; it goes when the TUN is dropped, the `unreachable` routes stay.
#[derive(Debug)]
pub struct Attachment {
    /// Its only descriptor.
    pub tun: Tun,
    /// Where it is.
    pub place: Place,
    /// What keeps neighbours on other interfaces from its addresses.
    pub guard: Guard,
}

/// Where an attached interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its network namespace.
    pub namespace: netns::Id,
    /// Its index there.
    pub index: u32,
}

/// Makes the interface of a request in its network namespace. One that a dead process left behind is
/// replaced.
///
/// The peers' prefixes fail closed from the moment the TUN is ours and its addresses are nobody else's:
/// whatever goes wrong later, their traffic does not leave by another route. No address is there before its
/// guard. What would cut off another tunnel waits for the routes, which say whether this one is refused: the
/// guard, and the end of prefixes that lead into the other one.
///
/// # Errors
///
/// See [`AttachError`]; the interface is gone again then.
pub fn attach(request: &AttachRequest) -> Result<Attachment, AttachError> {
    inside(request, |namespace| attach_here(request, namespace))
}

fn attach_here(request: &AttachRequest, namespace: netns::Id) -> Result<Attachment, AttachError> {
    let interface = request.name.as_str();
    let mut kernel = Netlink::open().map_err(|error| refused(interface, error))?;
    let device = tun::open_device()
        .map_err(|error| AttachError::NoTunDevice { interface: interface.to_owned(), error })?;
    let (mut tun, left_over) = claim(&mut kernel, device, interface)?;
    let index = find(&mut kernel, tun.name())?.index;
    refuse_taken(&mut kernel, interface, index, &request.addresses)?;
    let others = into_other_tunnels(&mut kernel, interface, index)?;
    let is_in_another = |prefix: &IpNet| others.iter().any(|other| other.contains(prefix));
    let (later, now) = request.fail_closed_prefixes().into_iter().partition(is_in_another);
    add_fail_closed(&mut kernel, interface, &now)?;
    if left_over {
        tun = replace(&mut kernel, tun)?;
    }
    let index = find(&mut kernel, tun.name())?.index;
    let mut work = Work { kernel, interface, index };
    work.prepare(request.mtu)?;
    work.netlink(|kernel| kernel.set_up(index, true))?;
    for prefix in request.tunnel_routes() {
        work.add_route(prefix)?;
    }
    add_fail_closed(&mut work.kernel, interface, &later)?;
    let guard = guard(&mut work.kernel, request, &[])?;
    for &address in &request.addresses {
        work.add_address(address)?;
    }
    Ok(Attachment { tun, place: Place { namespace, index }, guard })
}

/// Does something in the network namespace of a request.
fn inside<T: Send>(
    request: &AttachRequest,
    work: impl FnOnce(netns::Id) -> Result<T, AttachError> + Send,
) -> Result<T, AttachError> {
    netns::inside(&request.namespace, work).unwrap_or_else(|error| {
        Err(AttachError::Namespace { interface: request.name.clone(), error })
    })
}

/// Makes a TUN of this name and size, without addresses and down, as `wireguard-go` makes it for others to
/// configure. One that somebody made to stay is taken as it is.
///
/// # Errors
///
/// See [`AttachError`].
pub fn make_bare(interface: &str, mtu: u16) -> Result<Tun, AttachError> {
    let mut kernel = Netlink::open().map_err(|error| refused(interface, error))?;
    let device = tun::open_device()
        .map_err(|error| AttachError::NoTunDevice { interface: interface.to_owned(), error })?;
    let (tun, left_over) = claim(&mut kernel, device, interface)?;
    if !left_over {
        let index = find(&mut kernel, tun.name())?.index;
        Work { kernel, interface, index }.prepare(mtu)?;
    }
    Ok(tun)
}

/// Turns an attached interface from one request into another of the same name and namespace, touching only
/// what differs, and what somebody else took away: setting it down costs its routes. A prefix that is no longer
/// asked for may be reached by other ways again, and an address that is no longer ours is guarded no longer.
///
/// # Errors
///
/// See [`AttachError`]; the interface is somewhere between the two then, and the same call may be
/// made again. Nothing is touched when another namespace has taken the place of the interface's.
pub fn reconfigure(
    place: Place,
    old: &AttachRequest,
    new: &AttachRequest,
) -> Result<Guard, AttachError> {
    inside(new, |namespace| {
        if namespace != place.namespace {
            let interface = new.name.clone();
            return Err(AttachError::Moved { interface, namespace: new.namespace.clone() });
        }
        reconfigure_here(place.index, old, new)
    })
}

fn reconfigure_here(
    index: u32,
    old: &AttachRequest,
    new: &AttachRequest,
) -> Result<Guard, AttachError> {
    let interface = new.name.as_str();
    let kernel = Netlink::open().map_err(|error| refused(interface, error))?;
    let mut work = Work { kernel, interface, index };
    let addresses: (BTreeSet<IpNet>, BTreeSet<IpNet>) =
        (old.addresses.iter().copied().collect(), new.addresses.iter().copied().collect());
    refuse_taken(&mut work.kernel, interface, index, &addresses.1 - &addresses.0)?;
    if old.mtu != new.mtu {
        work.netlink(|kernel| kernel.set_mtu(index, new.mtu.into()))?;
    }

    let closed = (old.fail_closed_prefixes(), new.fail_closed_prefixes());
    add_fail_closed(&mut work.kernel, interface, &closed.1)?;
    work.netlink(|kernel| kernel.set_up(index, true))?;

    let routes = (old.tunnel_routes(), new.tunnel_routes());
    for prefix in &routes.1 - &routes.0 {
        work.add_route(prefix)?;
    }

    guard(&mut work.kernel, new, &old.addresses)?;

    // New addresses come before the old ones go: without any the kernel drops the routes, too.
    for address in &addresses.1 - &addresses.0 {
        work.add_address(address)?;
    }
    let gone = &addresses.0 - &addresses.1;
    for &address in &gone {
        work.delete_address(address)?;
    }

    for prefix in &routes.0 - &routes.1 {
        work.delete_route(Route { prefix, target: RouteTarget::Interface(index) })?;
    }
    work.restore(new)?;

    for prefix in &closed.0 - &closed.1 {
        work.delete_route(fail_closed(prefix))?;
    }
    guard(&mut work.kernel, new, &[])
}

/// Takes the TUN of this name, and says whether it was there before. Waits for a process that is dying.
fn claim(
    kernel: &mut Netlink,
    device: OwnedFd,
    interface: &str,
) -> Result<(Tun, bool), AttachError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM) => AttachError::NotPermitted {
            interface: interface.to_owned(),
            what: format!("make the TUN: {error}"),
        },
        _ => AttachError::Tun { interface: interface.to_owned(), error },
    };
    for attempt in 1.. {
        let present = kernel.link(interface).map_err(|error| refused(interface, error))?;
        if let Some(link) = &present
            && link.kind.as_deref() != Some("tun")
        {
            let kind = link.kind.clone();
            return Err(AttachError::NotATun { interface: interface.to_owned(), kind });
        }
        match tun::claim(device.as_fd(), interface) {
            Ok(()) => return Ok((Tun::from_claimed(device).map_err(failed)?, present.is_some())),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(failed(error)),
        }
        if attempt >= BUSY_ATTEMPTS {
            break;
        }
        thread::sleep(BUSY_PAUSE);
    }
    let owner = tun::owner(interface);
    Err(AttachError::Busy { interface: interface.to_owned(), owner })
}

/// Makes a TUN anew: addresses, routes, settings and the wish to stay go with the old one.
fn replace(kernel: &mut Netlink, tun: Tun) -> Result<Tun, AttachError> {
    let interface = tun.name().to_owned();
    let failed = |error| AttachError::Tun { interface: interface.clone(), error };
    tun.clear_persistent().map_err(failed)?;
    // The interface goes with the last descriptor. Mostly that is ours; a child that another thread is
    // starting just now has a copy until it runs its program, and the claim waits for that.
    drop(tun);
    let device = tun::open_device().map_err(failed)?;
    claim(kernel, device, &interface).map(|(tun, _)| tun)
}

fn find(kernel: &mut Netlink, interface: &str) -> Result<Link, AttachError> {
    let found = kernel.link(interface).map_err(|error| refused(interface, error))?;
    found.ok_or_else(|| AttachError::Tun {
        interface: interface.to_owned(),
        error: io::Error::new(io::ErrorKind::NotFound, "deleted by somebody else just now"),
    })
}

/// Guards the addresses of a request, and some that the interface still has.
fn guard(
    kernel: &mut Netlink,
    request: &AttachRequest,
    still: &[IpNet],
) -> Result<Guard, AttachError> {
    let addresses = request.addresses.iter().chain(still).map(IpNet::addr).collect();
    let interface = request.name.as_str();
    guard::close(kernel, &Guarded { interface, addresses, behind: &request.routes }).map_err(
        |error| match error {
            GuardError::Refused(error) => refused(interface, error),
            error => AttachError::Unguarded { interface: interface.to_owned(), error },
        },
    )
}

fn fail_closed(prefix: IpNet) -> Route {
    Route { prefix, target: RouteTarget::Unreachable { metric: FAIL_CLOSED_METRIC } }
}

fn add_fail_closed(
    kernel: &mut Netlink,
    interface: &str,
    prefixes: &BTreeSet<IpNet>,
) -> Result<(), AttachError> {
    for &prefix in prefixes {
        match kernel.add_route(&fail_closed(prefix)) {
            // From the run before this one.
            Err(error) if error.errno() == Some(libc::EEXIST) => {}
            result => result.map_err(|error| refused_prefix(interface, prefix, error))?,
        }
    }
    Ok(())
}

/// One interface under the hands of `attach` or `reconfigure`.
struct Work<'a> {
    kernel: Netlink,
    interface: &'a str,
    index: u32,
}

impl Work<'_> {
    fn netlink<T>(
        &mut self,
        request: impl FnOnce(&mut Netlink) -> Result<T, NetlinkError>,
    ) -> Result<T, AttachError> {
        request(&mut self.kernel).map_err(|error| refused(self.interface, error))
    }

    /// What must be said before the interface is up for the first time.
    fn prepare(&mut self, mtu: u16) -> Result<(), AttachError> {
        let index = self.index;
        match self.kernel.set_addr_gen_mode_none(index) {
            // No IPv6, no automatic address.
            Err(error) if error.errno() == Some(libc::EAFNOSUPPORT) => {}
            result => result.map_err(|error| refused(self.interface, error))?,
        }
        self.netlink(|kernel| kernel.set_mtu(index, mtu.into()))?;
        self.netlink(|kernel| kernel.set_txqueuelen(index, QUEUE))?;
        // An old kernel keeps its own number, which costs a system call more for a large packet.
        let _ = self.kernel.set_gso_max_segs(index, MOST_SEGMENTS);
        Ok(())
    }

    fn add_address(&mut self, address: IpNet) -> Result<(), AttachError> {
        match self.kernel.add_address(self.index, address) {
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            result => result.map_err(|error| refused_prefix(self.interface, address, error)),
        }
    }

    fn delete_address(&mut self, address: IpNet) -> Result<(), AttachError> {
        match self.kernel.delete_address(self.index, address) {
            // Somebody else did it, or the kernel together with the subnet's first address.
            Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            result => result.map_err(|error| refused(self.interface, error)),
        }
    }

    fn add_route(&mut self, prefix: IpNet) -> Result<(), AttachError> {
        let (index, target) = (self.index, RouteTarget::Interface(self.index));
        match self.kernel.add_route(&Route { prefix, target }) {
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                // Ours from an earlier, interrupted call is fine. One that leads elsewhere would take the
                // overlay's traffic out of the tunnel.
                let ours = self.netlink(|kernel| kernel.routes(index))?;
                if ours.iter().any(|route| route.prefix == prefix) {
                    return Ok(());
                }
                Err(AttachError::RouteTaken { interface: self.interface.to_owned(), prefix })
            }
            result => result.map_err(|error| refused_prefix(self.interface, prefix, error)),
        }
    }

    fn delete_route(&mut self, route: Route) -> Result<(), AttachError> {
        match self.kernel.delete_route(&route) {
            Err(error) if matches!(error.errno(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            result => result.map_err(|error| refused(self.interface, error)),
        }
    }

    /// Puts back what is missing. The kernel takes along with a deleted address the other addresses of its
    /// IPv4 subnet if it was their first (net/ipv4/devinet.c, `__inet_del_ifa`), and all IPv4 routes if it was
    /// the interface's last (net/ipv4/fib_frontend.c, `fib_inetaddr_event`); with an interface that is set down
    /// its routes and IPv6 addresses.
    fn restore(&mut self, request: &AttachRequest) -> Result<(), AttachError> {
        let index = self.index;
        let present = self.netlink(|kernel| kernel.addresses(index))?;
        for &address in request.addresses.iter().filter(|address| !present.contains(address)) {
            self.add_address(address)?;
        }
        let present = self.netlink(|kernel| kernel.routes(index))?;
        let present: BTreeSet<IpNet> = present.iter().map(|route| route.prefix).collect();
        for prefix in &request.tunnel_routes() - &present {
            self.add_route(prefix)?;
        }
        Ok(())
    }
}

fn refused(interface: &str, error: NetlinkError) -> AttachError {
    let interface = interface.to_owned();
    match error.errno() {
        Some(libc::EPERM) => AttachError::NotPermitted { interface, what: error.to_string() },
        _ => AttachError::Netlink { interface, error },
    }
}

/// The same for an address or a route, where some errors mean that the namespace has no IPv6: EACCES is
/// what net/ipv6/addrconf.c and route.c say under disable_ipv6, EOPNOTSUPP and EAFNOSUPPORT come from a
/// kernel without it.
fn refused_prefix(interface: &str, prefix: IpNet, error: NetlinkError) -> AttachError {
    match error.errno() {
        Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) if prefix.addr().is_ipv6() => {
            AttachError::Ipv6Disabled { interface: interface.to_owned(), prefix }
        }
        _ => refused(interface, error),
    }
}

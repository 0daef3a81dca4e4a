//! The interface of a container whose engine does most of the work: it moves the TUN into the container's
//! network namespace, gives it its address and routes, and brings it up.
//!
//! What is left for us: the TUN itself, before; in that namespace what the engine does not know (fail-closed
//! routes, the guard), while it is at work, touching nothing that it is about to make; the rest of a request once it
//! has done its part; and the whole again, when hushwire or the interface went while the container runs.
//! The descriptor stays with this process all the time. Called by `daemon::plugin`; everything blocks.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ipnet::IpNet;

use super::{
    AttachError, AttachRequest, Attachment, Work, add_fail_closed, adopt, attach, claim, find,
    guard, reconfigure, refused, replace,
};
use crate::sys::guard::Guard;
use crate::sys::interface::{TunWatch, inside};
use crate::sys::netlink::Netlink;
use crate::sys::tun;

/// Makes a TUN for an engine to move, in the network namespace of the calling thread: sized, without
/// addresses, and down.
///
/// # Errors
///
/// See [`AttachError`].
pub fn prepare(request: &AttachRequest) -> Result<Attachment, AttachError> {
    let interface = request.name.as_str();
    let mut kernel = Netlink::open().map_err(|error| refused(interface, error))?;
    let device = tun::open_device()
        .map_err(|error| AttachError::NoTunDevice { interface: interface.to_owned(), error })?;
    let (mut tun, left_over) = claim(&mut kernel, device, interface)?;
    if left_over {
        tun = replace(&mut kernel, tun)?;
    }
    let index = find(&mut kernel, interface)?.index;
    Work { kernel, interface, index }.prepare(request.mtu)?;
    Ok(Attachment { tun, index, guard: Guard::default() })
}

/// Has the peers' prefixes fail closed, and guards the addresses, in the namespace where the engine has
/// moved a TUN to. The request has the name that the interface gets there.
///
/// # Errors
///
/// See [`AttachError`].
pub fn close(watch: &TunWatch, request: &AttachRequest) -> Result<Guard, AttachError> {
    there(watch, request, || with_ipv6_if_there(request, close_here))
}

fn close_here(request: &AttachRequest) -> Result<Guard, AttachError> {
    let mut kernel = Netlink::open().map_err(|error| refused(&request.name, error))?;
    add_fail_closed(&mut kernel, &request.name, &request.fail_closed_prefixes())?;
    guard(&mut kernel, request, &[])
}

/// What the engine has made of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its index in the container.
    pub index: u32,
    /// What keeps neighbours on the container's other interfaces from its addresses.
    pub guard: Guard,
    /// What of the request holds there: IPv6 may be switched off.
    pub request: AttachRequest,
}

/// Brings a moved interface to the request, once the engine has done what it was told (these addresses and
/// routes, and up); none while it is at work.
///
/// # Errors
///
/// See [`AttachError`]; [`AttachError::NotAdopted`] when it is no longer there.
pub fn finish(
    watch: &TunWatch,
    request: &AttachRequest,
    told: &BTreeSet<IpNet>,
) -> Result<Option<Finished>, AttachError> {
    there(watch, request, || {
        let sight = watch.look().map_err(|error| unfit(request, error))?;
        let Some(sight) = sight else {
            return Err(unfit(request, io::Error::other("it was deleted")));
        };
        let mut kernel = Netlink::open().map_err(|error| refused(&sight.name, error))?;
        let index = sight.index;
        let routes = kernel.routes(index).map_err(|error| refused(&sight.name, error))?;
        let routes: Vec<IpNet> = routes.iter().map(|route| route.prefix).collect();
        let is_there = |net: &IpNet| {
            routes.contains(net) || sight.addresses.iter().any(|own| own.addr() == net.addr())
        };
        if !sight.up || !told.iter().all(is_there) {
            return Ok(None);
        }
        let present = AttachRequest {
            name: sight.name.clone(),
            addresses: sight.addresses,
            routes,
            mtu: request.mtu,
        };
        let wanted = AttachRequest { name: sight.name, ..request.clone() };
        let (guard, request) = with_ipv6_if_there(&wanted, |wanted| {
            close_here(wanted)?;
            Ok((reconfigure(index, &present, wanted)?, wanted.clone()))
        })?;
        Ok(Some(Finished { index, guard, request }))
    })
}

/// Changes an interface where it is, as [`reconfigure`] does here.
///
/// # Errors
///
/// See [`AttachError`].
pub fn reshape(
    watch: &TunWatch,
    was: &Finished,
    request: &AttachRequest,
) -> Result<Finished, AttachError> {
    there(watch, request, || {
        let wanted = AttachRequest { name: was.request.name.clone(), ..request.clone() };
        let (guard, request) = with_ipv6_if_there(&wanted, |wanted| {
            Ok((reconfigure(was.index, &was.request, wanted)?, wanted.clone()))
        })?;
        Ok(Finished { index: was.index, guard, request })
    })
}

/// Makes the interface in the network namespace of a container that runs without it.
///
/// # Errors
///
/// See [`AttachError`]; [`AttachError::NotAdopted`] when there is no such namespace.
pub fn attach_in(
    sandbox: &Path,
    request: &AttachRequest,
) -> Result<(Attachment, Finished), AttachError> {
    let namespace = File::open(sandbox).map(OwnedFd::from);
    let entered = namespace.and_then(|namespace| {
        inside(&namespace, || {
            Ok(with_ipv6_if_there(request, |wanted| {
                let attachment = attach(wanted)?;
                let (index, guard) = (attachment.index, attachment.guard);
                Ok((attachment, Finished { index, guard, request: wanted.clone() }))
            }))
        })
    });
    entered.unwrap_or_else(|error| Err(unfit(request, error)))
}

/// Takes over an interface that is in a container, with the packets that wait in it. One that is in our own
/// namespace was never moved, and goes.
///
/// # Errors
///
/// See [`AttachError`]; the interface goes with its descriptor then, if that was the last.
pub fn adopt_there(
    fd: OwnedFd,
    request: &AttachRequest,
) -> Result<(Attachment, Finished), AttachError> {
    let interface = tun::interface_of(fd.as_fd()).map_err(|error| unfit(request, error))?;
    let watch = TunWatch::of(&fd).map_err(|error| unfit(request, error))?;
    if watch.is_here().map_err(|error| unfit(request, error))? {
        return Err(unfit(request, io::Error::other("no container has it")));
    }
    let request = AttachRequest { name: interface.name, ..request.clone() };
    there(&watch, &request, || {
        with_ipv6_if_there(&request, |wanted| {
            let copy = fd.try_clone().map_err(|error| unfit(wanted, error))?;
            let attachment = adopt(copy, wanted)?;
            let (index, guard) = (attachment.index, attachment.guard);
            Ok((attachment, Finished { index, guard, request: wanted.clone() }))
        })
    })
}

/// Runs something in the namespace of an interface.
fn there<T: Send>(
    watch: &TunWatch,
    request: &AttachRequest,
    run: impl FnOnce() -> Result<T, AttachError> + Send,
) -> Result<T, AttachError> {
    let namespace = watch.namespace().map_err(|error| unfit(request, error))?;
    inside(&namespace, || Ok(run())).unwrap_or_else(|error| Err(unfit(request, error)))
}

/// An engine switches IPv6 off in a container that has no network with it: what is IPv6 is left out then.
fn with_ipv6_if_there<T>(
    request: &AttachRequest,
    run: impl Fn(&AttachRequest) -> Result<T, AttachError>,
) -> Result<T, AttachError> {
    match run(request) {
        Err(AttachError::Ipv6Disabled { .. }) if request.addresses.iter().any(is_ipv4) => {
            let only = |nets: &[IpNet]| nets.iter().copied().filter(is_ipv4).collect();
            run(&AttachRequest {
                name: request.name.clone(),
                addresses: only(&request.addresses),
                routes: only(&request.routes),
                mtu: request.mtu,
            })
        }
        result => result,
    }
}

fn is_ipv4(net: &IpNet) -> bool {
    net.addr().is_ipv4()
}

fn unfit(request: &AttachRequest, error: io::Error) -> AttachError {
    AttachError::NotAdopted { interface: request.name.clone(), why: error.to_string() }
}

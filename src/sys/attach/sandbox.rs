//! The interface of a container whose engine does most of the work: it moves the TUN into the container's
//! network namespace, gives it its address and routes, and brings it up.
//!
//! What is left for us: the TUN itself, before; in that namespace what the engine does not know (fail-closed
//! routes, the guard), while it is at work, touching nothing that it is about to make; the rest of a request once it
//! has done its part; and the whole again, when hushwire or the interface went while the container runs.
//! The descriptor stays with this process all the time. Called by `daemon::plugin`; everything blocks.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::adopt::adopt_here;
use super::{
    AttachError, AttachRequest, Attachment, Place, Work, add_fail_closed, attach, claim, find,
    guard, reconfigure_here, refused, replace,
};
use crate::sys::guard::Guard;
use crate::sys::interface::TunWatch;
use crate::sys::netlink::Netlink;
use crate::sys::netns::{self, Namespace};
use crate::sys::tun::{self, Tun};

/// Makes a TUN for an engine to move, in the network namespace of the calling thread: sized, without
/// addresses, and down; with its index.
///
/// # Errors
///
/// See [`AttachError`].
pub fn prepare(request: &AttachRequest) -> Result<(Tun, u32), AttachError> {
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
    Ok((tun, index))
}

/// Has the peers' prefixes fail closed, and guards the addresses, in the namespace where the engine has
/// moved a TUN to. The request has the name that the interface gets there.
///
/// # Errors
///
/// See [`AttachError`].
pub fn close(watch: &TunWatch, request: &AttachRequest) -> Result<Guard, AttachError> {
    there(watch, request, |_| with_ipv6_if_there(request, close_here))
}

fn close_here(request: &AttachRequest) -> Result<Guard, AttachError> {
    let mut kernel = Netlink::open().map_err(|error| refused(&request.name, error))?;
    add_fail_closed(&mut kernel, &request.name, &request.fail_closed_prefixes())?;
    guard(&mut kernel, request, &[])
}

/// What the engine has made of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Where it is.
    pub place: Place,
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
    there(watch, request, |namespace| {
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
            namespace: Namespace::Own,
            name: sight.name.clone(),
            addresses: sight.addresses,
            routes,
            // Of the request before, perhaps; none that does not fit is ever asked for.
            mtu: u16::try_from(sight.mtu).unwrap_or_default(),
        };
        let wanted = AttachRequest { name: sight.name, ..request.clone() };
        let (guard, request) = with_ipv6_if_there(&wanted, |wanted| {
            close_here(wanted)?;
            Ok((reconfigure_here(index, &present, wanted)?, wanted.clone()))
        })?;
        Ok(Some(Finished { place: Place { namespace, index }, guard, request }))
    })
}

/// Changes an interface where it is, as [`reconfigure`](super::reconfigure) does.
///
/// # Errors
///
/// See [`AttachError`].
pub fn reshape(
    watch: &TunWatch,
    was: &Finished,
    request: &AttachRequest,
) -> Result<Finished, AttachError> {
    there(watch, request, |_| {
        let wanted = AttachRequest { name: was.request.name.clone(), ..request.clone() };
        let (guard, request) = with_ipv6_if_there(&wanted, |wanted| {
            Ok((reconfigure_here(was.place.index, &was.request, wanted)?, wanted.clone()))
        })?;
        Ok(Finished { place: was.place, guard, request })
    })
}

/// Makes the interface in the network namespace of a container that runs without it.
///
/// # Errors
///
/// See [`AttachError`].
pub fn attach_in(
    sandbox: PathBuf,
    request: &AttachRequest,
) -> Result<(Attachment, Finished), AttachError> {
    let request = AttachRequest { namespace: Namespace::File(sandbox), ..request.clone() };
    with_ipv6_if_there(&request, |wanted| attach(wanted).map(|made| with_request(made, wanted)))
}

fn with_request(made: Attachment, wanted: &AttachRequest) -> (Attachment, Finished) {
    let (place, guard) = (made.place, made.guard);
    (made, Finished { place, guard, request: wanted.clone() })
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
    there(&watch, &request, |namespace| {
        with_ipv6_if_there(&request, |wanted| {
            let copy = fd.try_clone().map_err(|error| unfit(wanted, error))?;
            adopt_here(copy, wanted, namespace).map(|made| with_request(made, wanted))
        })
    })
}

/// Runs something in the namespace of an interface.
fn there<T: Send>(
    watch: &TunWatch,
    request: &AttachRequest,
    work: impl FnOnce(netns::Id) -> Result<T, AttachError> + Send,
) -> Result<T, AttachError> {
    let namespace = watch.namespace().map_err(|error| unfit(request, error))?;
    let done = netns::entered(namespace.as_fd(), || {
        let id = netns::identify(&Namespace::Own)
            .map_err(|error| AttachError::Namespace { interface: request.name.clone(), error })?;
        work(id)
    });
    done.unwrap_or_else(|error| Err(unfit(request, error)))
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
                namespace: request.namespace.clone(),
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

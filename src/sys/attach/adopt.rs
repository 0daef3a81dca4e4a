//! Taking over an interface that another process has attached, with the packets that wait in it.
//!
//! It is brought to a request while it stays up: what is there and wanted is not touched, so that nothing
//! is lost. One that does not fit is given up, and goes with its descriptor. Called by the daemon at its
//! start, with what a keeper held.

use std::io;
use std::os::fd::OwnedFd;

use super::{
    AttachError, AttachRequest, Attachment, Place, Work, add_fail_closed, inside, reconfigure_here,
    refused,
};
use crate::sys::interface::TunWatch;
use crate::sys::netlink::Netlink;
use crate::sys::netns;
use crate::sys::tun::Tun;

/// Makes an attached TUN what a request wants, in the network namespace of that.
///
/// # Errors
///
/// [`AttachError`]: [`NotAdopted`](AttachError::NotAdopted) when it is of another kind, name or
/// namespace. The descriptor is closed then, and with it the interface, if it was the last.
pub fn adopt(fd: OwnedFd, request: &AttachRequest) -> Result<Attachment, AttachError> {
    inside(request, |namespace| adopt_here(fd, request, namespace))
}

pub(super) fn adopt_here(
    fd: OwnedFd,
    request: &AttachRequest,
    namespace: netns::Id,
) -> Result<Attachment, AttachError> {
    let interface = request.name.as_str();
    let unfit = |why: String| AttachError::NotAdopted { interface: interface.to_owned(), why };
    let odd = |error: io::Error| unfit(error.to_string());
    // Ours were all opened without packet information.
    let tun = Tun::from_claimed(fd).map_err(odd)?;
    if tun.name() != interface {
        return Err(unfit(format!("its name is {}", tun.name())));
    }
    let watch = TunWatch::new(&tun).map_err(odd)?;
    if !watch.is_here().map_err(odd)? {
        return Err(unfit("it is in another network namespace".to_owned()));
    }
    let sight = watch.look().map_err(odd)?.ok_or_else(|| unfit("it was deleted".to_owned()))?;
    let (index, name) = (sight.index, sight.name.clone());
    let mut kernel = Netlink::open().map_err(|error| refused(interface, error))?;
    add_fail_closed(&mut kernel, interface, &request.fail_closed_prefixes())?;
    let mut work = Work { kernel, interface, index };
    // It may come from another version. The queue keeps what is in it.
    work.prepare(request.mtu)?;
    let routes = work.netlink(|kernel| kernel.routes(index))?;
    let present = AttachRequest {
        namespace: request.namespace.clone(),
        name,
        addresses: sight.addresses,
        routes: routes.iter().map(|route| route.prefix).collect(),
        mtu: request.mtu,
    };
    let guard = reconfigure_here(index, &present, request)?;
    Ok(Attachment { tun, place: Place { namespace, index }, guard })
}

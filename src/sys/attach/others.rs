//! What other interfaces of the network namespace have, so that it is not taken from them: an address, and a way
//! into another tunnel.
//!
//! It asks and refuses, and changes nothing. Called by `attach` and `reconfigure`, before what they change.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use ipnet::IpNet;

use super::{AttachError, BUSY_PAUSE, refused};
use crate::sys::guard::LOOPBACK;
use crate::sys::netlink::{Link, Netlink, NetlinkError};

/// Looks for an address on other interfaces: 1 s in all. One of another name that a service manager kept for
/// us goes some milliseconds after it was told to forget it.
const ADDRESS_ATTEMPTS: u32 = 20;

/// Refuses an address that another interface has which is up: the guard would take it away from that one.
pub(super) fn refuse_taken(
    kernel: &mut Netlink,
    interface: &str,
    index: u32,
    addresses: impl IntoIterator<Item = impl Borrow<IpNet>>,
) -> Result<(), AttachError> {
    let addresses: BTreeSet<IpAddr> =
        addresses.into_iter().map(|address| address.borrow().addr()).collect();
    for attempt in 1.. {
        let taken = taken(kernel, index, &addresses).map_err(|error| refused(interface, error))?;
        let Some((address, by)) = taken else { break };
        if attempt >= ADDRESS_ATTEMPTS {
            return Err(AttachError::AddressTaken { interface: interface.to_owned(), address, by });
        }
        thread::sleep(BUSY_PAUSE);
    }
    Ok(())
}

/// An address among these, and which other interface has it.
fn taken(
    kernel: &mut Netlink,
    index: u32,
    addresses: &BTreeSet<IpAddr>,
) -> Result<Option<(IpAddr, String)>, NetlinkError> {
    let others = kernel.all_addresses()?.into_iter().map(|(of, address)| (of, address.addr()));
    let others: Vec<_> =
        others.filter(|(of, address)| *of != index && addresses.contains(address)).collect();
    if others.is_empty() {
        return Ok(None);
    }
    // Nothing comes in by a dummy, and what comes by lo the guard lets through: an address may stand there so
    // that somebody can have it early.
    let is_in_use =
        |link: &Link| link.up && link.name != LOOPBACK && link.kind.as_deref() != Some("dummy");
    let links: Vec<Link> = kernel.links()?.into_iter().filter(is_in_use).collect();
    Ok(others.into_iter().find_map(|(of, address)| {
        links.iter().find(|link| link.index == of).map(|link| (address, link.name.clone()))
    }))
}

/// The prefixes that lead into other tunnels now; a default route is none.
pub(super) fn into_other_tunnels(
    kernel: &mut Netlink,
    interface: &str,
    index: u32,
) -> Result<Vec<IpNet>, AttachError> {
    let mut prefixes = Vec::new();
    let is_tunnel = |link: &Link| matches!(link.kind.as_deref(), Some("tun" | "wireguard"));
    let links = kernel.links().map_err(|error| refused(interface, error))?;
    for link in links.iter().filter(|link| link.index != index && is_tunnel(link)) {
        let routes = kernel.routes(link.index).map_err(|error| refused(interface, error))?;
        prefixes.extend(routes.iter().map(|route| route.prefix));
    }
    prefixes.retain(|prefix| prefix.prefix_len() > 0);
    Ok(prefixes)
}

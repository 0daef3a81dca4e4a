//! The few rtnetlink requests that attaching an interface needs, and news about interfaces.
//!
//! Each request is synchronous, acknowledged by the kernel, and about the network namespace of the
//! thread that opened the socket. This room decides nothing: what is an error and what is fine is
//! `attach`'s business. The daemon follows interfaces with a [`LinkMonitor`].

use std::fmt;

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NLM_F_CREATE, NLM_F_EXCL};

use attributes::Attributes;
use convert::{
    LinkMessage, address_message, addresses_message, delete_route_message, link_message,
    new_route_message, read_address, read_any_address, read_route, routes_message, up_message,
};

pub(super) mod attributes;
mod convert;
mod exchange;
mod message;
mod monitor;
mod rule;

pub use exchange::{Netlink, NetlinkError};
pub use monitor::{LinkEvent, LinkMonitor, LinkState};
pub use rule::{GUARD_PROTOCOL, Rule, Sort};

// include/uapi/linux/if_link.h; libc does not have them.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

/// An interface at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is (`tun`, `tap`, `dummy`, `veth`, `wireguard` ...); none for most physical cards.
    pub kind: Option<String>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
}

/// One route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it leads to.
    pub prefix: IpNet,
    /// Where that is.
    pub target: RouteTarget,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// Through the interface of this index, at the kernel's default metric.
    Interface(u32),
    /// Nowhere: senders are told that the destination is unreachable.
    Unreachable {
        /// Routes of the same prefix and a lower metric come first.
        metric: u32,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            RouteTarget::Interface(index) => {
                write!(f, "route to {} through interface {index}", self.prefix)
            }
            RouteTarget::Unreachable { metric } => {
                write!(f, "unreachable route to {} with metric {metric}", self.prefix)
            }
        }
    }
}

impl Netlink {
    /// Finds an interface by its name.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; a name that does not exist is `None`.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let named = Attributes::default().text(libc::IFLA_IFNAME, name);
        let request = link_message(libc::RTM_GETLINK, 0, &named);
        match self.ask(format_args!("look for interface {name}"), request, read_link) {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All interfaces of the network namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = link_message(libc::RTM_GETLINK, 0, &Attributes::default());
        self.dump(format_args!("list the interfaces"), request, read_link)
    }

    /// Deletes an interface.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `ENODEV` when there is none, `EOPNOTSUPP` for a physical card.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let request = link_message(libc::RTM_DELLINK, index, &Attributes::default());
        self.command(format_args!("delete interface {index}"), request, 0)
    }

    /// Sets an interface's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `ENODEV` when there is none, `EINVAL` for a size it cannot have.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let what = format_args!("set the MTU of interface {index} to {mtu}");
        self.set_link(what, index, Attributes::default().native(libc::IFLA_MTU, mtu))
    }

    /// Sets how many packets an interface queues.
    ///
    /// # Errors
    ///
    /// As [`Self::set_mtu`].
    pub fn set_txqueuelen(&mut self, index: u32, packets: u32) -> Result<(), NetlinkError> {
        let what = format_args!("set the queue length of interface {index} to {packets}");
        self.set_link(what, index, Attributes::default().native(libc::IFLA_TXQLEN, packets))
    }

    /// Sets how many segments the kernel puts into one large packet for an interface.
    ///
    /// # Errors
    ///
    /// As [`Self::set_mtu`]; a kernel before 4.16 does not know it.
    pub fn set_gso_max_segs(&mut self, index: u32, segments: u32) -> Result<(), NetlinkError> {
        let what = format_args!("set the segments of interface {index} to {segments}");
        self.set_link(what, index, Attributes::default().native(libc::IFLA_GSO_MAX_SEGS, segments))
    }

    /// Keeps the kernel from giving an interface a link-local IPv6 address of its own, now and when it
    /// goes up.
    ///
    /// # Errors
    ///
    /// As [`Self::set_mtu`]; `EAFNOSUPPORT` when the interface or the kernel has no IPv6.
    pub fn set_addr_gen_mode_none(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mode = Attributes::default().bytes(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        let of_inet6 = Attributes::default().nested(libc::AF_INET6 as u16, mode);
        let what = format_args!("stop automatic IPv6 addresses on interface {index}");
        self.set_link(what, index, Attributes::default().nested(libc::IFLA_AF_SPEC, of_inet6))
    }

    fn set_link(
        &mut self,
        what: fmt::Arguments<'_>,
        index: u32,
        attributes: Attributes,
    ) -> Result<(), NetlinkError> {
        self.command(what, link_message(libc::RTM_SETLINK, index, &attributes), 0)
    }

    /// Brings an interface up or down.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `ENODEV` when there is none.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let what = if up { "up" } else { "down" };
        let request = up_message(index, up);
        self.command(format_args!("bring interface {index} {what}"), request, 0)
    }

    /// Lists the addresses of an interface, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let what = format_args!("list the addresses of interface {index}");
        self.dump(what, addresses_message(index), |body| read_address(body, index))
    }

    /// Lists the addresses of all interfaces, both families, each with the index of its interface.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        self.dump(format_args!("list all addresses"), addresses_message(0), read_any_address)
    }

    /// Gives an interface an address with its prefix length. An IPv6 one is usable at once: nobody
    /// else can be on a TUN, so that duplicate address detection would only delay it by a second.
    ///
    /// # Errors
    ///
    /// `EEXIST` when it has it; `EACCES` or `EOPNOTSUPP` for IPv6 when that is off; `EPERM` without
    /// `CAP_NET_ADMIN`.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let request = address_message(libc::RTM_NEWADDR, index, address);
        let what = format_args!("give interface {index} the address {address}");
        self.command(what, request, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    ///
    /// `EADDRNOTAVAIL` when it does not have it; `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let request = address_message(libc::RTM_DELADDR, index, address);
        let what = format_args!("take the address {address} from interface {index}");
        self.command(what, request, 0)
    }

    /// Lists the unicast routes of the main table that lead through an interface.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn routes(&mut self, index: u32) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for v6 in [false, true] {
            let what = format_args!("list the routes through interface {index}");
            let read = |body: &[u8]| read_route(body, index);
            found.extend(self.dump(what, routes_message(v6, index), read)?);
        }
        Ok(found)
    }

    /// Puts a route into the main table.
    ///
    /// # Errors
    ///
    /// `EEXIST` when there is one of the same prefix and metric, wherever it leads; `ENODEV` or
    /// `ENETDOWN` when the interface is gone or down; `EPERM` without `CAP_NET_ADMIN`.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let request = new_route_message(route);
        self.command(format_args!("add the {route}"), request, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes a route out of the main table.
    ///
    /// # Errors
    ///
    /// `ESRCH` when there is none; `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let request = delete_route_message(route);
        self.command(format_args!("delete the {route}"), request, 0)
    }
}

fn read_link(body: &[u8]) -> Result<Option<Link>, DecodeError> {
    LinkMessage::read(body).map(|message| Some(message.link))
}

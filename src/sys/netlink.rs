//! The few rtnetlink requests that attaching an interface needs, and news about interfaces.
//!
//! Each request is synchronous, acknowledged by the kernel, and about the network namespace of the
//! thread that opened the socket. This room decides nothing: what is an error and what is fine is
//! `attach`'s business. The daemon follows interfaces with a [`LinkMonitor`].

use std::fmt;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use convert::{address_message, read_address, read_link, read_route, route_message};

pub(super) mod attributes;
mod convert;
mod exchange;
mod monitor;
mod rule;

pub use exchange::{Netlink, NetlinkError};
pub use monitor::{LinkEvent, LinkMonitor, LinkState};
pub use rule::{GUARD_PROTOCOL, Rule, Sort};

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
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let request = RouteNetlinkMessage::GetLink(message);
        match self.exchange(format_args!("look for interface {name}"), request, 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(read_link(message)),
                _ => None,
            })),
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
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(format_args!("list the interfaces"), request)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(read_link(message)),
                _ => None,
            })
            .collect())
    }

    /// Deletes an interface.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `ENODEV` when there is none, `EOPNOTSUPP` for a physical card.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let request = RouteNetlinkMessage::DelLink(message);
        self.command(format_args!("delete interface {index}"), request, 0)
    }

    /// Sets an interface's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `ENODEV` when there is none, `EINVAL` for a size it cannot have.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let what = format_args!("set the MTU of interface {index} to {mtu}");
        self.set_link(what, index, LinkAttribute::Mtu(mtu))
    }

    /// Sets how many packets an interface queues.
    ///
    /// # Errors
    ///
    /// As [`Self::set_mtu`].
    pub fn set_txqueuelen(&mut self, index: u32, packets: u32) -> Result<(), NetlinkError> {
        let what = format_args!("set the queue length of interface {index} to {packets}");
        self.set_link(what, index, LinkAttribute::TxQueueLen(packets))
    }

    /// Sets how many segments the kernel puts into one large packet for an interface.
    ///
    /// # Errors
    ///
    /// As [`Self::set_mtu`]; a kernel before 4.16 does not know it.
    pub fn set_gso_max_segs(&mut self, index: u32, segments: u32) -> Result<(), NetlinkError> {
        let what = format_args!("set the segments of interface {index} to {segments}");
        self.set_link(what, index, LinkAttribute::GsoMaxSegs(segments))
    }

    /// Keeps the kernel from giving an interface a link-local IPv6 address of its own, now and when it
    /// goes up.
    ///
    /// # Errors
    ///
    /// As [`Self::set_mtu`]; `EAFNOSUPPORT` when the interface or the kernel has no IPv6.
    pub fn set_addr_gen_mode_none(&mut self, index: u32) -> Result<(), NetlinkError> {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]);
        let what = format_args!("stop automatic IPv6 addresses on interface {index}");
        self.set_link(what, index, attribute)
    }

    fn set_link(
        &mut self,
        what: fmt::Arguments<'_>,
        index: u32,
        attribute: LinkAttribute,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.command(what, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Brings an interface up or down.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`, `ENODEV` when there is none.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        let what = if up { "up" } else { "down" };
        let request = RouteNetlinkMessage::SetLink(message);
        self.command(format_args!("bring interface {index} {what}"), request, 0)
    }

    /// Lists the addresses of an interface, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let request = RouteNetlinkMessage::GetAddress(message);
        let answers =
            self.dump(format_args!("list the addresses of interface {index}"), request)?;
        let messages = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => Some(message),
            _ => None,
        });
        let ours = messages.filter(|message| message.header.index == index);
        Ok(ours.filter_map(|message| read_address(&message)).collect())
    }

    /// Gives an interface an address with its prefix length. An IPv6 one is usable at once: nobody
    /// else can be on a TUN, so that duplicate address detection would only delay it by a second.
    ///
    /// # Errors
    ///
    /// `EEXIST` when it has it; `EACCES` or `EOPNOTSUPP` for IPv6 when that is off; `EPERM` without
    /// `CAP_NET_ADMIN`.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut message = address_message(index, address);
        if address.addr().is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let what = format_args!("give interface {index} the address {address}");
        self.command(what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    ///
    /// `EADDRNOTAVAIL` when it does not have it; `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let what = format_args!("take the address {address} from interface {index}");
        let message = address_message(index, address);
        self.command(what, RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Lists the unicast routes of the main table that lead through an interface.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn routes(&mut self, index: u32) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.attributes.push(RouteAttribute::Oif(index));
            let what = format_args!("list the routes through interface {index}");
            let answers = self.dump(what, RouteNetlinkMessage::GetRoute(message))?;
            found.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => read_route(&message, index),
                _ => None,
            }));
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
        let request = RouteNetlinkMessage::NewRoute(route_message(route));
        self.command(format_args!("add the {route}"), request, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes a route out of the main table.
    ///
    /// # Errors
    ///
    /// `ESRCH` when there is none; `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut message = route_message(route);
        // Any scope and any origin: the kernel, or whoever made it, may have given it others than we would.
        message.header.scope = RouteScope::NoWhere;
        message.header.protocol = RouteProtocol::Unspec;
        let request = RouteNetlinkMessage::DelRoute(message);
        self.command(format_args!("delete the {route}"), request, 0)
    }
}

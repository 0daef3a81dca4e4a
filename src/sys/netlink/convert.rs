//! Links, addresses and routes as plain data, and as the messages that the kernel has for them.
//!
//! Called by the requests and by the monitor. Only the attributes that somebody uses are read, whatever else
//! a kernel sends; what is missing gives a default or nothing, what is cut off an error, neither a panic.
//! Headers are those of include/uapi/linux/rtnetlink.h and if_link.h, word by word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlasIterator, parse_ip, parse_u32};

use super::attributes::{Attributes, text};
use super::message::{Message, split};
use super::{Link, Route, RouteTarget};

/// A message about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkMessage {
    /// The interface.
    pub(super) link: Link,
    /// Who speaks about it: `AF_UNSPEC` for the interface itself.
    pub(super) family: u8,
    /// Its `IFF_*`.
    pub(super) flags: u32,
}

impl LinkMessage {
    pub(super) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        // `ifinfomsg`.
        let ([[family, _, layer @ ..], index, flags, _], attributes) = split(body)?;
        let flags = u32::from_ne_bytes(*flags);
        let mut link = Link {
            index: u32::from_ne_bytes(*index),
            name: String::new(),
            kind: None,
            mtu: 0,
            up: has(flags, libc::IFF_UP),
        };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                libc::IFLA_IFNAME => link.name = text(attribute.value()),
                libc::IFLA_MTU => link.mtu = parse_u32(attribute.value())?,
                libc::IFLA_LINKINFO => link.kind = read_kind(attribute.value())?,
                _ => {}
            }
        }
        // drivers/net/tun.c calls both of its kinds "tun"; the one that carries Ethernet frames is a TAP.
        let carries_frames = u16::from_ne_bytes(*layer) == libc::ARPHRD_ETHER;
        if link.kind.as_deref() == Some("tun") && carries_frames {
            link.kind = Some("tap".to_owned());
        }
        Ok(Self { link, family: *family, flags })
    }

    /// Whether packets can leave by the interface, as far as the driver knows.
    pub(super) fn carrier(&self) -> bool {
        has(self.flags, libc::IFF_LOWER_UP)
    }
}

fn has(flags: u32, flag: i32) -> bool {
    flags & flag.cast_unsigned() != 0
}

fn read_kind(infos: &[u8]) -> Result<Option<String>, DecodeError> {
    for info in NlasIterator::new(infos) {
        let info = info?;
        if info.kind() == libc::IFLA_INFO_KIND {
            return Ok(Some(text(info.value())));
        }
    }
    Ok(None)
}

/// A message about the interface of an index (0: all of them, or the one of a name among the attributes).
pub(super) fn link_message(kind: u16, index: u32, attributes: &Attributes) -> Message {
    Message::new(kind, link_header(index, 0, 0), attributes)
}

/// Brings an interface up or down: the flag, and that it is the one to change.
pub(super) fn up_message(index: u32, up: bool) -> Message {
    let flag = libc::IFF_UP.cast_unsigned();
    let header = link_header(index, if up { flag } else { 0 }, flag);
    Message::new(libc::RTM_SETLINK, header, &Attributes::default())
}

/// `ifinfomsg`; what the interface carries is for the kernel alone to say.
fn link_header(index: u32, flags: u32, change: u32) -> [[u8; 4]; 4] {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()]
}

/// The family and the bytes of an address.
pub(super) fn family_and_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

/// A question for the addresses of the interface of an index (0: of all).
pub(super) fn addresses_message(index: u32) -> Message {
    let header = address_header(libc::AF_UNSPEC as u8, 0, index);
    Message::new(libc::RTM_GETADDR, header, &Attributes::default())
}

/// A message that adds an address (`RTM_NEWADDR`), usable at once, or deletes it (`RTM_DELADDR`).
pub(super) fn address_message(kind: u16, index: u32, address: IpNet) -> Message {
    let (family, bytes) = family_and_bytes(address.addr());
    // On an interface without a far end both are the address itself.
    let attributes = Attributes::default().bytes(libc::IFA_LOCAL, &bytes);
    let mut attributes = attributes.bytes(libc::IFA_ADDRESS, &bytes);
    if kind == libc::RTM_NEWADDR && address.addr().is_ipv6() {
        attributes = attributes.native(libc::IFA_FLAGS, libc::IFA_F_NODAD);
    }
    Message::new(kind, address_header(family, address.prefix_len(), index), &attributes)
}

/// `ifaddrmsg`.
fn address_header(family: u8, prefix_len: u8, index: u32) -> [[u8; 4]; 2] {
    [[family, prefix_len, 0, libc::RT_SCOPE_UNIVERSE], index.to_ne_bytes()]
}

/// Reads an address of one interface; none when it is of another.
pub(super) fn read_address(body: &[u8], index: u32) -> Result<Option<IpNet>, DecodeError> {
    let found = read_any_address(body)?.filter(|&(of, _)| of == index);
    Ok(found.map(|(_, address)| address))
}

/// Reads an address, and the index of its interface.
pub(super) fn read_any_address(body: &[u8]) -> Result<Option<(u32, IpNet)>, DecodeError> {
    let ([[_, prefix_len, ..], of], attributes) = split(body)?;
    let (mut local, mut address) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFA_LOCAL => local = Some(parse_ip(attribute.value())?),
            libc::IFA_ADDRESS => address = Some(parse_ip(attribute.value())?),
            _ => {}
        }
    }
    // IPv6 gives IFA_ADDRESS alone.
    let address = local.or(address).and_then(|address| IpNet::new(address, *prefix_len).ok());
    Ok(address.map(|address| (u32::from_ne_bytes(*of), address)))
}

/// A question for the routes of the main table that lead through an interface.
pub(super) fn routes_message(v6: bool, index: u32) -> Message {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
    let header = [[family, 0, 0, 0], [libc::RT_TABLE_MAIN, 0, 0, 0], [0; 4]];
    let attributes = Attributes::default().native(libc::RTA_OIF, index);
    Message::new(libc::RTM_GETROUTE, header, &attributes)
}

/// A message that adds a route.
pub(super) fn new_route_message(route: &Route) -> Message {
    let scope = match route.target {
        // What is behind the interface needs no gateway; IPv6 knows no such scope.
        RouteTarget::Interface(_) if route.prefix.addr().is_ipv4() => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    route_message(libc::RTM_NEWROUTE, route, libc::RTPROT_STATIC, scope)
}

/// A message that deletes a route of any scope and any origin: the kernel, or whoever made it, may have given
/// it others than we would.
pub(super) fn delete_route_message(route: &Route) -> Message {
    route_message(libc::RTM_DELROUTE, route, libc::RTPROT_UNSPEC, libc::RT_SCOPE_NOWHERE)
}

fn route_message(kind: u16, route: &Route, origin: u8, scope: u8) -> Message {
    let destination = route.prefix.trunc();
    let (family, bytes) = family_and_bytes(destination.addr());
    let attributes = Attributes::default().bytes(libc::RTA_DST, &bytes);
    let (sort, attributes) = match route.target {
        RouteTarget::Interface(index) => {
            (libc::RTN_UNICAST, attributes.native(libc::RTA_OIF, index))
        }
        RouteTarget::Unreachable { metric } => {
            (libc::RTN_UNREACHABLE, attributes.native(libc::RTA_PRIORITY, metric))
        }
    };
    // `rtmsg`.
    let header = [
        [family, destination.prefix_len(), 0, 0],
        [libc::RT_TABLE_MAIN, origin, scope, sort],
        [0; 4],
    ];
    Message::new(kind, header, &attributes)
}

/// Reads a unicast route of the main table through one interface; none when it is another.
pub(super) fn read_route(body: &[u8], index: u32) -> Result<Option<Route>, DecodeError> {
    let ([[family, prefix_len, ..], [table, _, _, sort], _], attributes) = split(body)?;
    // A default route has no destination attribute.
    let mut destination = match i32::from(*family) {
        libc::AF_INET => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return Ok(None),
    };
    let mut through = None;
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::RTA_DST => destination = parse_ip(attribute.value())?,
            libc::RTA_OIF => through = Some(parse_u32(attribute.value())?),
            _ => {}
        }
    }
    let main = *table == libc::RT_TABLE_MAIN && *sort == libc::RTN_UNICAST;
    let prefix = IpNet::new(destination, *prefix_len).ok().filter(|_| main);
    let prefix = prefix.filter(|_| through == Some(index));
    Ok(prefix.map(|prefix| Route { prefix, target: RouteTarget::Interface(index) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: u32 = 0x0102_0304;

    fn link(layer: u16, attributes: &Attributes) -> Vec<u8> {
        let [low, high] = layer.to_ne_bytes();
        let flags = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned().to_ne_bytes();
        let header = [[0, 0, low, high], INDEX.to_ne_bytes(), flags, [0; 4]];
        Message::new(libc::RTM_NEWLINK, header, attributes).body
    }

    /// With the driver's own part behind the kind, as the kernel gives it.
    fn tun() -> Attributes {
        let driver = Attributes::default().native(1, 7);
        let info = Attributes::default().text(libc::IFLA_INFO_KIND, "tun").nested(2, driver);
        let named = Attributes::default().text(libc::IFLA_IFNAME, "hush0");
        named.nested(libc::IFLA_LINKINFO, info).native(libc::IFLA_MTU, 1420)
    }

    #[test]
    fn an_interface_is_read_with_its_kind_among_attributes_that_nobody_knows() {
        let unknown = Attributes::default().bytes(0x3fff, &[1; 7]);
        let all = [unknown.as_bytes(), tun().as_bytes()].concat();
        let body = [link(libc::ARPHRD_NONE, &Attributes::default()), all].concat();
        let expected = Link {
            index: INDEX,
            name: "hush0".to_owned(),
            kind: Some("tun".to_owned()),
            mtu: 1420,
            up: true,
        };
        let message = LinkMessage::read(&body).unwrap();
        assert_eq!((&message.link, message.family), (&expected, 0));
        assert!(!message.carrier());
        let tap = LinkMessage::read(&link(libc::ARPHRD_ETHER, &tun())).unwrap().link;
        assert_eq!(tap, Link { kind: Some("tap".to_owned()), ..expected });
    }

    #[test]
    fn an_interface_of_which_little_is_said_has_defaults() {
        let read = LinkMessage::read(&link(libc::ARPHRD_ETHER, &Attributes::default())).unwrap();
        assert_eq!((read.link.name.as_str(), read.link.mtu, read.link.kind), ("", 0, None));
    }

    #[test]
    fn a_message_that_is_cut_off_is_an_error_never_a_panic() {
        let body = link(libc::ARPHRD_NONE, &tun());
        for length in 0..body.len() {
            // What ends behind an attribute, with its padding or without, says less and is whole.
            let is_whole = [16, 26, 27, 28, 52].contains(&length);
            assert_eq!(LinkMessage::read(&body[..length]).is_ok(), is_whole, "{length}");
        }
        // Cut off inside: the kind is longer than what it stands in.
        let kind = Attributes::default().text(libc::IFLA_INFO_KIND, "tun");
        let inner = &kind.as_bytes()[..6];
        let cut = Attributes::default().bytes(libc::IFLA_LINKINFO, inner);
        assert!(LinkMessage::read(&link(libc::ARPHRD_NONE, &cut)).is_err());
        let short = Attributes::default().bytes(libc::IFLA_MTU, &[1, 2]);
        assert!(LinkMessage::read(&link(libc::ARPHRD_NONE, &short)).is_err());
    }

    #[test]
    fn an_interface_is_brought_up_by_its_flag_and_a_mask() {
        let index = INDEX.to_ne_bytes();
        let one = 1u32.to_ne_bytes();
        for (up, flags) in [(true, one), (false, [0; 4])] {
            let Message { kind, body } = up_message(INDEX, up);
            assert_eq!((kind, body), (libc::RTM_SETLINK, [[0; 4], index, flags, one].concat()));
        }
    }

    #[test]
    fn addresses_are_read_as_they_were_written() {
        for text in ["10.99.0.1/24", "fd99::1/64"] {
            let address: IpNet = text.parse().unwrap();
            let body = address_message(libc::RTM_NEWADDR, INDEX, address).body;
            assert_eq!(read_address(&body, INDEX).unwrap(), Some(address));
            assert_eq!(read_address(&body, 1).unwrap(), None);
            assert_eq!(read_any_address(&body).unwrap(), Some((INDEX, address)));
            assert!(read_address(&body[..body.len() - 1], INDEX).is_err());
            assert!(read_address(&body[..7], INDEX).is_err());
        }
    }

    #[test]
    fn ipv6_gives_one_address_and_takes_it_for_usable_at_once() {
        let header = address_header(libc::AF_INET6 as u8, 64, INDEX);
        let (_, bytes) = family_and_bytes("fd99::1".parse().unwrap());
        let one = Attributes::default().bytes(libc::IFA_ADDRESS, &bytes);
        let body = Message::new(libc::RTM_NEWADDR, header, &one).body;
        let address = "fd99::1/64".parse().unwrap();
        assert_eq!(read_address(&body, INDEX).unwrap(), Some(address));
        let both = Attributes::default().bytes(libc::IFA_LOCAL, &bytes);
        let both = both.bytes(libc::IFA_ADDRESS, &bytes);
        let deleted = address_message(libc::RTM_DELADDR, INDEX, address);
        assert_eq!(deleted, Message::new(libc::RTM_DELADDR, header, &both));
        let at_once = both.native(libc::IFA_FLAGS, libc::IFA_F_NODAD);
        let added = address_message(libc::RTM_NEWADDR, INDEX, address);
        assert_eq!(added, Message::new(libc::RTM_NEWADDR, header, &at_once));
    }

    #[test]
    fn routes_are_read_as_they_were_written() {
        for text in ["10.99.0.0/24", "fd99::/64", "0.0.0.0/0", "::/0"] {
            let target = RouteTarget::Interface(INDEX);
            let route = Route { prefix: text.parse().unwrap(), target };
            let body = new_route_message(&route).body;
            assert_eq!(read_route(&body, INDEX).unwrap(), Some(route));
            assert_eq!(read_route(&body, 1).unwrap(), None);
            assert!(read_route(&body[..body.len() - 1], INDEX).is_err());
            assert!(read_route(&body[..11], INDEX).is_err());
            let nowhere = Route { target: RouteTarget::Unreachable { metric: 9 }, ..route };
            assert_eq!(read_route(&new_route_message(&nowhere).body, INDEX).unwrap(), None);
        }
    }

    #[test]
    fn a_default_route_needs_no_destination_and_one_of_labels_is_none_of_ours() {
        let attributes = Attributes::default().native(libc::RTA_OIF, INDEX);
        let read = |family: i32| {
            let header = [[family as u8, 0, 0, 0], [libc::RT_TABLE_MAIN, 0, 0, 1], [0; 4]];
            read_route(&Message::new(libc::RTM_NEWROUTE, header, &attributes).body, INDEX).unwrap()
        };
        let to = |text: &str| {
            let prefix = text.parse().unwrap();
            Some(Route { prefix, target: RouteTarget::Interface(INDEX) })
        };
        assert_eq!(read(libc::AF_INET), to("0.0.0.0/0"));
        assert_eq!(read(libc::AF_INET6), to("::/0"));
        assert_eq!(read(libc::AF_MPLS), None);
    }

    #[test]
    fn a_route_is_added_with_its_scope_and_deleted_with_any() {
        let prefix = "10.99.0.7/24".parse().unwrap();
        let route = Route { prefix, target: RouteTarget::Unreachable { metric: 9 } };
        let attributes = Attributes::default().bytes(libc::RTA_DST, &[10, 99, 0, 0]);
        let attributes = attributes.native(libc::RTA_PRIORITY, 9);
        let expected = |kind, word| Message::new(kind, [[2, 24, 0, 0], word, [0; 4]], &attributes);
        assert_eq!(new_route_message(&route), expected(libc::RTM_NEWROUTE, [254, 4, 0, 7]));
        assert_eq!(delete_route_message(&route), expected(libc::RTM_DELROUTE, [254, 0, 255, 7]));
    }
}

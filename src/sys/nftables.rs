//! The guard's second half: nftables rules that drop what the policy rules cannot see.
//!
//! Before any route is asked, the kernel hands a UDP datagram to the connected socket that it seems to be for
//! (net/ipv4/udp.c, `udp_v4_early_demux`, whatever the interface), and connection tracking puts fragments of
//! all interfaces together (net/ipv4/netfilter/nf_defrag_ipv4.c). A chain that is asked before both ends
//! that; a second one, last, sees destinations that were changed on the way (source routes, DNAT). Spoken to
//! the kernel directly, one transaction a change; each guarded address has its two chains of the table `inet
//! hushwire`. Called by the guard; it works in the network namespace of the calling thread.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::guard::Guarded;
use super::netlink::attributes::{Attributes, text};

/// The table that all hushwires of a network namespace share.
const TABLE: &str = "hushwire";

// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h and include/uapi/linux/netfilter.h.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const DELETE_CHAIN: u16 = SUBSYSTEM << 8 | 5;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const DELETE_RULE: u16 = SUBSYSTEM << 8 | 8;
const FAMILY_INET: u8 = 1;
const NAME_OF_TABLE: u16 = 1;
const TABLE_OF_CHAIN: u16 = 1;
const NAME_OF_CHAIN: u16 = 3;
const TABLE_OF_RULE: u16 = 1;
const CHAIN_OF_RULE: u16 = 2;
/// The group that hears of all changes (`NFNLGRP_NFTABLES`); joining it takes `CAP_NET_ADMIN`.
pub(super) const NEWS: u32 = 7;
/// Where the two chains of an address stand: what their names begin with, and the hook's number
/// (`NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_IN`).
const HOOKS: [(&str, u32); 2] = [("first", 0), ("last", 1)];
/// Before connection tracking puts fragments together (`NF_IP_PRI_RAW_BEFORE_DEFRAG`).
const PRIORITY: i32 = -450;
const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const INTERFACE_NAME: u32 = 6;
const FAMILY: u32 = 15;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
/// Types of all netlink messages (include/uapi/linux/netlink.h).
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Length of an interface's name in a comparison (`IFNAMSIZ`).
const NAME_LEN: usize = 16;

/// Bytes of one receive (net/netlink/af_netlink.c, `netlink_recvmsg`).
const RECEIVE_BYTES: usize = 32 << 10;

/// Drops what comes in for the addresses by any interface but the overlay's and `lo`, and takes away the
/// chains of addresses that are no longer this interface's, or are a peer's and no other interface's.
///
/// # Errors
///
/// `EPROTONOSUPPORT`, `EOPNOTSUPP` or `ENOENT` when the kernel has no nftables; `EPERM` without
/// `CAP_NET_ADMIN`.
pub(super) fn close(guarded: &Guarded<'_>, elsewhere: &BTreeSet<IpAddr>) -> io::Result<()> {
    let mut kernel = Kernel::open()?;
    let table = Attributes::default().text(NAME_OF_TABLE, TABLE);
    let mut batch = vec![(NEW_TABLE, NLM_F_CREATE, table)];
    for chain in kernel.chains()? {
        if Chain::read(&chain).is_some_and(|chain| chain.is_left_over(guarded, elsewhere)) {
            batch.push((DELETE_CHAIN, 0, chain_named(TABLE_OF_CHAIN, NAME_OF_CHAIN, &chain)));
        }
    }
    for (to, (place, hook)) in places(guarded) {
        let name = Chain { to, by: guarded.interface.to_owned() }.name(place);
        let rule = chain_named(TABLE_OF_RULE, CHAIN_OF_RULE, &name);
        let expressions = expressions(guarded.interface, to);
        batch.push((NEW_CHAIN, NLM_F_CREATE, base_chain(&name, hook)));
        // All rules of the chain; it may be there from an earlier run.
        batch.push((DELETE_RULE, 0, rule.clone()));
        batch.push((NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, rule.nested(4, expressions)));
    }
    kernel.commit(&batch)
}

/// What the news tell of the table's chains since they began: those that were emptied or deleted, and not
/// filled again. A table that is deleted, or all of them, is told rule by rule (nft_flush_table() in
/// net/netfilter/nf_tables_api.c).
#[derive(Default)]
pub(super) struct GoneChains(BTreeSet<String>);

impl GoneChains {
    /// Takes a datagram of news; whether it is about our table.
    pub(super) fn take(&mut self, datagram: &[u8]) -> bool {
        let (mut rest, mut concerns_us) = (datagram, false);
        while let Some((kind, body, next)) = split(rest) {
            let is_ours = || text_of(body, TABLE_OF_RULE).is_some_and(|table| table == TABLE);
            if matches!(kind, NEW_RULE | DELETE_RULE)
                && is_ours()
                && let Some(chain) = text_of(body, CHAIN_OF_RULE)
            {
                match kind {
                    NEW_RULE => self.0.remove(&chain),
                    _ => self.0.insert(chain),
                };
                concerns_us = true;
            }
            rest = next;
        }
        concerns_us
    }

    /// Whether one of these is a chain that guards the addresses.
    pub(super) fn concern(&self, guarded: &Guarded<'_>) -> bool {
        let name = |(to, (place, _))| Chain { to, by: guarded.interface.to_owned() }.name(place);
        places(guarded).map(name).any(|name| self.0.contains(&name))
    }
}

fn places(guarded: &Guarded<'_>) -> impl Iterator<Item = (IpAddr, (&'static str, u32))> {
    guarded.addresses.iter().flat_map(|&to| HOOKS.map(|hook| (to, hook)))
}

/// A chain by its name.
struct Chain {
    to: IpAddr,
    by: String,
}

impl Chain {
    /// A word of nft's language, so that a saved ruleset can be loaded again.
    fn name(&self, place: &str) -> String {
        format!("{place}-to-{}-by-{}", self.to.to_string().replace(':', "_"), self.by)
    }

    fn read(name: &str) -> Option<Self> {
        let (_, name) = name.split_once("-to-")?;
        let (to, by) = name.split_once("-by-")?;
        Some(Self { to: to.replace('_', ":").parse().ok()?, by: by.to_owned() })
    }

    /// Whether it is of an earlier run, and in the way of this one, or of no use.
    fn is_left_over(&self, guarded: &Guarded<'_>, elsewhere: &BTreeSet<IpAddr>) -> bool {
        let by_us = self.by == guarded.interface;
        if guarded.addresses.contains(&self.to) {
            return !by_us;
        }
        by_us || guarded.is_behind(&self.to, elsewhere)
    }
}

fn chain_named(table: u16, chain: u16, name: &str) -> Attributes {
    Attributes::default().text(table, TABLE).text(chain, name)
}

fn base_chain(name: &str, hook: u32) -> Attributes {
    let hook = Attributes::default().number(1, hook).number(2, PRIORITY.cast_unsigned());
    chain_named(TABLE_OF_CHAIN, NAME_OF_CHAIN, name).nested(4, hook).text(7, "filter")
}

/// `iifname != INTERFACE iifname != "lo" ip daddr ADDRESS drop`, as nft would say it.
fn expressions(interface: &str, to: IpAddr) -> Attributes {
    let (family, offset, address) = match to {
        IpAddr::V4(to) => (libc::NFPROTO_IPV4, 16, to.octets().to_vec()),
        IpAddr::V6(to) => (libc::NFPROTO_IPV6, 24, to.octets().to_vec()),
    };
    let length = address.len() as u32;
    let destination = Attributes::default().number(1, REGISTER).number(2, NETWORK_HEADER);
    let destination = destination.number(3, offset).number(4, length);
    let verdict = Attributes::default().number(1, libc::NF_DROP.cast_unsigned());
    let verdict = Attributes::default().nested(2, verdict);
    Attributes::default()
        .expression("meta", load(INTERFACE_NAME))
        .expression("cmp", compare(NOT_EQUAL, &padded(interface)))
        .expression("cmp", compare(NOT_EQUAL, &padded("lo")))
        .expression("meta", load(FAMILY))
        .expression("cmp", compare(EQUAL, &[family as u8]))
        .expression("payload", destination)
        .expression("cmp", compare(EQUAL, &address))
        // Into the register of the verdict, 0.
        .expression("immediate", Attributes::default().number(1, 0).nested(2, verdict))
}

/// Loads something about the packet.
fn load(what: u32) -> Attributes {
    Attributes::default().number(1, REGISTER).number(2, what)
}

/// Ends the rule unless what was loaded compares like this.
fn compare(how: u32, with: &[u8]) -> Attributes {
    let data = Attributes::default().bytes(1, with);
    Attributes::default().number(1, REGISTER).number(2, how).nested(3, data)
}

fn padded(interface: &str) -> Vec<u8> {
    let mut name = interface.as_bytes().to_vec();
    name.resize(NAME_LEN, 0);
    name
}

impl Attributes {
    /// Netfilter's numbers are in network byte order.
    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// One element of a rule's list: what it is called, and its parameters.
    fn expression(self, name: &str, parameters: Attributes) -> Self {
        self.nested(1, Attributes::default().text(1, name).nested(2, parameters))
    }
}

/// A message of a batch: its type, its flags, its attributes.
type Message = (u16, u16, Attributes);

struct Kernel(Socket);

impl Kernel {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        // The kernel answers while it takes a request: what is not there then does not come.
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// The names of the table's chains.
    fn chains(&mut self) -> io::Result<BTreeSet<String>> {
        let request = message(GET_CHAIN, NLM_F_DUMP, FAMILY_INET, 0, 1, &Attributes::default());
        let mut names = BTreeSet::new();
        for (kind, body) in self.exchange(&request)? {
            let is_ours = || text_of(&body, TABLE_OF_CHAIN).is_some_and(|table| table == TABLE);
            if kind == NEW_CHAIN && is_ours() {
                names.extend(text_of(&body, NAME_OF_CHAIN));
            }
        }
        Ok(names)
    }

    /// All of it or nothing.
    fn commit(&mut self, batch: &[Message]) -> io::Result<()> {
        let none = Attributes::default();
        let mut bytes = message(BATCH_BEGIN, 0, 0, SUBSYSTEM, 0, &none);
        for (number, (kind, flags, attributes)) in (1..).zip(batch) {
            bytes.extend(message(*kind, flags | NLM_F_ACK, FAMILY_INET, 0, number, attributes));
        }
        bytes.extend(message(BATCH_END, 0, 0, SUBSYSTEM, 0, &none));
        let answers = self.exchange(&bytes)?;
        if answers.len() < batch.len() {
            return Err(io::Error::other("nftables took a change without a word"));
        }
        Ok(())
    }

    /// Sends what may be several messages, and collects the type and the body of each answer.
    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
        self.0.send_to(request, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            buffer.clear();
            match self.0.recv_from(&mut buffer, 0) {
                Ok((_, sender)) if sender.port_number() != 0 => continue,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut rest = buffer.as_slice();
            while let Some((kind, body, next)) = split(rest) {
                match (kind, body.first_chunk().map(|code| i32::from_ne_bytes(*code))) {
                    (ERROR, Some(code)) if code != 0 => {
                        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    (DONE, _) => return Ok(answers),
                    _ => answers.push((kind, body.to_vec())),
                }
                rest = next;
            }
        }
    }
}

/// A netlink message (include/uapi/linux/netlink.h, `nlmsghdr`) with netfilter's own header in it.
fn message(
    kind: u16,
    flags: u16,
    family: u8,
    resource: u16,
    number: u32,
    body: &Attributes,
) -> Vec<u8> {
    let length = (16 + 4 + body.as_bytes().len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body.as_bytes());
    bytes
}

/// A text among the attributes of a message's body, which begins with netfilter's own header.
fn text_of(body: &[u8], wanted: u16) -> Option<String> {
    let mut all = NlasIterator::new(body.get(4..)?).flatten();
    let found = all.find(|attribute| attribute.kind() == wanted)?;
    Some(text(found.value()))
}

/// The type and the body of the first message, and what is behind it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let next = length.checked_next_multiple_of(4)?;
    Some((kind, bytes.get(16..length)?, bytes.get(next..).unwrap_or_default()))
}

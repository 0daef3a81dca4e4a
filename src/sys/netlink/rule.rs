//! Policy rules: which table is asked first about whom. Three requests, and the few sorts of rules that the
//! guard tells apart.
//!
//! A rule that was listed keeps every attribute that the kernel gave, so that it can be put in again as it
//! was. This room decides nothing; the guard does.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::convert::family_of;
use super::{Netlink, NetlinkError};

/// Who made a rule (`FRA_PROTOCOL`): a number that neither the kernel nor /etc/iproute2/rt_protos gives to
/// anybody, so that the guard's rules are told apart from all others, also by `ip rule show protocol 107`.
pub const GUARD_PROTOCOL: u8 = 107;

/// The table of the machine's own addresses (`RT_TABLE_LOCAL`, include/uapi/linux/rtnetlink.h).
const LOCAL_TABLE: u8 = 255;

/// What `FRA_SUPPRESS_PREFIXLEN` says in a rule that suppresses nothing.
const SUPPRESSES_NOTHING: u32 = u32::MAX;

/// One policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(RuleMessage);

/// What a rule says, as far as the guard has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The guard's: packets to one address that come in by one interface are looked up among the machine's
    /// own addresses. `lo` stands for what the machine itself sends.
    Deliver {
        /// The address.
        to: IpAddr,
        /// Name of the interface, which need not exist.
        by: String,
    },
    /// The guard's: packets to one address are dropped, and nobody is told.
    Drop {
        /// The address.
        to: IpAddr,
    },
    /// Everything is looked up among the machine's own addresses: the kernel's first rule.
    Local,
    /// Any other.
    Other,
}

impl Rule {
    /// Makes the guard's [`Sort::Deliver`].
    pub fn deliver(to: IpAddr, by: &str) -> Self {
        let mut message = guard_rule(to, RuleAction::ToTable);
        message.header.table = LOCAL_TABLE;
        message.attributes.push(RuleAttribute::Iifname(by.to_owned()));
        message.attributes.push(RuleAttribute::Table(LOCAL_TABLE.into()));
        Self(message)
    }

    /// Makes the guard's [`Sort::Drop`].
    pub fn drop_all(to: IpAddr) -> Self {
        Self(guard_rule(to, RuleAction::Blackhole))
    }

    /// Where it stands: rules of a lower number are asked first, those of the same in the order in which
    /// they were added.
    pub fn priority(&self) -> u32 {
        let given = self.0.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
        given.unwrap_or(0)
    }

    /// What it says.
    pub fn sort(&self) -> Sort {
        self.plain().unwrap_or(Sort::Other)
    }

    fn plain(&self) -> Option<Sort> {
        let header = &self.0.header;
        let (mut to, mut by, mut table, mut guards) = (None, None, u32::from(header.table), false);
        for attribute in &self.0.attributes {
            match attribute {
                RuleAttribute::Destination(address) => to = Some(*address),
                RuleAttribute::Iifname(name) => by = Some(name.clone()),
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::Protocol(protocol) => guards = u8::from(*protocol) == GUARD_PROTOCOL,
                RuleAttribute::Priority(0)
                | RuleAttribute::SuppressPrefixLen(SUPPRESSES_NOTHING) => {}
                _ => return None,
            }
        }
        let single = to.is_none_or(|to| header.dst_len == host_bits(to));
        let all_else = header.src_len == 0 && header.tos == 0;
        if !single || !all_else || header.flags.contains(RuleFlags::Invert) {
            return None;
        }
        let local = header.action == RuleAction::ToTable && table == u32::from(LOCAL_TABLE);
        match (to, by, guards) {
            (Some(to), Some(by), true) if local => Some(Sort::Deliver { to, by }),
            (Some(to), None, true) if header.action == RuleAction::Blackhole => {
                Some(Sort::Drop { to })
            }
            (None, None, false) if local && header.dst_len == 0 => Some(Sort::Local),
            _ => None,
        }
    }

    /// The message that adds or deletes it. Without its priority the kernel would choose one.
    fn message(&self) -> RuleMessage {
        let mut message = self.0.clone();
        message.header.flags &= RuleFlags::Invert;
        if !message.attributes.iter().any(|a| matches!(a, RuleAttribute::Priority(_))) {
            message.attributes.push(RuleAttribute::Priority(0));
        }
        message
    }
}

impl Netlink {
    /// Lists the policy rules of one address family, in the order in which they are asked.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` or `EAFNOSUPPORT` when the kernel was built without policy rules.
    pub fn rules(&mut self, v6: bool) -> Result<Vec<Rule>, NetlinkError> {
        let mut message = RuleMessage::default();
        message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let request = RouteNetlinkMessage::GetRule(message);
        let answers = self.dump(format_args!("list the policy rules"), request)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(message) => Some(Rule(message)),
                _ => None,
            })
            .collect())
    }

    /// Adds a policy rule behind those of the same priority, also when there is one like it.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`; `EOPNOTSUPP` or `EAFNOSUPPORT` as in [`Self::rules`].
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::NewRule(rule.message());
        self.command(format_args!("add the policy rule {:?}", rule.sort()), request, NLM_F_CREATE)
    }

    /// Deletes a policy rule; of those that are like it, the first.
    ///
    /// # Errors
    ///
    /// `ENOENT` when there is none; `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::DelRule(rule.message());
        self.command(format_args!("delete the policy rule {:?}", rule.sort()), request, 0)
    }
}

fn guard_rule(to: IpAddr, action: RuleAction) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(to);
    message.header.dst_len = host_bits(to);
    message.header.action = action;
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Destination(to));
    attributes.push(RuleAttribute::Priority(0));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(GUARD_PROTOCOL)));
    message
}

fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

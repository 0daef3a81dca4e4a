//! Policy rules: which table is asked first about whom. Three requests, and the few sorts of rules that the
//! guard tells apart.
//!
//! A rule that was listed keeps every attribute that the kernel gave, so that it can be put in again as it
//! was. This room decides nothing; the guard does.

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, NLM_F_CREATE, NlasIterator, parse_ip, parse_u8, parse_u32};

use super::attributes::{Attributes, text};
use super::convert::family_and_bytes;
use super::message::{Message, split};
use super::{Netlink, NetlinkError};

// include/uapi/linux/fib_rules.h; libc does not have them.
const FRA_DST: u16 = 1;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_BLACKHOLE: u8 = 6;
const FIB_RULE_INVERT: u32 = 2;

/// Who made a rule (`FRA_PROTOCOL`): a number that neither the kernel nor /etc/iproute2/rt_protos gives to
/// anybody, so that the guard's rules are told apart from all others, also by `ip rule show protocol 107`.
pub const GUARD_PROTOCOL: u8 = 107;

/// What `FRA_SUPPRESS_PREFIXLEN` says in a rule that suppresses nothing.
const SUPPRESSES_NOTHING: u32 = u32::MAX;

/// One policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `fib_rule_hdr`: family and lengths, table and action, flags.
    header: [[u8; 4]; 3],
    priority: u32,
    /// All but the priority.
    attributes: Attributes,
}

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
        let mut rule = guard_rule(to, libc::RT_TABLE_LOCAL, FR_ACT_TO_TBL);
        rule.attributes = rule.attributes.text(FRA_IIFNAME, by);
        rule.attributes = rule.attributes.native(FRA_TABLE, libc::RT_TABLE_LOCAL.into());
        rule
    }

    /// Makes the guard's [`Sort::Drop`].
    pub fn drop_all(to: IpAddr) -> Self {
        guard_rule(to, libc::RT_TABLE_UNSPEC, FR_ACT_BLACKHOLE)
    }

    /// Where it stands: rules of a lower number are asked first, those of the same in the order in which
    /// they were added.
    pub fn priority(&self) -> u32 {
        self.priority
    }

    /// What it says.
    pub fn sort(&self) -> Sort {
        self.plain().unwrap_or(Sort::Other)
    }

    fn plain(&self) -> Option<Sort> {
        let [[_, dst_len, src_len, tos], [table, _, _, action], flags] = self.header;
        let (mut to, mut by, mut table, mut guards) = (None, None, u32::from(table), false);
        for attribute in NlasIterator::new(self.attributes.as_bytes()) {
            let attribute = attribute.ok()?;
            let value = attribute.value();
            match attribute.kind() {
                FRA_DST => to = Some(parse_ip(value).ok()?),
                FRA_IIFNAME => by = Some(text(value)),
                FRA_TABLE => table = parse_u32(value).ok()?,
                FRA_PROTOCOL => guards = parse_u8(value).ok()? == GUARD_PROTOCOL,
                FRA_SUPPRESS_PREFIXLEN if parse_u32(value).ok()? == SUPPRESSES_NOTHING => {}
                _ => return None,
            }
        }
        let single = to.is_none_or(|to| dst_len == host_bits(to));
        let all_else = self.priority == 0 && src_len == 0 && tos == 0;
        if !single || !all_else || u32::from_ne_bytes(flags) & FIB_RULE_INVERT != 0 {
            return None;
        }
        let local = action == FR_ACT_TO_TBL && table == u32::from(libc::RT_TABLE_LOCAL);
        match (to, by, guards) {
            (Some(to), Some(by), true) if local => Some(Sort::Deliver { to, by }),
            (Some(to), None, true) if action == FR_ACT_BLACKHOLE => Some(Sort::Drop { to }),
            (None, None, false) if local && dst_len == 0 => Some(Sort::Local),
            _ => None,
        }
    }

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let (header, attributes) = split(body)?;
        let mut rule = Self { header: *header, priority: 0, attributes: Attributes::default() };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                FRA_PRIORITY => rule.priority = parse_u32(attribute.value())?,
                kind => rule.attributes = rule.attributes.bytes(kind, attribute.value()),
            }
        }
        Ok(rule)
    }

    /// The message that adds or deletes it. Without its priority the kernel would choose one.
    fn message(&self, kind: u16) -> Message {
        let [addresses, action, flags] = self.header;
        let flags = u32::from_ne_bytes(flags) & FIB_RULE_INVERT;
        let attributes = self.attributes.clone().native(FRA_PRIORITY, self.priority);
        Message::new(kind, [addresses, action, flags.to_ne_bytes()], &attributes)
    }
}

impl Netlink {
    /// Lists the policy rules of one address family, in the order in which they are asked.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` or `EAFNOSUPPORT` when the kernel was built without policy rules.
    pub fn rules(&mut self, v6: bool) -> Result<Vec<Rule>, NetlinkError> {
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
        let header = [[family, 0, 0, 0], [0; 4], [0; 4]];
        let request = Message::new(libc::RTM_GETRULE, header, &Attributes::default());
        let what = format_args!("list the policy rules");
        self.dump(what, request, |body| Rule::read(body).map(Some))
    }

    /// Adds a policy rule behind those of the same priority, also when there is one like it.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN`; `EOPNOTSUPP` or `EAFNOSUPPORT` as in [`Self::rules`].
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let request = rule.message(libc::RTM_NEWRULE);
        self.command(format_args!("add the policy rule {:?}", rule.sort()), request, NLM_F_CREATE)
    }

    /// Deletes a policy rule; of those that are like it, the first.
    ///
    /// # Errors
    ///
    /// `ENOENT` when there is none; `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let request = rule.message(libc::RTM_DELRULE);
        self.command(format_args!("delete the policy rule {:?}", rule.sort()), request, 0)
    }
}

fn guard_rule(to: IpAddr, table: u8, action: u8) -> Rule {
    let (family, bytes) = family_and_bytes(to);
    let attributes = Attributes::default().bytes(FRA_DST, &bytes);
    Rule {
        header: [[family, host_bits(to), 0, 0], [table, 0, 0, action], [0; 4]],
        priority: 0,
        attributes: attributes.bytes(FRA_PROTOCOL, &[GUARD_PROTOCOL]),
    }
}

fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel lists it: what it is told, and some things that it adds.
    fn listed(rule: &Rule) -> Rule {
        let Message { kind, mut body } = rule.message(libc::RTM_NEWRULE);
        assert_eq!(kind, libc::RTM_NEWRULE);
        let added = Attributes::default().native(FRA_SUPPRESS_PREFIXLEN, SUPPRESSES_NOTHING);
        body.extend(added.as_bytes());
        Rule::read(&body).unwrap()
    }

    #[test]
    fn the_guards_rules_are_known_when_they_are_listed() {
        for to in ["10.99.0.1", "fd99::1"].map(|to| to.parse::<IpAddr>().unwrap()) {
            let rule = listed(&Rule::deliver(to, "hush0"));
            assert_eq!(rule.sort(), Sort::Deliver { to, by: "hush0".to_owned() });
            assert_eq!(listed(&Rule::drop_all(to)).sort(), Sort::Drop { to });
            assert_eq!(rule.priority(), 0);
        }
    }

    #[test]
    fn the_message_that_drops_is_the_kernels_header_and_its_attributes() {
        let message = Rule::drop_all("10.99.0.1".parse().unwrap()).message(libc::RTM_DELRULE);
        let expected = [
            [[2, 32, 0, 0], [0, 0, 0, 6], [0; 4]].concat(),
            [&8u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), &[10, 99, 0, 1]].concat(),
            [&5u16.to_ne_bytes()[..], &21u16.to_ne_bytes(), &[107, 0, 0, 0]].concat(),
            [&8u16.to_ne_bytes()[..], &6u16.to_ne_bytes(), &[0; 4]].concat(),
        ];
        assert_eq!(message, Message { kind: libc::RTM_DELRULE, body: expected.concat() });
    }

    #[test]
    fn a_rule_of_others_is_put_in_again_as_it_was_without_what_the_kernel_says_of_it() {
        // `FIB_RULE_IIF_DETACHED` (0x8) is for the kernel alone to say.
        let flags = (FIB_RULE_INVERT | 8).to_ne_bytes();
        let header = [[2, 0, 16, 0], [100, 0, 0, FR_ACT_TO_TBL], flags];
        let unknown = Attributes::default().bytes(999, &[1, 2, 3]).native(FRA_TABLE, 100);
        let given = Message::new(0, header, &unknown.clone().native(FRA_PRIORITY, 5));
        let rule = Rule::read(&given.body).unwrap();
        assert_eq!((rule.priority(), rule.sort()), (5, Sort::Other));
        let [first, second, _] = header;
        let again = [first, second, FIB_RULE_INVERT.to_ne_bytes()];
        let expected = Message::new(7, again, &unknown.native(FRA_PRIORITY, 5));
        assert_eq!(rule.message(7), expected);
    }

    #[test]
    fn a_rule_that_says_more_or_cannot_be_read_is_not_taken_for_the_guards() {
        let to = "10.99.0.1".parse().unwrap();
        let mut more = Rule::drop_all(to);
        more.attributes = more.attributes.bytes(999, &[]);
        assert_eq!(more.sort(), Sort::Other);
        let mut strange = Rule::drop_all(to);
        strange.attributes = strange.attributes.bytes(FRA_PROTOCOL, &[]);
        assert_eq!(strange.sort(), Sort::Other);
        let body = Rule::drop_all(to).message(libc::RTM_NEWRULE).body;
        for length in 0..body.len() {
            // What ends behind an attribute, with its padding or without, says less and is whole.
            let is_whole = matches!(length, 12 | 20 | 25..=28);
            assert_eq!(Rule::read(&body[..length]).is_ok(), is_whole, "{length}");
        }
    }

    #[test]
    fn the_local_tables_rule_is_known() {
        let header = [[2, 0, 0, 0], [libc::RT_TABLE_LOCAL, 0, 0, FR_ACT_TO_TBL], [0; 4]];
        let attributes = Attributes::default().bytes(FRA_PROTOCOL, &[libc::RTPROT_KERNEL]);
        let attributes = attributes.native(FRA_TABLE, libc::RT_TABLE_LOCAL.into());
        let given = Message::new(libc::RTM_NEWRULE, header, &attributes);
        assert_eq!(Rule::read(&given.body).unwrap().sort(), Sort::Local);
    }
}

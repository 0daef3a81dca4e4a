//! The guard: nobody reaches an overlay address but through the overlay's own interface.
//!
//! Linux takes a packet for any of its addresses on any of its interfaces. So a neighbour on the underlay or
//! on a container's bridge could speak to the overlay address past the tunnel. Policy rules ahead of the
//! table of the machine's own addresses end that: what comes in for an overlay address by the overlay's
//! interface, or is sent by the machine itself, is looked up there; the rest is dropped without a word: an
//! ICMPv6 error about a forged source would come back to this machine. Where the kernel has nftables, a chain
//! there drops what no rule sees. Both name the interface, so that they hold for one that is deleted and made
//! anew; nobody undoes them, at the end or after a crash, and they are put in once. Called by `attach`; it
//! works in the network namespace of the calling thread.

mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::netlink::{Netlink, NetlinkError, Rule, Sort};
use super::nftables;

pub use watch::GuardWatch;

/// The interface by which a machine hears itself; for policy rules, all that it sends.
pub(super) const LOOPBACK: &str = "lo";

/// How often the rules are looked at again when somebody else changes them at the same time.
const ATTEMPTS: usize = 8;

/// What guards the overlay addresses of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Policy rules ahead of the table of the machine's own addresses.
    pub policy_rules: bool,
    /// A chain of nftables before everything else.
    #[serde(default)]
    pub nftables: bool,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.policy_rules, self.nftables) {
            (true, true) => "policy rules, nftables",
            (true, false) => "policy rules",
            (false, true) => "nftables",
            (false, false) => "none",
        })
    }
}

/// Why there is no guard.
#[derive(Debug)]
pub enum GuardError {
    /// The kernel refused a policy rule.
    Refused(NetlinkError),
    /// The kernel has no policy rules, and nftables did not take their place.
    NoMeans(NetlinkError, io::Error),
    /// Somebody else changed the policy rules again and again.
    Unsettled,
}

impl fmt::Display for GuardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::NoMeans(rules, nftables) => write!(
                f,
                "{rules}; nftables: {nftables}; take a kernel with either of them \
                 (CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES, or CONFIG_NF_TABLES_INET)"
            ),
            Self::Unsettled => write!(
                f,
                "the policy rules of priority 0 were changed {ATTEMPTS} times by somebody else meanwhile \
                 (`ip rule`, `ip -6 rule`): stop that"
            ),
        }
    }
}

impl std::error::Error for GuardError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(error) | Self::NoMeans(error, _) => Some(error),
            Self::Unsettled => None,
        }
    }
}

/// Whom a guard is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded<'a> {
    /// Name of the overlay's interface, which need not exist yet.
    pub interface: &'a str,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// What is behind it. A guard that an earlier run left for one of these addresses is taken away: it is
    /// a peer's now, unless another interface has it.
    pub behind: &'a [IpNet],
}

impl Guarded<'_> {
    /// Whether an address is a peer's; never one that another interface has.
    pub(super) fn is_behind(&self, to: &IpAddr, elsewhere: &BTreeSet<IpAddr>) -> bool {
        self.behind.iter().any(|prefix| prefix.contains(to)) && !elsewhere.contains(to)
    }
}

/// Puts the guard in where it is not there, and takes away what is left of one for addresses that are no
/// longer this interface's. At no moment is an address that was guarded open, or the machine without its
/// own addresses. Either half is a guard: the policy rules leave to nftables what is forged for a connected
/// UDP socket or as a fragment, and nftables can be flushed by whoever loads a firewall.
///
/// # Errors
///
/// When neither half can be had; see [`GuardError`].
pub fn close(kernel: &mut Netlink, guarded: &Guarded<'_>) -> Result<Guard, GuardError> {
    let elsewhere = elsewhere(kernel, guarded.interface).map_err(GuardError::Refused)?;
    let nftables = nftables::close(guarded, &elsewhere);
    match add_policy_rules(kernel, guarded, &elsewhere) {
        Ok(()) => Ok(Guard { policy_rules: true, nftables: nftables.is_ok() }),
        Err(GuardError::Refused(error)) if is_without_rules(&error) => match nftables {
            Ok(()) => Ok(Guard { policy_rules: false, nftables: true }),
            Err(nftables) => Err(GuardError::NoMeans(error, nftables)),
        },
        Err(error) => Err(error),
    }
}

/// The addresses of other interfaces: what guards one of them is no left-over, but another hushwire's. No
/// peer is to be had by it either, as the machine's own addresses come first.
fn elsewhere(kernel: &mut Netlink, interface: &str) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let ours = kernel.link(interface)?.map(|link| link.index);
    let all = kernel.all_addresses()?.into_iter();
    Ok(all.filter(|(of, _)| Some(*of) != ours).map(|(_, address)| address.addr()).collect())
}

fn add_policy_rules(
    kernel: &mut Netlink,
    guarded: &Guarded<'_>,
    elsewhere: &BTreeSet<IpAddr>,
) -> Result<(), GuardError> {
    for v6 in [false, true] {
        let ours = guarded.addresses.iter().filter(|address| address.is_ipv6() == v6);
        let ours: BTreeSet<IpAddr> = ours.copied().collect();
        let guarded = Guarded { addresses: ours.clone(), ..guarded.clone() };
        match settle(kernel, v6, &guarded, elsewhere) {
            // No rules of this family at all, and no address that needs any.
            Err(GuardError::Refused(error)) if ours.is_empty() && is_without_rules(&error) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Whether a kernel has no policy rules, or none of that address family.
fn is_without_rules(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

fn settle(
    kernel: &mut Netlink,
    v6: bool,
    guarded: &Guarded<'_>,
    elsewhere: &BTreeSet<IpAddr>,
) -> Result<(), GuardError> {
    for _ in 0..ATTEMPTS {
        let steps = plan(&kernel.rules(v6).map_err(GuardError::Refused)?, guarded, elsewhere);
        if steps.is_empty() {
            return Ok(());
        }
        for step in steps {
            take(kernel, step).map_err(GuardError::Refused)?;
        }
    }
    Err(GuardError::Unsettled)
}

fn take(kernel: &mut Netlink, step: Step) -> Result<(), NetlinkError> {
    match step {
        Step::Add(rule) => kernel.add_rule(&rule),
        Step::Delete(rule) => match kernel.delete_rule(&rule) {
            // Another hushwire in this namespace was faster.
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            result => result,
        },
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Behind the others of priority 0.
    Add(Rule),
    /// The first that is like it.
    Delete(Rule),
}

/// Says how to come from the rules that are there to a guard; nothing if it is there.
///
/// All of it is of priority 0, as the kernel's own rule of the local table is, which must come last among
/// them: a program that gives no priority gets that of the second rule less one (net/core/fib_rules.c,
/// `fib_default_rule_pref`), and would stand ahead of the local table otherwise, as if no address were the
/// machine's own. A rule can only be added behind those of its priority. So the local table's is added
/// once more, behind the guard's, before the first one goes.
fn plan(present: &[Rule], guarded: &Guarded<'_>, elsewhere: &BTreeSet<IpAddr>) -> Vec<Step> {
    let first: Vec<&Rule> = present.iter().filter(|rule| rule.priority() == 0).collect();
    let end = first.iter().take_while(|rule| guarded_by(rule).is_some()).count();
    let (ahead, rest) = first.split_at(end);

    let concerns_us = |to: &IpAddr| {
        guarded.addresses.contains(to) || is_left_over(&first, guarded, elsewhere, *to)
    };
    let unfinished = rest.iter().filter_map(|rule| guarded_by(rule)).any(|to| concerns_us(&to));
    let is_wrong = |to: &IpAddr| {
        let there =
            ahead.iter().filter(|rule| guarded_by(rule) == Some(*to)).map(|rule| rule.sort());
        unfinished || !there.eq(wanted(guarded, *to).iter().map(Rule::sort))
    };
    let known = first.iter().filter_map(|rule| guarded_by(rule)).filter(concerns_us);
    let wrong: BTreeSet<IpAddr> =
        known.chain(guarded.addresses.iter().copied()).filter(is_wrong).collect();

    let mut steps = Vec::new();
    let missing: Vec<Rule> = wrong.iter().flat_map(|&to| wanted(guarded, to)).collect();
    let mut old = first.as_slice();
    if !missing.is_empty() {
        let (guards, others): (Vec<&Rule>, Vec<&Rule>) =
            rest.iter().partition(|rule| guarded_by(rule).is_some());
        let strangers =
            guards.into_iter().filter(|rule| guarded_by(rule).is_some_and(|to| !concerns_us(&to)));
        let again = strangers.cloned().chain(missing).chain(once(&others));
        steps.extend(again.map(Step::Add));
        // The local table's last: until then what stood behind it still does.
        let (local, others): (Vec<&Rule>, Vec<&Rule>) =
            rest.iter().partition(|rule| rule.sort() == Sort::Local);
        steps.extend(others.into_iter().chain(local).cloned().map(Step::Delete));
        old = ahead;
    }
    let gone = old.iter().filter(|rule| guarded_by(rule).is_some_and(|to| wrong.contains(&to)));
    // What drops goes first: what is let through with it is let through without it.
    let (drops, others): (Vec<&Rule>, Vec<&Rule>) =
        gone.partition(|rule| matches!(rule.sort(), Sort::Drop { .. }));
    steps.extend(drops.into_iter().chain(others).cloned().map(Step::Delete));
    steps
}

/// The rules that guard an address; none if it is not ours.
fn wanted(guarded: &Guarded<'_>, to: IpAddr) -> Vec<Rule> {
    if !guarded.addresses.contains(&to) {
        return Vec::new();
    }
    vec![Rule::deliver(to, guarded.interface), Rule::deliver(to, LOOPBACK), Rule::drop_all(to)]
}

/// Whether an earlier run left the guard of an address: of one that this interface had, or of one that is
/// a peer's now, which it would cut off.
fn is_left_over(
    rules: &[&Rule],
    guarded: &Guarded<'_>,
    elsewhere: &BTreeSet<IpAddr>,
    to: IpAddr,
) -> bool {
    let ours = Rule::deliver(to, guarded.interface).sort();
    let by_us = |rule: &&Rule| rule.sort() == ours;
    !guarded.addresses.contains(&to)
        && (rules.iter().any(by_us) || guarded.is_behind(&to, elsewhere))
}

/// The address that a rule of the guard is about; none for the rules of others.
fn guarded_by(rule: &Rule) -> Option<IpAddr> {
    match rule.sort() {
        Sort::Deliver { to, .. } | Sort::Drop { to } => Some(to),
        Sort::Local | Sort::Other => None,
    }
}

/// Each rule once: an earlier run may have ended between adding one and deleting the one before it.
fn once(rules: &[&Rule]) -> Vec<Rule> {
    let mut seen: Vec<Rule> = Vec::new();
    for &rule in rules {
        let local = rule.sort() == Sort::Local;
        if !seen.iter().any(|other| other == rule || (local && other.sort() == Sort::Local)) {
            seen.push(rule.clone());
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the two the machine would not reach itself.
    #[test]
    fn a_guard_that_goes_ends_with_what_it_lets_through() {
        let to: IpAddr = "10.99.0.1".parse().unwrap();
        let before = Guarded { interface: "hush0", addresses: [to].into(), behind: &[] };
        let present = wanted(&before, to);
        let [by_us, by_lo, drop] = present.as_slice() else { panic!("{present:?}") };
        let after = Guarded { addresses: BTreeSet::new(), ..before };
        let steps = plan(&present, &after, &BTreeSet::new());
        assert_eq!(steps, [drop, by_us, by_lo].map(|rule| Step::Delete(rule.clone())));
    }
}

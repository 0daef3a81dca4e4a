//! The `[[peer]]` blocks, our own included: reads each, then compares them with each other.
//!
//! A block keeps what could be read of it, so that the comparison finds what it can in one run. Which
//! block is ours does not matter here. Called by `load`.

use std::num::NonZeroU16;
use std::path::PathBuf;

use ipnet::IpNet;

use super::error::{Complaint, Placed, Report};
use super::fields::{Item, Keys, Section};
use super::{Host, PeerEndpoint, values};
use crate::wireguard::{Allow, PrivateKey, PublicKey};

/// The keys of a block.
pub(super) const PEER: Keys = Keys {
    section: "[[peer]]",
    known: &[
        "name",
        "public_key",
        "preshared_key_file",
        "endpoint",
        "allowed_ips",
        "persistent_keepalive",
        "allow",
    ],
    later: &[],
};

/// One machine in the file, as far as its block could be read.
pub(super) struct Block {
    pub(super) at: usize,
    pub(super) name: Option<Placed<String>>,
    pub(super) public_key: Option<Placed<PublicKey>>,
    pub(super) preshared_key_file: Option<Placed<PathBuf>>,
    pub(super) endpoint: Option<Placed<PeerEndpoint>>,
    pub(super) allowed_ips: Vec<Placed<IpNet>>,
    /// Whether `allowed_ips` is all that the file says.
    pub(super) allowed_ips_complete: bool,
    pub(super) persistent_keepalive: Option<NonZeroU16>,
    pub(super) allow: Option<Allow>,
}

impl Block {
    /// Reads one block. Our own private key is needed to tell when it stands in place of the public one.
    pub(super) fn read(
        section: &Section<'_>,
        private_key: Option<&PrivateKey>,
        report: &mut Report<'_>,
    ) -> Self {
        let at = section.at.unwrap_or_default();
        // What seems to be missing may stand in a line that could not be read.
        let report_missing = !report.has_syntax_errors_below(at);
        let mut missing = |key: &str, allowed: &str, hint: &str| {
            if report_missing {
                let complaint = Complaint::new("missing in this [[peer]] block");
                report.add(at, key, complaint.allowed(allowed).hint(hint));
            }
        };
        if section.item("public_key").is_none() {
            let hint = "copy the block that `hushwire init` printed on that machine";
            missing("public_key", "the machine's key, 44 characters of base64", hint);
        }
        if section.item("allowed_ips").is_none() {
            let hint = "name the overlay address of that machine, such as [\"10.99.0.2/32\"]";
            missing("allowed_ips", "at least one prefix of the overlay", hint);
        }
        let public_key = section.item("public_key").and_then(|item| {
            let read = |text: &str| public_key(text, private_key);
            item.string(read, report)
        });
        let allowed_ips_item = section.item("allowed_ips");
        let listed = allowed_ips_item.and_then(|item| item.value.as_array()).map(|list| list.len());
        let allowed_ips = allowed_ips_item
            .map(|item| item.strings(values::allowed_ip, report))
            .unwrap_or_default();
        if let (Some(item), Some(0)) = (allowed_ips_item, listed) {
            let complaint = Complaint::new("this list is empty").allowed("at least one prefix");
            let hint = "name the overlay address of that machine, such as \"10.99.0.2/32\"";
            report.add(item.at, item.key, complaint.hint(hint));
        }
        let keepalive = section.item("persistent_keepalive");
        Self {
            at,
            name: section.item("name").and_then(|item| item.string(values::machine_name, report)),
            public_key,
            preshared_key_file: section
                .item("preshared_key_file")
                .and_then(|item| item.string(values::key_file, report)),
            endpoint: section.item("endpoint").and_then(|item| item.string(str::parse, report)),
            allowed_ips_complete: listed == Some(allowed_ips.len()),
            allowed_ips,
            persistent_keepalive: keepalive
                .and_then(|item| item.number(0..=65535, "seconds; 0 is off", report))
                .and_then(NonZeroU16::new),
            allow: section.item("allow").and_then(|item| allow(item, report)),
        }
    }

    /// Names the block in a message about another one.
    pub(super) fn who(&self, report: &Report<'_>) -> String {
        match &self.name {
            Some(name) => format!("\"{}\" (line {})", name.value, report.line(self.at)),
            None => format!("the peer of line {}", report.line(self.at)),
        }
    }
}

fn public_key(text: &str, private_key: Option<&PrivateKey>) -> Result<PublicKey, Complaint> {
    let key = values::public_key(text)?;
    match private_key {
        Some(private) if *private == PrivateKey::from_bytes(*key.as_bytes()) => {
            Err(Complaint::new("this is the private key of this machine")
                .allowed("the public key that `hushwire pubkey` makes of it")
                .hint("everybody who can read this file has seen it: make a new one"))
        }
        _ => Ok(key),
    }
}

/// Reads what may pass. An empty list is one, too: nothing.
pub(super) fn allow(item: Item<'_>, report: &mut Report<'_>) -> Option<Allow> {
    if !item.value.is_array() {
        item.wrong_type("a list, such as [\"tcp/9094\", \"udp/9094\", \"icmp\"]", report);
        return None;
    }
    let rules = item.strings(values::rule, report);
    for (index, rule) in rules.iter().enumerate() {
        if rules.iter().take(index).any(|other| other.value == rule.value) {
            let complaint = Complaint::new(format!("{} stands twice in this list", rule.value));
            report.add(rule.at, item.key, complaint.hint("remove one"));
        }
    }
    Some(Allow::new(rules.into_iter().map(|rule| rule.value).collect()))
}

/// Reports what cannot be true of two blocks at once.
pub(super) fn compare(blocks: &[Block], report: &mut Report<'_>) {
    for (index, block) in blocks.iter().enumerate() {
        let earlier = blocks.get(..index).unwrap_or_default();
        check_identity(block, earlier, report);
        check_allowed_ips(block, earlier, report);
        check_endpoint(block, blocks, report);
    }
}

fn check_identity(block: &Block, earlier: &[Block], report: &mut Report<'_>) {
    if let Some(name) = &block.name {
        let same = |other: &&Block| other.name.as_ref().is_some_and(|n| n.value == name.value);
        if let Some(other) = earlier.iter().find(same) {
            let problem = format!("the same name as the peer of line {}", report.line(other.at));
            let complaint = Complaint::new(problem).allowed("one name for each machine");
            report.add(name.at, "name", complaint);
        }
    }
    if let Some(key) = block.public_key {
        let same = |other: &&Block| other.public_key.is_some_and(|k| k.value == key.value);
        if let Some(other) = earlier.iter().find(same) {
            let complaint = Complaint::new(format!("the same key as {}", other.who(report)))
                .allowed("one block for each machine, and a key of its own for each machine")
                .hint("a machine that was cloned needs a new key: `hushwire init`");
            report.add(key.at, "public_key", complaint);
        }
    }
}

fn check_allowed_ips(block: &Block, earlier: &[Block], report: &mut Report<'_>) {
    for (index, net) in block.allowed_ips.iter().enumerate() {
        if block.allowed_ips.iter().take(index).any(|other| other.value == net.value) {
            let complaint = Complaint::new(format!("{} stands twice in this list", net.value));
            report.add(net.at, "allowed_ips", complaint.hint("remove one"));
        }
        let others =
            earlier.iter().flat_map(|other| other.allowed_ips.iter().map(move |n| (other, n)));
        for (other, taken) in others {
            let relation = match (net.value, taken.value) {
                (a, b) if a == b => "is also that".to_owned(),
                (a, b) if a.contains(&b) => format!("contains {b}"),
                (a, b) if b.contains(&a) => format!("lies inside {b}"),
                _ => continue,
            };
            let line = report.line(taken.at);
            let who = match &other.name {
                Some(name) => format!("\"{}\" in line {line}", name.value),
                None => format!("another peer in line {line}"),
            };
            report.add(
                net.at,
                "allowed_ips",
                Complaint::new(format!("{} {relation} of {who}", net.value))
                    .allowed("each overlay address behind one peer only")
                    .hint("change or remove one of the two"),
            );
        }
    }
}

fn check_endpoint(block: &Block, blocks: &[Block], report: &mut Report<'_>) {
    let Some(Placed { value: PeerEndpoint { host: Host::Address(address), .. }, at }) =
        &block.endpoint
    else {
        return;
    };
    let mut nets = blocks.iter().flat_map(|other| &other.allowed_ips);
    if let Some(net) = nets.find(|net| net.value.contains(address)) {
        let line = report.line(net.at);
        let problem = format!("{address} lies inside {}, allowed IPs of line {line}", net.value);
        report.add(
            *at,
            "endpoint",
            Complaint::new(problem)
                .allowed("an underlay address, one that is reachable without the tunnel")
                .hint("allowed IPs are sent into the tunnel: it would carry its own datagrams"),
        );
    }
}

//! Which machine of the list is ours, and which overlay addresses it has.
//!
//! A machine finds its own block by its public key; its addresses come from there unless `[interface]`
//! gives some. Either way they have to agree with what the other machines think. Called by `load`.

use ipnet::IpNet;

use super::blocks::Block;
use super::error::{Complaint, Report};
use super::fields::{Item, Section};
use super::values;
use crate::wireguard::{PrivateKey, PublicKey};

/// This machine, as far as its private key could be read, and its block if it is in the list.
pub(super) struct Us<'b> {
    pub(super) private_key: Option<PrivateKey>,
    pub(super) public_key: Option<PublicKey>,
    pub(super) block: Option<&'b Block>,
    blocks: &'b [Block],
    /// Whether these are all blocks, so that a machine that is not in them is not in the list.
    list_complete: bool,
}

impl<'b> Us<'b> {
    pub(super) fn find(
        private_key: Option<PrivateKey>,
        blocks: &'b [Block],
        list_complete: bool,
    ) -> Self {
        let public_key = private_key.as_ref().map(PrivateKey::public_key);
        let us = Self { private_key, public_key, block: None, blocks, list_complete };
        let block = blocks.iter().find(|block| us.is(block));
        Self { block, ..us }
    }

    pub(super) fn is(&self, block: &Block) -> bool {
        block.public_key.is_some_and(|key| Some(key.value) == self.public_key)
    }

    /// The overlay addresses: those of `[interface]`, else those of our own block.
    pub(super) fn address(&self, interface: &Section<'_>, report: &mut Report<'_>) -> Vec<IpNet> {
        match (interface.item("address"), self.block) {
            (Some(item), _) => self.given_address(item, report),
            (None, Some(block)) => own_address(block, report),
            (None, None) => {
                self.report_stranger(interface, report);
                Vec::new()
            }
        }
    }

    fn given_address(&self, item: Item<'_>, report: &mut Report<'_>) -> Vec<IpNet> {
        let addresses = item.strings(values::overlay_address, report);
        if item.value.as_array().is_some_and(|list| list.is_empty()) {
            let complaint = Complaint::new("this list is empty").allowed("at least one address");
            let hint =
                "leave the line out to use the allowed_ips of this machine's own [[peer]] block";
            report.add(item.at, item.key, complaint.hint(hint));
        }
        for (index, address) in addresses.iter().enumerate() {
            if let Some(complaint) = self.conflict(address.value, report) {
                report.add(address.at, item.key, complaint);
            }
            if addresses.iter().take(index).any(|a| a.value.addr() == address.value.addr()) {
                let problem = format!("{} stands twice in this list", address.value.addr());
                report.add(address.at, item.key, Complaint::new(problem).hint("remove one"));
            }
        }
        addresses.iter().map(|address| address.value).collect()
    }

    /// Says why an address in `[interface]` does not fit the blocks.
    fn conflict(&self, address: IpNet, report: &Report<'_>) -> Option<Complaint> {
        let address = address.addr();
        let covers =
            |block: &Block| block.allowed_ips.iter().any(|net| net.value.contains(&address));
        // If our own block covers it as well as another, these two overlap, and that is reported there.
        // If we do not know which block is ours, the one that covers it may be.
        let unknown = self.block.is_none() && !(self.list_complete && self.public_key.is_some());
        if unknown || self.block.is_some_and(covers) {
            return None;
        }
        if let Some(other) = self.blocks.iter().find(|block| covers(block)) {
            let problem = format!("{address} is inside the allowed_ips of {}", other.who(report));
            let allowed = "an address of this machine, which no other peer has";
            return Some(Complaint::new(problem).allowed(allowed));
        }
        let block = self.block.filter(|block| block.allowed_ips_complete)?;
        let problem =
            format!("{address} is not in this machine's own block, {}", block.who(report));
        Some(
            Complaint::new(problem)
                .allowed("an address inside its allowed_ips: peers drop packets from any other")
                .hint("add it there, or leave the line out to use what stands there"),
        )
    }

    fn report_stranger(&self, interface: &Section<'_>, report: &mut Report<'_>) {
        let (Some(public_key), true) = (self.public_key, self.list_complete) else { return };
        let problem = "this machine is not in the list of peers and has no address of its own";
        let block = format!("a [[peer]] block with public_key = \"{public_key}\"");
        let hint = format!("add {block}, or give address in [interface]");
        report.add_anywhere(interface.at, "address", Complaint::new(problem).hint(hint));
    }
}

/// The default for `address`: the single addresses of our own block.
fn own_address(block: &Block, report: &mut Report<'_>) -> Vec<IpNet> {
    let nets = block.allowed_ips.iter().map(|net| net.value);
    let addresses: Vec<_> = nets.filter(|net| net.prefix_len() == net.max_prefix_len()).collect();
    let first = block.allowed_ips.first().filter(|_| block.allowed_ips_complete);
    if let (Some(first), true) = (first, addresses.is_empty()) {
        let complaint = Complaint::new("no single address for this machine in its own block")
            .allowed("at least one full-length prefix, such as \"10.99.0.1/32\"")
            .hint("add it, or give address in [interface]");
        report.add(first.at, "allowed_ips", complaint);
    }
    addresses
}

//! Cryptokey routing: the longest prefix that holds an address names the peer. The same table routes
//! what goes out and checks what comes in (section 2 of the WireGuard paper).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::io::PeerId;

/// Prefixes and the peers that own them; each prefix has one owner.
#[derive(Default)]
pub(super) struct AllowedIps {
    v4: PrefixMap<Ipv4Net, PeerId>,
    v6: PrefixMap<Ipv6Net, PeerId>,
}

impl AllowedIps {
    /// Gives a prefix to a peer, taking it from whichever peer had it.
    pub(super) fn insert(&mut self, prefix: IpNet, peer: PeerId) {
        match prefix.trunc() {
            IpNet::V4(net) => self.v4.insert(net, peer),
            IpNet::V6(net) => self.v6.insert(net, peer),
        };
    }

    /// Takes a prefix from a peer; what another peer owns stays.
    pub(super) fn remove(&mut self, prefix: IpNet, peer: PeerId) {
        match prefix.trunc() {
            IpNet::V4(net) if self.v4.get(&net) == Some(&peer) => self.v4.remove(&net),
            IpNet::V6(net) if self.v6.get(&net) == Some(&peer) => self.v6.remove(&net),
            _ => None,
        };
    }

    /// Takes every prefix from a peer.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.v4.retain(|_, owner| *owner != peer);
        self.v6.retain(|_, owner| *owner != peer);
    }

    /// The owner of the longest prefix that holds this address.
    pub(super) fn route(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Net::from(address)).map(|(_, peer)| *peer),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).map(|(_, peer)| *peer),
        }
    }

    /// Every prefix with its owner: IPv4 first, then in the order of the addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, PeerId)> + '_ {
        let v4 = self.v4.iter().map(|(net, peer)| (IpNet::V4(net), *peer));
        v4.chain(self.v6.iter().map(|(net, peer)| (IpNet::V6(net), *peer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn route(table: &AllowedIps, address: &str) -> Option<u32> {
        table.route(address.parse().unwrap()).map(|peer| peer.0)
    }

    #[test]
    fn the_longest_prefix_wins_and_families_stay_apart() {
        let mut table = AllowedIps::default();
        table.insert(net("10.0.0.0/8"), PeerId(1));
        table.insert(net("10.99.0.0/16"), PeerId(2));
        table.insert(net("10.99.0.7/32"), PeerId(3));
        table.insert(net("fd00::/8"), PeerId(4));
        assert_eq!(route(&table, "10.1.2.3"), Some(1));
        assert_eq!(route(&table, "10.99.1.1"), Some(2));
        assert_eq!(route(&table, "10.99.0.7"), Some(3));
        assert_eq!(route(&table, "fd00::a63:7"), Some(4));
        assert_eq!(route(&table, "11.0.0.1"), None);
        assert_eq!(route(&table, "::a63:7"), None);
    }

    #[test]
    fn a_prefix_moves_to_the_peer_that_claims_it_last() {
        let mut table = AllowedIps::default();
        table.insert(net("10.99.0.1/32"), PeerId(1));
        table.insert(net("10.99.0.1/32"), PeerId(2));
        table.remove(net("10.99.0.1/32"), PeerId(1));
        assert_eq!(route(&table, "10.99.0.1"), Some(2));
        table.remove(net("10.99.0.1/32"), PeerId(2));
        assert_eq!(route(&table, "10.99.0.1"), None);
    }

    #[test]
    fn host_bits_do_not_count() {
        let mut table = AllowedIps::default();
        table.insert(net("10.99.0.77/24"), PeerId(1));
        assert_eq!(route(&table, "10.99.0.1"), Some(1));
        assert_eq!(table.iter().next(), Some((net("10.99.0.0/24"), PeerId(1))));
    }

    #[test]
    fn a_removed_peer_leaves_nothing_behind() {
        let mut table = AllowedIps::default();
        for i in 0..100u8 {
            table.insert(net(&format!("10.99.{i}.0/24")), PeerId(u32::from(i % 2)));
            table.insert(net(&format!("fd00:{i}::/32")), PeerId(u32::from(i % 2)));
        }
        table.remove_peer(PeerId(0));
        assert_eq!(table.iter().count(), 100);
        assert!(table.iter().all(|(_, peer)| peer == PeerId(1)));
        assert_eq!(route(&table, "10.99.2.1"), None);
    }
}

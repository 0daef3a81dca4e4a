//! Cryptokey routing: the longest prefix that holds an address names the peer. The same table routes
//! what goes out and checks what comes in (section 2 of the WireGuard paper). Kept beside it is what each
//! peer owns in the order in which it was given, which is how `wg` shows it, and so that taking all from
//! one peer costs nothing for the others. Called by device.rs.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::io::PeerId;

/// Prefixes and the peers that own them; each prefix has one owner.
#[derive(Default)]
pub(super) struct AllowedIps {
    v4: PrefixMap<Ipv4Net, Owner>,
    v6: PrefixMap<Ipv6Net, Owner>,
    owned: HashMap<PeerId, BTreeMap<u64, IpNet>>,
    next_turn: u64,
    /// The last answer, until something changes: packets come in trains, and a walk down the trie was
    /// 3 % of the time of a receiver.
    last: Cell<Option<(IpAddr, Option<PeerId>)>>,
}

/// Who has a prefix, and since when: its key in `owned`.
#[derive(Clone, Copy)]
struct Owner {
    peer: PeerId,
    turn: u64,
}

impl AllowedIps {
    /// Gives a prefix to a peer, taking it from whichever peer had it. It becomes the peer's last one, also
    /// if the peer had it before (drivers/net/wireguard/allowedips.c, `add`).
    pub(super) fn insert(&mut self, prefix: IpNet, peer: PeerId) {
        self.last.take();
        let prefix = prefix.trunc();
        let owner = Owner { peer, turn: self.next_turn };
        self.next_turn += 1;
        let former = match prefix {
            IpNet::V4(net) => self.v4.insert(net, owner),
            IpNet::V6(net) => self.v6.insert(net, owner),
        };
        if let Some(former) = former {
            self.disown(former);
        }
        self.owned.entry(peer).or_default().insert(owner.turn, prefix);
    }

    /// Takes a prefix from a peer; what another peer owns stays.
    pub(super) fn remove(&mut self, prefix: IpNet, peer: PeerId) {
        self.last.take();
        let ours = |owner: Option<&Owner>| owner.is_some_and(|owner| owner.peer == peer);
        let former = match prefix.trunc() {
            IpNet::V4(net) if ours(self.v4.get(&net)) => self.v4.remove(&net),
            IpNet::V6(net) if ours(self.v6.get(&net)) => self.v6.remove(&net),
            _ => None,
        };
        if let Some(former) = former {
            self.disown(former);
        }
    }

    /// Takes every prefix from a peer.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.last.take();
        for prefix in self.owned.remove(&peer).into_iter().flat_map(BTreeMap::into_values) {
            match prefix {
                IpNet::V4(net) => self.v4.remove(&net),
                IpNet::V6(net) => self.v6.remove(&net),
            };
        }
    }

    /// The owner of the longest prefix that holds this address.
    pub(super) fn route(&self, address: IpAddr) -> Option<PeerId> {
        if let Some((last, peer)) = self.last.get()
            && last == address
        {
            return peer;
        }
        let peer = self.look_up(address);
        self.last.set(Some((address, peer)));
        peer
    }

    fn look_up(&self, address: IpAddr) -> Option<PeerId> {
        let owner = match address {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Net::from(address)).map(|(_, owner)| owner),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).map(|(_, owner)| owner),
        };
        owner.map(|owner| owner.peer)
    }

    /// The prefixes of a peer, in the order in which they were given to it.
    pub(super) fn of(&self, peer: PeerId) -> impl Iterator<Item = IpNet> + '_ {
        self.owned.get(&peer).into_iter().flat_map(BTreeMap::values).copied()
    }

    fn disown(&mut self, former: Owner) {
        if let Some(owned) = self.owned.get_mut(&former.peer) {
            owned.remove(&former.turn);
        }
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
        assert_eq!(route(&table, "10.99.0.1"), Some(1));
        table.insert(net("10.99.0.1/32"), PeerId(2));
        assert_eq!(route(&table, "10.99.0.1"), Some(2));
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
        assert_eq!(table.of(PeerId(1)).next(), Some(net("10.99.0.0/24")));
    }

    #[test]
    fn a_removed_peer_leaves_nothing_behind() {
        let mut table = AllowedIps::default();
        for i in 0..100u8 {
            table.insert(net(&format!("10.99.{i}.0/24")), PeerId(u32::from(i % 2)));
            table.insert(net(&format!("fd00:{i}::/32")), PeerId(u32::from(i % 2)));
        }
        table.remove_peer(PeerId(0));
        assert_eq!(table.of(PeerId(0)).count(), 0);
        assert_eq!(table.of(PeerId(1)).count(), 100);
        assert_eq!(route(&table, "10.99.2.1"), None);
        assert_eq!(route(&table, "10.99.3.1"), Some(1));
    }

    #[test]
    fn prefixes_stand_in_the_order_in_which_they_were_given() {
        let mut table = AllowedIps::default();
        for prefix in ["fd00::/64", "10.0.0.0/8", "10.0.0.0/16", "fd00::/64"] {
            table.insert(net(prefix), PeerId(1));
        }
        table.insert(net("10.0.0.0/16"), PeerId(2));
        assert_eq!(table.of(PeerId(1)).collect::<Vec<_>>(), [net("10.0.0.0/8"), net("fd00::/64")]);
        assert_eq!(table.of(PeerId(2)).collect::<Vec<_>>(), [net("10.0.0.0/16")]);
    }
}

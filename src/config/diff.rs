//! The difference between two configurations as a list of [`Change`]s, and that from nothing to the first.
//!
//! What did not change does not appear, so that untouched peers keep their sessions. Names are not
//! resolved and the MTU is not measured here: the daemon sends changes of its own for those. Called by
//! the daemon.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::{Config, Gossip, Host, Peer, PeerEndpoint};
use crate::wireguard::{AllowedIpChange, Change, GossipChange, PeerChange, PublicKey};

/// Everything that a configuration says to a device, whatever that was told before. Peers that the
/// configuration does not have are left alone.
pub fn changes(config: &Config) -> Vec<Change> {
    let interface = &config.interface;
    let mut changes = vec![
        Change::PrivateKey(Some(interface.private_key.clone())),
        Change::ListenPort(interface.listen_port),
        Change::Fwmark(interface.fwmark),
        Change::Filter(config.filter.clone()),
        gossip(config),
    ];
    changes.extend(config.peers.iter().map(|peer| Change::Peer(whole(peer))));
    changes
}

/// The same to a device that has these peers: those that the configuration does not have go first.
pub fn changes_over(config: &Config, present: impl IntoIterator<Item = PublicKey>) -> Vec<Change> {
    let is_listed = |key: &PublicKey| config.peers.iter().any(|peer| peer.public_key == *key);
    let gone = present.into_iter().filter(|key| !is_listed(key));
    gone.map(Change::RemovePeer).chain(changes(config)).collect()
}

/// What leads from one configuration to another, in an order in which each step is valid by itself.
///
/// An endpoint or a name that is no longer in the file stays in place: the endpoint may have roamed,
/// and a name only labels the peer.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let (was, is) = (&old.interface, &new.interface);
    let kept = || new.peers.iter().filter_map(|peer| Some((find(old, peer)?, peer)));
    // First what goes: a machine that takes the key of a peer cannot have itself as a peer, and a
    // prefix has one owner.
    let gone = old.peers.iter().filter(|peer| find(new, peer).is_none());
    let mut changes: Vec<_> = gone.map(|peer| Change::RemovePeer(peer.public_key)).collect();
    changes.extend(kept().filter_map(|(old, new)| removal(old, new)).map(Change::Peer));
    if was.private_key != is.private_key {
        changes.push(Change::PrivateKey(Some(is.private_key.clone())));
    }
    if was.listen_port != is.listen_port {
        changes.push(Change::ListenPort(is.listen_port));
    }
    if was.fwmark != is.fwmark {
        changes.push(Change::Fwmark(is.fwmark));
    }
    if old.filter != new.filter {
        changes.push(Change::Filter(new.filter.clone()));
    }
    if old.gossip != new.gossip {
        changes.push(gossip(new));
    }
    changes.extend(kept().filter_map(|(old, new)| update(old, new)).map(Change::Peer));
    let added = new.peers.iter().filter(|peer| find(old, peer).is_none());
    changes.extend(added.map(|peer| Change::Peer(whole(peer))));
    changes
}

/// Names what differs, for people.
pub fn differences(old: &Config, new: &Config) -> Vec<String> {
    let (was, is) = (&old.interface, &new.interface);
    let named = [
        ("name of this machine", was.machine != is.machine),
        ("private key", was.private_key != is.private_key),
        ("address", was.address != is.address),
        ("listen_port", was.listen_port != is.listen_port),
        ("mtu", was.mtu != is.mtu),
        ("netns", was.netns != is.netns),
        ("filter", old.filter != new.filter),
        ("gossip", old.gossip != new.gossip),
        ("docker", old.docker != new.docker),
    ];
    let label = |peer: &Peer| peer.name.clone().unwrap_or_else(|| peer.public_key.to_string());
    let peers = |ours: &[Peer], differs: &dyn Fn(&Peer) -> bool, how: &str| -> Vec<_> {
        let those = ours.iter().filter(|peer| differs(peer));
        those.map(|peer| format!("peer {} {how}", label(peer))).collect()
    };
    let is_gone = |peer: &Peer| find(new, peer).is_none();
    let is_new = |peer: &Peer| find(old, peer).is_none();
    let is_changed = |peer: &Peer| find(old, peer).is_some_and(|old| old != peer);
    let named = named.into_iter().filter(|(_, differs)| *differs);
    named
        .map(|(name, _)| name.to_owned())
        .chain(peers(&old.peers, &is_gone, "removed"))
        .chain(peers(&new.peers, &is_new, "added"))
        .chain(peers(&new.peers, &is_changed, "changed"))
        .collect()
}

/// Names everything that differs and cannot change while the tunnel runs.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    let mut needed = Vec::new();
    let (was, is) = (&old.interface.name, &new.interface.name);
    if was != is {
        needed.push(format!("the interface name ({was} to {is})"));
    }
    let (was, is) = (old.docker.plugin, new.docker.plugin);
    if was != is {
        needed.push(format!("[docker] plugin ({was} to {is})"));
    }
    needed
}

fn gossip(config: &Config) -> Change {
    let Gossip { port, resend } = config.gossip;
    Change::Gossip(GossipChange { port, resend })
}

fn find<'c>(config: &'c Config, peer: &Peer) -> Option<&'c Peer> {
    config.peers.iter().find(|other| other.public_key == peer.public_key)
}

/// All of a peer that is not there yet, or of which nothing is known.
fn whole(peer: &Peer) -> PeerChange {
    PeerChange {
        name: peer.name.clone(),
        preshared_key: Some(peer.preshared_key.clone()),
        endpoints: literal(peer.endpoint.as_ref()),
        persistent_keepalive: Some(keepalive(peer)),
        allow: Some(peer.allow.clone()),
        replace_allowed_ips: true,
        allowed_ips: peer.allowed_ips.iter().copied().map(AllowedIpChange::Add).collect(),
        ..PeerChange::new(peer.public_key)
    }
}

/// The prefixes that a peer loses, if it loses any.
fn removal(old: &Peer, new: &Peer) -> Option<PeerChange> {
    let allowed_ips: Vec<_> =
        missing(&old.allowed_ips, &new.allowed_ips).map(AllowedIpChange::Remove).collect();
    if allowed_ips.is_empty() {
        return None;
    }
    Some(PeerChange { update_only: true, allowed_ips, ..PeerChange::new(new.public_key) })
}

/// All else that changes of a peer, if anything does.
fn update(old: &Peer, new: &Peer) -> Option<PeerChange> {
    let unchanged = PeerChange { update_only: true, ..PeerChange::new(new.public_key) };
    let change = PeerChange {
        name: new.name.clone().filter(|_| old.name != new.name),
        preshared_key: (old.preshared_key != new.preshared_key).then(|| new.preshared_key.clone()),
        endpoints: literal(new.endpoint.as_ref()).filter(|_| old.endpoint != new.endpoint),
        persistent_keepalive: (keepalive(old) != keepalive(new)).then(|| keepalive(new)),
        allow: (old.allow != new.allow).then(|| new.allow.clone()),
        allowed_ips: missing(&new.allowed_ips, &old.allowed_ips)
            .map(AllowedIpChange::Add)
            .collect(),
        ..unchanged.clone()
    };
    (change != unchanged).then_some(change)
}

fn keepalive(peer: &Peer) -> u16 {
    peer.persistent_keepalive.map_or(0, u16::from)
}

/// The prefixes of the first list that are not in the second.
fn missing(these: &[IpNet], from: &[IpNet]) -> impl Iterator<Item = IpNet> {
    these.iter().copied().filter(|net| !from.contains(net))
}

/// The address of an endpoint that needs no resolving.
fn literal(endpoint: Option<&PeerEndpoint>) -> Option<Vec<SocketAddr>> {
    match endpoint {
        Some(PeerEndpoint { host: Host::Address(address), port }) => {
            Some(vec![SocketAddr::new(*address, *port)])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::num::NonZeroU16;
    use std::time::Duration;

    use super::super::{Docker, Gossip, Interface, Mtu, Netns};
    use super::*;
    use crate::wireguard::{Allow, Device, PresharedKey, PrivateKey, Rule};

    /// What a device would know; strict about the order of steps.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Model {
        private_key: Option<PrivateKey>,
        listen_port: u16,
        fwmark: u32,
        gossip: Option<GossipChange>,
        filter: Option<Allow>,
        peers: BTreeMap<PublicKey, ModelPeer>,
    }

    #[derive(Clone, Debug, Default, PartialEq)]
    struct ModelPeer {
        name: Option<String>,
        preshared_key: Option<PresharedKey>,
        endpoints: Vec<SocketAddr>,
        persistent_keepalive: u16,
        allow: Option<Allow>,
        allowed_ips: BTreeSet<IpNet>,
    }

    impl Model {
        /// What the device should know, told without the code under test; an endpoint that the file
        /// does not give as an address, and a name that it does not give, are those of before.
        fn of(config: &Config, before: &Model) -> Self {
            let peer = |peer: &Peer| {
                let before = before.peers.get(&peer.public_key).cloned().unwrap_or_default();
                let endpoints = match &peer.endpoint {
                    Some(PeerEndpoint { host: Host::Address(address), port }) => {
                        vec![SocketAddr::new(*address, *port)]
                    }
                    _ => before.endpoints,
                };
                let peer_model = ModelPeer {
                    name: peer.name.clone().or(before.name),
                    preshared_key: peer.preshared_key.clone(),
                    endpoints,
                    persistent_keepalive: peer.persistent_keepalive.map_or(0, u16::from),
                    allow: peer.allow.clone(),
                    allowed_ips: peer.allowed_ips.iter().copied().collect(),
                };
                (peer.public_key, peer_model)
            };
            Self {
                private_key: Some(config.interface.private_key.clone()),
                listen_port: config.interface.listen_port,
                fwmark: config.interface.fwmark,
                gossip: Some(GossipChange {
                    port: config.gossip.port,
                    resend: config.gossip.resend,
                }),
                filter: config.filter.clone(),
                peers: config.peers.iter().map(peer).collect(),
            }
        }

        fn apply(&mut self, changes: &[Change]) {
            for change in changes {
                match change {
                    Change::PrivateKey(key) => self.private_key = key.clone(),
                    Change::ListenPort(port) => self.listen_port = *port,
                    Change::Fwmark(mark) => self.fwmark = *mark,
                    Change::Filter(allow) => self.filter = allow.clone(),
                    Change::Gossip(gossip) => self.gossip = Some(*gossip),
                    Change::RemovePeer(key) => {
                        assert!(self.peers.remove(key).is_some(), "no such peer")
                    }
                    Change::Peer(change) => self.apply_peer(change),
                    other => panic!("{other:?} is not for diff to say"),
                }
                let ours = self.private_key.as_ref().map(PrivateKey::public_key);
                assert!(
                    ours.is_none_or(|key| !self.peers.contains_key(&key)),
                    "we are our own peer"
                );
            }
        }

        fn apply_peer(&mut self, change: &PeerChange) {
            let exists = self.peers.contains_key(&change.public_key);
            assert_eq!(change.update_only, exists, "{change:?}");
            let peer = self.peers.entry(change.public_key).or_default();
            assert!(!change.replace_allowed_ips || peer.allowed_ips.is_empty(), "{change:?}");
            if let Some(name) = &change.name {
                peer.name = Some(name.clone());
            }
            if let Some(key) = &change.preshared_key {
                peer.preshared_key = key.clone();
            }
            if let Some(endpoints) = &change.endpoints {
                peer.endpoints = endpoints.clone();
            }
            if let Some(seconds) = change.persistent_keepalive {
                peer.persistent_keepalive = seconds;
            }
            if let Some(allow) = &change.allow {
                peer.allow = allow.clone();
            }
            for step in &change.allowed_ips {
                match step {
                    AllowedIpChange::Add(net) => {
                        let taken = self.peers.values().any(|peer| peer.allowed_ips.contains(net));
                        assert!(!taken, "{net} added before it was removed");
                        let peer = self.peers.get_mut(&change.public_key).unwrap();
                        peer.allowed_ips.insert(*net);
                    }
                    AllowedIpChange::Remove(net) => {
                        let peer = self.peers.get_mut(&change.public_key).unwrap();
                        assert!(peer.allowed_ips.remove(net), "{net} was not there");
                    }
                }
            }
        }
    }

    fn machine(number: u8) -> PrivateKey {
        PrivateKey::from_random([number; 32])
    }

    fn any_allow(random: &mut fastrand::Rng) -> Option<Allow> {
        let lists = [None, Some(vec![]), Some(vec![Rule::Icmp]), Some(vec![Rule::All])];
        random.choice(lists).flatten().map(Allow::new)
    }

    /// A valid configuration of few values, so that two of them have much in common.
    fn any_config(random: &mut fastrand::Rng) -> Config {
        let us = random.u8(1..=2);
        let mut numbers: Vec<u8> =
            (1..=5).filter(|number| *number != us && random.bool()).collect();
        random.shuffle(&mut numbers);
        let mut nets: Vec<IpNet> =
            (1..=8).map(|number| format!("10.99.0.{number}/32").parse().unwrap()).collect();
        random.shuffle(&mut nets);
        let peer = |number: &u8| {
            let host = match random.u8(..3) {
                0 => None,
                1 => Some(Host::Name(format!("m{number}.example.org"))),
                _ => Some(Host::Address([192, 0, 2, random.u8(1..3)].into())),
            };
            Peer {
                name: random.bool().then(|| format!("m{number}")),
                public_key: machine(*number).public_key(),
                preshared_key: random
                    .bool()
                    .then(|| PresharedKey::from_bytes([random.u8(1..3); 32])),
                endpoint: host.map(|host| PeerEndpoint { host, port: random.u16(1..3) }),
                allowed_ips: nets.split_off(nets.len() - random.usize(1..=2)),
                persistent_keepalive: NonZeroU16::new(random.u16(..3)),
                allow: any_allow(random),
            }
        };
        let peers = numbers.iter().map(peer).collect();
        Config {
            path: "hushwire.toml".into(),
            interface: Interface {
                name: "hush0".to_owned(),
                private_key: machine(us),
                listed: false,
                machine: None,
                address: vec!["10.99.0.100/32".parse().unwrap()],
                listen_port: random.u16(1..3),
                mtu: Mtu::Auto,
                fwmark: random.u32(..2),
                netns: Netns::Own,
            },
            peers,
            gossip: Gossip { port: 9094, resend: Duration::from_secs(random.u64(..2)) },
            filter: any_allow(random),
            docker: Docker::default(),
        }
    }

    #[test]
    fn difference_leads_from_the_old_state_to_the_new_one() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let (old, new) = (any_config(&mut random), any_config(&mut random));
            let mut model = Model::default();
            model.apply(&changes(&old));
            assert_eq!(model, Model::of(&old, &Model::default()));
            let expected = Model::of(&new, &model);
            model.apply(&diff(&old, &new));
            assert_eq!(model, expected, "from {old:#?} to {new:#?}");
            assert_eq!(diff(&new, &new), []);
        }
    }

    /// A reload after `wg set` compared two files, and left the device as `wg` had made it.
    #[test]
    fn all_of_a_configuration_leads_there_from_any_state() {
        let mut random = fastrand::Rng::with_seed(3);
        #[allow(clippy::disallowed_methods, reason = "any time will do")]
        let now = std::time::Instant::now();
        for _ in 0..2000 {
            let (before, config) = (any_config(&mut random), any_config(&mut random));
            let mut device = Device::new(1);
            device.apply(now, changes(&before));
            let seen = |device: &Device| {
                let device = device.snapshot(now);
                let peers = device.peers.into_iter().map(|peer| {
                    let seen = ModelPeer {
                        name: peer.name,
                        preshared_key: peer.preshared_key,
                        endpoints: peer.endpoint.into_iter().collect(),
                        persistent_keepalive: peer.persistent_keepalive,
                        allow: peer.allow,
                        allowed_ips: peer.allowed_ips.into_iter().collect(),
                    };
                    (peer.public_key, seen)
                });
                let peers = peers.collect();
                let (private_key, filter) = (device.private_key, device.allow);
                Model { private_key, filter, peers, ..Model::default() }
            };
            let was = seen(&device);
            let expected =
                Model { listen_port: 0, fwmark: 0, gossip: None, ..Model::of(&config, &was) };
            device.apply(now, changes_over(&config, was.peers.keys().copied()));
            assert_eq!(seen(&device), expected, "from {before:#?} to {config:#?}");
        }
    }

    #[test]
    fn untouched_peer_does_not_appear() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut old = any_config(&mut random);
        while old.peers.len() < 2 {
            old = any_config(&mut random);
        }
        let mut new = old.clone();
        new.peers.reverse();
        assert_eq!(diff(&old, &new), [], "the order in the file does not matter");
        let changed = new.peers[0].public_key;
        new.peers[0].persistent_keepalive = NonZeroU16::new(99);
        let expected = PeerChange {
            update_only: true,
            persistent_keepalive: Some(99),
            ..PeerChange::new(changed)
        };
        assert_eq!(diff(&old, &new), [Change::Peer(expected)]);
    }

    #[test]
    fn what_differs_has_a_name() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut old = any_config(&mut random);
        while old.peers.len() < 2 {
            old = any_config(&mut random);
        }
        for (peer, name) in old.peers.iter_mut().zip(["a", "b"]) {
            peer.name = Some(name.to_owned());
        }
        let mut new = old.clone();
        new.peers.reverse();
        assert_eq!(differences(&old, &new), [""; 0]);
        new.interface.listen_port += 1;
        new.peers.retain(|peer| peer.name.as_deref() != Some("a"));
        assert_eq!(differences(&old, &new), ["listen_port", "peer a removed"]);
        assert_eq!(differences(&new, &old), ["listen_port", "peer a added"]);
        let mut new = old.clone();
        new.peers[1].persistent_keepalive = NonZeroU16::new(99);
        assert_eq!(differences(&old, &new), ["peer b changed"]);
        let mut new = old.clone();
        new.interface.machine = Some("ma1".to_owned());
        assert_eq!(differences(&old, &new), ["name of this machine"]);
    }

    #[test]
    fn only_where_the_interface_is_needs_a_restart() {
        let mut random = fastrand::Rng::with_seed(1);
        let old = any_config(&mut random);
        let mut new = any_config(&mut random);
        assert_eq!(restart_needed(&old, &new), [""; 0]);
        new.interface.name = "hush1".to_owned();
        let name = "the interface name (hush0 to hush1)";
        assert_eq!(restart_needed(&old, &new), [name]);
        new.docker.plugin = true;
        assert_eq!(restart_needed(&old, &new), [name, "[docker] plugin (false to true)"]);
    }
}

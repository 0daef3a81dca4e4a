//! The one door for change: what a list of [`Change`]s does to a device.
//!
//! A change touches what it names and nothing else: peers that it does not name keep their sessions, and a
//! peer whose keys change keeps its old session until the new one has shaken hands. Called by the packet
//! loop through [`Device::apply`].

use std::time::{Duration, Instant};

use super::{Device, PeerId, Slot};
use crate::wireguard::change::{AllowedIpChange, Change, PeerChange};
use crate::wireguard::keys::{PrivateKey, PublicKey};
use crate::wireguard::peer::Peer;
use crate::wireguard::session::{Identity, Session};

/// The kernel asks for a neighbour once a second, and drops what waits for the answer a second after the last
/// time (net/core/neighbour.c, `neigh_timer_handler`). What is sent after that asks anew.
const NEIGHBOURS_FOUND: Duration = Duration::from_millis(1_050);

impl Device {
    /// Applies changes in order. What they do not name is not touched.
    pub fn apply(&mut self, now: Instant, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::PrivateKey(key) => self.set_private_key(now, key),
                Change::Mtu(mtu) => self.mtu = mtu.into(),
                Change::Gossip(gossip) => {
                    self.common.gossip = Some(gossip).filter(|gossip| !gossip.resend.is_zero());
                }
                Change::Filter(allow) => self.common.allow = allow,
                Change::CarrierBack => self.common.way_ready = Some(now + NEIGHBOURS_FOUND),
                Change::RemoveAllPeers => {
                    let all: Vec<PeerId> = self.peers.keys().copied().collect();
                    all.into_iter().for_each(|id| self.remove(id));
                }
                Change::RemovePeer(key) => {
                    if let Some(id) = self.by_key.get(&key).copied() {
                        self.remove(id);
                    }
                }
                Change::Peer(change) => self.change_peer(now, change),
                // The sockets belong to the packet loop.
                Change::ListenPort(port) => {
                    if std::mem::replace(&mut self.listen_port, port) != port {
                        self.forget_sources();
                    }
                }
                Change::Fwmark(_) => self.forget_sources(),
            }
        }
    }

    /// Lets the kernel choose anew where datagrams leave from: a new socket or another mark may have
    /// other routes (kernel: netlink.c, set_port and wg_set_device).
    fn forget_sources(&mut self) {
        for slot in self.peers.values_mut() {
            slot.peer.forget_source();
        }
    }

    fn set_private_key(&mut self, now: Instant, key: Option<PrivateKey>) {
        if self.private_key == key {
            return;
        }
        self.identity = key.as_ref().map(Identity::new);
        self.private_key = key;
        // A device that has the peer's key is the peer: it would talk to itself.
        let own = self.identity.as_ref().map(|identity| identity.public_key());
        if let Some(id) = own.and_then(|key| self.by_key.get(&key).copied()) {
            self.remove(id);
        }
        let all: Vec<(PublicKey, PeerId)> = self.by_key.iter().map(|(k, id)| (*k, *id)).collect();
        for (key, id) in all {
            self.renew_session(now, id, &key);
            self.start(now, id);
        }
    }

    /// Shakes hands with a peer that has no session, if there is a way to it.
    pub(super) fn start(&mut self, now: Instant, id: PeerId) {
        if self.underlay_open {
            let patience = self.start_patience;
            self.with_peer(now, id, |peer, cx| peer.start(cx, patience));
        }
    }

    fn change_peer(&mut self, now: Instant, change: PeerChange) {
        let key = change.public_key;
        if self.identity.as_ref().is_some_and(|identity| identity.public_key() == key) {
            return;
        }
        let known = self.by_key.get(&key).copied();
        let id = match known {
            Some(id) => id,
            None if change.update_only => return,
            None => self.add(key),
        };
        let mut fresh = known.is_none();
        if let Some(slot) = self.peers.get_mut(&id) {
            if change.name.is_some() {
                slot.peer.name = change.name;
            }
            if let Some(allow) = change.allow {
                slot.peer.set_allow(allow);
            }
            if let Some(preshared_key) = change.preshared_key
                && slot.peer.preshared_key() != preshared_key.as_ref()
            {
                slot.peer.set_preshared_key(preshared_key);
                fresh = true;
            }
        }
        if fresh {
            self.renew_session(now, id, &key);
        }
        if change.replace_allowed_ips {
            self.allowed_ips.remove_peer(id);
        }
        for step in change.allowed_ips {
            match step {
                AllowedIpChange::Add(prefix) => self.allowed_ips.insert(prefix, id),
                AllowedIpChange::Remove(prefix) => self.allowed_ips.remove(prefix, id),
            }
        }
        let addressed = change.endpoints.is_some();
        self.with_peer(now, id, |peer, cx| {
            if let Some(endpoints) = change.endpoints {
                peer.set_endpoints(endpoints);
            }
            if let Some(seconds) = change.persistent_keepalive {
                peer.set_persistent_keepalive(seconds, cx);
            }
        });
        if fresh || addressed {
            self.start(now, id);
        }
    }

    fn add(&mut self, key: PublicKey) -> PeerId {
        let id = PeerId(self.next_id);
        self.next_id += 1;
        self.by_key.insert(key, id);
        self.peers.insert(id, Slot { peer: Peer::new(key), queued: None, indices: [None; 2] });
        id
    }

    fn remove(&mut self, id: PeerId) {
        if let Some(slot) = self.peers.remove(&id) {
            for index in slot.indices.into_iter().flatten() {
                self.by_index.remove(&index);
            }
            self.by_key.remove(&slot.peer.public_key());
        }
        self.allowed_ips.remove_peer(id);
    }

    /// Gives a peer a session under the present keys; one before carries packets until then. There is none without
    /// a private key, nor for a key that is nobody's (kernel: noise.c, `wg_noise_precompute_static_static`).
    fn renew_session(&mut self, now: Instant, id: PeerId, key: &PublicKey) {
        let index = self.unused_index();
        let Some(slot) = self.peers.get_mut(&id) else { return };
        let [present, retiring] = slot.indices;
        let identity = self.identity.as_ref().filter(|_| !key.is_nobodys());
        let (indices, gone) = if let Some(identity) = identity {
            let session = Session::new(identity, key, slot.peer.preshared_key(), index, now);
            let (kept, gone) = match slot.peer.set_session(now, session) {
                true => (present, retiring),
                false => (retiring, present),
            };
            self.by_index.insert(index, id);
            ([Some(index), kept], [gone, None])
        } else {
            slot.peer.clear_sessions();
            ([None; 2], [present, retiring])
        };
        slot.indices = indices;
        for index in gone.into_iter().flatten() {
            self.by_index.remove(&index);
        }
    }

    fn unused_index(&mut self) -> u32 {
        loop {
            let index = self.common.rng.u32(..1 << 24);
            if !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }
}

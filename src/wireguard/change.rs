//! The one door for change: a configuration reload and a request on the control socket both become a
//! list of these.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::filter::Allow;
use super::keys::{PresharedKey, PrivateKey, PublicKey};

/// One step of a change. A list of them is applied in order and as a whole, between two batches of
/// packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Takes another private key, or none. Sessions made under the former key carry packets until the
    /// new one has shaken hands; without a key there are none.
    PrivateKey(Option<PrivateKey>),
    /// Listens on another UDP port; 0 lets the kernel choose. Sessions are kept.
    ListenPort(u16),
    /// Marks underlay packets (`SO_MARK`); 0 is no mark.
    Fwmark(u32),
    /// The MTU of the overlay interface, in bytes: padding stays below it.
    Mtu(u16),
    /// What is known about gossip: see [`GossipChange`].
    Gossip(GossipChange),
    /// What may pass to and from peers that have no list of their own; `None` is everything.
    Filter(Option<Allow>),
    /// An interface below has its carrier back: until the kernel has given up on neighbours that it asked
    /// for in vain, what is sent may be dropped, and nothing is sent once more.
    CarrierBack,
    /// Removes every peer.
    RemoveAllPeers,
    /// Removes one peer, if there is such a peer.
    RemovePeer(PublicKey),
    /// Adds a peer or changes one.
    Peer(PeerChange),
}

/// Gossip is sent once more to a peer that may have missed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GossipChange {
    /// Alertmanager's cluster port: UDP to it is gossip.
    pub port: u16,
    /// For how long gossip to a silent peer is kept; zero keeps none.
    pub resend: Duration,
}

/// What is to be changed of one peer; what is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// Which peer.
    pub public_key: PublicKey,
    /// Changes nothing if there is no such peer, instead of adding one.
    pub update_only: bool,
    /// The name that the configuration gives it, for `status` and log lines.
    pub name: Option<String>,
    /// Another preshared key, or `Some(None)` for none. The session is kept: the key counts from the
    /// next handshake on.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Addresses to try in turn, the best one first. A peer that is heard from another address roams
    /// there.
    pub endpoints: Option<Vec<SocketAddr>>,
    /// Seconds between persistent keepalives; 0 turns them off.
    pub persistent_keepalive: Option<u16>,
    /// What may pass to and from it, or `Some(None)` for what [`Change::Filter`] says.
    pub allow: Option<Option<Allow>>,
    /// Takes all allowed IPs away before those below are added.
    pub replace_allowed_ips: bool,
    /// Allowed IPs to add or to remove, in order.
    pub allowed_ips: Vec<AllowedIpChange>,
}

impl PeerChange {
    /// A change of this peer that changes nothing yet (but adds the peer, if there is none).
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            update_only: false,
            name: None,
            preshared_key: None,
            endpoints: None,
            persistent_keepalive: None,
            allow: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// One step of a change of a peer's allowed IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedIpChange {
    /// Gives the prefix to this peer, taking it from whichever peer had it.
    Add(IpNet),
    /// Takes the prefix from this peer, if it had it.
    Remove(IpNet),
}

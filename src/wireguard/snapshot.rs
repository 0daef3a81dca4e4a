//! What a [`Device`](super::Device) looks like at one moment: the only way to read it.

use std::net::SocketAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::drops::Drops;
use super::filter::Allow;
use super::keys::{PresharedKey, PrivateKey, PublicKey};

/// A device at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Our own key; a secret.
    pub private_key: Option<PrivateKey>,
    /// What may pass to and from the peers; none is everything.
    pub allow: Option<Allow>,
    /// Drops that no peer can be blamed for.
    pub drops: Drops,
    /// The peers, in the order in which they were added.
    pub peers: Vec<PeerSnapshot>,
}

/// One peer at one moment.
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    /// Which peer.
    pub public_key: PublicKey,
    /// The name that the configuration gives it.
    pub name: Option<String>,
    /// The key shared with it; a secret.
    pub preshared_key: Option<PresharedKey>,
    /// Where datagrams to it go.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between persistent keepalives; 0 is off.
    pub persistent_keepalive: u16,
    /// Prefixes that route to it and that it may send from, in the order in which they were given.
    pub allowed_ips: Vec<IpNet>,
    /// What may pass to and from it instead of what the device lets pass.
    pub allow: Option<Allow>,
    /// Whether packets can pass now.
    pub session: SessionState,
    /// When the last handshake with it was completed.
    pub last_handshake: Option<Instant>,
    /// When it was last heard (any authenticated message).
    pub last_heard: Option<Instant>,
    /// Handshake initiations sent since it last answered one: what a peer that cannot be reached shows.
    pub unanswered_initiations: u32,
    /// Underlay bytes received from it in authenticated messages, as `wg show` counts them.
    pub rx_bytes: u64,
    /// Underlay bytes sent to it.
    pub tx_bytes: u64,
    /// Inner packets received from it and delivered.
    pub rx_packets: u64,
    /// Inner packets sent to it.
    pub tx_packets: u64,
    /// Gossip datagrams that were sent to it once more: it may have missed them.
    pub gossip_resent: u64,
    /// Packets of this peer that were not delivered.
    pub drops: Drops,
}

/// Whether packets to a peer can pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// No session, and none is being made: there was nothing to send.
    Idle,
    /// No session; a handshake is under way.
    Handshaking,
    /// A session is there.
    Established,
}

//! What `hushwire status` shows: plain data, made by the daemon, sent as JSON over the control socket,
//! read back by `status` and `wait`. Its field names are an interface: scripts read `status --json`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::sys::guard::Guard;
use crate::sys::sandbox::Confinement;
use crate::wireguard::SessionState;

/// A running hushwire at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program that runs.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_seconds: f64,
    /// The overlay interface and the underlay socket.
    pub interface: InterfaceStatus,
    /// What it may do, and what its helper may.
    pub rights: RightsStatus,
    /// The peers, in the order of the configuration.
    pub peers: Vec<PeerStatus>,
    /// Packets dropped that no peer can be blamed for, by reason; every reason is there, from zero.
    pub drops: BTreeMap<String, u64>,
}

/// The overlay interface and the underlay socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name of the TUN device.
    pub name: String,
    /// Our name in the configuration.
    pub machine: Option<String>,
    /// Our public key, in base64.
    pub public_key: String,
    /// Overlay addresses.
    pub address: Vec<IpNet>,
    /// UDP port on the underlay.
    pub listen_port: u16,
    /// MTU of the TUN device, in bytes.
    pub mtu: u16,
    /// What may pass to and from peers without a list of their own, as the configuration writes it; none is
    /// everything.
    pub filter: Option<Vec<String>>,
    /// In whose network namespace it is to be, as the configuration says; null: in hushwire's own.
    #[serde(default)]
    pub netns: Option<String>,
    /// Whether the interface is there, addressed and up.
    pub attached: bool,
    /// Why not, and what it waits for; empty when attached.
    pub detail: String,
    /// What keeps neighbours on other interfaces from the overlay addresses; nothing with a bare device.
    #[serde(default)]
    pub guard: Guard,
}

/// Which rights are left, and what is in force against a part of it that was taken over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RightsStatus {
    /// The process that holds the keys and carries the packets.
    pub process: Confinement,
    /// The process that attaches the interface, or holds its descriptor; none if there is none any more.
    pub helper: Option<HelperStatus>,
}

/// The helper process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperStatus {
    /// Its process id.
    pub pid: u32,
    /// Its capabilities; none once nothing needs them any more.
    pub capabilities: Vec<String>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name in the configuration.
    pub name: Option<String>,
    /// Its public key, in base64.
    pub public_key: String,
    /// The endpoint that the configuration gives, as `host:port`.
    pub configured_endpoint: Option<String>,
    /// Where datagrams to it go now.
    pub endpoint: Option<SocketAddr>,
    /// Prefixes that route to it.
    pub allowed_ips: Vec<IpNet>,
    /// What may pass to and from it instead of what `filter` says.
    pub allow: Option<Vec<String>>,
    /// Whether packets can pass now.
    pub session: SessionState,
    /// Seconds since the last completed handshake.
    pub handshake_age_seconds: Option<f64>,
    /// Seconds since it was last heard.
    pub last_heard_seconds: Option<f64>,
    /// Handshake initiations sent since it last answered one.
    pub unanswered_initiations: u32,
    /// Underlay bytes received from it.
    pub rx_bytes: u64,
    /// Underlay bytes sent to it.
    pub tx_bytes: u64,
    /// Inner packets received from it.
    pub rx_packets: u64,
    /// Inner packets sent to it.
    pub tx_packets: u64,
    /// Gossip datagrams that were sent to it once more: it may have missed them.
    pub gossip_resent: u64,
    /// Packets of this peer that were dropped, by reason; every reason is there, from zero.
    pub drops: BTreeMap<String, u64>,
}

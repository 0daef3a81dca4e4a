//! The configuration file: TOML text becomes a [`Config`], or every error at once with its place.
//!
//! One file serves all machines: a machine finds itself in the list of peers by its public key. After
//! [`load()`] nothing can be wrong any more. Called by the commands and, on reload, by the daemon.
//!
//! The types stand here. `load` reads the file, with `syntax` (what is no TOML), `fields` (tables and
//! types), `values` (texts), `netns` (where the interface is to be), `blocks` (all machines), `us` (this one),
//! `keyfile` and `handed` (keys from files, and from whoever can read them); `error` says what is wrong; `diff`
//! compares two configurations, and `name` reads that of the interface alone.

mod blocks;
mod diff;
mod error;
mod fields;
mod handed;
mod keyfile;
mod load;
mod name;
mod netns;
mod syntax;
mod us;
pub mod values;

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::wireguard::{Allow, PresharedKey, PrivateKey, PublicKey};

pub use diff::{changes, changes_over, diff, differences, restart_needed};
pub use error::{Complaint, Errors};
pub use handed::{Again, HandedKey, HandedKeys, load_again, load_with_keys};
pub use load::{DEFAULT_NAME, load, load_with_files};
pub use name::interface_name;
pub use netns::{Docker, Netns, Selector};

/// What the loader needs to know of the process's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `$CREDENTIALS_DIRECTORY`: where systemd puts the secrets of a service.
    pub credentials_directory: Option<PathBuf>,
    /// Whether the engine's network driver is asked for by the command, whatever the file says.
    pub docker_plugin: bool,
}

/// A configuration in which nothing is missing and nothing is wrong, as one machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// This machine.
    pub interface: Interface,
    /// The other machines, in the order of the file.
    pub peers: Vec<Peer>,
    /// What is known about the traffic inside.
    pub gossip: Gossip,
    /// What may pass to and from peers without a list of their own; none is everything.
    pub filter: Option<Allow>,
    /// The container engine.
    pub docker: Docker,
}

/// This machine: `[interface]`, filled up from our own `[[peer]]` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name of the TUN device: 1 to 15 bytes that Linux takes for an interface.
    pub name: String,
    /// Our own key.
    pub private_key: PrivateKey,
    /// Whether there is a `[[peer]]` block of our own.
    pub listed: bool,
    /// The name in our own `[[peer]]` block, if there is such a block and it has a name.
    pub machine: Option<String>,
    /// Overlay addresses of this machine, each with its prefix length; at least one.
    pub address: Vec<IpNet>,
    /// UDP port on the underlay.
    pub listen_port: u16,
    /// MTU of the TUN device.
    pub mtu: Mtu,
    /// `SO_MARK` of underlay packets; 0 is none.
    pub fwmark: u32,
    /// Where the TUN device is to be.
    pub netns: Netns,
}

/// How large a packet the overlay carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtu {
    /// The smallest path MTU to a peer less the overhead.
    Auto,
    /// Just this many bytes, 576 (1280 with IPv6 addresses) to 65,455.
    Fixed(u16),
}

/// Another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the file, if it has one.
    pub name: Option<String>,
    /// Which machine.
    pub public_key: PublicKey,
    /// The key shared with it: its own one or `[interface] preshared_key_file`.
    pub preshared_key: Option<PresharedKey>,
    /// Where it can be reached; none for a peer that always speaks first.
    pub endpoint: Option<PeerEndpoint>,
    /// Overlay prefixes behind it; at least one.
    pub allowed_ips: Vec<IpNet>,
    /// Interval of persistent keepalives, in seconds.
    pub persistent_keepalive: Option<NonZeroU16>,
    /// What may pass to and from it instead of what `[filter]` says.
    pub allow: Option<Allow>,
}

/// Where a peer can be reached, as the file says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerEndpoint {
    /// An address, or a name to be resolved.
    pub host: Host,
    /// Its UDP port, never 0.
    pub port: u16,
}

/// An address or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A DNS name.
    Name(String),
}

/// `[gossip]`: what is known about the traffic inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gossip {
    /// Alertmanager's cluster port.
    pub port: u16,
    /// For how long gossip to a silent peer is kept to be sent again; zero is off.
    pub resend: Duration,
}

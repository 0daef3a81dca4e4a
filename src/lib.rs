//! hushwire gives each Prometheus Alertmanager a private overlay address to its peers: a userspace
//! WireGuard made for this one job.
//!
//! ```text
//!   network namespace of the overlay                            network namespace of the underlay
//!  Alertmanager 10.99.0.1:9094
//!         |           +----------+      +-------------------+      +----------+
//!         +-- hush0 ->| sys::tun |----->| wireguard::device |----->| sys::udp |--> peer :51820
//!             (TUN)   |          |<-----|  (pure state)     |<-----|          |
//!                     +----------+      +--^-------------^--+      +----------+
//!                      config file --> Change       handle_timeout(now)
//!                      UAPI socket --> Change
//! ```
//!
//! The rooms, in the order in which a newcomer should open them:
//!
//! - [`wireguard`]: the protocol as pure state; no sockets, no files, no clock of its own
//! - [`dataplane`]: the packet loop; one thread owns TUN, UDP sockets and `Device`; decides nothing
//! - [`offload`]: large packets of the TUN, cut apart and joined; pure as well
//! - [`sys`]: Linux; TUN, UDP, netlink, attaching an interface, keeping it while hushwire is away; the only
//!   `unsafe`
//! - [`config`]: the TOML file becomes a `Config`, or every error at once with its place
//! - [`daemon`]: the life of `hushwire up` and of a bare device; signals, reload, names, control socket
//! - [`plugin`]: the container engine's network driver; questions become answers and what is to be done
//! - [`engine`]: a client of the container engine; which process a container's first is, and its events
//! - [`uapi`]: the control socket; text becomes a typed request, a reply becomes text
//! - [`status`]: what `hushwire status` shows, as plain data
//! - [`wrap`]: lines that fit a terminal
//! - [`commands`]: one file a subcommand; [`cli`]: their arguments and help texts
//!
//! A packet on its way out: TUN read → a large one waits for its turn and is cut → inner destination
//! → allowed IPs → peer → seal straight into the datagram's place → one send for all that go together.
//! On its way in: one receive for many → message type and exact length → receiver index → peer → open
//! → the inner source must route back to the same peer → the endpoint roams → those of one flow are
//! joined → TUN write. Every drop has a name: [`wireguard::DropReason`].
//!
//! What holds everywhere: bytes from a peer never panic; time, randomness and bytes are arguments
//! of the pure part; every change (reload, control socket) is a list of [`wireguard::Change`] and
//! goes through `Device::apply`, so that untouched peers keep their sessions.

pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod engine;
pub mod offload;
pub mod plugin;
pub mod status;
pub mod sys;
pub mod uapi;
pub mod wireguard;
pub mod wrap;

//! The control socket: text becomes a [`Request`], a [`Reply`] becomes text.
//!
//! It is the cross-platform interface of userspace WireGuard (<https://www.wireguard.com/xplatform/>),
//! `/var/run/wireguard/NAME.sock` with `get=1` and `set=1`, so `wg` drives hushwire as it drives any
//! other. A request is parsed as a whole before anything of it is applied, and whatever comes in is
//! answered with an errno.
//!
//! Two requests are our own; `wg` never sends them. `status=1` is answered with `status={JSON}`, a
//! [`Status`](crate::status::Status) on one line. It only reads. The standard `get=1` has no place for
//! names of peers, counts of drops and the state of the interface, and its keys are fixed. `reload=1` has the
//! configuration read again, with the keys that it brings: see [`Reload`]. This room decides nothing: the
//! daemon receives each [`Call`] and answers it.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod client;
mod reload;
mod reply;
mod request;
mod socket;

use std::path::{Path, PathBuf};

pub use client::{
    ClientError, fetch_status, fetch_status_in, fetch_status_within, request_reload,
    request_reload_in,
};
pub use reload::{Reload, ReloadOutcome};
pub use reply::{Reply, render_get};
pub use request::{Errno, Parser, Request, ZoneIndex, parse_request};
pub use socket::{
    BindError, Call, Listener, SocketFile, SocketName, listen_privately, listen_unless_served,
};

/// Where `wg` looks for control sockets.
pub const SOCKET_DIRECTORY: &str = "/var/run/wireguard";

/// The control socket of an interface in a directory.
pub fn socket_path(directory: &Path, interface: &str) -> PathBuf {
    directory.join(format!("{interface}.sock"))
}

#[cfg(test)]
mod tests;

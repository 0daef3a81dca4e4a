//! The WireGuard protocol as pure state: no sockets, no files, no async, no clock, no global state.
//!
//! [`Device`] is the whole outside: bytes, time and randomness go in as arguments, datagrams and
//! packets come out by `poll_*`. Bytes of a peer cannot panic here, and each packet that is not
//! delivered has a [`DropReason`]. The packet loop in `dataplane` is the only caller; the tests play
//! the loop themselves.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod allowed_ips;
mod change;
mod device;
mod drops;
mod ecn;
mod endpoint;
mod filter;
mod io;
mod keys;
mod load;
mod message;
mod outbox;
mod packet;
mod peer;
mod resend;
mod session;
mod snapshot;
mod staged;
mod timers;

pub use change::{AllowedIpChange, Change, GossipChange, PeerChange};
pub use device::Device;
pub use drops::{DropReason, Drops};
pub use ecn::Ecn;
pub use endpoint::{Endpoint, Source};
pub use filter::{Allow, PortRange, Rule};
pub use io::{Event, PeerId, Refused, Transmit, Way};
pub use keys::{KEY_BASE64_LEN, KEY_LEN, KeyError, PresharedKey, PrivateKey, PublicKey};
pub use snapshot::{PeerSnapshot, SessionState, Snapshot};

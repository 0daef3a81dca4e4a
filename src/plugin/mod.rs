//! The container engine's network driver: what `docker network create -d hushwire` speaks to.
//!
//! ```text
//!  dockerd ── POST /NetworkDriver.Join ──> server ── Call ──> daemon ── Request ──> Driver (pure)
//!     ^                                                         │ Step: make or drop the TUN
//!     └────────────────── Answer, or {"Err": why} ──────────────┘
//! ```
//!
//! `protocol` has the questions and answers as types, `driver` what is answered, `server` the socket. No
//! interface is made here: that is the daemon's. Called by `daemon::plugin`.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod driver;
mod protocol;
mod server;

pub use driver::{Driver, Holder, Step, name_in_container};
pub use protocol::{
    AddressRequest, Answer, BadRequest, EndpointId, InterfaceName, NewEndpoint, PoolId,
    PoolRequest, Request, SandboxKey, StaticRoute,
};
pub use server::{Call, DRIVER, SOCKET, Server};

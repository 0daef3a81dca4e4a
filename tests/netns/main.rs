//! `hushwire NAME` in namespaces: where tunnels are built to be taken apart again.
//!
//! ```text
//!      left                          underlay                           right
//!  +-----------------+   +-------------------------------+   +-----------------+
//!  |      wg1 -------+---+--- wg1.sock       wg2.sock ---+---+------ wg2       |
//!  |  10.99.0.1/24   |   |    UDP 10000  lo  UDP 20000   |   |  10.99.0.2/24   |
//!  |  fd00:99::1/64  |   |    127.0.0.1/8, ::1/128       |   |  fd00:99::2/64  |
//!  +-----------------+   +-------------------------------+   +-----------------+
//! ```
//!
//! Both devices are made in `underlay`, and their sockets stay there; then each TUN is moved to a
//! namespace that has nothing else. Tests that need another underlay draw it at their top.
//!
//! - [`throughput`]: 1 GiB at a time by TCP and UDP, in every mix of families, directions and MTUs
//! - [`basics`]: ping, counters, roaming, listen ports, allowed IPs as a filter
//! - [`nat`]: behind a translator that forgets after 2 s; [`sources`]: local addresses that come and go
//! - [`quiet`]: a routing loop, and 1,000 peers that do not answer
//!
//! Every test deletes its interfaces and then looks for what may be left: a process, a socket, an
//! interface. Not a part of plain `cargo test`: it takes minutes and wants the optimised program, and the
//! machine for itself. `scripts/test.sh` builds and runs it; by hand:
//! `cargo build --release && cargo test --test netns -- --test-threads=1 --show-output`.
#![allow(clippy::disallowed_methods, reason = "a test reads the clock and the environment")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it measured")]

mod basics;
mod device;
mod nat;
mod quiet;
mod sources;
#[expect(dead_code, reason = "the tests with Alertmanagers use the rest of it")]
#[path = "../support/mod.rs"]
mod support;
mod throughput;

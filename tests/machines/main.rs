//! hushwire as an operator sees it: real processes in machines made of namespaces, real Alertmanagers,
//! real neighbours. `scripts/test.sh` runs this; it needs root or a user namespace.
//!
//! All of it is one test program, so that tests that mostly wait (a rekey takes two minutes) run
//! beside the others. What can fail at a lower level is tested there, in `src/` and `tests/`.
//!
//! - [`cluster`]: two and three Alertmanagers gossip, in every mix of families and every size
//! - [`recovery`]: tunnels are killed, moved and started late; no member is lost
//! - [`start`]: both ends start and send at the same instant, 200 times
//! - [`interop`]: wireguard-go and boringtun-cli at the other end
//! - [`keeper`]: what a killed hushwire leaves, and who may have it
//! - [`service`]: what a service manager hears and keeps; restart, reload, watchdog
//! - [`reload`]: keys that a service may not read anew, and what `hushwire reload` says
//! - [`outage`]: what was silenced in an outage is there when it ends
//! - [`bare`]: `hushwire NAME` under `wg`, `wg-quick` and `ip`; [`bare_settings`]: what `wg` sets and shows
//! - [`offload`]: with and without offloads, at every MTU, each byte of [`traffic`] and each checksum
//! - [`lone`]: the system calls of a lone datagram; [`load`]: what a datagram meets beside transfers
//! - [`keys`]: where keys are in memory, where they never are, and how they are changed under traffic
//! - [`names`]: endpoints that are names
//! - [`netns`]: the interface in another network namespace, by name, path and process
//! - [`hostile`]: junk, forgeries and replays at the underlay port; [`attacker`]: a peer with a valid key
//! - [`stranger`]: a neighbour without a key who goes past the tunnel; what it sends is [`crafted`]
//! - [`closed`]: the interface goes while somebody plays the gateway, and no gossip leaves in clear
//! - [`rights`]: what is left to each process and thread, by the manual; [`older`]: kernels that lack something
//! - [`lifecycle`]: reload, left-overs, second daemons, descriptors, memory
#![allow(clippy::disallowed_methods, reason = "a test reads the clock and the environment")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it measured")]

mod attacker;
#[path = "../support/crafted.rs"]
mod attempts;
mod bare;
mod bare_settings;
mod closed;
mod cluster;
mod crafted;
mod hostile;
mod interop;
mod keeper;
mod keys;
mod lifecycle;
mod load;
mod lone;
mod names;
mod netns;
mod offload;
mod older;
mod outage;
mod pair;
mod recovery;
mod reload;
mod rights;
mod service;
#[path = "../support/stack.rs"]
mod stack;
mod start;
mod stranger;
#[expect(dead_code, reason = "other suites and the bench use the rest of it")]
#[path = "../support/mod.rs"]
mod support;
mod traffic;

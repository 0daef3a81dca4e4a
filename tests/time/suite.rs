//! The device under virtual time: schedules, lost and late handshake messages, outages, whole days.
//!
//! A package of its own, because boringtun's `mock-instant` must not reach the shipped binary. Each test
//! runs two devices over a path in memory (`net.rs`) whose delays, losses and duplicates come from one
//! seed. A randomised test prints its seed; `HUSHWIRE_SEED=n` in the environment runs all of them with
//! seed n, and the same seed gives the same run: sizes, kinds and times, though never the same keys.

#[path = "../support/wire.rs"]
mod wire;

mod day;
mod handshakes;
mod net;
mod outages;
mod schedule;

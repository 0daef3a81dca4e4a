//! hushwire beside real containers: private Docker engines in machines made of namespaces.
//!
//! scripts/test.sh runs this by name, as root: an engine can run neither in a user namespace nor quickly.
//! Every engine, image, container and network is one test's own, see `support::docker`.
//!
//! - [`engine`]: the harness itself
//! - [`compose`]: the files of config/compose
//! - [`driver`]: the network driver
//! - [`following`]: which container, and engines that come, end and are restarted; podman
//! - [`host_service`]: hushwire on the machine follows Alertmanager in its container
//! - [`image`]: the image that operators build
//! - [`pod`]: the pod of config/podman
//! - [`sidecar`]: hushwire in a container beside the Alertmanager
#![allow(clippy::disallowed_methods, reason = "a test reads the clock and the environment")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it measured")]

mod compose;
mod driver;
mod engine;
mod following;
mod host_service;
mod image;
mod pod;
mod sidecar;
#[expect(dead_code, reason = "other suites use the rest of it")]
#[path = "../support/mod.rs"]
mod support;

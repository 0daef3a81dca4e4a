//! `hushwire check`: every error of the configuration, or what this machine would do.
//!
//! Changes nothing and asks nobody: no name is resolved here.

use std::fmt::Display;
use std::io::Write;

use super::{Environment, Failure};
use crate::cli::ConfigFile;
use crate::config::{self, Config, Host, Mtu, Netns, PeerEndpoint};
use crate::wireguard::Allow;
use crate::wrap;

/// Column of the values.
const INDENT: usize = 12;

pub(super) fn run(
    arguments: &ConfigFile,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let config = config::load(arguments.path(), &environment.config)?;
    Ok(out.write_all(summary(&config).as_bytes())?)
}

fn summary(config: &Config) -> String {
    let interface = &config.interface;
    let mtu = match interface.mtu {
        Mtu::Auto => "auto".to_owned(),
        Mtu::Fixed(bytes) => bytes.to_string(),
    };
    let machine = match &interface.machine {
        Some(name) => name,
        None if interface.listed => "(no name)",
        None => "(not in the list of peers)",
    };
    let mut text = format!("{}: good\n", config.path.display());
    text += &row("machine", machine);
    text += &row("public key", interface.private_key.public_key());
    text += &row("interface", format_args!("{}, mtu {mtu}", interface.name));
    text += &row("address", list(&interface.address));
    text += &row("port", interface.listen_port);
    text += &row("filter", filter(config.filter.as_ref(), config.gossip.port));
    if interface.netns != Netns::Own {
        text += &row("namespace", &interface.netns);
    }
    for peer in &config.peers {
        let key = peer.public_key.to_string();
        let name = peer.name.as_deref().unwrap_or(&key);
        let endpoint = match &peer.endpoint {
            Some(endpoint) => host_port(endpoint),
            None => "no endpoint: it must speak first".to_owned(),
        };
        text += &row("peer", format_args!("{name}, {}, {endpoint}", list(&peer.allowed_ips)));
        if let Some(allow) = &peer.allow {
            text += &row("", format_args!("filter {}", filter(Some(allow), config.gossip.port)));
        }
    }
    if config.peers.is_empty() {
        text += &row("peer", "(none)");
    }
    text
}

fn row(label: &str, text: impl Display) -> String {
    wrap::words(format!("{label:<INDENT$}"), INDENT, &text.to_string())
}

/// What may pass, and whether Alertmanager's gossip is among it.
fn filter(allow: Option<&Allow>, gossip: u16) -> String {
    match allow {
        None => "none: everything may pass".to_owned(),
        Some(allow) if allow.tcp(gossip) && allow.udp(gossip) => allow.to_string(),
        Some(allow) => format!("{allow} (not all gossip may pass: tcp/{gossip} udp/{gossip})"),
    }
}

fn list(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn host_port(endpoint: &PeerEndpoint) -> String {
    match &endpoint.host {
        Host::Address(address) => std::net::SocketAddr::new(*address, endpoint.port).to_string(),
        Host::Name(name) => format!("{name}:{}", endpoint.port),
    }
}

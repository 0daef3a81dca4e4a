//! `hushwire check`: every error of the configuration, or what this machine would do.
//!
//! Changes nothing and asks nobody: no name is resolved here.

use std::fmt::Display;
use std::io::Write;

use super::{Environment, Failure};
use crate::cli::ConfigFile;
use crate::config::{self, Config, Host, Mtu, Netns, PeerEndpoint};
use crate::wireguard::Allow;

pub(super) fn run(
    arguments: &ConfigFile,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let config = config::load(&arguments.config, &environment.config)?;
    Ok(out.write_all(summary(&config).as_bytes())?)
}

fn summary(config: &Config) -> String {
    let interface = &config.interface;
    let mtu = match interface.mtu {
        Mtu::Auto => "auto".to_owned(),
        Mtu::Fixed(bytes) => bytes.to_string(),
    };
    let mut text = format!(
        "{}: good\n\
         machine     {}\n\
         public key  {}\n\
         interface   {}, mtu {mtu}\n\
         address     {}\n\
         port        {}\n\
         filter      {}\n",
        config.path.display(),
        interface.machine.as_deref().unwrap_or("(not in the list of peers)"),
        interface.private_key.public_key(),
        interface.name,
        list(&interface.address),
        interface.listen_port,
        filter(config.filter.as_ref(), config.gossip.port),
    );
    if interface.netns != Netns::Own {
        text += &format!("namespace   {}\n", interface.netns);
    }
    for peer in &config.peers {
        let key = peer.public_key.to_string();
        let name = peer.name.as_deref().unwrap_or(&key);
        let endpoint = match &peer.endpoint {
            Some(endpoint) => host_port(endpoint),
            None => "no endpoint: it must speak first".to_owned(),
        };
        text += &format!("peer        {name}, {}, {endpoint}\n", list(&peer.allowed_ips));
        if let Some(allow) = &peer.allow {
            text += &format!("            filter {}\n", filter(Some(allow), config.gossip.port));
        }
    }
    if config.peers.is_empty() {
        text += "peer        (none)\n";
    }
    text
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

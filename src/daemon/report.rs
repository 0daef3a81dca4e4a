//! From the state of a running daemon to the plain data of `hushwire status`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Attached, Daemon};
use crate::config::{Host, PeerEndpoint};
use crate::dataplane::View;
use crate::status::{InterfaceStatus, PeerStatus, Status};
use crate::wireguard::{Drops, PeerSnapshot};

/// What `hushwire status` shows at this moment.
pub(super) fn status(daemon: &Daemon, view: &View, now: Instant) -> Status {
    let interface = &daemon.config.interface;
    let (attached, detail) = match &daemon.attached {
        Attached::Yes { .. } => (true, String::new()),
        Attached::No { detail } => (false, detail.clone()),
    };
    let public_key = view.device.private_key.as_ref().map(|key| key.public_key().to_string());
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: now.saturating_duration_since(daemon.clock.started).as_secs_f64(),
        interface: InterfaceStatus {
            name: interface.name.clone(),
            machine: interface.machine.clone(),
            public_key: public_key.unwrap_or_default(),
            address: interface.address.clone(),
            listen_port: view.listen_port,
            mtu: daemon.request.mtu,
            attached,
            detail,
        },
        peers: view.device.peers.iter().map(|peer| peer_status(daemon, peer, now)).collect(),
        drops: by_reason(&view.device.drops),
    }
}

fn peer_status(daemon: &Daemon, peer: &PeerSnapshot, now: Instant) -> PeerStatus {
    let configured = daemon.config.peers.iter().find(|known| known.public_key == peer.public_key);
    let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at).as_secs_f64());
    PeerStatus {
        name: peer.name.clone(),
        public_key: peer.public_key.to_string(),
        configured_endpoint: configured.and_then(|peer| peer.endpoint.as_ref()).map(text),
        endpoint: peer.endpoint,
        allowed_ips: peer.allowed_ips.clone(),
        session: peer.session,
        handshake_age_seconds: age(peer.last_handshake),
        last_heard_seconds: age(peer.last_heard),
        unanswered_initiations: peer.unanswered_initiations,
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        rx_packets: peer.rx_packets,
        tx_packets: peer.tx_packets,
        gossip_resent: peer.gossip_resent,
        drops: by_reason(&peer.drops),
    }
}

fn by_reason(drops: &Drops) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, count)| (reason.label().to_owned(), count)).collect()
}

fn text(endpoint: &PeerEndpoint) -> String {
    match &endpoint.host {
        Host::Address(address) => std::net::SocketAddr::new(*address, endpoint.port).to_string(),
        Host::Name(name) => format!("{name}:{}", endpoint.port),
    }
}

//! From the state of a running daemon to the plain data of `hushwire status`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Daemon;
use crate::config::{Host, Netns, PeerEndpoint};
use crate::dataplane::View;
use crate::status::{InterfaceStatus, PeerStatus, RightsStatus, Status};
use crate::sys::guard::Guard;
use crate::sys::interface::Sight;
use crate::wireguard::{Allow, Drops, PeerSnapshot, PublicKey};

/// What `hushwire status` shows of `up` at this moment.
pub(super) fn status(daemon: &Daemon, view: &View, now: Instant) -> Status {
    let interface = &daemon.config.interface;
    let interface = InterfaceStatus {
        name: interface.name.clone(),
        machine: interface.machine.clone(),
        address: interface.address.clone(),
        mtu: daemon.request.mtu,
        netns: match &interface.netns {
            Netns::Own => None,
            netns => Some(netns.to_string()),
        },
        attached: daemon.attached.is_attached(),
        detail: daemon.attached.detail().to_owned(),
        guard: daemon.guard,
        ..of_device(view)
    };
    let configured = |key: &PublicKey| {
        let peer = daemon.config.peers.iter().find(|peer| peer.public_key == *key);
        peer.and_then(|peer| peer.endpoint.as_ref()).map(text)
    };
    let uptime = now.saturating_duration_since(daemon.clock.started);
    assemble(interface, daemon.rights.status(&daemon.keeping), view, uptime, now, &configured)
}

/// The same in a line, for the service manager.
pub(super) fn line(daemon: &Daemon) -> String {
    let interface = &daemon.config.interface;
    let state = match daemon.attached.detail() {
        "" => String::new(),
        detail if detail.starts_with("detached: ") => format!("{detail}; "),
        detail => format!("not attached: {detail}; "),
    };
    let refused = if daemon.refused { "; reload refused, see the log" } else { "" };
    let (up, all) = (daemon.answering.len(), daemon.config.peers.len());
    format!("{}: {state}{up} of {all} peers up{refused}", interface.name)
}

/// What it shows of a bare device, whose interface others shape; none if it cannot be seen.
pub(super) fn bare(
    name: &str,
    sight: Option<&Sight>,
    rights: RightsStatus,
    view: &View,
    uptime: Duration,
    now: Instant,
) -> Status {
    let up = sight.is_some_and(|sight| sight.up);
    let detail = match sight {
        Some(_) if up => "",
        Some(_) => "it is down; `ip link set` brings it up",
        None => "it is in a network namespace that hushwire may not enter",
    };
    let interface = InterfaceStatus {
        name: sight.map_or(name, |sight| &sight.name).to_owned(),
        address: sight.map_or_else(Vec::new, |sight| sight.addresses.clone()),
        mtu: sight.map_or(0, |sight| sight.mtu.try_into().unwrap_or(u16::MAX)),
        attached: up,
        detail: detail.to_owned(),
        ..of_device(view)
    };
    assemble(interface, rights, view, uptime, now, &|_| None)
}

/// The part that is the device's; the rest is empty.
fn of_device(view: &View) -> InterfaceStatus {
    let public_key = view.device.private_key.as_ref().map(|key| key.public_key().to_string());
    InterfaceStatus {
        name: String::new(),
        machine: None,
        public_key: public_key.unwrap_or_default(),
        address: Vec::new(),
        listen_port: view.listen_port,
        mtu: 0,
        filter: rules(view.device.allow.as_ref()),
        netns: None,
        attached: false,
        detail: String::new(),
        guard: Guard::default(),
    }
}

fn assemble(
    interface: InterfaceStatus,
    rights: RightsStatus,
    view: &View,
    uptime: Duration,
    now: Instant,
    configured: &dyn Fn(&PublicKey) -> Option<String>,
) -> Status {
    let status = |peer| peer_status(peer, now, configured);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: uptime.as_secs_f64(),
        interface,
        rights,
        peers: view.device.peers.iter().map(status).collect(),
        drops: by_reason(&view.device.drops),
    }
}

fn peer_status(
    peer: &PeerSnapshot,
    now: Instant,
    configured: &dyn Fn(&PublicKey) -> Option<String>,
) -> PeerStatus {
    let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at).as_secs_f64());
    PeerStatus {
        name: peer.name.clone(),
        public_key: peer.public_key.to_string(),
        configured_endpoint: configured(&peer.public_key),
        endpoint: peer.endpoint,
        allowed_ips: peer.allowed_ips.clone(),
        allow: rules(peer.allow.as_ref()),
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

fn rules(allow: Option<&Allow>) -> Option<Vec<String>> {
    allow.map(|allow| allow.rules().iter().map(ToString::to_string).collect())
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

//! From the configuration to the shape of the overlay interface: addresses, routes, MTU.

use std::fmt::Display;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::config::{Config, Host, Mtu};
use crate::sys::attach::AttachRequest;
use crate::sys::netns::Namespace;
use crate::sys::udp::Paths;

/// What WireGuard adds to an inner packet over IPv4: IPv4 20, UDP 8, message header 16, tag 16.
const OVERHEAD_IPV4: u32 = 60;
/// The same over IPv6, whose header has 40.
const OVERHEAD_IPV6: u32 = 80;
/// Until an endpoint is known: a path of 1500 bytes over IPv6 carries it.
const UNKNOWN_PATH: u16 = 1420;
/// The least that an IPv4 (RFC 1122 section 3.3.3) and an IPv6 overlay (RFC 8200 section 5) carry. A
/// path that is narrower fragments the underlay packets, which carry no DF.
const LEAST: [u16; 2] = [576, 1280];
/// The most that fits into a UDP datagram with WireGuard's overhead.
const MOST: u16 = 65_455;

/// What the overlay interface is to be.
pub(super) fn request(config: &Config, mtu: u16, namespace: Namespace) -> AttachRequest {
    AttachRequest {
        namespace,
        name: config.interface.name.clone(),
        addresses: config.interface.address.clone(),
        routes: config.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()).collect(),
        mtu,
    }
}

/// Endpoints that the file gives as addresses.
pub(super) fn literal_endpoints(config: &Config) -> Vec<SocketAddr> {
    let endpoints = config.peers.iter().filter_map(|peer| peer.endpoint.as_ref());
    endpoints
        .filter_map(|endpoint| match endpoint.host {
            Host::Address(address) => Some(SocketAddr::new(address, endpoint.port)),
            Host::Name(_) => None,
        })
        .collect()
}

/// The configured MTU or, for `auto`, the largest packet that reaches each of these endpoints in one
/// piece. Alertmanager's largest gossip datagram is an IPv4 packet of 1433 bytes: a path of 1500 over
/// IPv4 carries 1440.
pub(super) fn mtu(config: &Config, paths: &Paths, endpoints: &[SocketAddr]) -> u16 {
    if let Mtu::Fixed(mtu) = config.interface.mtu {
        return mtu;
    }
    let narrowest = endpoints
        .iter()
        .filter_map(|endpoint| {
            let overhead = if endpoint.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
            // An endpoint without a route at this moment says nothing about its path.
            let path = paths.mtu(*endpoint).ok()?;
            Some(path.saturating_sub(overhead))
        })
        .min();
    let v6 = config.interface.address.iter().any(|address| matches!(address, IpNet::V6(_)));
    let mtu = narrowest.map_or(UNKNOWN_PATH, |mtu| mtu.try_into().unwrap_or(MOST));
    mtu.clamp(LEAST[usize::from(v6)], MOST)
}

/// Whether the MTU cannot be known before names are resolved.
pub(super) fn depends_on_names(config: &Config) -> bool {
    let mut endpoints = config.peers.iter().filter_map(|peer| peer.endpoint.as_ref());
    config.interface.mtu == Mtu::Auto
        && endpoints.any(|endpoint| matches!(endpoint.host, Host::Name(_)))
}

/// A list for a log line.
pub(super) fn join<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

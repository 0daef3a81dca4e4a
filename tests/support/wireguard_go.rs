//! Debian's wireguard-go in a machine, configured by `wg` and `ip`: the neighbour that hushwire must
//! get on with.

use std::fmt::Write;

use super::machine::Machine;
use super::process::Process;
use super::tunnel::{Identity, PORT};
use super::{Scratch, seconds, wait_for};

/// A running wireguard-go.
pub(crate) struct WireguardGo<'lab> {
    machine: &'lab Machine,
    _process: Process,
    _directory: Scratch,
}

impl<'lab> WireguardGo<'lab> {
    /// Starts it on a machine of the lab with one peer and waits until it has its address and route.
    pub(crate) fn start(
        machine: &'lab Machine,
        own: &Identity,
        peers: &[&Identity],
        preshared_key: Option<&str>,
    ) -> Self {
        let directory = Scratch::new("wireguard-go");
        let config = directory.path().join("wg0.conf");
        let text = settings(own, peers, preshared_key);
        std::fs::write(&config, text).expect("cannot write a file");
        let command = &mut machine.command("wireguard-go");
        command.args(["--foreground", "wg0"]).env("LOG_LEVEL", "verbose");
        let process = Process::start(&format!("wireguard-go on {}", machine.name), command);
        // Not by asking `wg`: a socket that is bound but not yet listening it takes for stale, and
        // removes it.
        wait_for("wireguard-go's control socket", seconds(5), || {
            process.log().contains("UAPI listener started").then_some(())
        });
        machine.run("wg", &["setconf", "wg0", &config.display().to_string()]);
        for prefix in &own.allowed_ips {
            machine.ip(&format!("addr add {prefix} dev wg0"));
        }
        machine.ip("link set wg0 mtu 1420 up");
        for prefix in peers.iter().flat_map(|peer| &peer.allowed_ips) {
            machine.ip(&format!("route add {prefix} dev wg0"));
        }
        Self { machine, _process: process, _directory: directory }
    }

    /// Seconds since 1970 of the last handshake with its only peer, as `wg` shows it; 0 is never.
    pub(crate) fn latest_handshake(&self) -> u64 {
        let text = self.machine.run("wg", &["show", "wg0", "latest-handshakes"]);
        text.split_whitespace().nth(1).and_then(|time| time.parse().ok()).unwrap_or(0)
    }
}

fn settings(own: &Identity, peers: &[&Identity], preshared_key: Option<&str>) -> String {
    let private_key = own.private_key.to_base64();
    let mut text =
        format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", private_key.as_str());
    for peer in peers {
        let _ = writeln!(text, "[Peer]\nPublicKey = {}", peer.public_key());
        let _ = writeln!(text, "AllowedIPs = {}", peer.allowed_ips.join(", "));
        if let Some(endpoint) = &peer.endpoint {
            let _ = writeln!(text, "Endpoint = {endpoint}");
        }
        if let Some(key) = preshared_key {
            let _ = writeln!(text, "PresharedKey = {key}");
        }
    }
    text
}

//! Another WireGuard in a machine, configured by `wg` and `ip`: the neighbour that hushwire must get on
//! with. They share the control socket's protocol and their command line, and so does `hushwire NAME`.

use std::fmt::Write;

use super::machine::Machine;
use super::process::Process;
use super::tunnel::{HUSHWIRE, Identity, PORT};
use super::{Scratch, seconds, wait_for};

/// A program that serves the interface it is given the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Debian's.
    WireguardGo,
    /// crates.io's boringtun-cli, the version that `scripts/test.sh` installs.
    Boringtun,
    /// `hushwire NAME`.
    Bare,
}

impl Program {
    /// The command, and what its log says once the control socket listens; nothing if the socket comes
    /// before the interface. Asking `wg` would not do: it takes a socket that is bound but not yet
    /// listening for stale, and removes it.
    fn command_line(self) -> (&'static str, &'static [&'static str], &'static str) {
        const BORINGTUN: &str =
            concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/boringtun-cli");
        match self {
            Self::WireguardGo => {
                ("wireguard-go", &["--foreground", "wg0"], "UAPI listener started")
            }
            Self::Boringtun => {
                let arguments = &["-f", "--disable-drop-privileges", "-v", "info", "wg0"];
                (BORINGTUN, arguments, "BoringTun started successfully")
            }
            Self::Bare => (HUSHWIRE, &["-f", "wg0"], ""),
        }
    }
}

/// What both ends have to agree on, or one may want.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wishes<'a> {
    /// In base64.
    pub(crate) preshared_key: Option<&'a str>,
    /// Seconds; 0 is off.
    pub(crate) persistent_keepalive: u16,
}

/// A running neighbour.
pub(crate) struct Neighbour<'lab> {
    /// Its end of the overlay.
    pub(crate) end: End<'lab>,
    _process: Process,
    _directory: Scratch,
}

impl<'lab> Neighbour<'lab> {
    /// Starts it on a machine of the lab and waits until it has its address and route.
    pub(crate) fn start(
        program: Program,
        machine: &'lab Machine,
        own: &Identity,
        peers: &[&Identity],
        wishes: Wishes<'_>,
    ) -> Self {
        let directory = Scratch::new("neighbour");
        let config = directory.path().join("wg0.conf");
        std::fs::write(&config, settings(own, peers, wishes)).expect("cannot write a file");
        let (path, arguments, ready) = program.command_line();
        let command = &mut machine.command(path);
        command.args(arguments).env("LOG_LEVEL", "verbose");
        let process = Process::start(&format!("{program:?} on {}", machine.name), command);
        wait_for(&format!("the control socket of {program:?}"), seconds(5), || {
            (process.log().contains(ready) && machine.has_interface("wg0")).then_some(())
        });
        machine.run("wg", &["setconf", "wg0", &config.display().to_string()]);
        for prefix in &own.allowed_ips {
            machine.ip(&format!("addr add {prefix} dev wg0"));
        }
        machine.ip("link set wg0 mtu 1420 up");
        for prefix in peers.iter().flat_map(|peer| &peer.allowed_ips) {
            machine.ip(&format!("route add {prefix} dev wg0"));
        }
        let end = End { machine, interface: "wg0" };
        Self { end, _process: process, _directory: directory }
    }
}

/// An interface with one peer, as `wg` shows it.
#[derive(Clone, Copy)]
pub(crate) struct End<'lab> {
    pub(crate) machine: &'lab Machine,
    pub(crate) interface: &'static str,
}

impl End<'_> {
    /// Seconds since 1970 of the last handshake; 0 is never. Of no use with boringtun-cli, which tells its
    /// age in place of its time.
    pub(crate) fn latest_handshake(&self) -> u64 {
        self.shown("latest-handshakes", 1).parse().unwrap_or(0)
    }

    /// Bytes that came from the peer.
    pub(crate) fn received(&self) -> u64 {
        self.shown("transfer", 1).parse().unwrap_or(0)
    }

    /// Bytes that went to the peer.
    pub(crate) fn sent(&self) -> u64 {
        self.shown("transfer", 2).parse().unwrap_or(0)
    }

    /// Where the peer is.
    pub(crate) fn endpoint(&self) -> String {
        self.shown("endpoints", 1)
    }

    fn shown(&self, what: &str, word: usize) -> String {
        let text = self.machine.run("wg", &["show", self.interface, what]);
        text.split_whitespace().nth(word).unwrap_or_default().to_owned()
    }
}

/// What `wg setconf` takes.
pub(crate) fn settings(own: &Identity, peers: &[&Identity], wishes: Wishes<'_>) -> String {
    let private_key = own.private_key.to_base64();
    let mut text =
        format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", private_key.as_str());
    for peer in peers {
        let _ = writeln!(text, "[Peer]\nPublicKey = {}", peer.public_key());
        let _ = writeln!(text, "AllowedIPs = {}", peer.allowed_ips.join(", "));
        if let Some(endpoint) = &peer.endpoint {
            let _ = writeln!(text, "Endpoint = {endpoint}");
        }
        if let Some(key) = wishes.preshared_key {
            let _ = writeln!(text, "PresharedKey = {key}");
        }
        let _ = writeln!(text, "PersistentKeepalive = {}", wishes.persistent_keepalive);
    }
    text
}

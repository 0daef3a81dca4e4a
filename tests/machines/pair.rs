//! Two devices on a wire, each with its interface of the overlay in a place of its own, where nothing else
//! is: what is captured or counted there is what has passed the tunnel.
//!
//! ```text
//!     left                home1                home2              right
//!   10.99.0.1           192.0.2.1            192.0.2.2          10.99.0.2
//!   fd00:99::1        2001:db8::1          2001:db8::2         fd00:99::2
//!      wg0 - - hushwire - - eth0 ---------- eth0 - - hushwire - - wg0
//! ```

use std::net::IpAddr;

use hushwire::wireguard::PrivateKey;

use crate::support::machine::Machine;
use crate::support::process::Process;
use crate::support::tunnel::HUSHWIRE;
use crate::support::{random_bytes, seconds, wait_for};
use crate::traffic::End;

/// Both devices and their machines.
pub(crate) struct Pair {
    /// Where the processes and their sockets are.
    pub(crate) homes: [Machine; 2],
    /// Where the interfaces of the overlay are.
    pub(crate) places: [Machine; 2],
    pub(crate) devices: [Process; 2],
    pub(crate) keys: [PrivateKey; 2],
}

impl Pair {
    /// With these programs; `behind` are further prefixes of the second one.
    pub(crate) fn new(programs: [&str; 2], behind: &str) -> Self {
        let homes = ["home1", "home2"].map(Machine::new);
        let places = ["left", "right"].map(Machine::new);
        homes[0].ip(&format!("link add eth0 type veth peer name eth0 netns {}", homes[1].pid()));
        let keys = [(); 2].map(|()| PrivateKey::from_random(random_bytes()));
        let start = |index: usize| {
            let (home, place, number) = (&homes[index], &places[index], index + 1);
            home.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
            home.ip(&format!("addr add 2001:db8::{number}/64 dev eth0 nodad"));
            home.ip("link set eth0 up");
            let device = device(programs[index], home);
            let secret = keys[index].to_base64();
            let secret = format!("private-key <(echo {}) listen-port 51820", secret.as_str());
            let peer = 2 - index;
            let allowed = format!("10.99.0.{peer}/32,fd00:99::{peer}/128");
            let allowed = if index == 0 { format!("{allowed}{behind}") } else { allowed };
            let other = keys[1 - index].public_key();
            wg_set(home, &format!("{secret} peer {other} allowed-ips {allowed}"));
            // wireguard-go hears of an interface that goes up where it was made.
            home.ip("link set wg0 up");
            home.ip(&format!("link set wg0 netns {}", place.pid()));
            place.ip(&format!("addr add 10.99.0.{number}/24 dev wg0"));
            place.ip(&format!("addr add fd00:99::{number}/64 dev wg0 nodad"));
            place.ip("link set wg0 up");
            place.sysctl("net/ipv4/tcp_ecn", "1");
            device
        };
        let devices = [start(0), start(1)];
        Self { homes, places, devices, keys }
    }

    /// Goes over to these MTUs and this underlay, and waits until packets pass.
    pub(crate) fn adjust(&self, mtu: usize, underlay: usize, endpoint: &str) {
        for machine in &self.homes {
            machine.ip(&format!("link set eth0 mtu {underlay}"));
        }
        for machine in &self.places {
            machine.ip(&format!("link set wg0 mtu {mtu}"));
        }
        let peer = self.keys[1].public_key();
        wg_set(&self.homes[0], &format!("peer {peer} endpoint {endpoint}:51820"));
        wait_for("an echo", seconds(10), || {
            let ping = self.places[0].attempt("ping", &["-c1", "-W1", "10.99.0.2"]);
            ping.status.success().then_some(())
        });
    }

    /// The first one's end of the overlay.
    pub(crate) fn left(&self, v6: bool) -> End<'_> {
        End { machine: &self.places[0], address: address(v6, 99, 1) }
    }

    /// The second one's.
    pub(crate) fn right(&self, v6: bool) -> End<'_> {
        End { machine: &self.places[1], address: address(v6, 99, 2) }
    }
}

/// Address of a machine in a network of the overlay or behind it.
pub(crate) fn address(v6: bool, network: u16, number: u16) -> IpAddr {
    let text =
        if v6 { format!("fd00:{network}::{number}") } else { format!("10.{network}.0.{number}") };
    text.parse().expect("an address")
}

fn device(program: &str, home: &Machine) -> Process {
    let mut command = home.command(program);
    command.args(["--foreground", "wg0"]).env("LOG_LEVEL", "verbose");
    let process = Process::start(&format!("{program} on {}", home.name), &mut command);
    let ready = if program == HUSHWIRE { "" } else { "UAPI listener started" };
    wait_for("a device that can be configured", seconds(5), || {
        let socket = home.attempt("test", &["-S", "/run/wireguard/wg0.sock"]).status.success();
        (socket && home.has_interface("wg0") && process.log().contains(ready)).then_some(())
    });
    process
}

/// `wg set wg0`, in the language of bash.
#[track_caller]
pub(crate) fn wg_set(machine: &Machine, words: &str) {
    machine.run("bash", &["-c", &format!("wg set wg0 {words}")]);
}

//! A device of this suite: its process and sockets in one machine, its interface in the same or another.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use hushwire::status::{PeerStatus, Status};
use hushwire::wireguard::PrivateKey;

use crate::support::machine::Machine;
use crate::support::process::Process;
use crate::support::{random_bytes, seconds, wait_for};

/// The optimised program beside the one that cargo built for this test.
///
/// Panics, saying what to do, if it is missing or older than its source: figures of another program
/// would mislead.
pub(crate) fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let target = Path::new(env!("CARGO_BIN_EXE_hushwire")).ancestors().nth(2);
        let program = target.expect("target/debug/hushwire").join("release/hushwire");
        let shown = program.display();
        let Some(built) = changed(&program) else {
            panic!("{shown} is not there: run `cargo build --release --locked` first");
        };
        let newer = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")))
            .into_iter()
            .find(|file| changed(file).is_none_or(|time| time > built));
        if let Some(file) = newer {
            let file = file.display();
            panic!("{shown} is older than {file}: run `cargo build --release --locked` first");
        }
        shown.to_string()
    })
}

fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|data| data.modified()).ok()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("cannot read src");
    let paths = entries.map(|entry| entry.expect("cannot read src").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// A running device.
pub(crate) struct Device<'lab> {
    pub(crate) interface: &'static str,
    pub(crate) key: PrivateKey,
    /// Where its process and its sockets are.
    pub(crate) home: &'lab Machine,
    /// Where its interface is.
    pub(crate) place: &'lab Machine,
    process: Process,
}

impl<'lab> Device<'lab> {
    /// Makes `wg1` or `wg2` in `home`, without peers, moves it to `place`, addresses it and brings it up.
    pub(crate) fn start(number: u16, home: &'lab Machine, place: &'lab Machine) -> Self {
        let interface = if number == 1 { "wg1" } else { "wg2" };
        let process = home.start(program(), &["--foreground", interface]);
        let socket = format!("/run/wireguard/{interface}.sock");
        wait_for("a device that can be configured", seconds(5), || {
            home.attempt("test", &["-S", &socket]).status.success().then_some(())
        });
        let key = PrivateKey::from_random(random_bytes());
        let device = Self { interface, key, home, place, process };
        let secret = device.key.to_base64();
        device.wg_set(&format!("private-key <(echo {}) listen-port {number}0000", secret.as_str()));
        if !std::ptr::eq(home, place) {
            home.ip(&format!("link set {interface} netns {}", place.pid()));
        }
        device.address(number);
        device
    }

    fn address(&self, number: u16) {
        let (place, interface) = (self.place, self.interface);
        place.ip(&format!("addr add 10.99.0.{number}/24 dev {interface}"));
        place.ip(&format!("addr add fd00:99::{number}/64 dev {interface} nodad"));
        place.ip(&format!("link set {interface} up"));
    }

    /// Its public key in base64.
    pub(crate) fn public_key(&self) -> String {
        self.key.public_key().to_string()
    }

    /// `wg set` for this device, in the language of bash.
    #[track_caller]
    pub(crate) fn wg_set(&self, words: &str) {
        self.home.run("bash", &["-c", &format!("wg set {} {words}", self.interface)]);
    }

    /// The same for its peer `other`.
    #[track_caller]
    pub(crate) fn wg_set_peer(&self, other: &Self, words: &str) {
        self.wg_set(&format!("peer {} {words}", other.public_key()));
    }

    /// Where `wg` says that its only peer is.
    #[track_caller]
    pub(crate) fn endpoint(&self) -> SocketAddr {
        let text = self.home.run("wg", &["show", self.interface, "endpoints"]);
        let endpoint = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        endpoint.unwrap_or_else(|| panic!("no endpoint in: {text}"))
    }

    /// Bytes that its peers sent and were sent, as `wg` adds them up.
    #[track_caller]
    pub(crate) fn transfer(&self) -> (u64, u64) {
        let text = self.home.run("wg", &["show", self.interface, "transfer"]);
        let number = |line: &str, column| -> u64 {
            line.split('\t').nth(column).and_then(|word| word.parse().ok()).expect("a number")
        };
        text.lines().fold((0, 0), |(rx, tx), line| (rx + number(line, 1), tx + number(line, 2)))
    }

    /// What the kernel has counted at the interface.
    #[track_caller]
    pub(crate) fn statistics(&self) -> Statistics {
        let text = self.place.ip(&format!("-stats -json link show dev {}", self.interface));
        let json: serde_json::Value = serde_json::from_str(&text).expect("ip writes JSON");
        let number = |side: &str, what: &str| {
            json[0]["stats64"][side][what].as_u64().unwrap_or_else(|| panic!("no {what}: {text}"))
        };
        Statistics {
            rx_bytes: number("rx", "bytes"),
            tx_bytes: number("tx", "bytes"),
            tx_packets: number("tx", "packets"),
            tx_dropped: number("tx", "dropped"),
        }
    }

    /// All that the device says of itself.
    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        let arguments = ["status", "--json", "--interface", self.interface];
        serde_json::from_str(&self.home.run(program(), &arguments)).expect("not a Status")
    }

    /// All that it says of one peer.
    #[track_caller]
    pub(crate) fn peer(&self, key: &str) -> PeerStatus {
        let peer = self.status().peers.into_iter().find(|peer| peer.public_key == key);
        peer.unwrap_or_else(|| panic!("{} has no peer {key}", self.interface))
    }

    /// Processor time used so far.
    pub(crate) fn processor_time(&self) -> Duration {
        self.process.processor_time()
    }

    /// Deletes the interface, which has to end the process well.
    #[track_caller]
    pub(crate) fn delete(mut self) {
        self.place.ip(&format!("link delete {}", self.interface));
        let what = format!("the end of the device {}", self.interface);
        let (status, _) = wait_for(&what, seconds(5), || self.process.ended());
        assert!(status.success(), "{status}: {}", self.process.log());
    }
}

/// What the kernel counts at an interface. Sent is what the device reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statistics {
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_dropped: u64,
}

/// The three machines of the drawing in `main.rs`.
pub(crate) struct World {
    pub(crate) left: Machine,
    pub(crate) underlay: Machine,
    pub(crate) right: Machine,
}

impl World {
    /// Makes them.
    pub(crate) fn new() -> Self {
        let [left, underlay, right] = ["left", "underlay", "right"].map(Machine::new);
        Self { left, underlay, right }
    }

    /// Both devices, introduced to each other, with a preshared key. Neither knows where the other is.
    pub(crate) fn devices(&self) -> [Device<'_>; 2] {
        let wg1 = Device::start(1, &self.underlay, &self.left);
        let wg2 = Device::start(2, &self.underlay, &self.right);
        introduce(&wg1, &wg2);
        [wg1, wg2]
    }

    /// Deletes both devices and looks for what is left of them.
    #[track_caller]
    pub(crate) fn end(&self, devices: [Device<'_>; 2]) {
        devices.into_iter().for_each(Device::delete);
        nothing_is_left(&[&self.left, &self.underlay, &self.right]);
    }
}

/// Makes two devices each other's peer.
pub(crate) fn introduce(wg1: &Device<'_>, wg2: &Device<'_>) {
    let psk = wg1.home.run("wg", &["genpsk"]);
    for (device, other, number) in [(wg1, wg2, 2), (wg2, wg1, 1)] {
        let allowed = format!("allowed-ips 10.99.0.{number}/32,fd00:99::{number}/128");
        device.wg_set_peer(other, &format!("preshared-key <(echo {}) {allowed}", psk.trim()));
    }
}

/// Fails if there is an interface `wg…`, a control socket, a UDP socket or a process but the holder.
#[track_caller]
pub(crate) fn nothing_is_left(machines: &[&Machine]) {
    for machine in machines {
        let name = &machine.name;
        let links = machine.ip("-brief link");
        assert!(!links.lines().any(|line| line.starts_with("wg")), "{name}: {links}");
        let sockets = machine.attempt("ls", &["/run/wireguard"]);
        assert_eq!(String::from_utf8_lossy(&sockets.stdout), "", "sockets of {name}");
        assert_eq!(machine.run("ss", &["-Huan"]), "", "UDP sockets of {name}");
        wait_for(&format!("no process in {name}"), seconds(3), || {
            (processes(machine) == [machine.pid()]).then_some(())
        });
    }
}

/// Processes in a machine's network namespace.
fn processes(machine: &Machine) -> Vec<u32> {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = namespace(machine.pid()).expect("the holder is gone");
    let all = std::fs::read_dir("/proc").expect("no /proc");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| namespace(*pid).as_ref() == Some(&own)).collect()
}

/// Sends one echo request and waits a second for its reply.
#[track_caller]
pub(crate) fn ping(from: &Machine, to: &str) {
    from.run("ping", &["-c1", "-W1", to]);
}

/// Whether one echo request is answered within a second.
pub(crate) fn answers(from: &Machine, to: &str) -> bool {
    from.attempt("ping", &["-c1", "-W1", to]).status.success()
}

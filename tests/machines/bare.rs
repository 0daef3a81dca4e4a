//! `hushwire NAME`: a device that `wg`, `wg-quick` and `ip` drive as they drive wireguard-go.
//!
//! ```text
//!     machine1                        machine2                          elsewhere
//!   10.99.0.1 fd00:99::1            10.99.0.2 fd00:99::2          (a namespace without a wire,
//!        wg0  ... may be moved to ------- wg0 --------------------- where only a TUN can be)
//!   192.0.2.1:51820 --------- switch --------- 192.0.2.2:51820
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use hushwire::status::Status;
use hushwire::sys::tun::Tun;
use hushwire::wireguard::PrivateKey;
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::lab::Lab;
use crate::support::machine::Machine;
use crate::support::tunnel::HUSHWIRE;
use crate::support::{Scratch, random_bytes, seconds, wait_for};

const SOCKET: &str = "/run/wireguard/wg0.sock";

/// A device in the background of a machine. It is no child of ours: ended by its pid.
pub(crate) struct Device<'lab> {
    pub(crate) machine: &'lab Machine,
    pid: Pid,
}

impl<'lab> Device<'lab> {
    /// Starts `hushwire wg0` and returns once the started process has ended well.
    #[track_caller]
    pub(crate) fn start(machine: &'lab Machine) -> Self {
        assert_eq!(machine.run(HUSHWIRE, &["wg0"]), "", "it says nothing");
        let pid = status(machine).pid;
        Self { machine, pid: Pid::from_raw(pid.try_into().expect("a pid is small")) }
    }

    /// The same with a private key, an overlay address and up.
    pub(crate) fn configured(machine: &'lab Machine, number: usize, key: &PrivateKey) -> Self {
        let device = Self::start(machine);
        wg_set(machine, &[&format!("private-key {} listen-port 51820", secret(key))]);
        machine.ip(&format!("addr add 10.99.0.{number}/24 dev wg0"));
        machine.ip("link set wg0 up");
        device
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    fn runs(&self) -> bool {
        // A zombie has no descriptors; init or our own parent may be slow to take it.
        std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .is_ok_and(|mut fds| fds.next().is_some())
    }

    #[track_caller]
    fn ends(&self, why: &str) {
        wait_for(&format!("the end of the device: {why}"), seconds(3), || {
            (!self.runs()).then_some(())
        });
        assert_eq!(self.machine.run("ls", &["/run/wireguard"]), "", "no socket is left");
        assert!(!self.machine.has_interface("wg0"));
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

/// What the device says of itself.
#[track_caller]
pub(crate) fn status(machine: &Machine) -> Status {
    let text = machine.run(HUSHWIRE, &["status", "--json", "--interface", "wg0"]);
    serde_json::from_str(&text).expect("status --json is no Status")
}

/// `wg set wg0` with these words. Keys are given as [`secret`] makes them.
#[track_caller]
pub(crate) fn wg_set(machine: &Machine, words: &[&str]) {
    machine.run("bash", &["-c", &format!("wg set wg0 {}", words.join(" "))]);
}

/// A key as a file for `wg`, in the language of bash.
pub(crate) fn secret(key: &PrivateKey) -> String {
    format!("<(echo {})", key.to_base64().as_str())
}

/// Makes two devices each other's peer.
fn introduce(first: &Machine, second: &Machine, keys: &[PrivateKey; 2]) {
    for (machine, key, number) in [(first, &keys[1], 2), (second, &keys[0], 1)] {
        let key = key.public_key();
        let endpoint = format!("endpoint 192.0.2.{number}:51820");
        wg_set(machine, &[&format!("peer {key} allowed-ips 10.99.0.{number}/32 {endpoint}")]);
    }
}

fn two_keys() -> [PrivateKey; 2] {
    [PrivateKey::from_random(random_bytes()), PrivateKey::from_random(random_bytes())]
}

/// Bytes that a device has sent to its only peer.
fn sent(machine: &Machine) -> u64 {
    let text = machine.run("wg", &["show", "wg0", "transfer"]);
    text.split_whitespace().nth(2).expect("a peer").parse().expect("a number")
}

#[test]
fn goes_to_the_background_once_it_can_be_configured_and_ends_with_its_interface() {
    let machine = Machine::new("machine");
    let device = Device::start(&machine);
    assert_eq!(machine.run("wg", &["show"]), "interface: wg0\n", "no port before it is up");
    let link = machine.ip("-brief link show wg0");
    assert!(link.contains("DOWN"), "{link}");
    assert!(machine.ip("link show wg0").contains("mtu 1420"));
    assert_eq!(status(&machine).interface.detail, "it is down; `ip link set` brings it up");

    machine.ip("addr add 10.99.0.1/24 dev wg0");
    machine.ip("link set wg0 up");
    let (port, _) = wait_for("a port", seconds(2), || {
        let text = machine.run("wg", &["show", "wg0", "listen-port"]);
        text.trim().parse::<u16>().ok().filter(|port| *port != 0)
    });
    let shown = status(&machine).interface;
    assert!(shown.attached && shown.listen_port == port, "{shown:?}");
    assert!(shown.address.contains(&"10.99.0.1/24".parse().unwrap()), "{shown:?}");
    machine.run(HUSHWIRE, &["wait", "--interface", "wg0", "--timeout", "1"]);

    machine.ip("link delete wg0");
    device.ends("its interface is deleted");
}

#[test]
fn a_failure_is_told_by_the_process_that_was_started() {
    let machine = Machine::new("machine");
    let _device = Device::start(&machine);
    let second = machine.attempt(HUSHWIRE, &["wg0"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another process serves"), "{said}");
    machine.ip("link add bridge0 type bridge");
    let bridge = machine.attempt(HUSHWIRE, &["bridge0"]);
    let said = String::from_utf8_lossy(&bridge.stderr).into_owned();
    assert_eq!(bridge.status.code(), Some(1), "{said}");
    assert!(said.contains("bridge0"), "{said}");
}

#[test]
fn stays_in_the_foreground_when_told_and_ends_by_signal() {
    let machine = Machine::new("machine");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut process = machine.start(HUSHWIRE, &["-f", "wg0"]);
        wait_for("the device", seconds(3), || machine.has_interface("wg0").then_some(()));
        process.signal(signal);
        let (status, _) = wait_for("its end", seconds(3), || process.ended());
        assert!(status.success(), "{status}: {}", process.log());
        assert_eq!(machine.run("ls", &["/run/wireguard"]), "");
        assert!(!machine.has_interface("wg0"));
    }
}

#[test]
fn a_signal_during_the_start_leaves_nothing() {
    let machine = Machine::new("machine");
    let socket = format!("/proc/{}/root{SOCKET}", machine.pid());
    for _ in 0..20 {
        let mut process = machine.start(HUSHWIRE, &["-f", "wg0"]);
        // No pause: the socket is the first thing that it makes, and the interface the next.
        while !Path::new(&socket).exists() {
            assert!(process.ended().is_none(), "{}", process.log());
        }
        let (status, _) = process.terminate(seconds(3));
        assert!(status.success(), "{status}: {}", process.log());
        assert!(!Path::new(&socket).exists() && !machine.has_interface("wg0"));
    }
}

#[test]
fn ends_when_its_socket_is_removed() {
    let machine = Machine::new("machine");
    let device = Device::start(&machine);
    machine.run("rm", &[SOCKET]);
    device.ends("its socket is removed");
}

#[test]
fn adopts_a_tun_and_a_socket_that_somebody_else_has_opened() {
    let machine = Machine::new("machine");
    machine.run("mkdir", &["-m", "700", "/run/wireguard"]);
    let scratch = Scratch::new("adopt");
    let path = scratch.path().join("handed-over.sock");
    let listener = UnixListener::bind(&path).expect("cannot bind");
    let tun = machine.inside(|| Tun::create("handed0")).expect("cannot make a TUN");
    // The shell gives them other numbers; no other child of this process ever has them.
    let script = "exec \"$0\" ignored0 3<&0 4<&1 </dev/null >/dev/null";
    let mut command = machine.command("sh");
    command.args(["-c", script, HUSHWIRE]).env("WG_PROCESS_FOREGROUND", "1");
    command.env("WG_TUN_FD", "3").env("WG_UAPI_FD", "4");
    command.stdin(tun.as_fd().try_clone_to_owned().unwrap());
    command.stdout(OwnedFd::from(listener));
    let mut child = command.stderr(Stdio::piped()).spawn().expect("cannot start");
    drop((tun, command));

    // `wg` looks for sockets in one directory only.
    let link = format!("ln -s {} /run/wireguard/handed0.sock", path.display());
    machine.run("sh", &["-c", &link]);
    machine.run("wg", &["set", "handed0", "fwmark", "7"]);
    assert_eq!(machine.run("wg", &["show", "handed0", "fwmark"]), "0x7\n");
    assert!(!machine.has_interface("ignored0"));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!path.exists() && !machine.has_interface("handed0"));

    let refused = machine.command(HUSHWIRE).arg("wg0").env("WG_TUN_FD", "2").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.starts_with("hushwire: WG_TUN_FD: descriptor 2 is not for this"), "{said}");
}

#[test]
fn keeps_working_when_the_interface_is_moved_to_another_namespace() {
    let lab = Lab::new(2);
    let (first, second) = (lab.machine(1), lab.machine(2));
    let elsewhere = Machine::new("elsewhere");
    let keys = two_keys();
    let mover = Device::configured(first, 1, &keys[0]);
    let _stayer = Device::configured(second, 2, &keys[1]);
    introduce(first, second, &keys);
    first.run("ping", &["-c1", "-W5", "10.99.0.2"]);

    first.ip(&format!("link set wg0 netns {}", elsewhere.pid()));
    elsewhere.ip("addr add 10.99.0.1/24 dev wg0");
    elsewhere.ip("link set wg0 mtu 1400 up");
    elsewhere.run("ping", &["-c1", "-W5", "10.99.0.2"]);
    assert!(!first.has_interface("wg0"));
    let shown = status(first).interface;
    assert!(shown.attached && shown.mtu == 1400, "{shown:?}");
    assert!(shown.address.contains(&"10.99.0.1/24".parse().unwrap()), "{shown:?}");

    // And back: what was heard there is heard here again.
    elsewhere.ip(&format!("link set wg0 netns {}", first.pid()));
    first.ip("addr add 10.99.0.1/24 dev wg0");
    first.ip("link set wg0 up");
    first.run("ping", &["-c1", "-W5", "10.99.0.2"]);

    // A namespace that goes takes the interface along: nothing of ours may hold it back.
    first.ip(&format!("link set wg0 netns {}", elsewhere.pid()));
    wait_for("the new place to be seen", seconds(3), || {
        (!status(first).interface.attached).then_some(())
    });
    drop(elsewhere);
    mover.ends("its namespace is gone");
}

#[test]
fn pads_up_to_the_mtu_of_the_interface_wherever_that_is() {
    let lab = Lab::new(2);
    let (first, second) = (lab.machine(1), lab.machine(2));
    let elsewhere = Machine::new("elsewhere");
    let keys = two_keys();
    let _sender = Device::configured(first, 1, &keys[0]);
    let _receiver = Device::configured(second, 2, &keys[1]);
    introduce(first, second, &keys);
    first.run("ping", &["-c1", "-W5", "10.99.0.2"]);

    // A packet of 1290 bytes: with the message header and the tag 32 more, and padding to 1296 unless
    // the MTU is in the way.
    let datagram = |machine: &Machine| {
        let before = sent(first);
        let socket = machine.udp("10.99.0.1:0").expect("cannot bind");
        socket.send_to(&[7; 1290 - 28], "10.99.0.2:9").expect("cannot send");
        wait_for("the packet to be sent", seconds(2), || {
            Some(sent(first) - before).filter(|length| *length != 0)
        })
        .0
    };
    let becomes = |machine: &Machine, mtu: u64, length: u64| {
        machine.ip(&format!("link set wg0 mtu {mtu}"));
        wait_for(&format!("{length} bytes at MTU {mtu}"), seconds(5), || {
            (datagram(machine) == length).then_some(())
        });
    };
    assert_eq!(datagram(first), 1296 + 32);
    becomes(first, 1290, 1290 + 32);
    becomes(first, 1300, 1296 + 32);
    first.ip(&format!("link set wg0 netns {}", elsewhere.pid()));
    elsewhere.ip("addr add 10.99.0.1/24 dev wg0");
    elsewhere.ip("link set wg0 up");
    becomes(&elsewhere, 1294, 1294 + 32);
}

#[test]
fn an_idle_device_sends_nothing_and_a_keepalive_starts_when_the_interface_goes_up() {
    let lab = Lab::new(2);
    let (first, second) = (lab.machine(1), lab.machine(2));
    let keys = two_keys();
    let _first = Device::configured(first, 1, &keys[0]);
    let _second = Device::configured(second, 2, &keys[1]);
    introduce(first, second, &keys);
    // Each speaks once when it learns where the other is. After that there is nothing to say.
    std::thread::sleep(seconds(2));
    let before = (sent(first), sent(second));
    assert!(before.0 > 0 && before.0 < 1000, "{before:?}");
    std::thread::sleep(seconds(4));
    assert_eq!((sent(first), sent(second)), before, "idle devices are silent");

    first.ip("link set wg0 down");
    wg_set(first, &[&format!("peer {} persistent-keepalive 25", keys[1].public_key())]);
    std::thread::sleep(seconds(2));
    assert_eq!((sent(first), sent(second)), before, "nothing leaves while it is down");
    let up = Instant::now();
    first.ip("link set wg0 up");
    wait_for("a keepalive", seconds(1), || (sent(first) > before.0).then_some(()));
    println!("answered {:.0?} after the interface went up", up.elapsed());
}

#[test]
fn wg_quick_brings_it_up_and_down_with_both_families() {
    let lab = Lab::new(2);
    let (first, second) = (lab.machine(1), lab.machine(2));
    let keys = two_keys();
    let directory = Scratch::new("wg-quick");
    let quick = |machine: &Machine, what: &str, text: Option<String>| {
        let file = directory.path().join(&machine.name).join("wg0.conf");
        if let Some(text) = text {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text).unwrap();
        }
        let command = format!(
            "umask 077; WG_QUICK_USERSPACE_IMPLEMENTATION={HUSHWIRE} wg-quick {what} {}",
            file.display()
        );
        machine.run("bash", &["-c", &command])
    };
    let text = |own: usize, allowed: &str| {
        let peer = 3 - own;
        format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = 10.99.0.{own}/24, \
             fd00:99::{own}/64\n[Peer]\nPublicKey = {}\nAllowedIPs = {allowed}\n\
             Endpoint = 192.0.2.{peer}:51820\n",
            keys[own - 1].to_base64().as_str(),
            keys[peer - 1].public_key(),
        )
    };
    // The second one sends everything through the tunnel, which needs fwmark and policy routing.
    quick(first, "up", Some(text(1, "10.99.0.2/32, fd00:99::2/128")));
    let first_device = Device { machine: first, pid: pid(first) };
    quick(second, "up", Some(text(2, "0.0.0.0/0, ::/0")));
    let second_device = Device { machine: second, pid: pid(second) };
    for address in ["10.99.0.2", "fd00:99::2"] {
        first.run("ping", &["-c1", "-W5", address]);
    }
    assert_eq!(second.run("wg", &["show", "wg0", "fwmark"]), "0xca6c\n");
    quick(first, "down", None);
    quick(second, "down", None);
    first_device.ends("wg-quick down");
    second_device.ends("wg-quick down");
}

fn pid(machine: &Machine) -> Pid {
    Pid::from_raw(status(machine).pid.try_into().expect("a pid is small"))
}

#[test]
fn two_times_65280_allowed_ips_are_set_and_shown_at_once() {
    let machine = Machine::new("machine");
    let _device = Device::start(&machine);
    let key = PrivateKey::from_random(random_bytes()).public_key();
    let v4 = (0..65_280).map(|n| format!("10.{}.{}.0/24", n >> 8, n & 255));
    let v6 = (0..65_280).map(|n| format!("2001:db8:{n:x}::/48"));
    let prefixes: Vec<IpNet> = v4.chain(v6).map(|prefix| prefix.parse().unwrap()).collect();
    let directory = Scratch::new("large");
    let file = directory.path().join("large.conf");
    let list: Vec<_> = prefixes.iter().map(IpNet::to_string).collect();
    let text = format!("[Peer]\nPublicKey = {key}\nAllowedIPs = {}\n", list.join(", "));
    std::fs::write(&file, text).unwrap();

    // Our own code is not optimised in a test build, and other tests run beside this one.
    let limit = if cfg!(debug_assertions) { seconds(6) } else { seconds(2) };
    let timed = |what: &str, arguments: &[&str]| {
        let start = Instant::now();
        let text = machine.run("wg", arguments);
        let took = start.elapsed();
        println!("{what}: {took:.0?}");
        assert!(took < limit, "{what} took {took:?}");
        text
    };
    let file = file.display().to_string();
    timed("wg setconf", &["setconf", "wg0", &file]);
    let shown = timed("wg show", &["show", "wg0", "allowed-ips"]);
    let shown = shown.split_whitespace().skip(1).map(|prefix| prefix.parse::<IpNet>().unwrap());
    assert!(shown.eq(prefixes), "in the order in which they were given");
    timed("wg syncconf", &["syncconf", "wg0", &file]);
}

#[test]
fn a_log_is_kept_open_in_the_background_when_it_was_asked_for() {
    let machine = Machine::new("machine");
    let mut command = machine.command(HUSHWIRE);
    command.arg("wg0").env("LOG_LEVEL", "verbose").stderr(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    let device = Device { machine: &machine, pid: pid(&machine) };
    machine.ip("link delete wg0");
    device.ends("its interface is deleted");
    let mut log = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut log).unwrap();
    assert!(log.contains("the interface was deleted"), "{log}");
}

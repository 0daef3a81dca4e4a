//! What is left when `hushwire up` is killed, and what its successor makes of it.
//!
//! ```text
//!   machine1                        machine2
//!   10.99.0.1, hush0 -- switch -- 10.99.0.2, hush0     hushwire on machine2 is killed; its keeper holds
//!                                                      hush0 and listens on hush0.keeper
//! ```

use std::fs;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;
use nix::unistd::Pid;

use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::tunnel::{GOSSIP_ONLY, HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{millis, seconds, wait_for};

const SOCKET: &str = "/run/wireguard/hush0.keeper";

/// The keeper of a running tunnel.
struct Keeper(Pid);

impl Keeper {
    /// The child of the tunnel's process. None if there is none.
    fn of(tunnel: &mut Tunnel<'_>) -> Option<Self> {
        let id = tunnel.process().id();
        let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = text.expect("the tunnel runs");
        assert!(children.split_whitespace().count() <= 1, "one child at most: {children}");
        Some(Self(Pid::from_raw(children.trim().parse().ok()?)))
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.0)).expect("the keeper runs")
    }

    fn runs(&self) -> bool {
        // A zombie has no descriptors; init may be slow to take it.
        fs::read_dir(format!("/proc/{}/fd", self.0)).is_ok_and(|mut fds| fds.next().is_some())
    }

    fn signal(&self, signal: Signal) {
        kill(self.0, signal).expect("the keeper runs");
    }
}

/// Two tunnels that can ping each other, the configuration with a head.
fn pair<'lab>(lab: &'lab Lab, head: &str) -> (Vec<Tunnel<'lab>>, Vec<Identity>) {
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let file = shared_file(&format!("{GOSSIP_ONLY}{head}"), &identities);
    let mut tunnels: Vec<_> = (1..)
        .zip(&identities)
        .map(|(number, identity)| Tunnel::start(lab.machine(number), identity, &file))
        .collect();
    tunnels.iter_mut().for_each(Tunnel::wait_until_attached);
    ping(lab);
    (tunnels, identities)
}

fn ping(lab: &Lab) {
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
}

fn index(machine: &Machine) -> String {
    machine.ip("-o link show hush0").split(':').next().unwrap().to_owned()
}

#[track_caller]
fn nothing_is_left(machine: &Machine, keeper: &Keeper) {
    assert!(!keeper.runs(), "a keeper is left");
    assert!(!machine.has_interface("hush0"), "an interface is left");
    assert!(!machine.attempt("ls", &[SOCKET]).status.success(), "a socket is left");
}

#[test]
fn a_killed_hushwire_loses_neither_its_interface_nor_what_is_sent_into_it() {
    let lab = Lab::new(2);
    let (mut tunnels, _) = pair(&lab, "");
    let machine = lab.machine(2);
    let inbox = lab.machine(1).udp("10.99.0.1:9094").expect("the port is free");
    inbox.set_read_timeout(Some(seconds(5))).expect("a timeout above zero");
    // They come all at once, and 208 kB hold 428 of them. Doubled by the kernel, whatever its limit, it
    // holds all.
    setsockopt(&inbox, RcvBuf, &(4 << 20)).expect("a larger buffer");
    let outbox = machine.udp("10.99.0.2:9094").expect("the port is free");
    let before = index(machine);
    // Nearly as many as are kept for one peer (512), which is as much as is said in a minute.
    const COUNT: u32 = 480;
    for round in 0..3 {
        tunnels[1].kill();
        for number in 0..COUNT {
            outbox.send_to(&number.to_be_bytes(), "10.99.0.1:9094").expect("there is a route");
        }
        tunnels[1].restart();
        let start = Instant::now();
        for number in 0..COUNT {
            let mut buffer = [0; 8];
            let length = inbox.recv(&mut buffer).unwrap_or_else(|_| panic!("{number} is lost"));
            assert_eq!(buffer[..length], number.to_be_bytes(), "out of order, or twice");
        }
        println!("round {round}: {COUNT} datagrams {:.0?} after the start", start.elapsed());
        tunnels[1].wait_until_attached();
        assert_eq!(index(machine), before, "another interface");
        ping(&lab);
    }
}

#[test]
fn a_keeper_has_no_rights_no_threads_no_streams_and_little_memory() {
    let lab = Lab::new(2);
    let (mut tunnels, _) = pair(&lab, "");
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    let status = keeper.file("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Threads").as_str()), ("1", "1"));
    assert_eq!(field("Name"), "hushwire-keeper");
    assert_eq!(keeper.file("cmdline").trim_end_matches('\0'), "hushwire: keeper");

    let mut open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", keeper.0))
        .expect("the keeper runs")
        .map(|entry| fs::read_link(entry.expect("an entry").path()).expect("a link"))
        .map(|target| target.display().to_string().split(':').next().unwrap().to_owned())
        .collect();
    open.sort();
    let null = "/dev/null";
    assert_eq!(open, ["/dev/net/tun", null, null, null, "socket", "socket"]);
    let directory = fs::read_link(format!("/proc/{}/cwd", keeper.0)).expect("the keeper runs");
    assert_eq!(directory.to_str(), Some("/"));

    let memory = keeper.file("smaps_rollup");
    let kilobytes = |name: &str| -> u64 {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)).expect("such a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let private = kilobytes("Private_Clean:") + kilobytes("Private_Dirty:");
    let (pss, rss) = (kilobytes("Pss:"), kilobytes("Rss:"));
    println!("keeper: {private} kB private, {pss} kB PSS, {rss} kB resident");
    assert!(private < 1024, "{private} kB are its own");
}

#[test]
fn a_keeper_ends_with_its_hushwire_however_that_is_asked_to_end() {
    let lab = Lab::new(2);
    let (mut tunnels, _) = pair(&lab, "");
    // A service manager asks all processes of a unit, a terminal all of a group: the keeper waits for
    // hushwire.
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
        for signal in [Signal::SIGHUP, signal] {
            keeper.signal(signal);
        }
        std::thread::sleep(millis(50));
        assert!(keeper.runs(), "{signal:?} ended the keeper before hushwire");
        tunnels[1].process().signal(signal);
        wait_for("the end of hushwire", seconds(2), || tunnels[1].process().ended());
        nothing_is_left(lab.machine(2), &keeper);
        tunnels[1].restart();
        tunnels[1].wait_until_attached();
    }
    // Killed while all are asked to end: the keeper was asked as well.
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    keeper.signal(Signal::SIGTERM);
    tunnels[1].kill();
    wait_for("the end of the keeper", seconds(2), || (!keeper.runs()).then_some(()));
    nothing_is_left(lab.machine(2), &keeper);
    // Asked after hushwire was killed.
    tunnels[1].restart();
    tunnels[1].wait_until_attached();
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    tunnels[1].kill();
    std::thread::sleep(millis(50));
    assert!(keeper.runs() && lab.machine(2).has_interface("hush0"));
    keeper.signal(Signal::SIGTERM);
    wait_for("the end of the keeper", seconds(2), || (!keeper.runs()).then_some(()));
    nothing_is_left(lab.machine(2), &keeper);
}

#[test]
fn without_a_successor_everything_is_gone_after_the_time_of_resend() {
    let lab = Lab::new(2);
    let (mut tunnels, identities) = pair(&lab, "[gossip]\nresend = \"30s\"");
    // A reload counts.
    tunnels[1].write_config(&shared_file("[gossip]\nresend = \"2s\"", &identities));
    tunnels[1].reload();
    wait_for("the reload", seconds(5), || {
        tunnels[1].process().log().contains("configuration reloaded").then_some(())
    });
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    tunnels[1].kill();
    let start = Instant::now();
    std::thread::sleep(millis(1500));
    assert!(keeper.runs() && lab.machine(2).has_interface("hush0"), "gone too early");
    wait_for("the end of the keeper", seconds(3), || (!keeper.runs()).then_some(()));
    println!("resend = \"2s\": gone after {:.1?}", start.elapsed());
    nothing_is_left(lab.machine(2), &keeper);
    tunnels[1].restart();
    tunnels[1].wait_until_attached();
    ping(&lab);
}

#[test]
fn without_resend_there_is_no_keeper() {
    let lab = Lab::new(2);
    let (mut tunnels, identities) = pair(&lab, "[gossip]\nresend = \"0s\"");
    assert!(Keeper::of(&mut tunnels[1]).is_none());
    tunnels[1].kill();
    wait_for("the end of the interface", seconds(1), || {
        (!lab.machine(2).has_interface("hush0")).then_some(())
    });
    // One that had it, and is reloaded without.
    tunnels[1].write_config(&shared_file("", &identities));
    tunnels[1].restart();
    tunnels[1].wait_until_attached();
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    tunnels[1].write_config(&shared_file("[gossip]\nresend = \"0s\"", &identities));
    tunnels[1].reload();
    wait_for("the end of the keeper", seconds(5), || (!keeper.runs()).then_some(()));
    assert!(!lab.machine(2).attempt("ls", &[SOCKET]).status.success(), "a socket is left");
    ping(&lab);
}

#[test]
fn a_successor_with_other_addresses_routes_and_mtu_brings_the_interface_there() {
    let lab = Lab::new(2);
    let (mut tunnels, mut identities) = pair(&lab, "");
    let machine = lab.machine(2);
    let before = index(machine);
    machine.ip("route add 10.98.0.0/16 dev hush0");
    tunnels[1].kill();
    identities[0].allowed_ips = vec!["10.99.0.1/32".to_owned(), "10.97.0.0/24".to_owned()];
    identities[1].allowed_ips = vec!["10.99.0.22/32".to_owned()];
    let file = shared_file("[interface]\nmtu = 1300", &identities);
    for tunnel in &tunnels {
        tunnel.write_config(&file);
    }
    tunnels[0].write_config(&shared_file("", &identities));
    // It has a new route, too, and no right to add one while it runs.
    tunnels[0].terminate();
    tunnels[0].restart();
    tunnels[1].restart();
    tunnels[1].wait_until_attached();
    assert_eq!(index(machine), before, "another interface");
    let shown = machine.ip("addr show dev hush0");
    assert!(shown.contains("10.99.0.22/32") && shown.contains("mtu 1300"), "{shown}");
    assert!(!shown.contains("10.99.0.2/32"), "the old address stays: {shown}");
    let routes = machine.ip("route show dev hush0");
    assert!(routes.contains("10.97.0.0/24") && routes.contains("10.99.0.1"), "{routes}");
    assert!(!routes.contains("10.98.0.0/16"), "a strange route stays: {routes}");
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", "10.99.0.22"]);
}

#[test]
fn a_successor_with_another_name_ends_the_keeper_that_is_in_its_way() {
    let lab = Lab::new(2);
    let (mut tunnels, identities) = pair(&lab, "");
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    tunnels[1].kill();
    tunnels[1].write_config(&shared_file("[interface]\nname = \"hush1\"", &identities));
    tunnels[1].restart();
    tunnels[1].wait_until_attached();
    nothing_is_left(lab.machine(2), &keeper);
    assert!(lab.machine(2).has_interface("hush1"));
    ping(&lab);
}

#[test]
fn a_successor_in_another_namespace_makes_its_interface_there() {
    let lab = Lab::new(2);
    let (mut tunnels, _) = pair(&lab, "");
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    let config = tunnels[1].config_path().display().to_string();
    tunnels[1].kill();
    let machine = lab.machine(2);
    let mut elsewhere = machine.start("unshare", &["--net", HUSHWIRE, "up", "--config", &config]);
    wait_for("the tunnel elsewhere", seconds(5), || {
        elsewhere.log().contains("overlay up").then_some(())
    });
    assert!(elsewhere.log().contains("in another network namespace"), "{}", elsewhere.log());
    assert!(!keeper.runs(), "a keeper is left");
    assert!(!machine.has_interface("hush0"), "an interface is left");
    let (status, _) = elsewhere.terminate(seconds(5));
    assert!(status.success());
}

#[test]
fn a_killed_keeper_does_no_harm() {
    let lab = Lab::new(2);
    let (mut tunnels, _) = pair(&lab, "");
    let machine = lab.machine(2);
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    keeper.signal(Signal::SIGKILL);
    wait_for("a line in the log", seconds(2), || {
        tunnels[1].process().log().contains("the keeper was killed").then_some(())
    });
    assert_eq!(tunnels[1].process().log().matches("keeper").count(), 1, "one line");
    assert!(!machine.attempt("ls", &[SOCKET]).status.success(), "a socket is left");
    assert!(Keeper::of(&mut tunnels[1]).is_none(), "a zombie is left");
    ping(&lab);
    tunnels[1].terminate();
    nothing_is_left(machine, &keeper);

    // Both at once: the interface goes, a socket's file stays and does not matter.
    tunnels[1].restart();
    tunnels[1].wait_until_attached();
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    kill(keeper.0, Signal::SIGSTOP).expect("the keeper runs");
    tunnels[1].kill();
    keeper.signal(Signal::SIGKILL);
    wait_for("the end of the interface", seconds(2), || {
        (!machine.has_interface("hush0")).then_some(())
    });
    tunnels[1].restart();
    tunnels[1].wait_until_attached();
    ping(&lab);

    // One that is stopped does not hold up the end of hushwire for long.
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    keeper.signal(Signal::SIGSTOP);
    let time = tunnels[1].terminate();
    println!("SIGTERM to exit with a keeper that is stopped: {time:.1?}");
    nothing_is_left(machine, &keeper);
}

#[test]
fn strangers_get_nothing_from_a_keeper() {
    let lab = Lab::new(2);
    let (mut tunnels, _) = pair(&lab, "");
    let machine = lab.machine(2);
    let before = index(machine);
    let modes = machine.run("stat", &["-c", "%a", "/run/wireguard", SOCKET]);
    assert_eq!(modes, "700\n600\n");
    // What the one who says this hears, in bytes; it hears the end, too, or this panics.
    let talk = |user: &[&str], words: &str| {
        let script = format!(
            "use IO::Socket::UNIX; alarm 3; $SIG{{PIPE}} = 'IGNORE'; $s = IO::Socket::UNIX->new(Peer => '{SOCKET}') or die; \
             syswrite $s, '{words}'; shutdown $s, 1; print length(join '', <$s>)"
        );
        let arguments = [&["--inh-caps=-all"], user, &["perl", "-e", &script]].concat();
        machine.run("setpriv", &arguments)
    };
    let (root, nobody) = (&[][..], &["--reuid=65534", "--regid=65534", "--clear-groups"][..]);
    assert_eq!(talk(root, "T"), "0", "hushwire lives");

    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    tunnels[1].kill();
    for words in ["", "X", "Txx", "E", "E/etc/hushwire/hushwire.toml"] {
        assert_eq!(talk(root, words), "0", "{words:?}");
    }
    // One who says nothing and stays holds up nobody.
    let script = format!(
        "use IO::Socket::UNIX; $s = IO::Socket::UNIX->new(Peer => '{SOCKET}') or die; sleep 9"
    );
    let _silent = machine.start("perl", &["-e", &script]);
    // In a user namespace with one user there is no other.
    let users = fs::read_to_string("/proc/self/uid_map").expect("there is /proc");
    if users.split_whitespace().nth(2).is_some_and(|count| count != "1") {
        let denied = machine.attempt("setpriv", &[nobody, &["ls", SOCKET]].concat());
        assert!(!denied.status.success(), "another user sees the socket");
        // As if somebody had opened the way.
        machine.run("chmod", &["755", "/run/wireguard"]);
        machine.run("chmod", &["666", SOCKET]);
        assert_eq!(talk(nobody, "T"), "0");
        machine.run("chmod", &["700", "/run/wireguard"]);
    } else {
        println!("one user only: what another user gets was not tried");
    }
    assert!(keeper.runs(), "somebody ended the keeper");
    tunnels[1].restart();
    tunnels[1].wait_until_attached();
    assert_eq!(index(machine), before, "another interface");
    ping(&lab);
}

#[test]
fn a_bare_device_takes_the_name_of_a_killed_tunnel_at_once() {
    let lab = Lab::new(2);
    let (mut tunnels, _) = pair(&lab, "");
    let keeper = Keeper::of(&mut tunnels[1]).expect("there is a keeper");
    let before = index(lab.machine(2));
    tunnels[1].kill();
    let mut bare = lab.machine(2).start(HUSHWIRE, &["-f", "hush0"]);
    wait_for("the device", seconds(2), || {
        lab.machine(2).attempt("wg", &["show", "hush0"]).status.success().then_some(())
    });
    assert!(!keeper.runs(), "a keeper is left");
    assert_ne!(index(lab.machine(2)), before, "the interface of the tunnel, with its addresses");
    let (status, _) = bare.terminate(seconds(5));
    assert!(status.success());
    nothing_is_left(lab.machine(2), &keeper);
}

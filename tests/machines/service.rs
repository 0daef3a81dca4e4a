//! hushwire under a service manager that this test plays: what it hears, what it keeps for the next start.
//!
//! ```text
//!   machine1                        machine2
//!   10.99.0.1, hush0 -- switch -- 10.99.0.2, hush0     the manager starts hushwire on machine2
//! ```

use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use hushwire::sys::notify::monotonic_micros;
use hushwire::sys::tun::Tun;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::manager::Manager;
use crate::support::process::Process;
use crate::support::tunnel::{HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{Scratch, millis, seconds, wait_for};

/// A tunnel on machine1, and the manager of the service on machine2.
struct Stage<'lab> {
    lab: &'lab Lab,
    _first: Tunnel<'lab>,
    identities: Vec<Identity>,
    directory: Scratch,
    manager: Manager,
}

impl<'lab> Stage<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let identities = Identity::all(2, Family::V4, &[Family::V4]);
        let file = shared_file("", &identities);
        let mut first = Tunnel::start(lab.machine(1), &identities[0], &file);
        first.wait_until_attached();
        let directory = Tunnel::write_files(&identities[1], &file);
        Self { lab, _first: first, identities, directory, manager: Manager::new() }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("hushwire.toml")
    }

    fn machine(&self) -> &'lab Machine {
        self.lab.machine(2)
    }

    fn start(&self) -> Process {
        self.manager.start(self.machine(), self.config().to_str().unwrap())
    }

    /// Starts it and waits until it says that it is ready.
    #[track_caller]
    fn start_ready(&mut self) -> Process {
        let process = self.start();
        self.manager.wait_for("READY=1", seconds(5));
        process
    }

    fn reload(&self, process: &Process, head: &str, identities: &[Identity]) {
        fs::write(self.config(), shared_file(head, identities)).unwrap();
        process.signal(Signal::SIGHUP);
    }

    #[track_caller]
    fn names_kept(&self) -> Vec<(&str, usize)> {
        self.manager.store.iter().map(|(name, fds)| (name.as_str(), fds.len())).collect()
    }

    /// Each interface has another index.
    fn index(&self) -> String {
        self.machine().ip("-o link show hush0").split(':').next().unwrap().to_owned()
    }
}

const ALL_KEPT: [(&str, usize); 3] = [("tun", 1), ("udp4", 1), ("udp6", 1)];

/// A ping every 10 ms for so many, and how many of them had no answer.
pub(crate) struct Pings(std::process::Child);

impl Pings {
    pub(crate) fn start(from: &Machine, to: usize, count: usize) -> Self {
        let (count, to) = (count.to_string(), overlay(to, Family::V4));
        let mut command = from.command("ping");
        command.args(["-n", "-q", "-i", "0.01", "-W", "2", "-c", &count, &to]);
        Self(command.stdout(Stdio::piped()).spawn().expect("cannot start ping"))
    }

    #[track_caller]
    pub(crate) fn lost(self) -> u32 {
        let output = self.0.wait_with_output().expect("ping has run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<u32> = text
            .lines()
            .find(|line| line.contains("packets transmitted"))
            .unwrap_or_else(|| panic!("ping said: {text}"))
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        numbers[0] - numbers[1]
    }
}

#[test]
fn a_restart_by_a_service_manager_keeps_the_interface_and_what_is_sent_into_it() {
    let lab = Lab::new(2);
    let mut stage = Stage::new(&lab);
    let mut process = stage.start_ready();
    assert_eq!(stage.names_kept(), ALL_KEPT);
    let children = format!("/proc/{0}/task/{0}/children", process.id());
    assert_eq!(fs::read_to_string(children).unwrap(), "", "a keeper beside what the manager keeps");
    let (index, machine) = (stage.index(), stage.machine());
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);

    let outward = Pings::start(machine, 1, 200);
    let inward = Pings::start(lab.machine(1), 2, 200);
    stage.manager.hear(millis(500));
    let (status, ending) = process.terminate(seconds(3));
    assert!(status.success(), "{status}: {}", stage.manager.log());
    stage.manager.wait_for("STOPPING=1", seconds(1));
    assert_eq!(stage.index(), index, "the interface went with hushwire");
    let mut process = stage.start_ready();
    assert_eq!((stage.index(), stage.names_kept()), (index.clone(), ALL_KEPT.to_vec()));
    assert!(machine.ip("-o addr show hush0").contains("10.99.0.2/32"));
    let (outward, inward) = (outward.lost(), inward.lost());
    println!(
        "a ping every 10 ms across a restart: {outward} of 200 lost from the machine that restarts, \
         {inward} of 200 towards it; it ended in {ending:?}"
    );
    // What is sent into the interface waits there. What a peer sends meanwhile is sealed for a session that
    // the new process does not have, and is sent once more.
    assert!(outward <= 3 && inward <= 3, "pings lost: {outward}, {inward}");

    // Killed: the same.
    process.kill();
    assert_eq!(stage.index(), index);
    let mut process = stage.start_ready();
    assert_eq!(stage.index(), index);
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);

    // Stopped for good, the manager lets go.
    process.terminate(seconds(3));
    stage.manager.store.clear();
    wait_for("the interface to go", seconds(3), || (!machine.has_interface("hush0")).then_some(()));
}

/// Whoever loads a firewall anew takes the guard's chains along; only a start can put them in again.
#[test]
fn a_guard_that_is_taken_away_ends_a_service_and_its_restart_puts_it_in_again() {
    const GUARD: &str = "guard       policy rules, nftables";
    let lab = Lab::new(2);
    let mut stage = Stage::new(&lab);
    let (mut process, machine) = (stage.start_ready(), stage.machine());
    let index = stage.index();
    let status = || machine.run(HUSHWIRE, &["status"]);
    assert!(status().contains(GUARD), "{}", status());

    // Taken away and put in again within a moment, as by a reload of all rules: nothing happens.
    let reload = "nft list ruleset >rules && nft flush ruleset && nft -f rules";
    let there = stage.directory.path().display();
    machine.run("sh", &["-c", &format!("cd {there} && {reload}")]);
    std::thread::sleep(seconds(2));
    assert!(process.ended().is_none() && status().contains(GUARD), "{}", status());

    for command in ["nft flush ruleset", "ip rule del protocol 107"] {
        machine.run("sh", &["-c", command]);
        wait_for("the end of hushwire", seconds(5), || process.ended());
        let log = stage.manager.log();
        assert!(log.contains("the guard of the overlay's addresses was taken away"), "{log}");
        process = stage.start_ready();
        assert!(status().contains(GUARD), "{}", status());
        assert_eq!(stage.index(), index);
        lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
    }
    process.terminate(seconds(3));
}

#[test]
fn a_service_manager_hears_of_reloads_and_of_peers() {
    let lab = Lab::new(2);
    let mut stage = Stage::new(&lab);
    // With a network that has room for another peer.
    const NETWORK: &str = "[interface]\naddress = [\"10.99.0.2/24\"]";
    fs::write(stage.config(), shared_file(NETWORK, &stage.identities)).unwrap();
    let mut process = stage.start_ready();
    stage.manager.wait_for("STATUS=hush0: 1 of 1 peers up", seconds(5));

    let mut more = stage.identities.clone();
    more.push(Identity::new(3, Family::V4, &[Family::V4]));
    let before = monotonic_micros();
    stage.reload(&process, NETWORK, &more);
    let reloading = stage.manager.wait_for("RELOADING=1\nMONOTONIC_USEC=", seconds(5));
    let at: u64 = reloading.split('=').next_back().unwrap().parse().unwrap();
    assert!((before..=monotonic_micros()).contains(&at), "{at} is not now");
    let ready = stage.manager.wait_for("READY=1", seconds(5));
    assert_eq!(ready, "READY=1\nSTATUS=hush0: 1 of 2 peers up");

    stage.reload(&process, "[interface]\nmtu = 5", &more);
    stage.manager.wait_for("RELOADING=1", seconds(5));
    let ready = stage.manager.wait_for("READY=1", seconds(5));
    let refused = "READY=1\nSTATUS=hush0: 1 of 2 peers up; reload refused, see the log";
    assert_eq!(ready, refused);

    stage.reload(&process, &format!("{NETWORK}\nlisten_port = 51999"), &more);
    let ready = stage.manager.wait_for("READY=1", seconds(5));
    assert_eq!(ready, "READY=1\nSTATUS=hush0: 1 of 2 peers up");
    assert_eq!(stage.names_kept(), ALL_KEPT);
    let copy = |name: &str| stage.manager.store[name][0].try_clone().unwrap();
    let ports =
        ["udp4", "udp6"].map(|name| UdpSocket::from(copy(name)).local_addr().unwrap().port());
    assert_eq!(ports, [51999, 51999], "the sockets that are kept are the old ones");

    stage.machine().ip("link delete hush0");
    stage.manager.wait_for("FDSTOREREMOVE=1\nFDNAME=tun", seconds(5));
    let (ended, _) = wait_for("its end", seconds(5), || process.ended());
    assert_eq!(ended.code(), Some(1));
    assert!(stage.manager.log().contains("its supervisor has to start it again"));
    let _again = stage.start_ready();
    assert_eq!(stage.names_kept(), ALL_KEPT);
}

#[test]
fn what_a_service_manager_passes_and_does_not_fit_is_given_back() {
    let lab = Lab::new(2);
    let mut stage = Stage::new(&lab);
    let machine = stage.machine();
    // One after the other: each takes the port while it is open.
    let cases: [(&str, &dyn Fn() -> OwnedFd, &str); 7] = [
        ("udp4", &|| udp(machine, "0.0.0.0:7"), "is bound to 0.0.0.0:7, not to 0.0.0.0:51820"),
        ("udp4", &|| udp(machine, "192.0.2.2:51820"), "is bound to 192.0.2.2:51820"),
        ("udp4", &|| udp(&lab.switch, "0.0.0.0:51820"), "it is in another network namespace"),
        ("udp6", &|| tcp(machine), "a socket of another protocol than UDP"),
        ("udp6", &null, "do not fit"),
        ("tun", &|| tun(machine, "other0"), "its name is other0"),
        ("novelty", &null, "has no use for"),
    ];
    for (name, make, reason) in cases {
        stage.manager.store.insert(name.to_owned(), vec![make()]);
        let mut process = stage.start_ready();
        assert!(stage.manager.log().contains(reason), "{reason}:\n{}", stage.manager.log());
        stage.manager.hear(millis(100));
        assert_eq!(stage.names_kept(), ALL_KEPT, "{reason}");
        lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
        assert!(!machine.has_interface("other0"));
        process.terminate(seconds(3));
        stage.manager.store.clear();
    }
}

fn udp(machine: &Machine, address: &str) -> OwnedFd {
    machine.udp(address).expect("cannot bind").into()
}

fn tcp(machine: &Machine) -> OwnedFd {
    machine.listen("[::]:0").expect("cannot listen").into()
}

fn tun(machine: &Machine, name: &str) -> OwnedFd {
    let tun = machine.inside(|| Tun::create(name)).expect("cannot make a TUN");
    tun.as_fd().try_clone_to_owned().expect("a copy")
}

fn null() -> OwnedFd {
    fs::File::open("/dev/null").expect("cannot open /dev/null").into()
}

#[test]
fn the_watchdog_is_fed_by_the_packet_loop_alone() {
    let lab = Lab::new(2);
    let mut stage = Stage::new(&lab);
    stage.manager.watchdog = Some(millis(400));
    let mut process = stage.start_ready();
    let beats = |said: Vec<String>| said.iter().filter(|line| *line == "WATCHDOG=1").count();
    let count = beats(stage.manager.hear(seconds(2)));
    println!("{count} beats in 2 s with a watchdog of 400 ms");
    assert!((5..=10).contains(&count), "{count} beats in 2 s");

    let loops = Stopped::thread(&process, "packets");
    stage.manager.hear(millis(300));
    assert_eq!(beats(stage.manager.hear(seconds(1))), 0, "fed although the packet loop is stopped");
    drop(loops);
    stage.manager.wait_for("WATCHDOG=1", seconds(5));
    process.terminate(seconds(3));

    // Nobody asked for it: nothing is said.
    stage.manager.watchdog = None;
    let _process = stage.start_ready();
    assert_eq!(beats(stage.manager.hear(seconds(1))), 0);
}

/// A thread that stands still: traced, as a debugger does it. Goes on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn thread(process: &Process, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).expect("it runs");
        let thread = tasks.map(|task| task.unwrap().path()).find(|task| {
            fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        let thread = thread.unwrap_or_else(|| panic!("no thread {name}"));
        let number = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let thread = Pid::from_raw(number);
        ptrace::seize(thread, ptrace::Options::empty()).expect("cannot trace it");
        ptrace::interrupt(thread).expect("cannot stop it");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it does not stop");
        Self(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

/// Said by a unit without a service manager around it, or with one that is gone: no reason not to run.
#[test]
fn it_runs_where_nobody_listens() {
    let machine = Machine::new("machine");
    let identities = Identity::all(1, Family::V4, &[Family::V4]);
    let directory = Tunnel::write_files(&identities[0], &shared_file("", &identities));
    let config = directory.path().join("hushwire.toml").display().to_string();
    let mut command = machine.command(HUSHWIRE);
    command
        .args(["up", "--config", &config])
        .env("NOTIFY_SOCKET", "/run/nobody")
        .env("FDSTORE", "1");
    let mut process = Process::start("hushwire", &mut command);
    wait_for("the overlay", Duration::from_secs(5), || {
        process.log().contains("overlay up").then_some(())
    });
    assert!(process.log().contains("nobody to be told"), "{}", process.log());
    process.terminate(seconds(3));
}

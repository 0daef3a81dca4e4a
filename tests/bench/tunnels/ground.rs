//! Two machines joined by a veth pair, and a tunnel between them: the drawing in `main.rs`.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::contestant::Contestant;
use crate::support::lab::{Family, overlay, underlay};
use crate::support::machine::Machine;
use crate::support::neighbour::{Wishes, settings};
use crate::support::process::{Process, succeed};
use crate::support::tunnel::Identity;
use crate::support::{Scratch, seconds};

/// Both machines, without a tunnel.
pub(crate) struct Ground {
    pub(crate) left: Machine,
    pub(crate) right: Machine,
}

impl Ground {
    /// Makes them.
    pub(crate) fn new() -> Self {
        let [left, right] = ["left", "right"].map(Machine::new);
        left.ip(&format!("link add eth0 type veth peer name eth0 netns {}", right.pid()));
        for (machine, number) in [(&left, 1), (&right, 2)] {
            machine.ip(&format!("addr add {}/24 dev eth0", underlay(number, Family::V4)));
            machine.ip("link set eth0 mtu 1500 up");
        }
        Self { left, right }
    }
}

/// A contestant that is up on both machines, or the wire alone.
pub(crate) struct Tunnel<'g> {
    pub(crate) ground: &'g Ground,
    ends: Option<[End<'g>; 2]>,
}

impl<'g> Tunnel<'g> {
    /// Starts both ends cold. The right one, which is only called, can be called before the left one
    /// calls: a datagram to a closed port would measure the protocol's retries.
    pub(crate) fn start(ground: &'g Ground, contestant: Contestant) -> Self {
        if contestant == Contestant::Veth {
            return Self { ground, ends: None };
        }
        let identities = Identity::all(2, Family::V4, &[Family::V4]);
        let [left, right] = [&identities[0], &identities[1]];
        let ends = [
            End::start(contestant, &ground.left, left, &[right]),
            End::start(contestant, &ground.right, right, &[left]),
        ];
        ends[1].configure();
        ends[0].configure();
        Self { ground, ends: Some(ends) }
    }

    /// Where left finds right.
    pub(crate) fn right_address(&self) -> String {
        self.address(2)
    }

    /// Where right finds left.
    pub(crate) fn left_address(&self) -> String {
        self.address(1)
    }

    fn address(&self, number: usize) -> String {
        match self.ends {
            Some(_) => overlay(number, Family::V4),
            None => underlay(number, Family::V4),
        }
    }

    /// Its processes: two, or none.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.ends.iter().flatten().map(|end| &end.process)
    }

    /// Runs something; returns the processor time that both ends used meanwhile, if there are ends.
    pub(crate) fn processor_time<T>(&self, run: impl FnOnce() -> T) -> (T, Option<Duration>) {
        let used = || self.processes().map(Process::processor_time).sum::<Duration>();
        let before = used();
        let result = run();
        (result, self.ends.is_some().then(|| used() - before))
    }

    /// Kills the right end as `kill -9` does, and starts it again at once.
    pub(crate) fn kill_and_restart_right(&mut self) {
        if let Some([_, right]) = &mut self.ends {
            right.process.kill();
            right.process = serve(right.contestant, right.machine);
            right.configure();
        }
    }
}

/// One process of a contestant, with wg0.
pub(crate) struct End<'g> {
    contestant: Contestant,
    machine: &'g Machine,
    pub(crate) process: Process,
    /// With its settings, for `wg` and for `ip`.
    directory: Scratch,
}

impl<'g> End<'g> {
    /// Starts the program; does not wait for it.
    pub(crate) fn start(
        contestant: Contestant,
        machine: &'g Machine,
        own: &Identity,
        peers: &[&Identity],
    ) -> Self {
        let directory = Scratch::new("end");
        // The whole overlay is behind wg0: one route for any number of peers.
        let address = own.allowed_ips[0].replace("/32", "/16");
        let ip = format!("addr add {address} dev wg0\nlink set wg0 mtu 1420 up\n");
        for (name, text) in [("wg0.conf", settings(own, peers, Wishes::default())), ("wg0.ip", ip)]
        {
            std::fs::write(directory.path().join(name), text).expect("cannot write a file");
        }
        let process = serve(contestant, machine);
        Self { contestant, machine, process, directory }
    }

    /// Waits until it can be configured, and does that, alike for all.
    pub(crate) fn configure(&self) {
        self.wait_until_it_listens();
        let directory = self.directory.path().display();
        let script =
            format!("wg setconf wg0 {directory}/wg0.conf && exec ip -batch {directory}/wg0.ip");
        // As few programs as will do: it is a part of the time that a start takes.
        succeed(self.machine.command("sh").args(["-c", &script]));
    }

    /// Asked of the socket itself, and of /proc: to start `wg` for it would take longer than to wait.
    fn wait_until_it_listens(&self) {
        let holder = self.machine.pid();
        let socket = format!("/proc/{holder}/root/run/wireguard/wg0.sock");
        let interfaces = format!("/proc/{holder}/net/dev");
        let start = std::time::Instant::now();
        let has_interface = || {
            let text = std::fs::read_to_string(&interfaces).unwrap_or_default();
            text.lines().any(|line| line.trim_start().starts_with("wg0:"))
        };
        while !(has_interface() && UnixStream::connect(&socket).is_ok()) {
            assert!(start.elapsed() < seconds(5), "{:?} does not listen", self.contestant);
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn serve(contestant: Contestant, machine: &Machine) -> Process {
    let program = contestant.program().expect("the wire is not started");
    machine.start(&program.display().to_string(), contestant.arguments())
}

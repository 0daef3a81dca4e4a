//! What a lone datagram costs: three system calls of the packet loop at each end, and no other; and the one
//! that is made when datagrams come often, or no longer do.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::pair::Pair;
use crate::support::process::Process;
use crate::support::tunnel::HUSHWIRE;
use crate::support::{Scratch, millis, seconds, wait_for};

const DATAGRAMS: usize = 100;
/// The kernel solicits routers and neighbours now and then, and a handshake may be due.
const OTHERS: usize = 6;

/// strace at the packet loop of a process.
struct Trace {
    process: Process,
    scratch: Scratch,
}

impl Trace {
    fn start(pair: &Pair, index: usize) -> Self {
        let tasks = format!("/proc/{}/task", pair.devices[index].id());
        let loops = std::fs::read_dir(tasks).expect("no such process").filter_map(|task| {
            let task = task.expect("cannot read /proc").path();
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            (name.trim_end() == "packets").then_some(task)
        });
        let thread = loops.last().expect("no packet loop");
        let thread = thread.file_name().and_then(|name| name.to_str()).expect("a number");
        let scratch = Scratch::new("strace");
        let file = scratch.path().join("calls").display().to_string();
        let process = pair.homes[index].start("strace", &["-p", thread, "-o", &file]);
        wait_for("strace", seconds(5), || process.log().contains("attached").then_some(()));
        Self { process, scratch }
    }

    /// How often each system call began.
    fn stop(mut self) -> BTreeMap<String, usize> {
        self.process.signal(Signal::SIGINT);
        wait_for("the end of strace", seconds(5), || self.process.ended());
        let text = std::fs::read_to_string(self.scratch.path().join("calls")).expect("no calls");
        let mut counts = BTreeMap::new();
        for name in text.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        counts
    }
}

/// Sockets on both sides of a tunnel, and strace at its two loops.
struct Traced {
    sending: UdpSocket,
    receiving: UdpSocket,
    traces: [Trace; 2],
    // Its machines end last.
    _pair: Pair,
}

impl Traced {
    fn start() -> Self {
        let pair = Pair::new([HUSHWIRE; 2], "");
        pair.adjust(1420, 1500, "192.0.2.2");
        let (sender, receiver) = (pair.left(false), pair.right(false));
        let receiving = receiver.machine.udp("10.99.0.2:9094").expect("cannot bind");
        let sending = sender.machine.udp("10.99.0.1:9094").expect("cannot bind");
        receiving.set_read_timeout(Some(seconds(2))).expect("an option of sockets");
        let traces = [0, 1].map(|index| Trace::start(&pair, index));
        Self { sending, receiving, traces, _pair: pair }
    }

    fn send(&self, datagrams: usize, pause: Duration) {
        for number in 0..datagrams {
            let datagram = [number as u8; 200];
            self.sending.send_to(&datagram, "10.99.0.2:9094").expect("cannot send");
            let mut buffer = [0; 300];
            assert_eq!(self.receiving.recv(&mut buffer).expect("it is lost"), datagram.len());
            std::thread::sleep(pause);
        }
    }

    /// How often each system call began, at the sender and at the receiver.
    fn stop(self) -> [BTreeMap<String, usize>; 2] {
        self.traces.map(Trace::stop)
    }
}

#[test]
fn a_lone_datagram_costs_three_system_calls_at_each_end() {
    let tunnel = Traced::start();
    tunnel.send(DATAGRAMS, millis(20));
    let expected = [["epoll_pwait", "read", "sendmsg"], ["epoll_pwait", "recvmmsg", "writev"]];
    for (counts, expected) in tunnel.stop().into_iter().zip(expected) {
        println!("{DATAGRAMS} datagrams: {counts:?}");
        for name in expected {
            let count = counts.get(name).copied().unwrap_or(0);
            assert!((DATAGRAMS..=DATAGRAMS + OTHERS).contains(&count), "{name}: {counts:?}");
        }
        let others = counts.iter().filter(|(name, _)| !expected.contains(&name.as_str()));
        assert!(others.map(|(_, count)| count).sum::<usize>() <= OTHERS, "{counts:?}");
    }
}

#[test]
fn short_slices_are_asked_for_when_datagrams_come_often_and_given_back_when_they_no_longer_do() {
    let tunnel = Traced::start();
    tunnel.send(300, Duration::ZERO);
    tunnel.send(10, millis(100));
    for counts in tunnel.stop() {
        println!("often, then seldom: {counts:?}");
        let count = counts.get("sched_setattr").copied().unwrap_or(0);
        // A machine that stops for a moment makes it two more.
        assert!(count >= 2 && count.is_multiple_of(2), "{counts:?}");
    }
}

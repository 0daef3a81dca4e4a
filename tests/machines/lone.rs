//! What a lone datagram costs: three system calls of the packet loop at each end, and no other.

use std::collections::BTreeMap;

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

#[test]
fn a_lone_datagram_costs_three_system_calls_at_each_end() {
    let pair = Pair::new([HUSHWIRE; 2], "");
    pair.adjust(1420, 1500, "192.0.2.2");
    let (sender, receiver) = (pair.left(false), pair.right(false));
    let receiving = receiver.machine.udp("10.99.0.2:9094").expect("cannot bind");
    let sending = sender.machine.udp("10.99.0.1:9094").expect("cannot bind");
    receiving.set_read_timeout(Some(seconds(2))).expect("an option of sockets");
    let mut traces = [0, 1].map(|index| Trace::start(&pair, index)).into_iter();
    for number in 0..DATAGRAMS {
        let datagram = [number as u8; 200];
        sending.send_to(&datagram, "10.99.0.2:9094").expect("cannot send");
        let mut buffer = [0; 300];
        assert_eq!(receiving.recv(&mut buffer).expect("it is lost"), datagram.len());
        std::thread::sleep(millis(20));
    }
    for expected in [["epoll_pwait", "read", "sendmsg"], ["epoll_pwait", "recvmmsg", "writev"]] {
        let counts = traces.next().expect("two of them").stop();
        println!("{DATAGRAMS} datagrams: {counts:?}");
        for name in expected {
            let count = counts.get(name).copied().unwrap_or(0);
            assert!((DATAGRAMS..=DATAGRAMS + OTHERS).contains(&count), "{name}: {counts:?}");
        }
        let others = counts.iter().filter(|(name, _)| !expected.contains(&name.as_str()));
        assert!(others.map(|(_, count)| count).sum::<usize>() <= OTHERS, "{counts:?}");
    }
}

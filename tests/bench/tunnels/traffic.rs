//! What is sent from left to right. The sockets are made in the machines, the threads that use them are
//! ours: a program started for it would be a part of what is measured.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::ground::Tunnel;
use crate::support::iperf3::iperf3;
use crate::support::machine::Machine;
use crate::support::millis;

/// Where sinks and echoes listen.
const PORT: u16 = 9094;
/// What Linux has by default. The computer may have another: figures of TCP would not compare.
pub(crate) const CONGESTION_CONTROL: &str = "cubic";
/// As much as the kernel allows is had: what is lost in the sink's socket was delivered by the tunnel.
const SINK_BUFFER: usize = 4 << 20;
/// What is under way has arrived after this.
const SETTLE: Duration = millis(200);

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    LeftToRight,
    RightToLeft,
}

/// What a transfer by TCP brought.
pub(crate) struct Transfer {
    pub(crate) gigabits_per_second: f64,
    pub(crate) gigabytes: f64,
}

/// Sends by TCP for some seconds.
pub(crate) fn tcp(tunnel: &Tunnel<'_>, way: Way, streams: u32, seconds: u64) -> Transfer {
    let [time, streams] = [seconds.to_string(), streams.to_string()];
    let mut options = vec!["--time", &time, "--parallel", &streams];
    options.extend(["--congestion", CONGESTION_CONTROL]);
    if way == Way::RightToLeft {
        options.push("--reverse");
    }
    let ground = tunnel.ground;
    let report = iperf3(&ground.left, &ground.right, &tunnel.right_address(), &options);
    let received = |what: &str| {
        let value = report["end"]["sum_received"][what].as_f64();
        value.unwrap_or_else(|| panic!("no {what} in {report}"))
    };
    Transfer {
        gigabits_per_second: received("bits_per_second") / 1e9,
        gigabytes: received("bytes") / 1e9,
    }
}

/// What a stream of datagrams brought.
pub(crate) struct Flood {
    pub(crate) delivered: u64,
    pub(crate) time: Duration,
}

impl Flood {
    /// Delivered datagrams a second.
    pub(crate) fn rate(&self) -> f64 {
        self.delivered as f64 / self.time.as_secs_f64()
    }
}

/// Sends datagrams of `payload` bytes for some time, `rate` a second or as fast as it goes.
pub(crate) fn udp(from: &Machine, to: &[Target<'_>], payload: usize, pace: Pace) -> Flood {
    let sender = from.udp("0.0.0.0:0").expect("cannot bind");
    let sinks: Vec<_> = to.iter().map(|target| sink(target.machine)).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let counts: Vec<_> =
            sinks.iter().map(|socket| scope.spawn(|| count_until(socket, &over))).collect();
        let time = send(&sender, to, payload, pace);
        thread::sleep(SETTLE);
        over.store(true, Ordering::Relaxed);
        let delivered = counts.into_iter().map(|count| count.join().expect("a sink failed")).sum();
        Flood { delivered, time }
    })
}

/// Somewhere to send to.
pub(crate) struct Target<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) address: String,
}

/// How fast, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Datagrams a second; none is as fast as it goes.
    pub(crate) rate: Option<u32>,
    pub(crate) time: Duration,
}

fn sink(machine: &Machine) -> UdpSocket {
    let socket = machine.udp(&format!("0.0.0.0:{PORT}")).expect("cannot bind");
    setsockopt(&socket, sockopt::RcvBuf, &SINK_BUFFER).expect("cannot size a socket buffer");
    socket.set_read_timeout(Some(millis(20))).expect("cannot set a timeout");
    socket
}

fn count_until(socket: &UdpSocket, over: &AtomicBool) -> u64 {
    let mut buffer = [0; 2048];
    let mut count = 0;
    loop {
        if socket.recv(&mut buffer).is_ok() {
            count += 1;
        } else if over.load(Ordering::Relaxed) {
            return count;
        }
    }
}

/// Returns how long it sent.
fn send(socket: &UdpSocket, to: &[Target<'_>], payload: usize, pace: Pace) -> Duration {
    let datagram = vec![b'u'; payload];
    let addresses: Vec<_> = to.iter().map(|target| address(&target.address)).collect();
    let mut next = addresses.iter().cycle();
    let start = Instant::now();
    let mut sent = 0;
    loop {
        let passed = start.elapsed();
        if passed >= pace.time {
            return passed;
        }
        let due = match pace.rate {
            None => 64,
            Some(rate) => (passed.as_secs_f64() * f64::from(rate)) as u64 - sent,
        };
        for target in next.by_ref().take(due as usize) {
            // A full queue is one of the places where datagrams may be lost.
            let _ = socket.send_to(&datagram, target);
        }
        sent += due;
        if pace.rate.is_some() {
            // As evenly as a sleep can be: bursts would be cheaper for whoever takes many at once.
            thread::sleep(Duration::from_micros(20));
        }
    }
}

fn address(ip: &str) -> SocketAddr {
    format!("{ip}:{PORT}").parse().expect("an address")
}

/// One datagram of 200 bytes each way every 200 ms.
pub(crate) fn gossip(ends: [(&Machine, &str); 2], time: Duration) {
    thread::scope(|scope| {
        for (machine, to) in ends {
            let socket = machine.udp(&format!("0.0.0.0:{PORT}")).expect("cannot bind");
            scope.spawn(move || {
                let start = Instant::now();
                while start.elapsed() < time {
                    let _ = socket.send_to(&[b'g'; 200], address(to));
                    thread::sleep(millis(200));
                }
            });
        }
    });
}

/// Answers whatever comes, for as long as it exists.
pub(crate) fn with_echo<T>(machine: &Machine, run: impl FnOnce() -> T) -> T {
    let socket = sink(machine);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !over.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        });
        let _end = Ends(&over);
        run()
    })
}

/// Says that it is over, also in a panic: a scope waits for its threads.
pub(crate) struct Ends<'o>(pub(crate) &'o AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody who asks an echo every millisecond.
pub(crate) struct Asker {
    socket: UdpSocket,
    to: SocketAddr,
    start: Instant,
}

impl Asker {
    /// One in this machine.
    pub(crate) fn new(machine: &Machine, to: &str) -> Self {
        let socket = machine.udp("0.0.0.0:0").expect("cannot bind");
        socket.set_read_timeout(Some(millis(1))).expect("cannot set a timeout");
        Self { socket, to: address(to), start: Instant::now() }
    }

    /// Asks until `over`, or until there is an answer to what was asked from now on; returns when that
    /// came. Until there is a route the kernel refuses to send: that is asked again, too.
    pub(crate) fn ask(&self, limit: Duration, over: &AtomicBool) -> Option<Instant> {
        let first = Instant::now();
        let mut buffer = [0; 64];
        while first.elapsed() < limit && !over.load(Ordering::Relaxed) {
            let question = self.start.elapsed().as_nanos().to_be_bytes();
            if self.socket.send_to(&question, self.to).is_err() {
                thread::sleep(millis(1));
                continue;
            }
            // One answer for each question, or a millisecond; old answers do not count.
            while let Ok(len) = self.socket.recv(&mut buffer) {
                let asked = buffer[..len].try_into().map_or(0, u128::from_be_bytes);
                if asked >= (first - self.start).as_nanos() {
                    return Some(Instant::now());
                }
            }
        }
        None
    }

    /// Asks until `over`, whatever the answers.
    pub(crate) fn ask_on(&self, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            let _ = self.socket.send_to(b"and you?", self.to);
            thread::sleep(millis(1));
        }
    }
}

/// Round trips by `ping` every 2 ms, in microseconds, sorted.
pub(crate) fn ping(from: &Machine, to: &str, count: usize) -> Vec<f64> {
    let count = count.to_string();
    let output = from.attempt("ping", &["-n", "-i", "0.002", "-c", &count, "-W", "1", to]);
    let text = String::from_utf8_lossy(&output.stdout);
    let times = text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next());
    let mut times: Vec<f64> =
        times.filter_map(|time| Some(1000.0 * time.parse::<f64>().ok()?)).collect();
    assert!(!times.is_empty(), "no answer from {to}: {text}");
    times.sort_by(f64::total_cmp);
    times
}

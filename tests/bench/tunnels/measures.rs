//! What is compared. A measure starts its contestant, runs traffic through it and returns samples by
//! metric; a metric that a contestant has not (the wire takes no processor time) is left out.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crate::arguments::Pace;
use crate::contestant::Contestant;
use crate::ground::{Ground, Tunnel};
use crate::support::process::{Process, finish};
use crate::support::{Scratch, millis, seconds};
use crate::traffic::{self, Asker, Ends, Target, Way, ping, with_echo};

/// Samples of one run: metric and value.
pub(crate) type Samples = Vec<(&'static str, f64)>;

/// A measure, by the name that the command line has for it.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Ground, Contestant, &Pace) -> Samples,
    /// What its samples are, in the order of the table.
    pub(crate) metrics: &'static [Metric],
}

/// A figure, and how it is shown.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    pub(crate) better: Better,
    /// After the point.
    pub(crate) digits: usize,
}

/// Which of two values is the better one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}
use Better::{Less, More};

const fn new(name: &'static str, label: &'static str, better: Better, digits: usize) -> Metric {
    Metric { name, label, better, digits }
}

/// All of them, in the order of the table.
pub(crate) const ALL: &[Measure] = &[
    Measure {
        name: "tcp",
        run: tcp,
        metrics: &[
            new("tcp_gbps", "TCP, 1 stream, Gbit/s", More, 2),
            new("tcp_cpu_s_per_gb", "  CPU, both ends, s per GB", Less, 2),
        ],
    },
    Measure {
        name: "tcp4",
        run: tcp4,
        metrics: &[
            new("tcp4_gbps", "TCP, 4 streams, Gbit/s", More, 2),
            new("tcp4_cpu_s_per_gb", "  CPU, both ends, s per GB", Less, 2),
        ],
    },
    Measure {
        name: "udp",
        run: udp,
        metrics: &[
            new("udp64_pps", "UDP 64 B flat out, delivered/s", More, 0),
            new("udp1400_pps", "UDP 1,400 B flat out, delivered/s", More, 0),
            new("udp64_cpu_us", "UDP 64 B at 20,000/s, CPU µs each", Less, 1),
        ],
    },
    Measure {
        name: "ping",
        run: pings,
        metrics: &[
            new("ping_us", "ping, median µs", Less, 0),
            new("ping_p99_us", "  99th percentile", Less, 0),
            new("ping_load_us", "ping beside TCP, median µs", Less, 0),
            new("ping_load_p99_us", "  99th percentile", Less, 0),
        ],
    },
    Measure {
        name: "start",
        run: start,
        metrics: &[new("start_ms", "start to first answer, ms", Less, 0)],
    },
    Measure {
        name: "recovery",
        run: recovery,
        metrics: &[
            new("recovery_one_ms", "killed; survivor sends, ms", Less, 0),
            new("recovery_both_ms", "killed; both send, ms", Less, 0),
        ],
    },
    Measure {
        name: "idle",
        run: idle,
        metrics: &[
            new("idle_cpu_ms", "idle gossip, CPU ms an end in 10 s", Less, 1),
            new("rss_mib", "memory idle (RSS), MiB", Less, 1),
            new("pss_mib", "  after load (PSS)", Less, 1),
        ],
    },
    Measure {
        name: "size",
        run: size,
        metrics: &[new("size_mib", "program, stripped, MiB", Less, 1)],
    },
];

/// A metric by its name.
pub(crate) fn metric(name: &str) -> Option<&'static Metric> {
    ALL.iter().flat_map(|measure| measure.metrics).find(|metric| metric.name == name)
}

/// Payload of a datagram whose IP packet is 1,400 bytes long.
const LARGE: usize = 1372;
const SMALL: usize = 64;
const MODERATE: u32 = 20_000;

fn tcp(ground: &Ground, contestant: Contestant, pace: &Pace) -> Samples {
    let tunnel = up(ground, contestant);
    let ways = [Way::LeftToRight, Way::RightToLeft];
    let (transfers, used) =
        tunnel.processor_time(|| ways.map(|way| traffic::tcp(&tunnel, way, 1, pace.load_seconds)));
    let gigabytes: f64 = transfers.iter().map(|transfer| transfer.gigabytes).sum();
    let speed = transfers.iter().map(|transfer| transfer.gigabits_per_second).sum::<f64>() / 2.0;
    with_cost(("tcp_gbps", speed), "tcp_cpu_s_per_gb", used, gigabytes)
}

fn tcp4(ground: &Ground, contestant: Contestant, pace: &Pace) -> Samples {
    let tunnel = up(ground, contestant);
    let (transfer, used) =
        tunnel.processor_time(|| traffic::tcp(&tunnel, Way::LeftToRight, 4, pace.load_seconds));
    let speed = ("tcp4_gbps", transfer.gigabits_per_second);
    with_cost(speed, "tcp4_cpu_s_per_gb", used, transfer.gigabytes)
}

fn udp(ground: &Ground, contestant: Contestant, pace: &Pace) -> Samples {
    let tunnel = up(ground, contestant);
    let time = pace.flood;
    let flood = |payload, rate| {
        let to = [Target { machine: &ground.right, address: tunnel.right_address() }];
        traffic::udp(&ground.left, &to, payload, traffic::Pace { rate, time })
    };
    let mut samples =
        vec![("udp64_pps", flood(SMALL, None).rate()), ("udp1400_pps", flood(LARGE, None).rate())];
    let (paced, used) = tunnel.processor_time(|| flood(SMALL, Some(MODERATE)));
    samples.extend(
        used.map(|used| ("udp64_cpu_us", used.as_secs_f64() * 1e6 / paced.delivered as f64)),
    );
    samples
}

fn pings(ground: &Ground, contestant: Contestant, pace: &Pace) -> Samples {
    let tunnel = up(ground, contestant);
    let to = tunnel.right_address();
    let idle = ping(&ground.left, &to, pace.pings);
    // They take 2 ms each, and the stream more than that.
    let load_seconds = pace.pings as u64 / 500 + 2;
    let busy = thread::scope(|scope| {
        let load = scope.spawn(|| traffic::tcp(&tunnel, Way::LeftToRight, 1, load_seconds));
        // The stream has left its slow start by then.
        thread::sleep(millis(800));
        let busy = ping(&ground.left, &to, pace.pings);
        load.join().expect("the load beside it failed");
        busy
    });
    vec![
        ("ping_us", percentile(&idle, 50)),
        ("ping_p99_us", percentile(&idle, 99)),
        ("ping_load_us", percentile(&busy, 50)),
        ("ping_load_p99_us", percentile(&busy, 99)),
    ]
}

/// From the first exec to the first answer, `wg` and `ip` included.
fn start(ground: &Ground, contestant: Contestant, _: &Pace) -> Samples {
    if contestant == Contestant::Veth {
        return Samples::new();
    }
    let never = AtomicBool::new(false);
    let one = || {
        with_echo(&ground.right, || {
            let started = Instant::now();
            let tunnel = Tunnel::start(ground, contestant);
            let asker = Asker::new(&ground.left, &tunnel.right_address());
            let answered = asker.ask(seconds(20), &never);
            answered.expect("no answer in 20 s") - started
        })
    };
    let mut times = [one(), one(), one()].map(|time| time.as_secs_f64() * 1000.0);
    times.sort_by(f64::total_cmp);
    vec![("start_ms", times[1])]
}

/// The right end is killed and started again at once: until the left one has an answer. A tunnel that
/// is given up counts with the time after which that was.
fn recovery(ground: &Ground, contestant: Contestant, pace: &Pace) -> Samples {
    if contestant == Contestant::Veth {
        return Samples::new();
    }
    let limit = pace.patience;
    let one = |both_send: bool| {
        let mut tunnel = up(ground, contestant);
        let asker = Asker::new(&ground.left, &tunnel.right_address());
        let also = Asker::new(&ground.right, &tunnel.left_address());
        let over = AtomicBool::new(false);
        with_echo(&ground.right, || {
            thread::scope(|scope| {
                let _end = Ends(&over);
                if both_send {
                    scope.spawn(|| also.ask_on(&over));
                }
                // Both have a session in use.
                asker.ask(seconds(5), &over).expect("no answer before the kill");
                thread::sleep(millis(200));
                let killed = Instant::now();
                tunnel.kill_and_restart_right();
                let answered = asker.ask(limit, &over);
                answered.map_or(limit, |at| at - killed).as_secs_f64() * 1000.0
            })
        })
    };
    vec![("recovery_one_ms", one(false)), ("recovery_both_ms", one(true))]
}

fn idle(ground: &Ground, contestant: Contestant, pace: &Pace) -> Samples {
    if contestant == Contestant::Veth {
        return Samples::new();
    }
    let tunnel = up(ground, contestant);
    // Whatever the start needs, and gives back after it.
    thread::sleep(millis(1500));
    let resident = mean(&tunnel, Process::resident);
    let (left, right) = (tunnel.left_address(), tunnel.right_address());
    let ends = [(&ground.left, right.as_str()), (&ground.right, left.as_str())];
    let (_, used) = tunnel.processor_time(|| traffic::gossip(ends, pace.idle));
    let used = used.unwrap_or_default().as_secs_f64() * 1000.0 / 2.0;
    traffic::tcp(&tunnel, Way::LeftToRight, 4, pace.load_seconds);
    vec![
        ("idle_cpu_ms", used * 10.0 / pace.idle.as_secs_f64()),
        ("rss_mib", resident),
        ("pss_mib", mean(&tunnel, Process::proportional)),
    ]
}

fn size(_: &Ground, contestant: Contestant, _: &Pace) -> Samples {
    let Some(program) = contestant.program() else { return Samples::new() };
    let scratch = Scratch::new("size");
    let stripped = scratch.path().join("stripped");
    let output = finish(std::process::Command::new("strip").arg("-o").arg(&stripped).arg(program));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = stripped.metadata().expect("strip has written no file").len();
    vec![("size_mib", mebibytes(bytes))]
}

/// A contestant that has answered once: its session is there.
fn up(ground: &Ground, contestant: Contestant) -> Tunnel<'_> {
    let tunnel = Tunnel::start(ground, contestant);
    let asker = Asker::new(&ground.left, &tunnel.right_address());
    let never = AtomicBool::new(false);
    let answered = with_echo(&ground.right, || asker.ask(seconds(20), &never));
    assert!(answered.is_some(), "{contestant:?}: no answer in 20 s");
    tunnel
}

fn with_cost(
    speed: (&'static str, f64),
    cost: &'static str,
    used: Option<Duration>,
    gigabytes: f64,
) -> Samples {
    let used = used.map(|used| (cost, used.as_secs_f64() / gigabytes));
    [Some(speed), used].into_iter().flatten().collect()
}

/// Of both ends, in MiB.
fn mean(tunnel: &Tunnel<'_>, bytes: fn(&Process) -> u64) -> f64 {
    mebibytes(tunnel.processes().map(bytes).sum()) / 2.0
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Of sorted samples.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

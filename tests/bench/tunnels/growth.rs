//! Curves of hushwire alone: what peers, flows and the size of packets cost.

use std::sync::atomic::AtomicBool;

use crate::arguments::Pace;
use crate::contestant::Contestant;
use crate::ground::{End, Ground, Tunnel};
use crate::measures::{Samples, mebibytes};
use crate::support::lab::{Family, Lab};
use crate::support::random_bytes;
use crate::support::seconds;
use crate::support::tunnel::Identity;
use crate::traffic::{self, Asker, Target, Way, with_echo};

/// What grows, by the name that the command line has for it.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    /// What stands over the sizes.
    pub(crate) title: &'static str,
    /// How many, or how large.
    pub(crate) sizes: &'static [u32],
    pub(crate) run: fn(u32, &Pace) -> Samples,
    /// What is drawn over it.
    pub(crate) lines: &'static [Line],
}

impl Curve {
    /// The sizes to measure.
    pub(crate) fn sizes_for(&self, pace: &Pace) -> impl Iterator<Item = u32> {
        let last = self.sizes.len() - 1;
        let whole = pace.whole_curves;
        let sizes = self.sizes.iter().enumerate();
        sizes.filter(move |(n, _)| whole || [0, last].contains(n)).map(|(_, &size)| size)
    }

    /// Whether this metric is one of its lines.
    pub(crate) fn has(&self, metric: &str) -> bool {
        self.lines.iter().any(|line| line.metric == metric)
    }
}

/// A line of the table.
pub(crate) struct Line {
    pub(crate) metric: &'static str,
    pub(crate) label: &'static str,
    /// After the point.
    pub(crate) digits: usize,
}

const fn line(metric: &'static str, label: &'static str, digits: usize) -> Line {
    Line { metric, label, digits }
}

/// All of them.
pub(crate) const ALL: &[Curve] = &[
    Curve {
        name: "peers",
        title: "peers",
        sizes: &[2, 10, 100, 1000],
        run: peers,
        lines: &[
            line("peers_cpu_us", "a lone packet, CPU µs", 1),
            line("peers_idle_ms", "idle gossip, CPU ms in 10 s", 1),
            line("peers_rss_mib", "memory (RSS), MiB", 1),
        ],
    },
    Curve {
        name: "flows",
        title: "TCP streams",
        sizes: &[1, 2, 4, 64],
        run: flows,
        lines: &[
            line("flows_gbps", "TCP, Gbit/s", 2),
            line("flows_cpu_s_per_gb", "CPU, both ends, s per GB", 2),
        ],
    },
    Curve {
        name: "packet",
        title: "bytes a packet",
        sizes: &[64, 128, 256, 512, 1024, 1433],
        run: packets,
        lines: &[
            line("packet_pps", "UDP flat out, delivered/s", 0),
            line("packet_cpu_us", "CPU at 20,000/s, µs a packet", 1),
        ],
    },
];

/// One device with so many peers, of which two are there:
///
/// ```text
///   machine1: wg0 with all peers          machine2: wg0          machine3: wg0
///             eth0 ----------------- switch ---- eth0 ---------------- eth0
/// ```
fn peers(count: u32, pace: &Pace) -> Samples {
    let lab = Lab::new(3);
    let identities = Identity::all(3, Family::V4, &[Family::V4]);
    let absent: Vec<_> = (2..count).map(absent).collect();
    let hub_peers: Vec<_> = identities[1..].iter().chain(&absent).collect();
    let hub = End::start(Contestant::Hushwire, lab.machine(1), &identities[0], &hub_peers);
    let spokes = [2, 3].map(|number| {
        let own = &identities[number - 1];
        let spoke = End::start(Contestant::Hushwire, lab.machine(number), own, &[&identities[0]]);
        spoke.configure();
        spoke
    });
    hub.configure();
    let never = AtomicBool::new(false);
    for (number, to) in [(2, "10.99.0.2"), (3, "10.99.0.3")] {
        let asker = Asker::new(lab.machine(1), to);
        let answered = with_echo(lab.machine(number), || asker.ask(seconds(20), &never));
        assert!(answered.is_some(), "no answer from {to}");
    }

    let to = [2, 3].map(|number| Target {
        machine: lab.machine(number),
        address: format!("10.99.0.{number}"),
    });
    let lone = traffic::Pace { rate: Some(1000), time: pace.flood };
    let before = hub.process.processor_time();
    let delivered = traffic::udp(lab.machine(1), &to, 64, lone).delivered;
    let per_packet = (hub.process.processor_time() - before).as_secs_f64() * 1e6;

    let before = hub.process.processor_time();
    let gossip = [(lab.machine(1), "10.99.0.2"), (lab.machine(2), "10.99.0.1")];
    traffic::gossip(gossip, pace.idle);
    let idle = (hub.process.processor_time() - before).as_secs_f64() * 1000.0;
    let resident = mebibytes(hub.process.resident());
    drop(spokes);
    vec![
        ("peers_cpu_us", per_packet / delivered as f64),
        ("peers_idle_ms", idle * 10.0 / pace.idle.as_secs_f64()),
        ("peers_rss_mib", resident),
    ]
}

/// IPv4 and UDP.
const UDP_HEADERS: usize = 28;

/// A peer that is known and never heard of.
fn absent(number: u32) -> Identity {
    let mut identity = Identity::new(1, Family::V4, &[]);
    identity.private_key = hushwire::wireguard::PrivateKey::from_random(random_bytes());
    identity.endpoint = None;
    identity.allowed_ips = vec![format!("10.99.{}.{}/32", 1 + number / 250, 1 + number % 250)];
    identity
}

fn flows(count: u32, pace: &Pace) -> Samples {
    let ground = Ground::new();
    let tunnel = Tunnel::start(&ground, Contestant::Hushwire);
    let (transfer, used) =
        tunnel.processor_time(|| traffic::tcp(&tunnel, Way::LeftToRight, count, pace.load_seconds));
    let used = used.unwrap_or_default().as_secs_f64();
    vec![
        ("flows_gbps", transfer.gigabits_per_second),
        ("flows_cpu_s_per_gb", used / transfer.gigabytes),
    ]
}

/// UDP in packets of so many bytes, headers included; 1,433 is the largest that gossip comes in.
fn packets(bytes: u32, pace: &Pace) -> Samples {
    let ground = Ground::new();
    let tunnel = Tunnel::start(&ground, Contestant::Hushwire);
    for machine in [&ground.left, &ground.right] {
        // What `hushwire up` takes over IPv4, so that 1,433 bytes are one packet.
        machine.ip("link set wg0 mtu 1440");
    }
    let flood = |rate| {
        let to = [Target { machine: &ground.right, address: tunnel.right_address() }];
        let pace = traffic::Pace { rate, time: pace.flood };
        traffic::udp(&ground.left, &to, bytes as usize - UDP_HEADERS, pace)
    };
    let rate = flood(None).rate();
    let (paced, used) = tunnel.processor_time(|| flood(Some(20_000)));
    let used = used.unwrap_or_default().as_secs_f64() * 1e6;
    vec![("packet_pps", rate), ("packet_cpu_us", used / paced.delivered as f64)]
}

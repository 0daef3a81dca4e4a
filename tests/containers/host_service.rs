//! The host service: hushwire on the machine, its interface in the container of a stock Alertmanager.
//!
//! ```text
//!   machine1                                           machine2
//!   +---------------------------------------------+    +------------------------------+
//!   |  container am: 10.99.0.1:9094               |    |  container am: 10.99.0.2:9094 |
//!   |     eth0 (docker0)      hush0 <-- hushwire -|----|-- hushwire                    |
//!   |                                UDP :51820   |    |   UDP :51820                  |
//!   +---------------------------------------------+    +------------------------------+
//! ```
//!
//! Each machine has an engine of its own. The containers have no capability, no published port, and one
//! sysctl that lets Alertmanager bind an address which comes a moment later.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::alertmanager::members;
use crate::support::docker::Docker;
use crate::support::http;
use crate::support::lab::{Family, Lab, overlay};
use crate::support::process::Process;
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{median_and_worst, seconds, wait_for};

const HEAD: &str = "[interface]\nnetns = \"docker:am\"\n";

/// `docker run` lets nothing in and gives nothing but this.
const OPTIONS: &[&str] = &["--sysctl", "net.ipv4.ip_nonlocal_bind=1"];

/// The cluster flags of one of two machines, with stock Alertmanagers that find each other by address.
fn flags(number: usize) -> Vec<String> {
    let (own, other) = (overlay(number, Family::V4), overlay(3 - number, Family::V4));
    [format!("--cluster.listen-address={own}:9094"), format!("--cluster.peer={other}:9094")].into()
}

/// What Alertmanager in a container says at a path of its web interface, asked by the default bridge.
fn ask(docker: &Docker<'_>, method: &str, path: &str, body: &str) -> Option<String> {
    let web = docker.address("am", 9093);
    let answer = http::request(docker.machine(), web, method, path, body).ok();
    answer.filter(|(code, _)| *code == 200).map(|(_, text)| text)
}

fn silence(docker: &Docker<'_>, comment: &str) {
    let silence = serde_json::json!({
        "matchers": [{"name": "a", "value": "b", "isRegex": false}],
        "startsAt": "2020-01-01T00:00:00Z", "endsAt": "2100-01-01T00:00:00Z",
        "createdBy": "t", "comment": comment,
    });
    ask(docker, "POST", "/api/v2/silences", &silence.to_string()).expect("a silence is taken");
}

fn cluster(docker: &Docker<'_>) -> Option<(String, Vec<String>)> {
    let status: serde_json::Value =
        serde_json::from_str(&ask(docker, "GET", "/api/v2/status", "")?).ok()?;
    let peers = status["cluster"]["peers"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut peers: Vec<_> = peers.iter().map(|peer| text(&peer["address"])).collect();
    peers.sort();
    Some((text(&status["cluster"]["status"]), peers))
}

fn wait_until_ready(docker: &Docker<'_>) -> Duration {
    let ready = ("ready".to_owned(), members(2, Family::V4));
    let what = format!("the cluster to be ready on {}", docker.machine().name);
    wait_for(&what, seconds(60), || (cluster(docker).as_ref() == Some(&ready)).then_some(())).1
}

/// Two machines, each with an engine and hushwire; the engine on the second, too, so that both ends are
/// what an operator has.
struct Pair<'lab> {
    tunnels: Vec<Tunnel<'lab>>,
    dockers: Vec<Docker<'lab>>,
}

impl<'lab> Pair<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let dockers: Vec<_> = [1, 2].map(|number| Docker::start(lab.machine(number))).into();
        dockers.iter().for_each(Docker::alertmanager_image);
        let identities = Identity::all(2, Family::V4, &[Family::V4]);
        let file = shared_file(HEAD, &identities);
        let tunnels: Vec<_> = (1..)
            .zip(&identities)
            .map(|(number, identity)| Tunnel::start(lab.machine(number), identity, &file))
            .collect();
        Self { tunnels, dockers }
    }

    fn run(&self, number: usize) {
        self.dockers[number - 1].run_alertmanager("am", OPTIONS, &flags(number));
    }
}

/// Asks the other end's kernel five hundred times a second, from inside a container.
struct Pinger(Process);

impl Pinger {
    fn start(docker: &Docker<'_>, to: &str) -> Self {
        let net = format!("--net=/proc/{}/ns/net", docker.pid("am").expect("it runs"));
        let arguments = [net.as_str(), "ping", "-D", "-n", "-i", "0.002", to];
        Self(docker.machine().start("nsenter", &arguments))
    }

    /// When the first answer came after a moment; both in nanoseconds since 1970.
    fn answered_after(&self, moment: u128) -> Option<Duration> {
        let log = self.0.log();
        let stamp = |line: &str| -> Option<u128> {
            let (stamp, rest) = line.strip_prefix('[')?.split_once(']')?;
            let (seconds, fraction) = stamp.split_once('.')?;
            let micros: u128 = format!("{seconds}{fraction:0<6}").parse().ok()?;
            rest.contains("bytes from").then_some(micros * 1000)
        };
        // The last line may be half written.
        let lines = log.rsplit_once('\n').map_or("", |(lines, _)| lines).lines();
        let first = lines.filter_map(stamp).find(|&at| at > moment)?;
        Some(Duration::from_nanos((first - moment).try_into().ok()?))
    }
}

/// When the session of a tunnel with its one peer was made, in seconds since 1970.
fn handshake(tunnel: &Tunnel<'_>, peer: &str) -> f64 {
    let age = tunnel.peer(peer).handshake_age_seconds.expect("there was a handshake");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_secs_f64() - age
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn detail(tunnel: &Tunnel<'_>) -> String {
    tunnel.try_status().map(|status| status.interface.detail).unwrap_or_default()
}

#[test]
fn two_alertmanagers_in_containers_gossip_by_the_host_service() {
    let lab = Lab::new(2);
    let mut pair = Pair::start(&lab);
    for tunnel in &pair.tunnels {
        wait_for("hushwire to say what it waits for", seconds(5), || {
            let waits = "detached: there is no container am; create it, or correct netns";
            (detail(tunnel) == waits).then_some(())
        });
        let output = tunnel.hushwire("wait", &["--timeout", "0.3"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("there is no container am"), "{text}");
    }
    [1, 2].iter().for_each(|&number| pair.run(number));
    pair.tunnels.iter_mut().for_each(Tunnel::wait_until_attached);
    for docker in &pair.dockers {
        println!("ready after {:.1?}", wait_until_ready(docker));
        assert_eq!(
            docker.inspect("am", "{{.HostConfig.CapAdd}} {{.HostConfig.PortBindings}}"),
            "[] map[]"
        );
        assert!(!docker.machine().has_interface("hush0"), "the interface is on the host");
        let routes = docker.machine().ip("route show type unreachable");
        assert_eq!(routes, "", "routes are left on the host");
    }
    let comment = "across";
    silence(&pair.dockers[0], comment);
    let (_, time) = wait_for("the silence on the other side", seconds(10), || {
        ask(&pair.dockers[1], "GET", "/api/v2/silences", "")?.contains(comment).then_some(())
    });
    println!("a silence is on the other side after {time:.0?}");

    pair.dockers[0].cli(&["stop", "am"]);
    wait_for("the end to be seen", seconds(5), || {
        (detail(&pair.tunnels[0]) == "detached: container am is not running").then_some(())
    });
}

/// WireGuard makes a new session two minutes after the last one, whatever happens: that is none of ours.
const REKEY: f64 = 118.0;

/// `HUSHWIRE_ROUNDS=10 HUSHWIRE_PAUSE=20` is the long version.
#[test]
fn a_container_that_is_restarted_or_made_anew_is_attached_at_once_and_without_a_handshake() {
    let (rounds, pause) = (number("HUSHWIRE_ROUNDS", 2), number("HUSHWIRE_PAUSE", 2));
    let lab = Lab::new(2);
    let mut pair = Pair::start(&lab);
    [1, 2].iter().for_each(|&number| pair.run(number));
    pair.tunnels.iter_mut().for_each(Tunnel::wait_until_attached);
    pair.dockers.iter().for_each(|docker| {
        wait_until_ready(docker);
    });
    let (docker, other) = (&pair.dockers[0], &pair.dockers[1]);
    let events = docker.events();
    let mut all = Vec::new();
    for what in ["restart", "stop, start", "rm, run"] {
        let mut times = Vec::new();
        for round in 0..rounds {
            let pinger = Pinger::start(other, &overlay(1, Family::V4));
            wait_for("an answer", seconds(5), || pinger.answered_after(0));
            let before = handshake(&pair.tunnels[0], "machine2");
            match what {
                "restart" => drop(docker.cli(&["restart", "am"])),
                "stop, start" => {
                    docker.cli(&["stop", "am"]);
                    wait_for("the end to be seen", seconds(1), || {
                        (detail(&pair.tunnels[0]) == "detached: container am is not running")
                            .then_some(())
                    });
                    std::thread::sleep(seconds(pause));
                    docker.cli(&["start", "am"]);
                }
                _ => {
                    docker.cli(&["rm", "--force", "am"]);
                    pair.run(1);
                }
            }
            let started = events.started("am");
            let through = format!("{what} {round}: a packet through the overlay");
            let (time, _) = wait_for(&through, seconds(10), || pinger.answered_after(started));
            times.push(time);
            let after = handshake(&pair.tunnels[0], "machine2");
            let is_same = (after - before).abs() < 1.0;
            assert!(is_same || after - before > REKEY, "{what} {round}: a new handshake");

            let both = members(2, Family::V4);
            wait_for("the members", seconds(40), || {
                (cluster(docker)?.1 == both && cluster(other)?.1 == both).then_some(())
            });
            let comment = format!("{what} {round}");
            silence(other, &comment);
            wait_for("a silence from the other side", seconds(10), || {
                ask(docker, "GET", "/api/v2/silences", "")?.contains(&comment).then_some(())
            });
            assert!(!docker.machine().has_interface("hush0"));
        }
        let (median, worst) = median_and_worst(times.clone());
        println!(
            "{what}, {rounds} times: first answer through the overlay {median:.1?} (median), {worst:.1?} \
             (worst) after the engine's start event"
        );
        all.extend(times);
    }
    let (median, worst) = median_and_worst(all);
    println!("all: {median:.1?} (median), {worst:.1?} (worst)");
    assert!(median < seconds(1), "{median:?}");
}

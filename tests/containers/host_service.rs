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

use std::time::Duration;

use crate::support::alertmanager::members;
use crate::support::docker::Docker;
use crate::support::http;
use crate::support::lab::{Family, Lab, overlay};
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

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

fn detail(tunnel: &Tunnel<'_>) -> String {
    tunnel.status().interface.detail
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
    let silence = serde_json::json!({
        "matchers": [{"name": "a", "value": "b", "isRegex": false}],
        "startsAt": "2020-01-01T00:00:00Z", "endsAt": "2100-01-01T00:00:00Z",
        "createdBy": "t", "comment": comment,
    });
    ask(&pair.dockers[0], "POST", "/api/v2/silences", &silence.to_string()).expect("a silence");
    let (_, time) = wait_for("the silence on the other side", seconds(10), || {
        ask(&pair.dockers[1], "GET", "/api/v2/silences", "")?.contains(comment).then_some(())
    });
    println!("a silence is on the other side after {time:.0?}");

    pair.dockers[0].cli(&["stop", "am"]);
    wait_for("the end to be seen", seconds(5), || {
        (detail(&pair.tunnels[0]) == "detached: container am is not running").then_some(())
    });
}

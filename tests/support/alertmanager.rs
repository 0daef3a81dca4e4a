//! A stock Alertmanager in a machine, and what the tests ask it over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::http;
use super::lab::{Family, Lab, overlay, with_port};
use super::machine::Machine;
use super::process::Process;
use super::tunnel::Tunnel;
use super::{Scratch, millis, seconds, wait_for};

/// The smallest configuration that Alertmanager takes.
pub(crate) const CONFIGURATION: &str = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n";

/// Log lines that mean that gossip was hurt on its way.
const COMPLAINTS: &[&str] = &["invalid checksum", "UDP probes failed", "Failed to decode"];

/// A running Alertmanager.
pub(crate) struct Alertmanager<'lab> {
    machine: &'lab Machine,
    web: SocketAddr,
    /// Ended before its directory is removed: fields drop in this order.
    process: Process,
    _scratch: Scratch,
}

impl<'lab> Alertmanager<'lab> {
    /// Starts one with the given cluster flags and waits until it answers.
    #[track_caller]
    pub(crate) fn start(machine: &'lab Machine, flags: &[String]) -> Self {
        let scratch = Scratch::new("alertmanager");
        let file = scratch.path().join("alertmanager.yml");
        std::fs::write(&file, CONFIGURATION).expect("cannot write a file");
        let mut arguments = vec![
            format!("--config.file={}", file.display()),
            format!("--storage.path={}", scratch.path().join("data").display()),
            "--web.listen-address=127.0.0.1:9093".to_owned(),
            "--log.level=debug".to_owned(),
        ];
        arguments.extend_from_slice(flags);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let process = machine.start("prometheus-alertmanager", &arguments);
        let web = SocketAddr::from(([127, 0, 0, 1], 9093));
        let mut this = Self { machine, web, process, _scratch: scratch };
        wait_for(&format!("{}'s Alertmanager to answer", machine.name), seconds(20), || {
            assert!(this.process.ended().is_none(), "Alertmanager ended:\n{}", this.process.log());
            http::request(machine, web, "GET", "/-/ready", "").ok()
        });
        this
    }

    /// Starts one beside each tunnel, with the flags that `hushwire alertmanager-flags` prints there.
    #[track_caller]
    pub(crate) fn start_all(lab: &'lab Lab, tunnels: &[Tunnel<'_>]) -> Vec<Self> {
        let pairs = (1..).zip(tunnels);
        pairs.map(|(n, tunnel)| Self::start(lab.machine(n), &tunnel.alertmanager_flags())).collect()
    }

    /// `/api/v2/status`: the cluster's status ("settling", "ready") and the members' addresses, sorted.
    pub(crate) fn cluster(&self) -> (String, Vec<String>) {
        let status = self.get("/api/v2/status").expect("there is always a status");
        let cluster = &status["cluster"];
        let peers = cluster["peers"].as_array().cloned().unwrap_or_default();
        let mut peers: Vec<_> = peers.iter().map(|peer| text(&peer["address"])).collect();
        peers.sort();
        (text(&cluster["status"]), peers)
    }

    /// Waits until it sees exactly these members; returns how long that took.
    #[track_caller]
    pub(crate) fn wait_for_members(&self, addresses: &[String], limit: Duration) -> Duration {
        let what = format!("{} to see the members {addresses:?}", self.machine.name);
        wait_for(&what, limit, || (self.cluster().1 == addresses).then_some(())).1
    }

    /// Waits until the cluster is "ready" with exactly these members. Alertmanager needs some 10 s to
    /// settle, however fast the network is.
    #[track_caller]
    pub(crate) fn wait_until_ready(&self, addresses: &[String]) -> Duration {
        let what = format!("{} to be ready with {addresses:?}", self.machine.name);
        let ready = ("ready".to_owned(), addresses.to_vec());
        wait_for(&what, seconds(40), || (self.cluster() == ready).then_some(())).1
    }

    /// The sum of a metric over all its labels; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.request("GET", "/metrics", "");
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Creates a silence and returns its id.
    #[track_caller]
    pub(crate) fn silence(&self, comment: &str) -> String {
        let silence = json!({
            "matchers": [{"name": "a", "value": "b", "isRegex": false}],
            "startsAt": "2020-01-01T00:00:00Z",
            "endsAt": "2100-01-01T00:00:00Z",
            "createdBy": "t",
            "comment": comment,
        });
        let (code, answer) = self.request("POST", "/api/v2/silences", &silence.to_string());
        assert_eq!(code, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
        text(&answer["silenceID"])
    }

    /// The comment of a silence, if this Alertmanager has it.
    pub(crate) fn comment(&self, id: &str) -> Option<String> {
        Some(text(&self.get(&format!("/api/v2/silence/{id}"))?["comment"]))
    }

    /// The ids of all silences that it has.
    pub(crate) fn silences(&self) -> Vec<String> {
        let list = self.get("/api/v2/silences").unwrap_or_default();
        list.as_array().into_iter().flatten().map(|silence| text(&silence["id"])).collect()
    }

    /// Waits until a silence is here; returns its comment and how long that took.
    #[track_caller]
    pub(crate) fn wait_for_silence(&self, id: &str, limit: Duration) -> (String, Duration) {
        let what = format!("silence {id} to reach {}", self.machine.name);
        wait_for(&what, limit, || self.comment(id))
    }

    /// Panics if a member was ever lost, or if the log complains about gossip.
    #[track_caller]
    pub(crate) fn assert_calm(&self) {
        let log = self.process.log();
        let complaints: Vec<_> =
            log.lines().filter(|line| COMPLAINTS.iter().any(|what| line.contains(what))).collect();
        assert!(complaints.is_empty(), "{} complains: {complaints:#?}", self.machine.name);
        for metric in ["alertmanager_cluster_peers_left_total", "alertmanager_cluster_failed_peers"]
        {
            assert_eq!(self.metric(metric), 0.0, "{metric} on {}", self.machine.name);
        }
    }

    fn get(&self, path: &str) -> Option<Value> {
        let (code, body) = self.request("GET", path, "");
        (code == 200).then(|| serde_json::from_str(&body).expect("Alertmanager answers in JSON"))
    }

    #[track_caller]
    fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        http::request(self.machine, self.web, method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path} on {}: {error}", self.machine.name))
    }
}

/// The gossip addresses of machines 1 to `count`, as Alertmanager shows them.
pub(crate) fn members(count: usize, family: Family) -> Vec<String> {
    (1..=count).map(|number| with_port(&overlay(number, family), 9094)).collect()
}

/// Creates silences on one member and waits for each on another; returns the times to arrival.
#[track_caller]
pub(crate) fn arrival_times(
    from: &Alertmanager<'_>,
    to: &[&Alertmanager<'_>],
    count: usize,
) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in 0..count {
        let comment = format!("silence {number}");
        let id = from.silence(&comment);
        let start = std::time::Instant::now();
        for member in to {
            assert_eq!(member.wait_for_silence(&id, seconds(10)).0, comment);
            times.push(start.elapsed());
        }
        // Anywhere on the beat of the 200 ms gossip interval, or every wait would be the same.
        std::thread::sleep(millis(fastrand::u64(..200)));
    }
    times
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

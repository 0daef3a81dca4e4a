//! The network driver: containers on a network of hushwire, with stock flags and no sysctl.
//!
//! ```text
//!      machine1                                      machine2
//!   +------------------------------------+        +-------------------------------+
//!   |  dockerd      container am         |        |  hushwire up, Alertmanager,   |
//!   |     |         hush0 10.99.0.1      |        |  or the same as on machine1   |
//!   |     |  plugin   : eth0 (bridge)    |        |      hush0 10.99.0.2          |
//!   |  hushwire docker-plugin            |        |                               |
//!   |  eth0 192.0.2.1  (underlay)        |--------|  eth0 192.0.2.2               |
//!   +------------------------------------+        +-------------------------------+
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::support::alertmanager::Alertmanager;
use crate::support::docker::{ALERTMANAGER, Docker, Events};
use crate::support::lab::{Family, Lab};
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{Scratch, http, millis, seconds, wait_for};

const PLUGIN: &str = "[docker]\nplugin = true";
const GOSSIP: &[&str] = &["--network", "gossip"];

/// A network driver on a machine, and its engine with a network of it.
fn driver<'lab>(
    machine: &'lab Machine,
    identities: &[Identity],
    options: &[&str],
) -> (Tunnel<'lab>, Docker<'lab>) {
    let number: usize = machine.name.trim_start_matches("machine").parse().expect("a number");
    let file = shared_file(PLUGIN, identities);
    let tunnel = Tunnel::start(machine, &identities[number - 1], &file);
    let docker = Docker::start_with(machine, options);
    docker.alertmanager_image();
    docker.cli(&["network", "create", "-d", "hushwire", "--ipam-driver", "hushwire", "gossip"]);
    (tunnel, docker)
}

/// Asks an Alertmanager in a container, from inside its network.
fn get(docker: &Docker<'_>, container: &str, path: &str) -> Option<Value> {
    let namespace = File::open(format!("/proc/{}/ns/net", docker.pid(container)?)).ok()?;
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).ok()?;
            let web = SocketAddr::from(([127, 0, 0, 1], 9093));
            let mut stream = TcpStream::connect_timeout(&web, seconds(1)).ok()?;
            stream.set_read_timeout(Some(seconds(5))).ok()?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        });
        asking.join().expect("no panic")
    })?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// The members that an Alertmanager in a container sees once it is ready.
fn members(docker: &Docker<'_>, container: &str) -> Option<Vec<String>> {
    let status = get(docker, container, "/api/v2/status")?;
    let peers = status["cluster"]["peers"].as_array()?;
    let mut addresses: Vec<_> =
        peers.iter().filter_map(|peer| peer["address"].as_str()).map(str::to_owned).collect();
    addresses.sort();
    Some(addresses)
}

#[track_caller]
pub(crate) fn wait_for_members(docker: &Docker<'_>, container: &str, expected: &[&str]) {
    let what = format!("{container} on {} to see {expected:?}", docker.machine().name);
    wait_for(&what, seconds(40), || {
        let pid = docker.pid(container);
        assert!(pid.is_some(), "{container} has ended:\n{}", docker.logs(container));
        members(docker, container).filter(|members| members == expected)
    });
}

pub(crate) const BOTH: &[&str] = &["10.99.0.1:9094", "10.99.0.2:9094"];

#[test]
fn a_cluster_forms_by_the_network_driver_with_stock_flags() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let machines = [lab.machine(1), lab.machine(2)];
    let pairs = machines.map(|machine| driver(machine, &identities, &[]));
    for (tunnel, docker) in &pairs {
        docker.run_alertmanager("am", GOSSIP, &tunnel.alertmanager_flags());
    }
    for (tunnel, docker) in &pairs {
        wait_for_members(docker, "am", BOTH);
        let granted = docker.inspect("am", "{{.HostConfig.Sysctls}} {{.HostConfig.CapAdd}}");
        assert_eq!(granted, "map[] []");
        let routes = docker.inside("am", "ip", &["route"]);
        assert!(
            routes.lines().any(|line| line.starts_with("10.99.0.") && line.contains("dev hush0")),
            "{routes}"
        );
        assert!(routes.lines().any(|line| line.starts_with("unreachable 10.99.0.")), "{routes}");
        assert!(
            !routes.lines().any(|line| line.starts_with("default") && line.contains("hush0")),
            "{routes}"
        );
        assert!(tunnel.status().interface.guard.policy_rules);
        let rules = docker.inside("am", "ip", &["rule"]);
        assert!(rules.contains("to 10.99.0.") && rules.contains("iif hush0"), "{rules}");
        assert!(docker.inside("am", "ip", &["link", "show", "hush0"]).contains("mtu 1440"));
        assert!(!docker.machine().has_interface("hush0"), "the interface is on the machine");
    }
}

/// How often each kind of restart is repeated; HUSHWIRE_ROUNDS says it otherwise.
fn rounds() -> usize {
    std::env::var("HUSHWIRE_ROUNDS").ok().and_then(|count| count.parse().ok()).unwrap_or(1)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// Echoes from machine2, every 10 ms, with the times at which they were answered.
struct Echoes {
    ping: Child,
    answered: Arc<Mutex<Vec<Duration>>>,
}

impl Echoes {
    fn start(from: &Machine, to: &str) -> Self {
        let mut command = from.command("ping");
        command.args(["-n", "-D", "-i", "0.01", to]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut ping = command.spawn().expect("cannot start ping");
        let output = BufReader::new(ping.stdout.take().expect("stdout is a pipe"));
        let answered = Arc::new(Mutex::new(Vec::new()));
        let list = answered.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok).filter(|line| line.contains("time=")) {
                let time =
                    line.trim_start_matches('[').split(']').next().and_then(|at| at.parse().ok());
                list.lock().expect("no panic").extend(time.map(Duration::from_secs_f64));
            }
        });
        let this = Self { ping, answered };
        let first = || this.answered.lock().expect("no panic").first().copied();
        wait_for("the first echo to be answered", seconds(10), first);
        this
    }

    /// The first answer after the longest silence since then. Answers must come again within 30 s.
    #[track_caller]
    fn first_after_silence(&self, since: Duration) -> Duration {
        let asked = now();
        let (answered, _) = wait_for("echoes to be answered again", seconds(30), || {
            let answered = self.answered.lock().expect("no panic");
            answered.last().is_some_and(|last| *last > asked).then(|| answered.clone())
        });
        let pairs = answered.windows(2).filter(|pair| pair[1] > since);
        pairs.max_by_key(|pair| pair[1] - pair[0]).expect("the last one is later")[1]
    }
}

impl Drop for Echoes {
    fn drop(&mut self) {
        let _ = self.ping.kill();
        let _ = self.ping.wait();
    }
}

/// Starts of one kind, in milliseconds from the engine's event to the first packet through the overlay.
fn print_times(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what}: {} times; first packet through the overlay {median:.0} ms after the engine's start event \
         (median), {worst:.0} ms (worst); less than 0 is before it",
        times.len()
    );
}

/// One start: what was done, then the container has its overlay, its Alertmanager runs and gossips.
#[track_caller]
fn check_start(
    docker: &Docker<'_>,
    tunnel: &Tunnel<'_>,
    echoes: &Echoes,
    events: &Events,
    start: impl FnOnce(),
) -> f64 {
    let (since, begun) = (now(), Instant::now());
    let before = tunnel.peer("machine2").handshake_age_seconds.expect("there is a session");
    start();
    let event = events.started("am");
    let first = echoes.first_after_silence(since);
    wait_for("the Alertmanager to see its peer", seconds(20), || {
        assert!(docker.pid("am").is_some(), "it has ended:\n{}", docker.logs("am"));
        members(docker, "am").filter(|members| members == BOTH)
    });
    assert!(!docker.logs("am").contains("cannot assign requested address"));
    assert_eq!(docker.inspect("am", "{{.RestartCount}}"), "0");
    let after = tunnel.peer("machine2").handshake_age_seconds.expect("there is a session");
    let passed = begun.elapsed().as_secs_f64();
    // WireGuard itself makes a new one every 120 s.
    assert!(after + 0.5 > before + passed || before + passed > 110.0, "a handshake was needed");
    first.as_secs_f64() * 1e3 - event as f64 / 1e6
}

#[test]
fn a_container_has_its_overlay_on_every_start_without_a_new_handshake() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let (tunnel, docker) = driver(lab.machine(1), &identities, &[]);
    let mut other = Tunnel::start(lab.machine(2), &identities[1], &shared_file("", &identities));
    other.wait_until_attached();
    let _member = Alertmanager::start(lab.machine(2), &other.alertmanager_flags());
    let flags = tunnel.alertmanager_flags();
    docker.run_alertmanager("am", GOSSIP, &flags);
    let (events, echoes) = (docker.events(), Echoes::start(lab.machine(2), "10.99.0.1"));
    wait_for_members(&docker, "am", BOTH);

    let rounds = rounds();
    let start = |start: &dyn Fn()| check_start(&docker, &tunnel, &echoes, &events, start);
    let restart = || drop(docker.cli(&["restart", "am"]));
    print_times("docker restart", (0..rounds).map(|_| start(&restart)).collect());
    let stop_and_start = || {
        docker.cli(&["stop", "am"]);
        let status = tunnel.status().interface;
        assert_eq!((status.attached, status.detail.starts_with("detached: ")), (false, true));
        assert!(!lab.machine(1).has_interface("hush0"), "the interface is left on the machine");
        docker.cli(&["start", "am"]);
    };
    print_times("docker stop and start", (0..rounds).map(|_| start(&stop_and_start)).collect());
    let remove_and_run = || {
        docker.cli(&["rm", "--force", "am"]);
        assert!(!lab.machine(1).has_interface("hush0"), "the interface is left on the machine");
        docker.run_alertmanager("am", GOSSIP, &flags);
    };
    print_times("docker rm and run", (0..rounds).map(|_| start(&remove_and_run)).collect());
}

/// What `docker` says when it refuses.
#[track_caller]
fn refusal(docker: &Docker<'_>, arguments: &[&str]) -> String {
    let output = docker.attempt(arguments);
    assert!(!output.status.success(), "{arguments:?} was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_a_container_cannot_have_is_refused_in_words() {
    let machine = Machine::new("machine1");
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let (tunnel, docker) = driver(&machine, &identities, &[]);
    docker.run_alertmanager("am", GOSSIP, &tunnel.alertmanager_flags());
    let network = docker.cli(&["network", "inspect", "--format", "{{.Id}}", "gossip"]);

    let second = refusal(&docker, &["run", "--rm", "--network", "gossip", ALERTMANAGER]);
    let expected = format!(
        "this machine's overlay address 10.99.0.1 is in use by another container, and only one can have \
         it: stop that one first (docker ps --filter network={})",
        &network[..12]
    );
    assert!(second.contains(&expected), "{second}");
    let filter = format!("network={}", &network[..12]);
    assert_eq!(docker.cli(&["ps", "--filter", &filter, "--format", "{{.Names}}"]), "am");
    wait_for("the first to be attached", seconds(5), || {
        tunnel.status().interface.attached.then_some(())
    });

    let create = ["network", "create", "-d", "hushwire"];
    let own = ["--ipam-driver", "hushwire"];
    let with = |options: &[&'static str], name| [&create[..], options, &[name]].concat();
    docker.cli(&with(&[&own[..], &["--subnet", "10.99.0.0/24"]].concat(), "subnet"));
    let run = ["run", "--rm", "--network", "subnet", "--ip", "10.99.0.7", ALERTMANAGER];
    let address = refusal(&docker, &run);
    let expected =
        "10.99.0.7 is not this machine's overlay address, which is 10.99.0.1: leave --ip";
    assert!(address.contains(expected), "{address}");
    let subnet = with(&[&own[..], &["--subnet", "10.98.0.0/24"]].concat(), "other");
    let expected = "subnet 10.98.0.0/24 does not hold this machine's overlay address 10.99.0.1";
    assert!(refusal(&docker, &subnet).contains(expected));
    let option = refusal(&docker, &with(&[&own[..], &["--opt", "mtu=9000"]].concat(), "option"));
    assert!(option.contains("option mtu: a network of hushwire takes none"), "{option}");
    // Docker's own address manager gives the second address of the subnet.
    docker.cli(&with(&["--subnet", "10.99.0.0/24"], "foreign"));
    let foreign = refusal(&docker, &["run", "--rm", "--network", "foreign", ALERTMANAGER]);
    assert!(foreign.contains("10.99.0.2 is not this machine's overlay address"), "{foreign}");
    assert!(foreign.contains("docker network create -d hushwire --ipam-driver hushwire NAME"));

    // What was refused has left nothing behind.
    docker.cli(&["restart", "am"]);
    wait_for("the first to be attached again", seconds(10), || {
        tunnel.status().interface.attached.then_some(())
    });
}

#[test]
fn compose_gives_it_beside_a_bridge_network() {
    let machine = Machine::new("machine1");
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let (tunnel, docker) = driver(&machine, &identities, &[]);
    let directory = Scratch::new("compose");
    let file = directory.path().join("docker-compose.yml");
    let flags = tunnel.alertmanager_flags();
    let command: String = flags.iter().map(|flag| format!("      - {flag:?}\n")).collect();
    let text = format!(
        "version: '3.8'\nservices:\n  am:\n    image: {ALERTMANAGER}\n    container_name: am\n    \
         command:\n      - --config.file=/etc/alertmanager/alertmanager.yml\n{command}    networks: \
         [web, gossip]\n    ports: ['127.0.0.1:9093:9093']\nnetworks:\n  web: {{}}\n  gossip:\n    \
         driver: hushwire\n    ipam: {{driver: hushwire}}\n"
    );
    std::fs::write(&file, text).expect("cannot write a file");
    let file = file.display().to_string();
    let compose = |arguments: &[&str]| {
        let fixed = ["--host", "unix:///run/docker.sock", "--project-name", "t", "--file", &file];
        machine.run("docker-compose", &[&fixed[..], arguments].concat())
    };
    for _ in 0..2 {
        compose(&["up", "--detach"]);
        wait_for_members(&docker, "am", &["10.99.0.1:9094"]);
        let routes = docker.inside("am", "ip", &["route"]);
        let default = routes.lines().find(|line| line.starts_with("default"));
        assert!(default.is_some_and(|line| !line.contains("hush0")), "{routes}");
        assert!(routes.contains("10.99.0.2 dev hush0"), "{routes}");
        // By the bridge, which Docker publishes on the machine.
        let web = SocketAddr::from(([127, 0, 0, 1], 9093));
        wait_for("the published port to answer", seconds(10), || {
            let answer = http::request(&machine, web, "GET", "/-/ready", "").ok();
            answer.filter(|(code, _)| *code == 200)
        });
        compose(&["restart"]);
        wait_for_members(&docker, "am", &["10.99.0.1:9094"]);
        compose(&["down"]);
        assert!(!machine.has_interface("hush0"), "the interface is left on the machine");
    }
}

/// Waits until a container that was not started by hand runs and gossips again.
#[track_caller]
fn wait_until_back(docker: &Docker<'_>, before: Option<u32>) {
    wait_for("the engine to start the container again", seconds(40), || {
        let output = docker.attempt(&["inspect", "--format", "{{.State.Pid}}", "am"]);
        let pid = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
        (pid != before && pid != Some(0)).then_some(pid?)
    });
    wait_for_members(docker, "am", BOTH);
    assert!(!docker.logs("am").contains("cannot assign requested address"));
}

#[test]
fn endpoints_are_taken_up_again_after_the_engine_and_hushwire_were_restarted() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let (mut tunnel, mut docker) = driver(lab.machine(1), &identities, &[]);
    let mut other = Tunnel::start(lab.machine(2), &identities[1], &shared_file("", &identities));
    other.wait_until_attached();
    let _member = Alertmanager::start(lab.machine(2), &other.alertmanager_flags());
    let options = [GOSSIP, &["--restart", "always"]].concat();
    docker.run_alertmanager("am", &options, &tunnel.alertmanager_flags());
    wait_for_members(&docker, "am", BOTH);

    for (what, killed) in [("ended", false), ("was killed", true)] {
        let before = docker.pid("am");
        let start = Instant::now();
        if killed {
            docker.kill_engine();
        } else {
            docker.stop_engine();
        }
        docker.start_engine();
        wait_until_back(&docker, before);
        println!("the engine {what}: a cluster again {:.1} s later", start.elapsed().as_secs_f64());
    }

    let echoes = Echoes::start(lab.machine(2), "10.99.0.1");
    let pid = docker.pid("am");
    let since = now();
    tunnel.kill();
    std::thread::sleep(millis(200));
    let restarted = now();
    tunnel.restart();
    let first = echoes.first_after_silence(since);
    println!(
        "hushwire killed: first packet {:.0} ms after its next start",
        (first - restarted).as_secs_f64() * 1e3
    );
    tunnel.wait_until_attached();
    assert_eq!(docker.pid("am"), pid);
    wait_for_members(&docker, "am", BOTH);
    docker.cli(&["restart", "am"]);
    wait_for_members(&docker, "am", BOTH);

    let pid = docker.pid("am");
    let since = now();
    tunnel.terminate();
    let restarted = now();
    tunnel.restart();
    let first = echoes.first_after_silence(since);
    println!(
        "hushwire restarted: first packet {:.0} ms after its start",
        (first - restarted).as_secs_f64() * 1e3
    );
    tunnel.wait_until_attached();
    assert_eq!(docker.pid("am"), pid);
    wait_for_members(&docker, "am", BOTH);
    assert!(tunnel.status().interface.guard.policy_rules);
    docker.cli(&["restart", "am"]);
    wait_for_members(&docker, "am", BOTH);
    docker.cli(&["stop", "am"]);
    assert!(!lab.machine(1).has_interface("hush0"), "the interface is left on the machine");
}

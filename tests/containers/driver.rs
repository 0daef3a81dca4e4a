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
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::support::docker::Docker;
use crate::support::lab::{Family, Lab};
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

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
fn wait_for_members(docker: &Docker<'_>, container: &str, expected: &[&str]) {
    let what = format!("{container} on {} to see {expected:?}", docker.machine().name);
    wait_for(&what, seconds(40), || {
        let pid = docker.pid(container);
        assert!(pid.is_some(), "{container} has ended:\n{}", docker.logs(container));
        members(docker, container).filter(|members| members == expected)
    });
}

const BOTH: &[&str] = &["10.99.0.1:9094", "10.99.0.2:9094"];

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

//! Which container, and an engine that comes late, ends, is killed or restarted.
//!
//! One machine with an engine; the other has hushwire alone and is pinged from inside the container.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::docker::Docker;
use crate::support::lab::{Family, Lab, overlay};
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

/// Two tunnels, the first in a container that is chosen so.
fn pair<'lab>(lab: &'lab Lab, netns: &str) -> (Tunnel<'lab>, Tunnel<'lab>) {
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let first = shared_file(&format!("[interface]\nnetns = \"{netns}\""), &identities);
    let first = Tunnel::start(lab.machine(1), &identities[0], &first);
    let second = Tunnel::start(lab.machine(2), &identities[1], &shared_file("", &identities));
    (first, second)
}

/// Runs a container that does nothing but live.
fn run(docker: &Docker<'_>, name: &str, options: &[&str]) {
    docker.run_alertmanager(name, options, &["--cluster.listen-address=".to_owned()]);
}

fn is_inside(docker: &Docker<'_>, name: &str) {
    wait_for(&format!("the interface in {name}"), seconds(10), || {
        docker.inside(name, "ip", &["-brief", "link"]).contains("hush0").then_some(())
    });
}

fn ping(docker: &Docker<'_>, name: &str) {
    docker.inside(name, "ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
}

fn wait_for_detail(tunnel: &Tunnel<'_>, detail: &str) -> Duration {
    wait_for(&format!("status to say: {detail}"), seconds(10), || {
        tunnel.try_status()?.interface.detail.contains(detail).then_some(())
    })
    .1
}

#[test]
fn hushwire_comes_before_the_engine_and_outlives_it() {
    let lab = Lab::new(2);
    let mut docker = Docker::prepare(lab.machine(1), &["--live-restore"]);
    let (mut tunnel, _second) = pair(&lab, "docker:am");
    wait_for_detail(&tunnel, "detached: container engine /run/docker.sock: No such file");
    docker.start_engine();
    wait_for_detail(&tunnel, "detached: there is no container am");
    docker.alertmanager_image();
    run(&docker, "am", &["--restart", "always"]);
    tunnel.wait_until_attached();
    ping(&docker, "am");

    // The container lives without its engine, and so does the interface.
    let pid = docker.pid("am").expect("it runs");
    for end in [Docker::stop_engine, Docker::kill_engine] {
        end(&mut docker);
        let net = format!("--net=/proc/{pid}/ns/net");
        let other = overlay(2, Family::V4);
        let pings = || {
            let three = [&net, "ping", "-c", "3", "-i", "0.2", "-W", "5", &other];
            lab.machine(1).run("nsenter", &three)
        };
        pings();
        assert!(tunnel.status().interface.attached, "{:?}", tunnel.status().interface.detail);
        // A hushwire that is started meanwhile finds its interface by what the one before has left.
        tunnel.kill();
        tunnel.restart();
        tunnel.wait_until_attached();
        pings();
        docker.start_engine();
        assert_eq!(docker.pid("am"), Some(pid));
        ping(&docker, "am");
    }

    // Its end is seen without an engine, and its next start by one that is back.
    docker.kill_engine();
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).expect("it runs");
    let time = wait_for_detail(&tunnel, "detached: container am is not running");
    println!("the end of a container without an engine is seen after {time:.0?}");
    docker.start_engine();
    if docker.pid("am").is_none() {
        docker.cli(&["start", "am"]);
    }
    tunnel.wait_until_attached();
    ping(&docker, "am");
}

#[test]
fn an_engine_that_restarts_its_containers_is_followed() {
    let lab = Lab::new(2);
    let mut docker = Docker::start(lab.machine(1));
    docker.alertmanager_image();
    run(&docker, "am", &["--restart", "always"]);
    let (mut tunnel, _second) = pair(&lab, "docker:am");
    tunnel.wait_until_attached();
    let pid = docker.pid("am");
    docker.stop_engine();
    wait_for_detail(&tunnel, "detached: container");
    docker.start_engine();
    let (again, _) = wait_for("the container", seconds(20), || docker.pid("am"));
    assert_ne!(Some(again), pid);
    tunnel.wait_until_attached();
    ping(&docker, "am");

    // A kill from inside: the engine starts it again by itself.
    kill(Pid::from_raw(again.try_into().unwrap()), Signal::SIGKILL).expect("it runs");
    wait_for("the next one", seconds(20), || docker.pid("am").filter(|&pid| pid != again));
    is_inside(&docker, "am");
    ping(&docker, "am");
}

#[test]
fn a_label_finds_the_one_container_that_runs() {
    const LABEL: &[&str] = &["--label", "com.example.role=am"];
    let lab = Lab::new(2);
    let docker = Docker::start(lab.machine(1));
    docker.alertmanager_image();
    let (mut tunnel, _second) = pair(&lab, "docker:label=com.example.role=am");
    wait_for_detail(&tunnel, "no running container has the label com.example.role=am; start one");
    run(&docker, "other", &["--label", "com.example.role=db"]);
    run(&docker, "blue", LABEL);
    tunnel.wait_until_attached();
    is_inside(&docker, "blue");
    ping(&docker, "blue");

    // The next version comes while this one runs, as in a rolling update.
    run(&docker, "green", LABEL);
    ping(&docker, "blue");
    assert!(!docker.inside("green", "ip", &["-brief", "link"]).contains("hush0"));
    docker.cli(&["stop", "blue"]);
    is_inside(&docker, "green");
    ping(&docker, "green");

    docker.cli(&["stop", "green"]);
    wait_for_detail(&tunnel, "no running container has the label");
    tunnel.terminate();
    docker.cli(&["start", "blue", "green"]);
    tunnel.restart();
    wait_for_detail(
        &tunnel,
        "2 running containers have the label com.example.role=am: blue, green;",
    );
    docker.cli(&["rm", "--force", "green"]);
    tunnel.wait_until_attached();
    ping(&docker, "blue");

    // An id, and a name that is changed.
    let id = docker.inspect("blue", "{{.Id}}");
    let file = std::fs::read_to_string(tunnel.config_path()).expect("the file is there");
    let by_id = file.replace("label=com.example.role=am", &id[..12]);
    tunnel.write_config(&by_id);
    tunnel.reload();
    wait_for("the reload", seconds(5), || {
        (tunnel.status().interface.netns? == format!("docker:{}", &id[..12])).then_some(())
    });
    tunnel.wait_until_attached();
    docker.cli(&["rename", "blue", "red"]);
    ping(&docker, "red");
}

/// podman has no daemon: its service is asked as Docker's is.
#[test]
fn podman_is_asked_by_its_compatible_socket() {
    crate::support::process::need("podman");
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    // The image comes from an engine of Docker's, as a file.
    let docker = Docker::start(machine);
    docker.alertmanager_image();
    let scratch = crate::support::Scratch::new("podman");
    let path = |name: &str| scratch.path().join(name).display().to_string();
    docker.cli(&["save", "--output", &path("image.tar"), "alertmanager"]);
    drop(docker);

    let root = path("root");
    // The runtime of Docker's: another one wants cgroups of one version only.
    let global = [
        ["--root", &root],
        // The machine's own, and short: podman takes no more than 50 characters.
        ["--runroot", "/run/containers"],
        ["--cgroup-manager", "cgroupfs"],
        ["--runtime", "runc"],
    ]
    .concat();
    let podman = |arguments: &[&str]| machine.run("podman", &[&global[..], arguments].concat());
    podman(&["load", "--input", &path("image.tar")]);
    let socket = "unix:///run/podman/podman.sock";
    machine.run("mkdir", &["-p", "/run/podman"]);
    let service = [&global[..], &["system", "service", "--time", "0", socket]].concat();
    let _service = machine.start("podman", &service);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let head = "[interface]\nnetns = \"docker:am\"\n[docker]\nsocket = \"/run/podman/podman.sock\"";
    let file = shared_file(head, &identities);
    let mut tunnel = Tunnel::start(machine, &identities[0], &file);
    let _second = Tunnel::start(lab.machine(2), &identities[1], &shared_file("", &identities));
    wait_for_detail(&tunnel, "detached: there is no container am");
    let _ended = Ended(|| {
        let output =
            machine.attempt("podman", &[&global[..], &["rm", "--all", "--force"]].concat());
        println!("{}", String::from_utf8_lossy(&output.stdout));
    });
    podman(&[
        "run",
        "--detach",
        "--name",
        "am",
        "--network",
        "none",
        // podman's default is more than every machine may give.
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
        "alertmanager",
        "--config.file=/etc/alertmanager/alertmanager.yml",
        "--cluster.listen-address=",
    ]);
    tunnel.wait_until_attached();
    for _ in 0..2 {
        let pid = podman(&["inspect", "--format", "{{.State.Pid}}", "am"]);
        let net = format!("--net=/proc/{}/ns/net", pid.trim());
        let inside = || machine.run("nsenter", &[&net, "ip", "-brief", "link"]).contains("hush0");
        wait_for("the interface in the container", seconds(5), || inside().then_some(()));
        machine.run("nsenter", &[&net, "ping", "-c", "1", "-W", "5", &overlay(2, Family::V4)]);
        podman(&["stop", "--time", "2", "am"]);
        wait_for_detail(&tunnel, "detached: container am is not running");
        podman(&["start", "am"]);
        tunnel.wait_until_attached();
    }
}

/// Does something at the end, however that comes.
struct Ended<F: Fn()>(F);

impl<F: Fn()> Drop for Ended<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

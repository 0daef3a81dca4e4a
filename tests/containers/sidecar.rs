//! The sidecar, both ways round: hushwire in a container that shares the Alertmanager's network namespace.
//!
//! ```text
//!      machine1                                      machine2
//!   +------------------------------------+        +-----------------------------+
//!   |  dockerd    containers am, hushwire|        |  hushwire up, Alertmanager  |
//!   |             hush0 10.99.0.1        |        |      hush0 10.99.0.2        |
//!   |             eth0 (bridge)          |        |                             |
//!   |  eth0 192.0.2.1:51820 (published)  |--------|  eth0 192.0.2.2             |
//!   +------------------------------------+        +-----------------------------+
//! ```

use std::path::Path;
use std::time::Instant;

use crate::driver::{BOTH, wait_for_members};
use crate::support::alertmanager::Alertmanager;
use crate::support::docker::Docker;
use crate::support::lab::{Family, Lab};
use crate::support::machine::Machine;
use crate::support::tunnel::{HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{Scratch, seconds, wait_for};

/// Lets an Alertmanager start before its overlay address is there.
const NONLOCAL: &[&str] =
    &["--sysctl", "net.ipv4.ip_nonlocal_bind=1", "--sysctl", "net.ipv6.ip_nonlocal_bind=1"];
const PUBLISHED: &str = "--publish=51820:51820/udp";

/// Machine1 with an engine and images, machine2 with a tunnel and an Alertmanager.
struct Pair<'lab> {
    docker: Docker<'lab>,
    machine2: &'lab Machine,
    _tunnel: Tunnel<'lab>,
    flags: Vec<String>,
    files: Scratch,
    _member: Alertmanager<'lab>,
}

impl<'lab> Pair<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let identities = Identity::all(2, Family::V4, &[Family::V4]);
        let file = shared_file("", &identities);
        let docker = Docker::start(lab.machine(1));
        docker.alertmanager_image();
        let changes = ["ENTRYPOINT [\"/hushwire\"]", "CMD [\"up\"]"];
        docker.image("hushwire", &[(Path::new(HUSHWIRE), "/hushwire")], &changes);
        let mut tunnel = Tunnel::start(lab.machine(2), &identities[1], &file);
        tunnel.wait_until_attached();
        let _member = Alertmanager::start(lab.machine(2), &tunnel.alertmanager_flags());
        let flags = ["--cluster.listen-address=10.99.0.1:9094", "--cluster.peer=10.99.0.2:9094"];
        let flags = flags.map(str::to_owned).into();
        let (machine2, files) = (lab.machine(2), Tunnel::write_files(&identities[0], &file));
        Self { docker, machine2, _tunnel: tunnel, flags, files, _member }
    }

    /// Runs hushwire in a container, with no right but the one it needs.
    fn run_hushwire(&self, options: &[&str]) {
        let files = format!("{}:/etc/hushwire:ro", self.files.path().display());
        let mut arguments = vec!["run", "--detach", "--name", "hushwire", "--restart", "always"];
        arguments.extend(["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"]);
        arguments.extend(["--security-opt", "no-new-privileges", "--read-only"]);
        arguments.extend(["--tmpfs", "/var/run", "--device", "/dev/net/tun", "--volume", &files]);
        arguments.extend_from_slice(options);
        arguments.push("hushwire");
        self.docker.cli(&arguments);
    }

    /// How often the engine has started a container again by its policy.
    fn restarts(&self, container: &str) -> u32 {
        self.docker.inspect(container, "{{.RestartCount}}").parse().expect("a number")
    }

    /// Does something and prints how long it takes until the cluster is whole again.
    #[track_caller]
    fn heals_after(&self, what: &str, run: impl FnOnce(&Docker<'_>)) {
        run(&self.docker);
        let begun = Instant::now();
        wait_for("hushwire to be in the new namespace", seconds(40), || {
            let (am, hushwire) = (self.docker.pid("am")?, self.docker.pid("hushwire")?);
            let id = |pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            (id(am).is_some() && id(am) == id(hushwire)).then_some(())
        });
        wait_for_members(&self.docker, "am", BOTH);
        let ping = ["-n", "-c", "1", "-W", "1", "10.99.0.1"];
        wait_for("an echo", seconds(20), || {
            self.machine2.attempt("ping", &ping).status.success().then_some(())
        });
        println!("{what}: whole again {:.1} s after it is done", begun.elapsed().as_secs_f64());
    }
}

#[test]
fn a_sidecar_follows_its_alertmanager_into_a_new_namespace_by_the_restart_policy() {
    let lab = Lab::new(2);
    let pair = Pair::start(&lab);
    pair.docker.run_alertmanager("am", &[NONLOCAL, &[PUBLISHED]].concat(), &pair.flags);
    pair.run_hushwire(&["--network", "container:am"]);
    wait_for_members(&pair.docker, "am", BOTH);

    let before = pair.restarts("hushwire");
    pair.heals_after("docker restart of the Alertmanager that owns the namespace", |docker| {
        docker.cli(&["restart", "am"]);
    });
    let log = pair.docker.logs("hushwire");
    assert!(log.contains("the last interface of this network namespace, was taken away"), "{log}");
    assert!(pair.restarts("hushwire") > before);

    pair.heals_after("docker restart of the sidecar", |docker| {
        docker.cli(&["restart", "hushwire"]);
    });
}

#[test]
fn an_alertmanager_in_the_namespace_of_its_sidecar_may_be_restarted() {
    let lab = Lab::new(2);
    let pair = Pair::start(&lab);
    pair.run_hushwire(&[PUBLISHED]);
    wait_for("hushwire to be up", seconds(20), || {
        let answer = pair.docker.attempt(&["exec", "hushwire", "/hushwire", "wait"]);
        answer.status.success().then_some(())
    });
    pair.docker.run_alertmanager("am", &["--network", "container:hushwire"], &pair.flags);
    wait_for_members(&pair.docker, "am", BOTH);

    pair.heals_after("docker restart of the Alertmanager in the sidecar's namespace", |docker| {
        docker.cli(&["restart", "am"]);
    });
    // Nothing tells this Alertmanager that its namespace is dead: whoever restarts the sidecar has to
    // restart both, as config/compose/sidecar-owns.yml says.
    pair.heals_after("docker restart of the sidecar, then of its Alertmanager", |docker| {
        docker.cli(&["restart", "hushwire"]);
        wait_for("hushwire to be up", seconds(20), || {
            let answer = docker.attempt(&["exec", "hushwire", "/hushwire", "wait"]);
            answer.status.success().then_some(())
        });
        docker.cli(&["restart", "am"]);
    });
}

#[test]
fn a_container_without_the_device_or_the_right_says_so_in_one_line() {
    let lab = Lab::new(2);
    let pair = Pair::start(&lab);
    let files = format!("{}:/etc/hushwire:ro", pair.files.path().display());
    let tun: &[&str] = &["--device", "/dev/net/tun"];
    let right: &[&str] = &["--cap-add", "NET_ADMIN"];
    for (given, expected) in [(tun, "NET_ADMIN"), (right, "/dev/net/tun")] {
        let common = ["run", "--rm", "--cap-drop", "ALL", "--volume", &files];
        let ended = pair.docker.attempt(&[&common[..], given, &["hushwire"]].concat());
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let errors: Vec<_> = said.lines().filter(|line| line.starts_with("hushwire: ")).collect();
        assert_eq!((ended.status.code(), errors.len()), (Some(1), 1), "{said}");
        assert!(errors[0].contains(expected), "{said}");
        println!("{}", errors[0]);
    }
}

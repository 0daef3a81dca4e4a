//! The pod of config/podman, made by podman: Alertmanager and hushwire in one namespace, which is the pod's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::alertmanager::{Alertmanager, members};
use crate::support::docker::{ALERTMANAGER, Docker};
use crate::support::lab::{Family, Lab};
use crate::support::machine::Machine;
use crate::support::process::need;
use crate::support::tunnel::{HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{Scratch, seconds, wait_for};

/// What podman is told of a machine that is a namespace: no systemd, cgroups of version 1 or mixed, and no
/// limits above those of the machine.
const SETTINGS: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
    [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";

/// podman with everything of its own, as a program that the shipped script finds first.
struct Podman<'lab> {
    machine: &'lab Machine,
    scratch: Scratch,
}

impl<'lab> Podman<'lab> {
    fn new(machine: &'lab Machine) -> Self {
        for program in ["podman", "runc", "catatonit"] {
            need(program);
        }
        let this = Self { machine, scratch: Scratch::new("podman") };
        let path = |name: &str| this.path(name);
        fs::write(path("settings"), SETTINGS).expect("cannot write a file");
        // /run is the machine's own, and the path short: podman takes no more than 50 characters.
        let wrapper = format!(
            "#!/bin/sh\nCONTAINERS_CONF={} exec /usr/bin/podman --root {} --runroot /run/containers --tmpdir {} \"$@\"\n",
            path("settings"),
            path("root"),
            path("tmp"),
        );
        fs::write(path("podman"), wrapper).expect("cannot write a file");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path("podman"), executable).expect("cannot make it executable");
        this
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        self.machine.run(&self.path("podman"), arguments)
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for container in ["hushwire", "alertmanager-app"] {
                let output = self.machine.attempt(&self.path("podman"), &["logs", container]);
                eprintln!("--- {container}:\n{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        self.machine.attempt(&self.path("podman"), &["pod", "rm", "--force", "alertmanager"]);
    }
}

#[test]
fn a_pod_of_alertmanager_and_hushwire_forms_a_cluster_with_another_machine() {
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    let podman = Podman::new(machine);
    // The images come from an engine of Docker's, as a file.
    let docker = Docker::start(machine);
    docker.alertmanager_image();
    let changes = ["ENTRYPOINT [\"/hushwire\"]", "CMD [\"up\"]"];
    docker.image("localhost/hushwire", &[(Path::new(HUSHWIRE), "/hushwire")], &changes);
    let images = [ALERTMANAGER, "localhost/hushwire"];
    docker.cli(&[&["save", "--output", &podman.path("images.tar")][..], &images].concat());
    drop(docker);
    podman.run(&["load", "--input", &podman.path("images.tar")]);
    podman.run(&["tag", ALERTMANAGER, "docker.io/prom/alertmanager"]);

    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let file = shared_file("", &identities);
    let files = Tunnel::write_files(&identities[0], &file);
    let mut tunnel = Tunnel::start(lab.machine(2), &identities[1], &file);
    tunnel.wait_until_attached();
    let member = Alertmanager::start(lab.machine(2), &tunnel.alertmanager_flags());

    // The shipped script, but for the place of key and file.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/podman/pod.sh");
    let script = fs::read_to_string(script).expect("it is shipped");
    let (here, there) = ("/etc/hushwire:/etc/hushwire", files.path().display());
    assert!(script.contains(here));
    let script = script.replace(here, &format!("{there}:/etc/hushwire"));
    fs::write(podman.path("pod.sh"), script).expect("cannot write a file");
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", podman.scratch.path().display());
    machine.run("env", &[&path, "sh", &podman.path("pod.sh")]);
    member.wait_for_members(&members(2, Family::V4), seconds(40));

    // The pod owns the namespace: either may be restarted.
    for container in ["alertmanager-app", "hushwire"] {
        podman.run(&["restart", "--time", "2", container]);
        let ping = ["-n", "-c", "1", "-W", "1", "10.99.0.1"];
        wait_for("an echo", seconds(20), || {
            lab.machine(2).attempt("ping", &ping).status.success().then_some(())
        });
        member.wait_for_members(&members(2, Family::V4), seconds(40));
    }
}

//! The image that operators build: one static program, and names that resolve without a library.
//!
//! scripts/image.sh has built `target/image` before this runs.

use std::path::{Path, PathBuf};

use crate::support::docker::Docker;
use crate::support::lab::Family;
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

/// What the image may weigh, in bytes.
const MOST_BYTES: u64 = 6_000_000;

fn context() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image")
}

#[test]
fn the_image_is_small_static_healthy_and_finds_its_peer_by_name() {
    let program = context().join("hushwire");
    let size = program.metadata().expect("scripts/image.sh builds it").len();
    assert!(size < MOST_BYTES, "{size} bytes");
    let machine = Machine::new("machine1");
    let docker = Docker::start(&machine);
    docker.cli(&["build", "--tag", "hushwire", context().to_str().expect("a path of ASCII")]);
    docker.cli(&["network", "create", "underlay"]);

    // The engine's own DNS server resolves the names of containers on one network. They have no other way
    // to each other.
    let mut identities = Identity::all(2, Family::V4, &[Family::V4]);
    for identity in &mut identities {
        identity.endpoint = Some(format!("{}:51820", identity.name));
    }
    let file = shared_file("", &identities);
    let files: Vec<_> =
        identities.iter().map(|identity| Tunnel::write_files(identity, &file)).collect();
    for (identity, files) in identities.iter().zip(&files) {
        let volume = format!("{}:/etc/hushwire:ro", files.path().display());
        docker.cli(
            &[
                &["run", "--detach", "--name", &identity.name, "--network", "underlay"][..],
                &["--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--device", "/dev/net/tun"],
                &["--read-only", "--tmpfs", "/var/run", "--volume", &volume, "hushwire"],
            ]
            .concat(),
        );
    }
    for identity in &identities {
        let name = identity.name.as_str();
        wait_for("a session with the peer", seconds(20), || {
            let wait = ["exec", name, "/hushwire", "wait", "--peers", "1", "--timeout", "1"];
            docker.attempt(&wait).status.success().then_some(())
        });
        wait_for("the engine to call it healthy", seconds(30), || {
            (docker.inspect(name, "{{.State.Health.Status}}") == "healthy").then_some(())
        });
    }
    println!("the program of the image: {:.2} MB", size as f64 / 1e6);
}

/// A static program finds no function by its name, and read a file instead that was out of reach by then: no
/// device was made.
#[test]
fn the_program_of_the_image_makes_a_bare_device_too() {
    let machine = Machine::new("machine1");
    let docker = Docker::start(&machine);
    docker.cli(&["build", "--tag", "hushwire", context().to_str().expect("a path of ASCII")]);
    docker.cli(
        &[
            &["run", "--detach", "--name", "bare", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN"][..],
            &["--device", "/dev/net/tun", "--read-only", "--tmpfs", "/var/run"],
            &["--env", "LOG_LEVEL=info", "hushwire", "--foreground", "bare0"],
        ]
        .concat(),
    );
    wait_for("the device to be made", seconds(20), || {
        let log = docker.logs("bare");
        assert_eq!(docker.inspect("bare", "{{.State.Status}}"), "running", "{log}");
        log.contains("device made").then_some(())
    });
}

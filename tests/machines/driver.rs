//! The network driver under an engine that is played: each step of a container's start comes when the test
//! wants it. What a real engine does is in tests/containers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use hushwire::sys::guard::Guard;

use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

const PLUGIN: &str = "[docker]\nplugin = true";
const ENDPOINT: &str =
    r#"{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.99.0.1/32"}}"#;
const JOIN: &str = r#"{"NetworkID":"n","EndpointID":"e","SandboxKey":"/run/netns/am"}"#;

/// Calls the driver of a machine, and returns its answer.
#[track_caller]
fn call(machine: &Machine, method: &str, body: &str) -> String {
    let socket = format!("/proc/{}/root/run/docker/plugins/hushwire.sock", machine.pid());
    let (mut stream, _) =
        wait_for("the driver's socket", seconds(5), || UnixStream::connect(&socket).ok());
    let length = body.len();
    write!(stream, "POST /{method} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 ") && !answer.contains("Err"), "{method}: {answer}");
    answer
}

/// A reload came between Join and the move of the interface: the container ran without guard and `unreachable`
/// routes, and what was new did not come to it.
#[test]
fn a_reload_while_a_container_starts_is_followed_once_it_has() {
    let lab = Lab::new(1);
    let machine = lab.machine(1);
    let identities = Identity::all(3, Family::V4, &[Family::V4]);
    let tunnel = Tunnel::start(machine, &identities[0], &shared_file(PLUGIN, &identities[..2]));
    machine.ip("netns add am");
    call(machine, "NetworkDriver.CreateEndpoint", ENDPOINT);
    let answer = call(machine, "NetworkDriver.Join", JOIN);
    let two = overlay(2, Family::V4);
    assert!(answer.contains(&two), "{answer}");

    let head = format!("[interface]\nmtu = 1300\n{PLUGIN}");
    tunnel.write_config(&shared_file(&head, &identities));
    assert!(tunnel.hushwire("reload", &[]).status.success());
    machine.ip("link set hush0 netns am");
    machine.ip("-n am addr add 10.99.0.1/32 dev hush0");
    machine.ip("-n am link set hush0 up");
    machine.ip(&format!("-n am route add {two} dev hush0"));

    let attached = || tunnel.try_status().filter(|status| status.interface.attached);
    let (status, _) = wait_for("hushwire to be attached", seconds(5), attached);
    assert_ne!(status.interface.guard, Guard::default());
    let rules = machine.ip("-n am rule");
    assert!(rules.contains("10.99.0.1"), "{rules}");
    for number in [2, 3] {
        let shown = machine.ip(&format!("-n am route show {}", overlay(number, Family::V4)));
        assert!(shown.contains("dev hush0") && shown.contains("unreachable"), "{number}: {shown}");
    }
    let link = machine.ip("-n am link show hush0");
    assert!(link.contains("mtu 1300"), "{link}");
}

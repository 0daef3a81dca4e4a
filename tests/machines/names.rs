//! Endpoints that are names: each address is tried, a name that cannot be resolved yet is tried again, and
//! one that leads elsewhere by now is resolved anew. The resolver's answers come from a hosts file.

use std::fs;

use hushwire::wireguard::SessionState;

use crate::support::lab::{Family, Lab, underlay};
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{Scratch, seconds, wait_for};

/// A hosts file that one machine alone sees.
struct Hosts(Scratch);

impl Hosts {
    fn new(machine: &Machine) -> Self {
        let hosts = Self(Scratch::new("hosts"));
        hosts.set(&[]);
        let file = hosts.0.path().join("hosts").display().to_string();
        machine.run("mount", &["--bind", &file, "/etc/hosts"]);
        hosts
    }

    /// Gives `machine2.test` these addresses. The file stays the same one, as the mount does.
    fn set(&self, addresses: &[&str]) {
        let lines = addresses.iter().map(|address| format!("{address} machine2.test\n"));
        let file = self.0.path().join("hosts");
        fs::write(file, lines.collect::<String>()).expect("cannot write a file");
    }
}

/// Machine 1 knows machine 2 by its name, machine 2 cannot speak first.
fn identities() -> Vec<Identity> {
    let mut identities = Identity::all(2, Family::V4, &[Family::V4]);
    identities[0].endpoint = None;
    identities[1].endpoint = Some("machine2.test:51820".to_owned());
    identities
}

fn wait_for_session(tunnel: &Tunnel<'_>, address: &str, limit: u64) {
    let (_, time) = wait_for(&format!("a session with {address}"), seconds(limit), || {
        let peer = tunnel.peer("machine2");
        let there = peer.endpoint.is_some_and(|endpoint| endpoint.ip().to_string() == address);
        (there && peer.session == SessionState::Established).then_some(())
    });
    println!("session with {address} after {time:.1?}");
}

#[test]
fn every_address_of_a_name_is_tried() {
    let lab = Lab::new(2);
    let hosts = Hosts::new(lab.machine(1));
    // A documentation prefix without a route, a neighbour that is not there, and the right one.
    hosts.set(&["2001:db8:dead::1", "192.0.2.77", &underlay(2, Family::V4)]);
    let tunnels = Tunnel::start_all(&lab, &identities());
    wait_for_session(&tunnels[0], &underlay(2, Family::V4), 5);
}

#[test]
fn a_name_that_is_not_known_yet_is_tried_again() {
    let lab = Lab::new(2);
    let hosts = Hosts::new(lab.machine(1));
    let mut tunnels = Tunnel::start_all(&lab, &identities());
    wait_for("a warning", seconds(5), || {
        tunnels[0].process().log().contains("endpoint not resolved").then_some(())
    });
    hosts.set(&[&underlay(2, Family::V4)]);
    wait_for_session(&tunnels[0], &underlay(2, Family::V4), 10);
}

/// Who takes a peer away by `wg` takes its addresses along; the name itself has not changed.
#[test]
fn a_reload_after_wg_gives_a_peer_the_addresses_of_its_name_again() {
    let lab = Lab::new(2);
    let hosts = Hosts::new(lab.machine(1));
    hosts.set(&[&underlay(2, Family::V4)]);
    let identities = identities();
    let tunnels = Tunnel::start_all(&lab, &identities);
    wait_for_session(&tunnels[0], &underlay(2, Family::V4), 5);
    lab.machine(1).run("wg", &["set", "hush0", "peer", &identities[1].public_key(), "remove"]);
    tunnels[0].reload();
    wait_for("machine2 to be back", seconds(5), || {
        (tunnels[0].status().peers.len() == 1).then_some(())
    });
    wait_for_session(&tunnels[0], &underlay(2, Family::V4), 5);
}

/// The peer's session is gone with its process, and it cannot speak first: we have to notice that
/// nothing comes back, which takes 15 s, and ask for the name again.
#[test]
fn a_name_that_leads_elsewhere_by_now_is_resolved_again() {
    let lab = Lab::new(2);
    let hosts = Hosts::new(lab.machine(1));
    hosts.set(&[&underlay(2, Family::V4)]);
    let identities = identities();
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    wait_for_session(&tunnels[0], &underlay(2, Family::V4), 5);

    tunnels[1].kill();
    lab.move_to(2, "192.0.2.22");
    hosts.set(&["192.0.2.22"]);
    // Its file names no endpoint for machine 1, so that it waits to be spoken to.
    assert!(!shared_file("", &identities).contains(&underlay(1, Family::V4)));
    tunnels[1].restart();
    let talk = lab.machine(1).start("ping", &["-i", "0.5", "10.99.0.2"]);
    wait_for_session(&tunnels[0], "192.0.2.22", 30);
    drop(talk);
}

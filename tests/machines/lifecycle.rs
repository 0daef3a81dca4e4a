//! Reload, left-overs, second daemons, descriptors, memory.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::support::lab::{Family, Lab, overlay};
use crate::support::tunnel::{HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{millis, seconds, wait_for};

#[test]
fn a_reload_changes_the_difference_and_keeps_the_sessions_of_other_peers() {
    let lab = Lab::new(3);
    let mut identities = Identity::all(3, Family::V4, &[Family::V4]);
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    let first = &tunnels[0];
    ping(&lab, 2);
    ping(&lab, 3);
    let (age, asked) = (handshake_age(first, "machine2"), Instant::now());

    // machine3 leaves.
    first.write_config(&shared_file("", &identities[..2]));
    first.reload();
    wait_for("machine3 to be gone", seconds(5), || (first.status().peers.len() == 1).then_some(()));
    // The route stays: the right to take it away is gone, and what it leads into is refused there.
    assert!(lab.machine(1).ip("route show dev hush0").contains(&overlay(3, Family::V4)));
    // machine3 comes back with another address, which has no route.
    identities[2].allowed_ips = vec!["10.99.0.33/32".to_owned()];
    first.write_config(&shared_file("", &identities));
    first.reload();
    let refusal = "restart hushwire to change allowed_ips (10.99.0.33/32 has no route";
    wait_for("the refusal", seconds(5), || {
        tunnels[0].process().log().contains(refusal).then_some(())
    });
    let first = &tunnels[0];
    assert_eq!(first.status().peers.len(), 1);
    // And with the one that it had.
    identities[2].allowed_ips = vec!["10.99.0.3/32".to_owned()];
    first.write_config(&shared_file("", &identities));
    first.reload();
    wait_for("machine3 to be back", seconds(5), || (first.status().peers.len() == 2).then_some(()));

    ping(&lab, 2);
    let unchanged = age + asked.elapsed().as_secs_f64();
    let now = handshake_age(first, "machine2");
    assert!(
        (now - unchanged).abs() < 0.5,
        "there was another handshake: {now} s, not {unchanged} s"
    );
}

#[test]
fn a_broken_file_on_reload_leaves_everything_as_it_was() {
    let lab = Lab::new(2);
    let mut tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    ping(&lab, 2);
    let age = handshake_age(&tunnels[0], "machine2");
    let peers = |tunnel: &Tunnel<'_>| {
        let peers = tunnel.status().peers.into_iter();
        peers.map(|peer| (peer.public_key, peer.endpoint, peer.allowed_ips)).collect::<Vec<_>>()
    };
    let before = peers(&tunnels[0]);
    tunnels[0].write_config("[interface]\nlisten_prot = 1\n[[peer]]\npublic_key = \"nonsense\"\n");
    tunnels[0].reload();
    // Both errors, each with its place.
    for place in ["hushwire.toml:2:", "hushwire.toml:4:"] {
        wait_for(&format!("an error at {place}"), seconds(5), || {
            tunnels[0].process().log().contains(place).then_some(())
        });
    }
    assert_eq!(peers(&tunnels[0]), before);
    ping(&lab, 2);
    assert!(handshake_age(&tunnels[0], "machine2") >= age, "there was another handshake");
}

/// The guard of the second one took the address away from the first one, for good.
#[test]
fn a_second_one_that_is_refused_does_not_cut_off_the_first() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    ping(&lab, 2);
    let head = "[interface]\nname = \"office\"\nlisten_port = 51830\n";
    let file = shared_file(head, &identities);
    let mut second = Tunnel::start(lab.machine(1), &identities[0], &file);
    wait_for("the end of the second one", seconds(5), || second.process().ended());
    let log = second.process().log();
    assert!(log.contains("interface office: hush0 has the address 10.99.0.1 already"), "{log}");
    assert!(!lab.machine(1).has_interface("office"));
    ping(&lab, 2);
    lab.machine(2).run("ping", &["-c", "1", "-W", "2", &overlay(1, Family::V4)]);
    assert_eq!(tunnels[0].status().interface.guard.to_string(), "policy rules, nftables");
    let log = tunnels[0].process().log();
    assert!(!log.contains("taken away"), "{log}");
}

#[test]
fn nothing_is_left_after_sigterm() {
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    let routes = || machine.ip("route show table all") + &machine.ip("-6 route show table all");
    let before = routes();
    let mut tunnels =
        Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4, Family::V6]));
    ping(&lab, 2);
    let time = tunnels[0].terminate();
    println!("SIGTERM to exit: {time:.0?}");
    assert!(!machine.has_interface("hush0"));
    let sockets = machine.run("find", &["/run", "-type", "s"]);
    assert_eq!(sockets, "", "a socket file stays");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, after) = (lines(&before), lines(&routes()));
    let left: Vec<_> =
        after.difference(&before).filter(|line| !line.contains("unreachable")).collect();
    assert!(left.is_empty(), "routes stay: {left:?}");
}

#[test]
fn descriptors_are_stable_over_100_reloads() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    ping(&lab, 2);
    let mut changed = identities.clone();
    changed[1].extra = "persistent_keepalive = 20".to_owned();
    let files = [shared_file("", &identities), shared_file("", &changed)];
    let tunnel = &mut tunnels[0];
    let before = tunnel.process().descriptors();
    for round in 0..100 {
        let text = &files[(round + 1) % 2];
        tunnel.write_config(text);
        tunnel.reload();
        std::thread::sleep(millis(10));
    }
    ping(&lab, 2);
    wait_for("as many descriptors as before", seconds(5), || {
        (tunnel.process().descriptors() == before).then_some(())
    });
}

#[test]
fn an_interface_left_over_from_a_crash_is_taken_over() {
    let lab = Lab::new(2);
    // A persistent TUN of the same name with an address of its own that nobody holds open.
    lab.machine(1).ip("tuntap add dev hush0 mode tun");
    lab.machine(1).ip("addr add 10.99.0.99/32 dev hush0");
    let mut tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    ping(&lab, 2);
    assert!(
        !lab.machine(1).ip("addr show dev hush0").contains("10.99.0.99"),
        "an old address stays"
    );
    // A killed daemon leaves its socket file behind.
    tunnels[0].kill();
    tunnels[0].restart();
    tunnels[0].wait_until_attached();
    ping(&lab, 2);
}

#[test]
fn a_second_daemon_of_the_same_name_is_refused_and_the_first_goes_on() {
    let lab = Lab::new(2);
    let tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    ping(&lab, 2);
    let config = tunnels[0].config_path().display().to_string();
    let second = lab.machine(1).attempt(HUSHWIRE, &["up", "--config", &config]);
    let errors = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{errors}");
    assert!(errors.contains("hush0"), "the error does not name the interface: {errors}");
    ping(&lab, 2);
    assert!(tunnels[0].status().interface.attached);
}

#[test]
fn status_and_wait_without_a_daemon_say_so_and_fail() {
    let lab = Lab::new(1);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let file = shared_file("", &identities);
    let mut tunnel = Tunnel::start(lab.machine(1), &identities[0], &file);
    tunnel.wait_until_attached();
    tunnel.terminate();
    for (subcommand, arguments) in [("status", &[][..]), ("wait", &["--timeout", "1"])] {
        let output = tunnel.hushwire(subcommand, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{subcommand}: {errors}");
        assert!(
            errors.contains("hush0"),
            "{subcommand} does not say what is not running: {errors}"
        );
    }
}

/// Two peers, after gossip-like traffic. This is the unoptimised program: its code is larger than that
/// of the shipped one, so that the limit (8 MB as `top` shows it) holds for both.
#[test]
fn resident_memory_stays_under_8_mb_with_two_peers() {
    let lab = Lab::new(3);
    let mut tunnels = Tunnel::start_all(&lab, &Identity::all(3, Family::V4, &[Family::V4]));
    for peer in [2, 3] {
        let address = overlay(peer, Family::V4);
        lab.machine(1).run("ping", &["-f", "-c", "2000", "-s", "1300", "-q", &address]);
    }
    for (number, tunnel) in (1..).zip(&mut tunnels) {
        let resident = tunnel.process().resident();
        println!("machine{number}: {} kB resident", resident / 1024);
        assert!(resident < 8 << 20, "{resident} bytes");
    }
}

fn ping(lab: &Lab, to: usize) {
    let address = overlay(to, Family::V4);
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &address]);
}

fn handshake_age(tunnel: &Tunnel<'_>, peer: &str) -> f64 {
    tunnel.peer(peer).handshake_age_seconds.expect("there was a handshake")
}

//! The overlay interface goes from under a running Alertmanager, while somebody plays the gateway: it answers
//! for the peer's overlay address, and waits there for gossip in clear. Nothing leaves for a peer's overlay
//! address by the machine's other interface, and the tunnel comes back. In the end the routes that stay are
//! taken away by hand, and the gossip does come: so that these tests can fail.
//!
//! ```text
//!      machine1               machine2             switch, the gateway of machine1
//!   10.99.0.1 fd99::1      10.99.0.2 fd99::2       192.0.2.254 2001:db8::fe, and
//!        hush0                  hush0              10.99.0.2:9094 [fd99::2]:9094
//!        eth0 ----------------- eth0 ----------------- br0
//! ```

use std::net::TcpListener;
use std::thread::sleep;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::support::alertmanager::{Alertmanager, members};
use crate::support::capture::{Capture, Captured};
use crate::support::lab::{Family, Lab, overlay, with_port};
use crate::support::tunnel::{HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

/// How the interface goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accident {
    /// Somebody deletes it; hushwire ends, and its supervisor starts it again, which makes it anew.
    Deleted,
    /// The same while hushwire is stopped, so that it stays away.
    DeletedForLong,
    /// Somebody sets it down, which takes its routes away; hushwire ends, and its supervisor starts it again.
    Lowered,
    /// Somebody moves it into another network namespace.
    Moved,
    /// hushwire gets `kill -9`, and no keeper is there.
    Killed,
}

const ACCIDENTS: [Accident; 5] = [
    Accident::Deleted,
    Accident::DeletedForLong,
    Accident::Lowered,
    Accident::Moved,
    Accident::Killed,
];

#[test]
fn no_gossip_leaves_in_clear_when_an_ipv4_overlay_goes() {
    nothing_leaves(Family::V4);
}

#[test]
fn no_gossip_leaves_in_clear_when_an_ipv6_overlay_goes() {
    nothing_leaves(Family::V6);
}

fn nothing_leaves(family: Family) {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[family]);
    let file = shared_file("[gossip]\nresend = \"0s\"", &identities);
    let start = |number| Tunnel::start(lab.machine(number), &identities[number - 1], &file);
    let mut tunnels = [start(1), start(2)];
    tunnels.iter_mut().for_each(Tunnel::wait_until_attached);
    let gateway = play_the_gateway(&lab, family);
    let ours = members(2, family);
    let alertmanagers: Vec<_> = (1..)
        .zip(&tunnels)
        .map(|(number, tunnel)| {
            // Members speak to each other by TCP every second, also to one that is lost.
            let hurry = ["--cluster.pushpull-interval=1s", "--cluster.reconnect-interval=1s"];
            let mut flags = tunnel.alertmanager_flags();
            flags.extend(hurry.map(str::to_owned));
            Alertmanager::start(lab.machine(number), &flags)
        })
        .collect();
    for alertmanager in &alertmanagers {
        alertmanager.wait_until_ready(&ours);
    }

    for accident in ACCIDENTS {
        let capture = Capture::start(lab.machine(1), "eth0");
        happen(accident, &lab, &mut tunnels[0]);
        sleep(seconds(6));
        assert_eq!(bound_for(&capture.stop(), family), 0, "{accident:?}: packets in clear");
        assert!(gateway.accept().is_err(), "{accident:?}: the gateway has a connection");
        let back = Instant::now();
        match accident {
            Accident::Deleted | Accident::Lowered => {}
            Accident::DeletedForLong => {
                tunnels[0].process().signal(Signal::SIGCONT);
                play_the_supervisor(&mut tunnels[0]);
            }
            Accident::Moved => {
                tunnels[0].terminate();
                tunnels[0].restart();
            }
            Accident::Killed => tunnels[0].restart(),
        }
        tunnels[0].wait_until_attached();
        for alertmanager in &alertmanagers {
            alertmanager.wait_for_members(&ours, seconds(60));
        }
        let id = alertmanagers[0].silence("still in private");
        alertmanagers[1].wait_for_silence(&id, seconds(30));
        println!("{family:?}, {accident:?}: all is well {:.1?} after it", back.elapsed());
    }

    happen(Accident::DeletedForLong, &lab, &mut tunnels[0]);
    let (family_flag, to) = way(family);
    lab.machine(1).ip(&format!("{family_flag} route del unreachable {to} metric 4294967294"));
    let what = "gossip in clear, without the routes that stay";
    let (_, time) = wait_for(what, seconds(60), || gateway.accept().ok());
    println!(
        "{family:?}: without the unreachable route the gateway has a connection after {time:.1?}"
    );
    tunnels[0].process().signal(Signal::SIGCONT);
}

/// An address with its network has room for peers that come by a reload, when nobody has the right to close
/// their prefixes any more.
#[test]
fn a_peer_that_came_by_a_reload_is_not_reached_by_another_way_either() {
    let lab = Lab::new(1);
    let machine = lab.machine(1);
    let identities = Identity::all(3, Family::V4, &[Family::V4]);
    let head = "[interface]\naddress = [\"10.99.0.1/24\"]";
    let file = shared_file(head, &identities[..2]);
    let mut tunnel = Tunnel::start(machine, &identities[0], &file);
    tunnel.wait_until_attached();
    machine.ip("route add default via 192.0.2.254");
    tunnel.write_config(&shared_file(head, &identities));
    let reloaded = tunnel.hushwire("reload", &[]);
    assert_eq!(String::from_utf8_lossy(&reloaded.stdout), "hush0 reloaded: peer machine3 added\n");
    let way = || machine.attempt("ip", &["route", "get", &overlay(3, Family::V4)]);
    assert!(String::from_utf8_lossy(&way().stdout).contains("dev hush0"));
    tunnel.terminate();
    let way = way();
    let said = String::from_utf8_lossy(&way.stderr);
    assert!(!way.status.success() && said.contains("No route to host"), "{way:?}");
}

/// Makes the switch the default gateway of machine1, and has it answer for machine2's overlay address.
fn play_the_gateway(lab: &Lab, family: Family) -> TcpListener {
    let (flag, to) = way(family);
    let gateway = if family == Family::V4 { "192.0.2.254" } else { "2001:db8::fe" };
    let nodad = if family == Family::V4 { "" } else { " nodad" };
    lab.switch.ip(&format!("addr add {to} dev br0{nodad}"));
    lab.machine(1).ip(&format!("{flag} route add default via {gateway}"));
    let listener = lab.switch.listen(&with_port(&overlay(2, family), 9094)).expect("cannot listen");
    listener.set_nonblocking(true).expect("a listener can be asked without waiting");
    listener
}

/// How `ip` names a family, and machine2's overlay address.
fn way(family: Family) -> (&'static str, String) {
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    (flag, overlay(2, family))
}

fn happen(accident: Accident, lab: &Lab, tunnel: &mut Tunnel<'_>) {
    let machine = lab.machine(1);
    match accident {
        Accident::Deleted => {
            machine.ip("link del hush0");
            play_the_supervisor(tunnel);
            let what = "the interface to be made anew";
            let (_, time) =
                wait_for(what, seconds(10), || machine.has_interface("hush0").then_some(()));
            println!("hush0 is there again {time:.1?} after it was deleted");
        }
        Accident::DeletedForLong => {
            tunnel.process().signal(Signal::SIGSTOP);
            machine.ip("link del hush0");
        }
        Accident::Lowered => {
            // Each of its questions has the daemon's waits begin anew.
            let config = tunnel.config_path().display().to_string();
            let wait = ["wait", "--peers", "9", "--timeout", "60", "--config", &config];
            let _asking = machine.start(HUSHWIRE, &wait);
            machine.ip("link set hush0 down");
            machine.ip("link set hush0 up");
            play_the_supervisor(tunnel);
        }
        Accident::Moved => {
            machine.ip(&format!("link set hush0 netns {}", lab.switch.pid()));
        }
        Accident::Killed => tunnel.kill(),
    }
}

/// Starts hushwire again once it has ended, as it does without its interface.
fn play_the_supervisor(tunnel: &mut Tunnel<'_>) {
    let (ended, _) = wait_for("hushwire to end", seconds(5), || tunnel.process().ended());
    assert_eq!(ended.code(), Some(1), "{}", tunnel.process().log());
    tunnel.restart();
}

/// Packets to machine2's overlay address.
fn bound_for(captured: &Captured, family: Family) -> usize {
    let to = overlay(2, family).parse::<std::net::IpAddr>().expect("an address");
    captured.packets.iter().filter(|packet| packet.1 == to).count()
}

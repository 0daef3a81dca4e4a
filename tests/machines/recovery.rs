//! Tunnels are killed, moved, started late and lose their first packets; Alertmanager must not notice.
//!
//! In a cluster of two, memberlist gives a silent member 4 s from suspicion to death. A member declared
//! dead means duplicate notifications, so `alertmanager_cluster_peers_left_total` has to stay 0.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::alertmanager::{Alertmanager, members};
use crate::support::forwarder::{Forwarder, stand_in};
use crate::support::lab::{Family, Lab};
use crate::support::message::Message;
use crate::support::tunnel::{GOSSIP_ONLY, Identity, Tunnel, shared_file};
use crate::support::{millis, seconds};

#[test]
fn a_tunnel_killed_under_gossip_and_restarted_costs_no_member() {
    let lab = Lab::new(2);
    let mut tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    survives(&lab, &mut tunnels, "killed and restarted at once", |tunnels| {
        tunnels[1].kill();
        tunnels[1].restart();
    });
}

#[test]
fn a_tunnel_killed_and_restarted_at_another_address_costs_no_member() {
    let lab = Lab::new(2);
    let mut tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    survives(&lab, &mut tunnels, "killed, moved and restarted", |tunnels| {
        tunnels[1].kill();
        lab.move_to(2, "192.0.2.22");
        tunnels[1].restart();
    });
}

#[test]
fn a_change_of_the_underlay_address_costs_no_member() {
    let lab = Lab::new(2);
    let mut tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    survives(&lab, &mut tunnels, "moved to another address", |_| lab.move_to(2, "192.0.2.22"));
    let endpoint = tunnels[0].peer("machine2").endpoint.map(|address| address.to_string());
    assert_eq!(endpoint.as_deref(), Some("192.0.2.22:51820"));
}

#[test]
fn a_cable_pulled_for_two_seconds_costs_no_member() {
    let lab = Lab::new(2);
    let mut tunnels = Tunnel::start_all(&lab, &Identity::all(2, Family::V4, &[Family::V4]));
    survives(&lab, &mut tunnels, "cable pulled for 2 s", |_| {
        lab.unplug(2);
        std::thread::sleep(seconds(2));
        lab.plug(2);
    });
}

#[test]
fn a_wire_that_delays_repeats_and_reorders_costs_no_member() {
    let lab = Lab::new(2);
    let (forwarder, identities) = over_a_forwarder(&lab);
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    survives(&lab, &mut tunnels, "a wire that delays, repeats and reorders", |_| {
        let mut rules = forwarder.rules();
        rules.delay = millis(30);
        rules.duplicate = true;
        rules.reorder_every = 3;
    });
}

#[test]
fn a_lost_first_handshake_initiation_costs_no_member() {
    survives_a_loss(Message::Initiation);
}

#[test]
fn a_lost_first_handshake_response_costs_no_member() {
    survives_a_loss(Message::Response);
}

fn survives_a_loss(message: Message) {
    let lab = Lab::new(2);
    let (forwarder, identities) = over_a_forwarder(&lab);
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    survives(&lab, &mut tunnels, &format!("killed, first {message} lost"), |tunnels| {
        tunnels[1].kill();
        forwarder.rules().lose_next.push((message, 1));
        tunnels[1].restart();
    });
    let lost = forwarder.ladder().iter().filter(|rung| rung.lost).count();
    assert_eq!(lost, 1, "exactly one {message} was to be lost");
}

/// Two machines, each of which takes a forwarder on the switch for the other.
pub(crate) fn over_a_forwarder(lab: &Lab) -> (Forwarder, Vec<Identity>) {
    let mut identities = Identity::all(2, Family::V4, &[Family::V4]);
    for (number, identity) in (1..).zip(&mut identities) {
        identity.endpoint = Some(stand_in(number));
    }
    let sides = ["192.0.2.1:52001", "192.0.2.2:52002"];
    (Forwarder::start(&lab.switch, sides), identities)
}

/// Two Alertmanagers gossip; both make silences all through the `accident` and 8 s past it, twice
/// what memberlist takes to bury a member. All silences arrive, the last within 5 s, and nobody is
/// lost. memberlist alone would leave what it said in an outage of over a second to the next full
/// exchange, up to 90 s later: `[gossip] resend` is why it is there at once.
#[track_caller]
fn survives<'lab>(
    lab: &'lab Lab,
    tunnels: &mut [Tunnel<'lab>],
    what: &str,
    accident: impl FnOnce(&mut [Tunnel<'lab>]),
) {
    let alertmanagers = Alertmanager::start_all(lab, tunnels);
    let [alpha, beta] = &alertmanagers[..] else { unreachable!() };
    alpha.wait_until_ready(&members(2, Family::V4));
    beta.wait_until_ready(&members(2, Family::V4));

    let stop = AtomicBool::new(false);
    let keep_making = |member: &Alertmanager<'_>| {
        let mut made = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            made.push(member.silence("made on the way"));
            std::thread::sleep(millis(50));
        }
        made
    };
    let (made_by_alpha, made_by_beta) = std::thread::scope(|scope| {
        let by_alpha = scope.spawn(|| keep_making(alpha));
        let by_beta = scope.spawn(|| keep_making(beta));
        std::thread::sleep(millis(500));
        accident(tunnels);
        std::thread::sleep(seconds(8));
        stop.store(true, Ordering::Relaxed);
        (by_alpha.join().expect("alpha gossips"), by_beta.join().expect("beta gossips"))
    });
    let end = Instant::now();
    for (made, member) in [(&made_by_alpha, beta), (&made_by_beta, alpha)] {
        assert!(made.len() > 50, "hardly any gossip");
        for id in made {
            member.wait_for_silence(id, seconds(5));
        }
    }
    println!(
        "{what}: {} silences arrived, the last after another {:.1?}",
        made_by_alpha.len() + made_by_beta.len(),
        end.elapsed()
    );
    alertmanagers.iter().for_each(Alertmanager::assert_calm);
}

#[test]
fn alertmanagers_that_run_before_the_tunnel_join_over_it_in_ipv4() {
    joins_over_a_late_tunnel(Family::V4);
}

#[test]
fn alertmanagers_that_run_before_the_tunnel_join_over_it_in_ipv6() {
    joins_over_a_late_tunnel(Family::V6);
}

/// With `ip_nonlocal_bind` an Alertmanager may listen on an overlay address that is not there yet.
fn joins_over_a_late_tunnel(family: Family) {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[family]);
    let mut alertmanagers = Vec::new();
    let members = members(2, family);
    for number in 1..=2 {
        let machine = lab.machine(number);
        machine.sysctl("net/ipv4/ip_nonlocal_bind", "1");
        machine.sysctl("net/ipv6/ip_nonlocal_bind", "1");
        let flags = [
            format!("--cluster.listen-address={}", members[number - 1]),
            format!("--cluster.peer={}", members[2 - number]),
            // A member that was never met is asked for every 10 s: that wait is Alertmanager's own
            // and would hide the tunnel's.
            "--cluster.reconnect-interval=1s".to_owned(),
        ];
        alertmanagers.push(Alertmanager::start(machine, &flags));
    }
    let alone: Vec<_> = alertmanagers.iter().map(|member| member.cluster().1.len()).collect();
    assert_eq!(alone, [1, 1], "without a tunnel nobody can have met");

    let file = shared_file(GOSSIP_ONLY, &identities);
    let start = Instant::now();
    let mut tunnels: Vec<_> =
        (0..2).map(|n| Tunnel::start(lab.machine(n + 1), &identities[n], &file)).collect();
    let met = |start: Instant| {
        for alertmanager in &alertmanagers {
            alertmanager.wait_for_members(&members, seconds(2));
        }
        start.elapsed()
    };
    println!("{family:?}: late tunnels, members met after {:.0?}", met(start));
    for pause in [0, 2, 10] {
        for (number, tunnel) in (1..).zip(&mut tunnels) {
            tunnel.kill();
            std::thread::sleep(seconds(pause));
            tunnel.restart();
            let time = gossips_both_ways(&alertmanagers);
            met(Instant::now());
            println!("{family:?}: machine{number} back after {pause} s: gossip in {time:.0?}");
        }
    }
}

/// How long it takes until a new silence of each member is on the other.
#[track_caller]
fn gossips_both_ways(alertmanagers: &[Alertmanager<'_>]) -> Duration {
    let [alpha, beta] = alertmanagers else { unreachable!() };
    let start = Instant::now();
    let (from_alpha, from_beta) = (alpha.silence("from alpha"), beta.silence("from beta"));
    beta.wait_for_silence(&from_alpha, seconds(2));
    alpha.wait_for_silence(&from_beta, seconds(2));
    start.elapsed()
}

//! Two Alertmanagers with silences made in the middle of an outage, one on each side, and how soon after
//! the outage the other side has them; beside it the same with `resend = "0s"`, in a lab of its own.
//!
//! The second is counted from the moment the link carries datagrams again, or from the start of the new
//! tunnel's process. With the tunnel of machine2 killed, its keeper holds the interface, and what its
//! Alertmanager says waits there; with `resend = "0s"` there is neither keeper nor interface. After 10 s
//! the members have buried each other, and without us it is their reconnection, every 10 s, that brings it.
//!
//! The cut is in the middle of the way. At its end, with a cable pulled for 3 s, a silence was left to
//! the full exchange in one of two runs. The kernel's own ARP, which drops what waits for it, would
//! explain that; no capture has shown it.

use std::time::{Duration, Instant};

use crate::recovery::over_a_forwarder;
use crate::support::alertmanager::{Alertmanager, members};
use crate::support::lab::{Family, Lab};
use crate::support::tunnel::{Tunnel, shared_file};
use crate::support::{millis, seconds};

/// Seconds without a link, or without the tunnel of machine2.
#[derive(Clone, Copy, Debug)]
enum Accident {
    LinkCut(u64),
    TunnelKilled(u64),
}

const ACCIDENTS: [Accident; 6] = [
    Accident::LinkCut(1),
    Accident::LinkCut(2),
    Accident::LinkCut(3),
    Accident::LinkCut(10),
    Accident::TunnelKilled(2),
    Accident::TunnelKilled(10),
];

/// How long a silence is waited for.
const PATIENCE: Duration = seconds(15);

/// From machine1 to machine2 and back, after the outage; none within [`PATIENCE`].
type Arrivals = [Option<Duration>; 2];

#[test]
fn silences_made_in_an_outage_arrive_within_a_second_of_its_end() {
    let (with, without) = std::thread::scope(|scope| {
        let with = scope.spawn(|| arrivals("30s"));
        let without = scope.spawn(|| arrivals("0s"));
        (with.join().expect("with resend"), without.join().expect("without resend"))
    });
    for ((accident, with), without) in ACCIDENTS.iter().zip(&with).zip(&without) {
        println!("{accident:?}: {}; with resend = \"0s\": {}", told(with), told(without));
    }
    let soon = |time: Option<Duration>| time.is_some_and(|time| time < seconds(1));
    for (accident, [there, back]) in ACCIDENTS.iter().zip(with) {
        assert!(soon(there), "{accident:?}: to the machine that had it: {there:?}");
        assert!(soon(back), "{accident:?}: back: {back:?}");
    }
}

fn told(arrivals: &Arrivals) -> String {
    let time = |time: &Option<Duration>| match time {
        Some(time) => format!("{time:.0?}"),
        None => format!("not within {PATIENCE:?}"),
    };
    let [there, back] = arrivals;
    format!("1 -> 2 {}, 2 -> 1 {}", time(there), time(back))
}

/// All accidents, one after the other.
fn arrivals(resend: &str) -> Vec<Arrivals> {
    let lab = Lab::new(2);
    let (forwarder, identities) = over_a_forwarder(&lab);
    let file = shared_file(&format!("[gossip]\nresend = \"{resend}\""), &identities);
    let mut tunnels: Vec<_> = (1..)
        .zip(&identities)
        .map(|(number, identity)| Tunnel::start(lab.machine(number), identity, &file))
        .collect();
    tunnels.iter_mut().for_each(Tunnel::wait_until_attached);
    let members = members(2, Family::V4);
    let alertmanagers = Alertmanager::start_all(&lab, &tunnels);
    for alertmanager in &alertmanagers {
        alertmanager.wait_until_ready(&members);
    }
    let [alpha, beta] = &alertmanagers[..] else { unreachable!() };
    let mut all = Vec::new();
    for accident in ACCIDENTS {
        for alertmanager in &alertmanagers {
            alertmanager.wait_for_members(&members, seconds(30));
        }
        // The last accident's gossip ends; and this one comes anywhere on the beat of the probes.
        std::thread::sleep(millis(2000 + fastrand::u64(..1000)));
        let half = match accident {
            Accident::LinkCut(length) => {
                forwarder.rules().cut = true;
                millis(500 * length)
            }
            Accident::TunnelKilled(length) => {
                tunnels[1].kill();
                millis(500 * length)
            }
        };
        std::thread::sleep(half);
        let made = [alpha.silence("from machine1"), beta.silence("from machine2")];
        std::thread::sleep(half);
        let end = Instant::now();
        match accident {
            Accident::LinkCut(_) => forwarder.rules().cut = false,
            Accident::TunnelKilled(_) => tunnels[1].restart(),
        }
        let mut times: Arrivals = [None; 2];
        while times.contains(&None) && end.elapsed() < PATIENCE {
            for ((time, id), member) in times.iter_mut().zip(&made).zip([beta, alpha]) {
                if time.is_none() && member.comment(id).is_some() {
                    *time = Some(end.elapsed());
                }
            }
            std::thread::sleep(millis(5));
        }
        all.push(times);
    }
    let [to_beta, to_alpha] =
        [("machine2", 0), ("machine1", 1)].map(|(peer, at)| tunnels[at].peer(peer).gossip_resent);
    println!(
        "resend = {resend:?}: {to_beta} and {to_alpha} datagrams were sent again since the start"
    );
    all
}

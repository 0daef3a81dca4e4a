//! Both ends start and send at the same instant, 200 fresh pairs: crossing handshakes.
//!
//! wireguard-go stalls for 5 to 15 s in most of such starts: each end takes the other's initiation and
//! drops its own. Here the first packet of each end has to be through within a second, every time.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{median_and_worst, seconds, wait_for};

const PORT: u16 = 7000;

#[test]
fn the_first_packet_is_through_within_a_second_of_a_start_on_both_sides() {
    // Two labs side by side: each pair of tunnels mostly waits for the other processes to start.
    let times = std::thread::scope(|scope| {
        let labs: Vec<_> = (0..2).map(|_| scope.spawn(|| rounds(100))).collect();
        labs.into_iter().flat_map(|lab| lab.join().expect("a round failed")).collect::<Vec<_>>()
    });
    let (median, worst) = median_and_worst(times);
    println!(
        "200 fresh pairs: first packets through after {median:.1?} (median), {worst:.1?} (worst)"
    );
    assert!(worst < seconds(1), "{worst:?}");
}

fn rounds(count: u32) -> Vec<Duration> {
    let lab = Lab::new(2);
    // Bound once: a child that another test forks keeps a copy until it executes its program, and the
    // port with it.
    let inboxes = [1, 2].map(|number| {
        lab.machine(number).udp(&format!("0.0.0.0:{PORT}")).expect("the port is free")
    });
    (0..count).map(|round| first_packets(&lab, &inboxes, round)).collect()
}

/// Starts a fresh pair; from each end goes one single packet, as soon as its interface is there.
/// Returns the time from the later of both to the arrival of both.
fn first_packets(lab: &Lab, inboxes: &[UdpSocket; 2], round: u32) -> Duration {
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let file = shared_file("", &identities);
    let mut tunnels: Vec<_> =
        (0..2).map(|n| Tunnel::start(lab.machine(n + 1), &identities[n], &file)).collect();
    let (sent, arrived): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let senders: Vec<_> = (1..=2)
            .map(|number| scope.spawn(move || send_one(lab.machine(number), number, round)))
            .collect();
        let receivers: Vec<_> =
            inboxes.iter().map(|inbox| scope.spawn(move || receive(inbox, round))).collect();
        let sent = senders.into_iter().map(|thread| thread.join().expect("sends")).collect();
        (sent, receivers.into_iter().map(|thread| thread.join().expect("receives")).collect())
    });
    // Asked, not killed: the next pair is to make its interfaces itself.
    for tunnel in &mut tunnels {
        tunnel.terminate();
    }
    let (sent, arrived) = (sent.into_iter().max(), arrived.into_iter().max());
    let (sent, arrived): (Instant, Instant) = (sent.expect("two"), arrived.expect("two"));
    arrived.saturating_duration_since(sent)
}

/// Sends one packet to the other end's overlay address at the first moment at which that is possible.
fn send_one(machine: &Machine, number: usize, round: u32) -> Instant {
    let own = overlay(number, Family::V4);
    let other = format!("{}:{PORT}", overlay(3 - number, Family::V4));
    machine.inside(|| {
        let what = format!("{own} to be there");
        let (socket, _) = wait_for(&what, seconds(5), || UdpSocket::bind((own.as_str(), 0)).ok());
        wait_for("the route", seconds(1), || socket.send_to(&round.to_be_bytes(), &other).ok());
        Instant::now()
    })
}

fn receive(inbox: &UdpSocket, round: u32) -> Instant {
    inbox.set_read_timeout(Some(seconds(10))).expect("a timeout above zero");
    let mut buffer = [0; 16];
    let len = inbox.recv(&mut buffer).expect("the first packet never came");
    assert_eq!(buffer[..len], round.to_be_bytes(), "a packet of another round");
    Instant::now()
}

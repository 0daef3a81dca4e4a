//! wireguard-go and boringtun-cli at the other end: both ways round, with `hushwire up` and with
//! `hushwire NAME`, with and without preshared key, past a rekey, over changes of address, idle but for
//! persistent keepalives.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::time::Instant;

use hushwire::wireguard::PresharedKey;

use crate::support::alertmanager::{Alertmanager, arrival_times, members};
use crate::support::capture::Capture;
use crate::support::lab::{Family, Lab, overlay, underlay, with_port};
use crate::support::machine::Machine;
use crate::support::neighbour::{End, Neighbour, Program, Wishes};
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{median_and_worst, random_bytes, seconds, wait_for};

/// Proves the harness itself: if this fails, hushwire is not to blame.
#[test]
fn two_alertmanagers_gossip_through_wireguard_go_alone() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let start = |own: usize| {
        let (machine, peers) = (lab.machine(own + 1), [&identities[1 - own]]);
        let wishes = Wishes::default();
        Neighbour::start(Program::WireguardGo, machine, &identities[own], &peers, wishes)
    };
    let (_first, _second) = (start(0), start(1));
    ping(lab.machine(1), 2);
    let members = members(2, Family::V4);
    let start = |own: usize| {
        let flags = [
            format!("--cluster.listen-address={}", members[own]),
            format!("--cluster.peer={}", members[1 - own]),
        ];
        Alertmanager::start(lab.machine(own + 1), &flags)
    };
    let (alpha, beta) = (start(0), start(1));
    alpha.wait_until_ready(&members);
    beta.wait_until_ready(&members);
    let (median, worst) = median_and_worst(arrival_times(&alpha, &[&beta], 20));
    println!("wireguard-go alone: 20 silences arrive, median {median:.0?}, worst {worst:.0?}");
    alpha.assert_calm();
    beta.assert_calm();
}

#[test]
fn hushwire_initiates_to_wireguard_go() {
    pings_and_transfers(Program::WireguardGo, Initiator::Hushwire, false);
}

#[test]
fn hushwire_initiates_to_wireguard_go_with_a_preshared_key() {
    pings_and_transfers(Program::WireguardGo, Initiator::Hushwire, true);
}

#[test]
fn hushwire_responds_to_wireguard_go() {
    pings_and_transfers(Program::WireguardGo, Initiator::Neighbour, false);
}

#[test]
fn hushwire_responds_to_wireguard_go_with_a_preshared_key() {
    pings_and_transfers(Program::WireguardGo, Initiator::Neighbour, true);
}

#[test]
fn hushwire_initiates_to_boringtun() {
    pings_and_transfers(Program::Boringtun, Initiator::Hushwire, false);
}

#[test]
fn hushwire_responds_to_boringtun() {
    pings_and_transfers(Program::Boringtun, Initiator::Neighbour, false);
}

#[test]
fn a_rekey_that_hushwire_initiates_to_wireguard_go_loses_no_packet() {
    passes_a_rekey(Program::WireguardGo, Initiator::Hushwire);
}

#[test]
fn a_rekey_that_wireguard_go_initiates_loses_no_packet() {
    passes_a_rekey(Program::WireguardGo, Initiator::Neighbour);
}

#[test]
fn a_rekey_that_hushwire_initiates_to_boringtun_loses_no_packet() {
    passes_a_rekey(Program::Boringtun, Initiator::Hushwire);
}

#[test]
fn a_rekey_that_boringtun_initiates_loses_no_packet() {
    passes_a_rekey(Program::Boringtun, Initiator::Neighbour);
}

#[test]
fn sessions_with_wireguard_go_start_roam_and_keep() {
    starts_roams_and_keeps(Program::WireguardGo);
}

#[test]
fn sessions_with_boringtun_start_roam_and_keep() {
    starts_roams_and_keeps(Program::Boringtun);
}

/// Who knows the other's endpoint, and so has to speak first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Initiator {
    Hushwire,
    Neighbour,
}

/// hushwire as an operator starts it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// `hushwire up`
    Up,
    /// `hushwire NAME`
    Bare,
}

/// hushwire on machine1 and the neighbour on machine2, each the other's only peer.
struct Pair<'lab> {
    ours: End<'lab>,
    theirs: End<'lab>,
    _running: (Result<Tunnel<'lab>, Neighbour<'lab>>, Neighbour<'lab>),
}

/// What one run differs from another by.
#[derive(Clone, Copy, Debug)]
struct Case {
    program: Program,
    form: Form,
    initiator: Initiator,
    preshared: bool,
    /// Seconds between persistent keepalives of hushwire and of the neighbour.
    keepalive: (u16, u16),
}

impl<'lab> Pair<'lab> {
    fn start(lab: &'lab Lab, case: Case) -> Self {
        let [own, other] = [1, 2].map(|n| Identity::new(n, Family::V4, &[Family::V4, Family::V6]));
        let (mut own_as_seen, mut other_as_seen) = (own.clone(), other.clone());
        match case.initiator {
            Initiator::Hushwire => own_as_seen.endpoint = None,
            Initiator::Neighbour => other_as_seen.endpoint = None,
        }
        let key = case.preshared.then(preshared_key);
        let (ours, theirs) = case.keepalive;
        let wishes =
            |persistent_keepalive| Wishes { preshared_key: key.as_deref(), persistent_keepalive };
        let (first, second) = (lab.machine(1), lab.machine(2));
        // The one that is spoken to first, or its peer's first word is lost and said again after a while.
        let neighbour =
            Neighbour::start(case.program, second, &other, &[&own_as_seen], wishes(theirs));
        let (ours, hushwire) = match case.form {
            Form::Up => {
                let _ = writeln!(other_as_seen.extra, "persistent_keepalive = {ours}");
                if case.preshared {
                    other_as_seen.extra += "preshared_key_file = \"machine2.psk\"";
                }
                let file = shared_file("", &[own.clone(), other_as_seen]);
                let secrets: Vec<_> =
                    key.iter().map(|key| ("machine2.psk", key.as_str())).collect();
                let mut tunnel = Tunnel::start_with(first, &own, &file, &secrets);
                tunnel.wait_until_attached();
                (End { machine: first, interface: "hush0" }, Ok(tunnel))
            }
            Form::Bare => {
                let peers = [&other_as_seen];
                let bare = Neighbour::start(Program::Bare, first, &own, &peers, wishes(ours));
                (bare.end, Err(bare))
            }
        };
        Self { ours, theirs: neighbour.end, _running: (hushwire, neighbour) }
    }

    /// The end that speaks first, and the number of the machine that it speaks to.
    fn speaker(&self, initiator: Initiator) -> (End<'lab>, usize) {
        match initiator {
            Initiator::Hushwire => (self.ours, 2),
            Initiator::Neighbour => (self.theirs, 1),
        }
    }
}

fn preshared_key() -> String {
    PresharedKey::from_bytes(random_bytes()).to_base64().to_string()
}

fn pings_and_transfers(program: Program, initiator: Initiator, preshared: bool) {
    let lab = Lab::new(2);
    let case = Case { program, form: Form::Up, initiator, preshared, keepalive: (0, 0) };
    let pair = Pair::start(&lab, case);
    let (speaker, to) = pair.speaker(initiator);
    ping(speaker.machine, to);
    assert!(pair.ours.latest_handshake() > 0);
    let (first, second) = (lab.machine(1), lab.machine(2));
    ping(first, 2);
    ping(second, 1);
    for (family, megabytes) in [(Family::V4, 100), (Family::V6, 10)] {
        transfer(first, second, &overlay(2, family), megabytes);
        transfer(second, first, &overlay(1, family), megabytes);
    }
}

/// The rows of the matrix that need no bulk and no two minutes, four at a time.
fn starts_roams_and_keeps(program: Program) {
    let mut rows = Vec::new();
    for form in [Form::Up, Form::Bare] {
        for initiator in [Initiator::Hushwire, Initiator::Neighbour] {
            let case = Case { program, form, initiator, preshared: true, keepalive: (0, 0) };
            rows.push(case);
            rows.push(Case { preshared: false, ..case });
            let keepalive = if initiator == Initiator::Hushwire { (1, 0) } else { (0, 1) };
            rows.push(Case { keepalive, ..case });
        }
    }
    let rows = &rows;
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                for case in rows.iter().skip(worker).step_by(4) {
                    let lab = Lab::new(2);
                    let pair = Pair::start(&lab, *case);
                    match case.keepalive {
                        (0, 0) => starts_and_roams(&lab, &pair, *case),
                        _ => keeps(&pair, *case),
                    }
                }
            });
        }
    });
}

/// The neighbour moves and speaks, then hushwire does; each time the other follows.
fn starts_and_roams(lab: &Lab, pair: &Pair<'_>, case: Case) {
    let (first, second) = (lab.machine(1), lab.machine(2));
    let (speaker, to) = pair.speaker(case.initiator);
    ping(speaker.machine, to);
    ping(second, 1);
    let handshake = pair.ours.latest_handshake();
    assert!(handshake > 0, "{case:?}");

    lab.move_to(2, "192.0.2.22");
    // wireguard-go sends from the address it was last spoken to at, gone or not, until it binds anew.
    second.run("wg", &["set", "wg0", "listen-port", "51999"]);
    ping(second, 1);
    assert_eq!(pair.ours.endpoint(), "192.0.2.22:51999", "{case:?}");
    ping(first, 2);
    lab.move_to(1, "192.0.2.11");
    ping(first, 2);
    assert_eq!(pair.theirs.endpoint(), "192.0.2.11:51820", "{case:?}");
    ping(second, 1);
    assert_eq!(pair.ours.latest_handshake(), handshake, "{case:?}: the session was to live on");
}

/// Nobody has anything to say. A persistent keepalive makes the session, and goes on.
fn keeps(pair: &Pair<'_>, case: Case) {
    let what = format!("a session without traffic: {case:?}");
    let made = || (pair.ours.latest_handshake() > 0).then_some(());
    // wireguard-go's first word may come before hushwire is there: the next one is 5 s later.
    let (_, took) = wait_for(&what, seconds(10), made);
    // boringtun-cli does not count the keepalives that it hears.
    let bytes = || match (case.initiator, case.program) {
        (Initiator::Neighbour, _) => pair.ours.received(),
        (Initiator::Hushwire, Program::Boringtun) => pair.ours.sent(),
        (Initiator::Hushwire, _) => pair.theirs.received(),
    };
    let before = bytes();
    let what = format!("three keepalives of 32 bytes: {case:?}");
    wait_for(&what, seconds(5), || (bytes() >= before + 3 * 32).then_some(()));
    println!("{case:?}: session after {took:.0?}, and it is kept");
}

fn ping(from: &Machine, to: usize) {
    for family in [Family::V4, Family::V6] {
        let address = overlay(to, family);
        // A test without IPv6 inside has no such route.
        if from.attempt("ip", &["route", "get", &address]).status.success() {
            from.run("ping", &["-c", "3", "-i", "0.1", "-W", "10", &address]);
        }
    }
}

/// Sends by TCP and compares every byte.
fn transfer(from: &Machine, to: &Machine, address: &str, megabytes: usize) {
    let block: [u8; 50_000] = random_bytes();
    let blocks = 20 * megabytes;
    let listener = to.listen(&with_port(address, 7001)).expect("cannot listen");
    let server = listener.local_addr().expect("it is bound");
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("nobody called");
            stream.set_read_timeout(Some(seconds(20))).expect("a timeout above zero");
            let mut received = vec![0; block.len()];
            for number in 0..blocks {
                stream.read_exact(&mut received).expect("the stream broke");
                assert!(received == block, "block {number} was changed on its way");
            }
            assert_eq!(stream.read(&mut received).expect("the stream broke"), 0);
        });
        let mut stream = from.connect(server, seconds(5)).expect("cannot connect");
        stream.set_write_timeout(Some(seconds(20))).expect("a timeout above zero");
        for _ in 0..blocks {
            stream.write_all(&block).expect("the stream broke");
        }
        drop(stream);
        receiver.join().expect("the receiver failed");
    });
    let rate = 8.0 * megabytes as f64 / start.elapsed().as_secs_f64();
    println!("{} to {address}: {rate:.0} Mbit/s", from.name);
}

/// Sessions are renewed after 120 s (REKEY_AFTER_TIME). Five packets a second for 135 s: all arrive,
/// and the handshake afterwards is another one.
fn passes_a_rekey(program: Program, initiator: Initiator) {
    let lab = Lab::new(2);
    let case = Case { program, form: Form::Up, initiator, preshared: false, keepalive: (0, 0) };
    let pair = Pair::start(&lab, case);
    let (speaker, to) = pair.speaker(initiator);
    ping(speaker.machine, to);
    let before = pair.ours.latest_handshake();
    let wire = Capture::start(lab.machine(1), "eth0");
    let address = overlay(to, Family::V4);
    let mut pings = speaker.machine.start("ping", &["-c", "675", "-i", "0.2", "-q", &address]);
    let (status, _) = wait_for("675 pings", seconds(150), || pings.ended());
    let log = pings.log();
    assert!(status.success() && log.contains(" 0% packet loss"), "{log}");
    let after = pair.ours.latest_handshake();
    assert!((115..=130).contains(&(after - before)), "handshakes at {before} and {after}");
    let initiations: Vec<_> =
        wire.stop().datagrams.into_iter().filter(|d| d.payload[0] == 1).collect();
    let initiator = underlay(3 - to, Family::V4);
    assert!(
        initiations.iter().all(|datagram| datagram.source.to_string() == initiator),
        "the wrong side renewed the session"
    );
}

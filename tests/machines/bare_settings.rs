//! What `wg` sets and shows of a bare device, beside wireguard-go's answers to the same commands, and what a
//! change of one peer does to the others: nothing.

use std::collections::BTreeMap;

use hushwire::wireguard::PrivateKey;

use crate::bare::{Device, secret, wg_set};
use crate::support::lab::{Family, Lab};
use crate::support::machine::Machine;
use crate::support::tunnel::{Identity, Tunnel};
use crate::support::{random_bytes, seconds, wait_for};

fn key() -> PrivateKey {
    PrivateKey::from_random(random_bytes())
}

/// Sorts the blocks of peers: wireguard-go shows them in any order.
fn blocks(text: &str) -> Vec<String> {
    let text = text.replace("\n\n[Peer]", "\n[Peer]");
    let mut blocks: Vec<String> = text.split("\n[Peer]").map(|b| b.trim().to_owned()).collect();
    blocks[1..].sort();
    blocks
}

fn sorted_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn sorted_sections(text: &str) -> Vec<String> {
    let mut sections: Vec<_> = text.split("\n\n").map(|s| s.trim().to_owned()).collect();
    sections.sort();
    sections
}

#[test]
fn every_setting_is_shown_as_wireguard_go_shows_it() {
    let (ours, theirs) = (Machine::new("ours"), Machine::new("theirs"));
    let _device = Device::start(&ours);
    let _neighbour = theirs.start("wireguard-go", &["-f", "wg0"]);
    wait_for("wireguard-go", seconds(5), || {
        theirs.attempt("wg", &["show", "wg0"]).status.success().then_some(())
    });
    for machine in [&ours, &theirs] {
        machine.ip("link set wg0 up");
    }
    let own = secret(&key());
    let (a, b, c) = (key().public_key(), key().public_key(), key().public_key());
    let psk = secret(&key());
    let steps = [
        format!("private-key {own} listen-port 51820"),
        format!("peer {a} allowed-ips fd00::/64,10.1.2.3/8,10.0.0.0/16"),
        format!("peer {b} endpoint 127.0.0.1:4000 persistent-keepalive 25"),
        format!(
            "peer {c} endpoint [::1]:4001 allowed-ips 0.0.0.0/0,::/0 peer {b} allowed-ips ::1/128"
        ),
        "fwmark 0x1234".into(),
        "listen-port 51821".into(),
        format!("peer {a} preshared-key {psk}"),
        // An allowed IP moves to another peer; one that is given again becomes the last.
        format!("peer {b} allowed-ips 10.0.0.0/16,::1/128"),
        format!("peer {a} allowed-ips 10.1.0.0/16,10.0.0.0/8,fd00::/64"),
        format!("peer {a} preshared-key /dev/null persistent-keepalive off"),
        format!("peer {b} endpoint [2001:db8::7]:9 persistent-keepalive 65535"),
        "fwmark off".into(),
        format!("peer {c} remove peer {c} remove"),
        format!("private-key {}", secret(&key())),
        format!("private-key {own}"),
        "private-key /dev/null".into(),
        "listen-port 51822".into(),
    ];
    for step in &steps {
        for machine in [&ours, &theirs] {
            wg_set(machine, &[step]);
        }
        let both = |arguments: &[&str]| (ours.run("wg", arguments), theirs.run("wg", arguments));
        let (our, their) = both(&["showconf", "wg0"]);
        assert_eq!(blocks(&our), blocks(&their), "showconf after: {step}");
        let traffic = |text: &str| {
            // Only what they sent: wireguard-go says hello to peers that nobody can hear.
            let lines = sorted_lines(text).into_iter().map(|line| {
                let mut words: Vec<_> = line.split('\t').map(str::to_owned).collect();
                if words.len() == 9 {
                    words[7] = "sent".into();
                }
                words.join("\t")
            });
            lines.collect::<Vec<_>>()
        };
        let (our, their) = both(&["show", "all", "dump"]);
        assert_eq!(traffic(&our), traffic(&their), "dump after: {step}");
        let shown = |text: String| {
            let lines = text.lines().filter(|line| !line.starts_with("  transfer:"));
            sorted_sections(&lines.collect::<Vec<_>>().join("\n"))
        };
        let (our, their) = both(&["show"]);
        assert_eq!(shown(our), shown(their), "show after: {step}");
    }
    // The same mistakes have the same answers.
    for step in ["listen-port 99999", "fwmark x", "peer abc", &format!("peer {a} endpoint nowhere")]
    {
        let attempt = |machine: &Machine| {
            let output = machine.attempt("bash", &["-c", &format!("wg set wg0 {step}")]);
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!(attempt(&ours), attempt(&theirs), "{step}");
    }
    // What one of them writes the other reads, and then nothing is left to be done.
    let config = theirs.run("wg", &["showconf", "wg0"]);
    let sync = |machine: &Machine| {
        let script = format!("wg syncconf wg0 <(cat <<'END'\n{config}\nEND\n)");
        machine.run("bash", &["-c", &script]);
        blocks(&machine.run("wg", &["showconf", "wg0"]))
    };
    assert_eq!(sync(&ours), sync(&theirs));
}

#[test]
fn a_port_that_is_taken_is_told_whether_the_interface_is_up_or_down() {
    let machine = Machine::new("machine");
    let _device = Device::start(&machine);
    let _taken = machine.udp("0.0.0.0:4242").expect("cannot bind");
    for state in ["down", "up"] {
        machine.ip(&format!("link set wg0 {state}"));
        let output = machine.attempt("wg", &["set", "wg0", "listen-port", "4242", "fwmark", "9"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("Address already in use"), "{said}");
        assert_eq!(machine.run("wg", &["show", "wg0", "fwmark"]), "off\n", "all or nothing");
    }
}

/// It had its port and started no handshake by itself, until the interface went down and up.
#[test]
fn a_device_that_went_up_without_its_port_works_with_another() {
    let machine = Machine::new("machine");
    machine.ip("link set lo up");
    let _device = Device::start(&machine);
    let _taken = {
        wg_set(&machine, &[&format!("private-key {} listen-port 4242", secret(&key()))]);
        machine.udp("0.0.0.0:4242").expect("cannot bind")
    };
    let peer = machine.udp("127.0.0.1:0").expect("cannot bind");
    peer.set_read_timeout(Some(seconds(5))).expect("an option of sockets");
    let endpoint = peer.local_addr().expect("it is bound");
    machine.ip("link set wg0 up");
    wg_set(&machine, &[&format!("peer {} endpoint {endpoint}", key().public_key())]);
    wg_set(&machine, &["listen-port 4243"]);
    let mut initiation = [0; 200];
    let (len, from) = peer.recv_from(&mut initiation).expect("no initiation");
    assert_eq!((len, from), (148, "127.0.0.1:4243".parse().unwrap()));
}

/// The time of the last handshake with each peer.
fn handshakes(machine: &Machine) -> BTreeMap<String, u64> {
    let text = machine.run("wg", &["show", "wg0", "latest-handshakes"]);
    let pair = |line: &str| {
        let (key, time) = line.split_once('\t')?;
        Some((key.to_owned(), time.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

#[test]
fn a_change_of_one_peer_leaves_the_sessions_of_the_others_alone() {
    let lab = Lab::new(3);
    let keys = [key(), key(), key()];
    let public: Vec<_> = keys.iter().map(|key| key.public_key().to_string()).collect();
    let devices: Vec<_> = (1..=3)
        .map(|number| Device::configured(lab.machine(number), number, &keys[number - 1]))
        .collect();
    for (own, device) in devices.iter().enumerate() {
        for other in (0..3).filter(|other| *other != own) {
            let number = other + 1;
            let step = format!(
                "peer {} allowed-ips 10.99.0.{number}/32 endpoint 192.0.2.{number}:51820",
                public[other]
            );
            wg_set(device.machine, &[&step]);
        }
    }
    let first = lab.machine(1);
    let ping = |number: usize| first.run("ping", &["-c1", "-W5", &format!("10.99.0.{number}")]);
    ping(2);
    ping(3);
    let begun = handshakes(first)[&public[2]];
    assert_ne!(begun, 0);
    // A second handshake with the third peer would be seen: it would be in a later second.
    std::thread::sleep(seconds(2));

    let (second, psk) = (&public[1], secret(&key()));
    let steps = [
        format!("peer {second} preshared-key {psk}"),
        format!("peer {second} preshared-key /dev/null"),
        format!("peer {second} endpoint 192.0.2.2:51820"),
        format!("peer {second} persistent-keepalive 1"),
        format!("peer {second} allowed-ips 10.99.0.2/32,10.99.7.0/24"),
        format!("peer {} allowed-ips 10.99.0.3/32,10.99.7.0/24", public[2]),
        format!("peer {second} remove"),
        format!("peer {} allowed-ips 10.1.0.0/16", key().public_key()),
        format!("peer {second} allowed-ips 10.99.0.2/32 endpoint 192.0.2.2:51820"),
        "fwmark 5".into(),
        "fwmark off".into(),
        "listen-port 51999".into(),
        "listen-port 51820".into(),
        "listen-port 0".into(),
    ];
    for step in &steps {
        wg_set(first, &[step]);
        ping(3);
        assert_eq!(handshakes(first)[&public[2]], begun, "after: {step}");
    }
    ping(2);

    // Another private key of ours: the others have to learn it, and the same interface goes on.
    let new = key();
    wg_set(first, &[&format!("private-key {}", secret(&new))]);
    for number in [2, 3] {
        let step =
            format!("peer {} remove peer {} allowed-ips 10.99.0.1/32", public[0], new.public_key());
        wg_set(lab.machine(number), &[&step]);
        // Until a retry is answered, packets go by the session of the former key, which is gone at the
        // other end.
        wait_for("a session under the new key", seconds(10), || {
            let ping = first.attempt("ping", &["-c1", "-W1", &format!("10.99.0.{number}")]);
            ping.status.success().then_some(())
        });
    }
    assert!(handshakes(first)[&public[2]] > begun);
}

/// `wg` always writes the zone of a link-local endpoint as a name, which was looked for in a file that Landlock
/// keeps away: all of a `wg setconf` with one was refused.
#[test]
fn a_link_local_endpoint_is_taken_by_the_name_of_its_interface() {
    let lab = Lab::new(1);
    let machine = lab.machine(1);
    let peer = key().public_key();
    let said = |interface: &str, zone: &str| {
        let script = format!("wg set {interface} peer {peer} endpoint '[fe80::7%{zone}]:51820'");
        let output = machine.attempt("bash", &["-c", &script]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let endpoints = |interface: &str| machine.run("wg", &["show", interface, "endpoints"]);
    let expected = format!("{peer}\t[fe80::7%eth0]:51820\n");

    let _device = Device::start(machine);
    assert_eq!(said("wg0", "eth0"), "");
    assert_eq!(endpoints("wg0"), expected);
    let script = "wg setconf wg0 <(wg showconf wg0; echo PersistentKeepalive = 25)";
    machine.run("bash", &["-c", script]);
    assert_eq!(endpoints("wg0"), expected);

    let identities = Identity::all(1, Family::V4, &[Family::V4]);
    let _tunnels = Tunnel::start_all(&lab, &identities);
    assert_eq!(said("hush0", "eth0"), "");
    assert_eq!(endpoints("hush0"), expected);
}

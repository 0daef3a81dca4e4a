//! Keys of a running hushwire: where they are in its memory, where they never are, and how they are changed
//! under traffic.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use hushwire::wireguard::{PresharedKey, PrivateKey};

use crate::support::lab::{Family, Lab, overlay};
use crate::support::tunnel::{GOSSIP_ONLY, HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{millis, random_bytes, seconds, wait_for};

/// A mapping of a process.
struct Mapping {
    begin: u64,
    end: u64,
    name: String,
    flags: Vec<String>,
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the process runs");
    let mut all: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let flags = flags.split_whitespace().map(str::to_owned).collect();
            all.last_mut().expect("flags of a mapping").flags = flags;
        }
        let Some((begin, end)) = line.split(' ').next().and_then(|range| range.split_once('-'))
        else {
            continue;
        };
        let parse = |text| u64::from_str_radix(text, 16);
        let (Ok(begin), Ok(end)) = (parse(begin), parse(end)) else { continue };
        let name = line.split_whitespace().nth(5).unwrap_or("(anonymous)").to_owned();
        all.push(Mapping { begin, end, name, flags: Vec::new() });
    }
    all
}

/// Where some bytes stand in the memory of a process: name and flags of the mapping, once for each place.
fn places(pid: u32, needle: &[u8]) -> Vec<(String, Vec<String>)> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("we may trace it");
    let mut found = Vec::new();
    for mapping in mappings(pid) {
        let mut bytes = vec![0; (mapping.end - mapping.begin) as usize];
        // The vsyscall page and the like cannot be read.
        if memory.read_exact_at(&mut bytes, mapping.begin).is_err() {
            continue;
        }
        let count = bytes.windows(needle.len()).filter(|window| *window == needle).count();
        found.extend(std::iter::repeat_n((mapping.name, mapping.flags), count));
    }
    found
}

fn with_secret(identities: &[Identity]) -> (String, PresharedKey) {
    let head = format!("[interface]\npreshared_key_file = \"cluster.psk\"\n{GOSSIP_ONLY}");
    (shared_file(&head, identities), PresharedKey::from_bytes(random_bytes()))
}

/// Sessions are made, the configuration is loaded twice, and the device is shown: then no copy of a key is
/// anywhere but in pages that are locked and in no core dump.
#[test]
fn keys_are_in_locked_pages_and_nowhere_else() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let (file, secret) = with_secret(&identities);
    let secrets = [("cluster.psk", secret.to_base64().to_string())];
    let secrets: Vec<_> = secrets.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut tunnels: Vec<_> = (1..)
        .zip(&identities)
        .map(|(number, own)| Tunnel::start_with(lab.machine(number), own, &file, &secrets))
        .collect();
    tunnels.iter_mut().for_each(Tunnel::wait_until_attached);
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
    tunnels[0].reload();
    wait_for("the reload", seconds(5), || {
        tunnels[0].process().log().contains("configuration reloaded").then_some(())
    });
    // By the control socket, with the keys as text.
    assert!(tunnels[0].hushwire("reload", &[]).status.success());
    let shown = tunnels[0].hushwire("status", &[]);
    assert!(shown.status.success());

    let pid = tunnels[0].process().id();
    let private = identities[0].private_key.as_bytes();
    for (what, needle, expected) in [
        ("private key", private.to_vec(), true),
        ("preshared key", secret.as_bytes().to_vec(), true),
        ("private key, base64", identities[0].private_key.to_base64().as_bytes().to_vec(), false),
        ("preshared key, base64", secret.to_base64().as_bytes().to_vec(), false),
        ("private key, hexadecimal", identities[0].private_key.to_hex().as_bytes().to_vec(), false),
    ] {
        let places = places(pid, &needle);
        let outside: Vec<_> =
            places.iter().filter(|(_, flags)| !flags.contains(&"dd".to_owned())).collect();
        let locked = places.iter().filter(|(_, flags)| flags.contains(&"lo".to_owned())).count();
        println!(
            "{what}: {} places, {locked} of them locked, {} outside",
            places.len(),
            outside.len()
        );
        assert!(outside.is_empty(), "{what} is in {outside:?}");
        assert_eq!(!places.is_empty(), expected, "{what}: is the search blind?");
    }
}

/// The log at its most talkative, with errors of all kinds, and what everybody may read of a process.
#[test]
fn keys_are_in_no_log_no_status_no_argument_and_no_environment() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let (file, secret) = with_secret(&identities);
    let text = secret.to_base64().to_string();
    let mut talkative = Tunnel::start_talkative(
        lab.machine(1),
        &identities[0],
        &file,
        &[("cluster.psk", text.as_str())],
    );
    talkative.wait_until_attached();
    let mut other = Tunnel::start_with(
        lab.machine(2),
        &identities[1],
        &file,
        &[("cluster.psk", text.as_str())],
    );
    other.wait_until_attached();
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
    // Something to tell in detail: there is no way to the peer.
    lab.machine(1).ip("addr del 192.0.2.1/24 dev eth0");
    lab.machine(1).attempt("ping", &["-c", "1", "-W", "1", &overlay(2, Family::V4)]);
    lab.machine(1).ip("addr add 192.0.2.1/24 dev eth0");
    // Errors that have a key within reach: it stands in the file, in both its forms, and in its place.
    let key = identities[0].private_key.to_base64().to_string();
    for broken in [
        format!("[interface]\nprivate_key_file = \"{key}\"\n{file}"),
        format!("[interface]\nname = \"{key}\"\n"),
        format!("[[peer]]\npublic_key = \"{key}\"\nallowed_ips = [\"10.99.0.9\"]\n"),
        format!("[filter]\nallow = [\"{key}\", \"tcp/{key}\"]\n"),
        file.replace("cluster.psk", "private.key.bak"),
        format!("PrivateKey = {key}\n"),
    ] {
        let before = talkative.process().log().len();
        talkative.write_config(&broken);
        talkative.reload();
        wait_for("the refusal", seconds(5), || {
            let log = talkative.process().log();
            log[before..].contains("nothing was changed").then_some(())
        });
        for command in ["check", "reload"] {
            let output = talkative.hushwire(command, &[]);
            assert!(!output.status.success());
            let said = [output.stdout, output.stderr].concat();
            assert_free_of_keys(command, &said, &identities[0].private_key, &secret);
        }
    }
    // Refused by the running one, with the keys in its hands.
    talkative.write_config(&file.replace("[interface]", "[interface]\nfwmark = 7"));
    let output = talkative.hushwire("reload", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_free_of_keys("reload", &output.stderr, &identities[0].private_key, &secret);
    talkative.write_config(&file);
    for arguments in
        [&["reload"][..], &["status"], &["status", "--json"], &["alertmanager-flags"], &["check"]]
    {
        let output = talkative.hushwire(arguments[0], &arguments[1..]);
        assert!(output.status.success(), "{arguments:?}");
        let said = [output.stdout, output.stderr].concat();
        assert_free_of_keys(arguments[0], &said, &identities[0].private_key, &secret);
    }
    let pid = talkative.process().id();
    for file in ["cmdline", "environ", "comm", "status"] {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).expect("the process runs");
        assert_free_of_keys(file, &bytes, &identities[0].private_key, &secret);
    }
    let log = talkative.process().log();
    assert!(log.contains("TRACE"), "the log was to be talkative:\n{log}");
    assert_free_of_keys("the log", log.as_bytes(), &identities[0].private_key, &secret);
}

#[track_caller]
fn assert_free_of_keys(what: &str, said: &[u8], private: &PrivateKey, secret: &PresharedKey) {
    let forms = [
        private.as_bytes().to_vec(),
        // A part is too much as well.
        private.to_base64().as_bytes()[..20].to_vec(),
        private.to_hex().as_bytes()[..30].to_vec(),
        secret.as_bytes().to_vec(),
        secret.to_base64().as_bytes()[..20].to_vec(),
        secret.to_hex().as_bytes()[..30].to_vec(),
    ];
    for form in forms {
        let shows = said.windows(form.len()).any(|window| *window == form);
        assert!(!shows, "{what} shows a key:\n{}", String::from_utf8_lossy(said));
    }
}

/// Both machines get new private keys and a new preshared key, one after the other, by reload.
#[test]
fn a_ping_every_10_ms_through_a_rotation_of_all_keys_loses_next_to_nothing() {
    let lab = Lab::new(2);
    let old = Identity::all(2, Family::V4, &[Family::V4]);
    let (file, secret) = with_secret(&old);
    let text = secret.to_base64().to_string();
    let mut tunnels: Vec<_> = (1..)
        .zip(&old)
        .map(|(number, own)| {
            Tunnel::start_with(lab.machine(number), own, &file, &[("cluster.psk", &text)])
        })
        .collect();
    tunnels.iter_mut().for_each(Tunnel::wait_until_attached);
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
    let mut new = old.clone();
    for identity in &mut new {
        identity.private_key = PrivateKey::from_random(random_bytes());
    }
    // What is changed, and what both files say afterwards.
    let steps: [(&str, Vec<Identity>, PresharedKey); 3] = [
        ("machine1's key", vec![new[0].clone(), old[1].clone()], secret.clone()),
        ("machine2's key", new.clone(), secret),
        ("the preshared key", new.clone(), PresharedKey::from_bytes(random_bytes())),
    ];
    for (what, identities, secret) in steps {
        let mut ping = lab
            .machine(1)
            .start("ping", &["-q", "-i", "0.01", "-c", "300", "-W", "2", &overlay(2, Family::V4)]);
        std::thread::sleep(millis(500));
        let (file, _) = with_secret(&identities);
        let start = Instant::now();
        for (tunnel, own) in tunnels.iter().zip(&identities) {
            tunnel.write_secret("private.key", &own.private_key.to_base64());
            tunnel.write_secret("cluster.psk", &secret.to_base64());
            tunnel.write_config(&file);
            tunnel.reload();
            // An operator takes his time between two machines.
            std::thread::sleep(millis(500));
        }
        wait_for("new sessions", seconds(20), || {
            let young = |tunnel: &Tunnel<'_>| {
                let peer = tunnel.status().peers.into_iter().next()?;
                Some(peer.handshake_age_seconds? < start.elapsed().as_secs_f64())
            };
            tunnels.iter().all(|tunnel| young(tunnel) == Some(true)).then_some(())
        });
        let renewed = start.elapsed();
        wait_for("the end of ping", seconds(10), || ping.ended());
        let log = ping.log();
        let received = log.split(", ").find_map(|part| part.strip_suffix(" received"));
        let received: u32 = received.and_then(|count| count.parse().ok()).expect("ping counts");
        println!("{what}: {} of 300 pings lost; new sessions after {renewed:.0?}", 300 - received);
        assert!(300 - received <= 3, "{what}:\n{log}");
    }
    // Nobody uses the old keys any more.
    for (tunnel, (own, peer)) in tunnels.iter().zip([(&new[0], &new[1]), (&new[1], &new[0])]) {
        let status = tunnel.status();
        assert_eq!(status.interface.public_key, own.public_key());
        assert_eq!(status.peers[0].public_key, peer.public_key());
    }
}

/// `genkey --out` and `genpsk --out` make the file with its mode, and never over another one.
#[test]
fn key_files_have_their_mode_before_their_first_byte() {
    let lab = Lab::new(1);
    let machine = lab.machine(1);
    let script = format!(
        "cd /run && umask 0 && for what in genkey genpsk; do strace -f -qq -o $what.trace {HUSHWIRE} \
         $what --out $what.key || exit 1; done; cat *.trace; stat -c '%a %s' *.key"
    );
    let said = machine.run("sh", &["-c", &script]);
    for name in ["genkey.key", "genpsk.key"] {
        let opened = said.lines().find(|line| line.contains("open") && line.contains(name));
        let opened = opened.expect("it opens the file");
        assert!(opened.contains("O_CREAT|O_EXCL") && opened.contains(", 0600)"), "{opened}");
    }
    assert!(!said.contains("chmod("), "{said}");
    assert!(said.ends_with("600 45\n600 45\n"), "{said}");
}

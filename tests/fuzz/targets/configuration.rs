//! Configuration text: any bytes in the file, with key files beside it as `hushwire init` makes them.
//!
//! What must hold: every error has a place inside the text, or names the key that is missing; no error
//! shows a key or a control character; what loads holds what the types promise, loads again to the same,
//! and leads from any other configuration to the device that it makes by itself.
#![no_main]

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use hushwire::config::{Config, Environment, Errors, Host, Mtu, changes, diff, load};
use hushwire::wireguard::{Change, Device};
use hushwire_fuzz::Directory;
use libfuzzer_sys::fuzz_target;

/// The private key of machine1 in the tests of the loader.
const PRIVATE_KEY: &str = "EBEREREREREREREREREREREREREREREREREREREREVE=";
const PRESHARED_KEY: &str = "QEREREREREREREREREREREREREREREREREREREREREQ=";

thread_local! {
    static DIRECTORY: RefCell<Option<Directory>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    DIRECTORY.with_borrow_mut(|directory| {
        let directory = directory.get_or_insert_with(|| {
            let directory = Directory::new("configuration");
            directory.write("private.key", PRIVATE_KEY.as_bytes());
            directory.write("cluster.psk", PRESHARED_KEY.as_bytes());
            directory.write("other.toml", OTHER.as_bytes());
            directory
        });
        check(directory, input);
    });
});

/// Another configuration of the same machine.
const OTHER: &str = r#"
[[peer]]
public_key = "ew1H2TQn+DERYHgcfHM/2J+IlwrvSQ2KoO4ZpMuKGxQ="
allowed_ips = ["10.99.0.9/32"]

[interface]
address = ["10.99.0.1/32"]
"#;

fn check(directory: &Directory, text: &[u8]) {
    let path = directory.write("hushwire.toml", text);
    let environment = Environment::default();
    match load(&path, &environment) {
        Err(errors) => check_errors(&errors, &path, text),
        Ok(config) => {
            check_config(&config);
            assert_eq!(load(&path, &environment).as_ref(), Ok(&config), "it loads again");
            assert_eq!(diff(&config, &config), []);
            let other = load(&directory.path().join("other.toml"), &environment).expect("valid");
            let (made, mut changed) = (device(changes(&config)), device(changes(&other)));
            changed.apply(now(), diff(&other, &config));
            assert_eq!(shown(&changed), shown(&made));
        }
    }
}

fn check_errors(errors: &Errors, path: &Path, text: &[u8]) {
    let shown = errors.to_string();
    let (found, count) = shown.rsplit_once('\n').expect("the last line counts the errors");
    let mut errors = 0;
    let path = format!("{}:", path.display());
    for line in found.lines() {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        match line.strip_prefix(&path) {
            None => assert!(line.starts_with("  "), "{line:?} belongs to no error"),
            Some(rest) => {
                errors += 1;
                check_place(rest, text);
            }
        }
    }
    let plural = if errors == 1 { "" } else { "s" };
    assert_eq!(count, format!("{errors} error{plural}; nothing was changed"));
    for key in [PRIVATE_KEY, PRESHARED_KEY] {
        // What stands in the text itself, and is changed a little, cannot always be known for a key.
        let key = &key[..40];
        let told = String::from_utf8_lossy(text).contains(key);
        assert!(told || !shown.contains(key), "an error shows a key:\n{shown}");
    }
}

/// `LINE:COLUMN: …` with a place in the text or just behind it, or ` KEY: …` for a key that is missing.
fn check_place(rest: &str, text: &[u8]) {
    if let Some(rest) = rest.strip_prefix(' ') {
        let (key, _) = rest.split_once(':').expect("a key");
        assert!(
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{key}"
        );
        return;
    }
    let mut parts = rest.splitn(3, ':');
    let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok()).expect("a number");
    let (line, column) = (number(), number());
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    let found = line.checked_sub(1).and_then(|line| lines.get(line));
    let found = found.unwrap_or_else(|| panic!("line {line} of {}", lines.len()));
    // Bytes that are no UTF-8 count as characters: the place is in front of the first of them.
    let columns = String::from_utf8_lossy(found).chars().count() + 1;
    assert!((1..=columns).contains(&column), "column {column} of {columns} in line {line}");
}

fn check_config(config: &Config) {
    let interface = &config.interface;
    assert!((1..=15).contains(&interface.name.len()));
    assert!(!interface.address.is_empty());
    assert_ne!(interface.listen_port, 0);
    assert_ne!(config.gossip.port, 0);
    assert!(matches!(interface.mtu, Mtu::Auto | Mtu::Fixed(576..=65_455)));
    for (index, peer) in config.peers.iter().enumerate() {
        assert_ne!(peer.public_key, interface.private_key.public_key());
        assert!(!peer.allowed_ips.is_empty());
        assert!(peer.allowed_ips.iter().all(|net| net.trunc() == *net));
        if let Some(endpoint) = &peer.endpoint {
            assert_ne!(endpoint.port, 0);
            assert!(!matches!(&endpoint.host, Host::Name(name) if name.is_empty()));
        }
        for other in &config.peers[..index] {
            assert_ne!(peer.public_key, other.public_key);
            for net in &peer.allowed_ips {
                assert!(!other.allowed_ips.contains(net), "{net} has two owners");
            }
        }
    }
}

fn device(changes: Vec<Change>) -> Device {
    let mut device = Device::new(1);
    device.apply(now(), changes);
    device
}

/// What can be seen of a device, its peers in the order of their keys.
fn shown(device: &Device) -> Vec<String> {
    let snapshot = device.snapshot(now());
    let mut shown: Vec<_> = snapshot
        .peers
        .iter()
        .map(|peer| {
            let psk = peer.preshared_key.as_ref().map(|key| *key.as_bytes());
            let settings = (psk, peer.persistent_keepalive, &peer.allowed_ips);
            format!("{} {:?} {settings:?}", peer.public_key, peer.name)
        })
        .collect();
    shown.sort();
    shown.push(format!("{:?}", snapshot.private_key.map(|key| key.public_key())));
    shown
}

#[expect(clippy::disallowed_methods, reason = "a target is its own loop and owns the clock")]
fn now() -> Instant {
    Instant::now()
}

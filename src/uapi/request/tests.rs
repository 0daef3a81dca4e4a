//! What the parser of requests takes, and what it refuses: tables, then mutated and very long requests.

use super::*;

const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn parse(text: &str) -> Result<Request, Errno> {
    parse_request(text, |name| (name == "eth0").then_some(7))
}

fn set(lines: &str) -> Result<Vec<Change>, Errno> {
    match parse(&format!("set=1\n{lines}\n\n"))? {
        Request::Set(changes) => Ok(changes),
        other => panic!("{other:?}"),
    }
}

/// The one peer change that these lines make after its `public_key`.
fn peer(lines: &str) -> Result<PeerChange, Errno> {
    match set(&format!("public_key={KEY}\n{lines}"))?.as_slice() {
        [Change::Peer(change)] => Ok(change.clone()),
        other => panic!("{other:?}"),
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn the_four_operations_are_known_and_end_with_an_empty_line() {
    assert_eq!(parse("get=1\n\n"), Ok(Request::Get));
    assert_eq!(parse("status=1\n\n"), Ok(Request::Status));
    assert_eq!(parse("set=1\n\n"), Ok(Request::Set(vec![])));
    assert_eq!(parse("reload=1\n\n"), Ok(Request::Reload(Reload::default())));
    for bad in ["", "\n", "get=1\n", "get=2\n\n", "get\n\n", "GET=1\n\n", "show=1\n\n", "=\n\n"] {
        assert_eq!(parse(bad), Err(Errno::Protocol), "{bad:?}");
    }
    assert_eq!(parse("get=1\nset=1\n\n"), Err(Errno::Invalid));
    assert_eq!(parse("status=1\nx=1\n\n"), Err(Errno::Invalid));
}

#[test]
fn a_set_of_every_device_key_keeps_their_order() {
    let upper = KEY.replace("01", "AB");
    let changes = set(&format!(
        "private_key={upper}\nlisten_port=51820\nfwmark=4294967295\nreplace_peers=true"
    ));
    assert_eq!(
        changes.unwrap(),
        [
            Change::PrivateKey(Some(PrivateKey::from_bytes([0xab; KEY_LEN]))),
            Change::ListenPort(51820),
            Change::Fwmark(u32::MAX),
            Change::RemoveAllPeers,
        ]
    );
    assert_eq!(set(&format!("private_key={ZERO}")).unwrap(), [Change::PrivateKey(None)]);
    assert_eq!(set("fwmark=0").unwrap(), [Change::Fwmark(0)]);
}

#[test]
fn a_set_of_every_peer_key_becomes_one_change() {
    let change = peer(&format!(
        "update_only=true\nprotocol_version=1\npreshared_key={KEY}\nendpoint=192.0.2.2:51820\n\
         persistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
         allowed_ip=10.99.0.2/32\nallowed_ip=fd00::2/64\nallowed_ip=-10.0.0.9/8"
    ));
    assert_eq!(
        change.unwrap(),
        PeerChange {
            update_only: true,
            preshared_key: Some(Some(PresharedKey::from_bytes([1; KEY_LEN]))),
            endpoints: Some(vec!["192.0.2.2:51820".parse().unwrap()]),
            persistent_keepalive: Some(25),
            replace_allowed_ips: true,
            allowed_ips: vec![
                AllowedIpChange::Add(net("10.99.0.2/32")),
                AllowedIpChange::Add(net("fd00::/64")),
                AllowedIpChange::Remove(net("10.0.0.0/8")),
            ],
            ..PeerChange::new(PublicKey::from_bytes([1; KEY_LEN]))
        }
    );
    assert_eq!(peer(&format!("preshared_key={ZERO}")).unwrap().preshared_key, Some(None));
    let untouched = peer("protocol_version=1").unwrap();
    assert_eq!(untouched, PeerChange::new(PublicKey::from_bytes([1; KEY_LEN])));
}

#[test]
fn each_public_key_starts_a_section_and_remove_outweighs_the_rest_of_it() {
    let other = KEY.replace("01", "02");
    let changes = set(&format!(
        "public_key={KEY}\nremove=true\nallowed_ip=10.0.0.0/8\npublic_key={other}\n\
         persistent_keepalive_interval=0\npublic_key={KEY}"
    ))
    .unwrap();
    let [Change::RemovePeer(removed), Change::Peer(second), Change::Peer(third)] =
        changes.as_slice()
    else {
        panic!("{changes:?}")
    };
    assert_eq!(removed, &third.public_key);
    assert_eq!(second.public_key.to_hex(), other);
    assert_eq!(second.persistent_keepalive, Some(0));
}

#[test]
fn allowed_ips_before_replace_allowed_ips_are_replaced_too() {
    let lines = "allowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\nallowed_ip=10.1.0.0/16";
    let change = peer(lines).unwrap();
    assert_eq!(change.allowed_ips, [AllowedIpChange::Add(net("10.1.0.0/16"))]);
}

#[test]
fn endpoints_are_addresses_of_both_families_with_a_port() {
    let read = |text: &str| {
        let endpoints = peer(&format!("endpoint={text}"))?.endpoints.unwrap();
        Ok::<_, Errno>(endpoints[0].to_string())
    };
    assert_eq!(read("[2001:db8::2]:51820").unwrap(), "[2001:db8::2]:51820");
    assert_eq!(read("[::ffff:192.0.2.2]:51820").unwrap(), "192.0.2.2:51820");
    assert_eq!(read("[fe80::1%3]:51820").unwrap(), "[fe80::1%3]:51820");
    assert_eq!(read("[fe80::1%eth0]:51820").unwrap(), "[fe80::1%7]:51820");
    for bad in [
        "",
        ":",
        "192.0.2.2",
        "192.0.2.2:",
        "192.0.2.2:0",
        "192.0.2.2:65536",
        "192.0.2.2:+1",
        "2001:db8::2:51820",
        "[2001:db8::2]",
        "[fe80::1%eth9]:51820",
        "[fe80::1%]:51820",
        "[192.0.2.2%eth0]:51820",
        "machine2.example.org:51820",
    ] {
        assert_eq!(read(bad), Err(Errno::Invalid), "{bad:?}");
    }
}

#[test]
fn a_wrong_line_makes_the_whole_request_invalid() {
    let short = &KEY[1..];
    for bad in [
        &format!("private_key={short}"),
        "private_key=",
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port=",
        "listen_port= 1",
        "fwmark=4294967296",
        "fwmark=0x1",
        "replace_peers=false",
        "replace_peers=",
        "no_such_key=1",
        "endpoint=192.0.2.2:51820",
        "preshared_key=",
        "errno=0",
        "set=1",
        &format!("public_key={short}"),
    ] {
        assert_eq!(set(&format!("fwmark=1\n{bad}\nfwmark=2")), Err(Errno::Invalid), "{bad}");
    }
    for bad in [
        "remove=false",
        "remove=1",
        "update_only=",
        "preshared_key=00",
        "protocol_version=2",
        "persistent_keepalive_interval=65536",
        "persistent_keepalive_interval=off",
        "replace_allowed_ips=no",
        "allowed_ip=10.0.0.0",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=/8",
        "allowed_ip=--10.0.0.0/8",
        "allowed_ip=fd00::/129",
        "allowed_ip=10.0.0/8",
        "allowed_ip=",
        "allowed_ip=10.0.0.0/+8",
        "listen_port=1",
        "private_key=00",
        "fwmark=1",
        "last_handshake_time_sec=1",
    ] {
        assert_eq!(peer(bad), Err(Errno::Invalid), "{bad}");
    }
    assert_eq!(set("fwmark=1\nwhat"), Err(Errno::Protocol));
    assert_eq!(parse("set=1\nfwmark=1\n"), Err(Errno::Protocol));
}

#[test]
fn after_a_bad_request_the_next_one_is_read_from_its_start() {
    let mut parser = Parser::new(|_| None);
    assert_eq!(parser.line(b"set=1"), None);
    assert_eq!(parser.line(b"\xff\xfe"), None);
    assert_eq!(parser.line(b"get=1"), None);
    assert!(parser.is_in_request());
    assert_eq!(parser.line(b""), Some(Err(Errno::Protocol)));
    assert!(!parser.is_in_request());
    assert_eq!(parser.line(b"get=1"), None);
    assert_eq!(parser.line(b""), Some(Ok(Request::Get)));
}

#[test]
fn mutated_requests_never_panic_and_always_have_an_answer() {
    let seed_text = format!(
        "set=1\nprivate_key={KEY}\nlisten_port=51820\nfwmark=1\nreplace_peers=true\n\
         public_key={KEY}\nupdate_only=true\npreshared_key={ZERO}\nprotocol_version=1\n\
         endpoint=[fe80::1%eth0]:51820\npersistent_keepalive_interval=25\n\
         replace_allowed_ips=true\nallowed_ip=-fd00::/64\nallowed_ip=10.0.0.0/8\nremove=true\n\n"
    );
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..20_000 {
        let mut bytes = seed_text.clone().into_bytes();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..=bytes.len());
            match random.u8(..4) {
                0 if at < bytes.len() => bytes[at] = random.u8(..),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\n=-/:%[]0f"[random.usize(..10)]),
                _ => bytes.truncate(at),
            }
        }
        let mut parser = Parser::new(|_| Some(1));
        let answer = bytes.split(|&byte| byte == b'\n').find_map(|line| parser.line(line));
        // Cut short, the request waits for more; the empty line always settles it.
        if answer.is_none() {
            assert!(parser.line(b"").is_some());
        }
    }
}

#[test]
fn a_peer_with_130_560_allowed_ips_is_parsed_in_linear_time() {
    use std::fmt::Write;
    let mut text = format!("set=1\npublic_key={KEY}\n");
    for n in 0..65_280_u32 {
        writeln!(text, "allowed_ip=10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255).unwrap();
        writeln!(text, "allowed_ip=fd00::{n:x}/128").unwrap();
    }
    text.push('\n');
    let Ok(Request::Set(changes)) = parse(&text) else { panic!("refused") };
    let [Change::Peer(change)] = changes.as_slice() else { panic!("one peer") };
    assert_eq!(change.allowed_ips.len(), 130_560);
}

#[test]
fn errno_lines_carry_the_numbers_that_wg_expects() {
    let all = [Errno::Invalid, Errno::Protocol, Errno::PortInUse, Errno::NotPermitted, Errno::Io];
    assert_eq!(all.map(Errno::code), [-22, -71, -98, -1, -5]);
}

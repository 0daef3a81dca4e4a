//! A reply of the control socket, from data to text: pure.
//!
//! Keys stand in the order of wireguard-go, so that outputs can be compared line by line. The text of a
//! `get` holds secrets: its memory is reserved ahead, so that growing it leaves no copy behind, and it
//! is wiped when dropped. Called by the daemon, which has the snapshot.

use std::fmt::Write;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::reload::ReloadOutcome;
use super::request::Errno;
use crate::status::Status;
use crate::wireguard::{KEY_LEN, PeerSnapshot, PresharedKey, Snapshot};

/// What the daemon answers to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The changes of a `set` are applied.
    Done,
    /// The lines of a `get`, made by [`render_get`].
    Get(Zeroizing<String>),
    /// What `hushwire status` prints.
    Status(Box<Status>),
    /// How a reload ended.
    Reload(ReloadOutcome),
    /// Nothing was changed, and why.
    Refused(Errno),
}

impl Reply {
    /// The body, the errno line and the empty line, to be sent one after the other.
    pub(super) fn into_text(self) -> (Zeroizing<String>, String) {
        let nothing = || Zeroizing::new(String::new());
        let (body, code) = match self {
            Reply::Done => (nothing(), 0),
            Reply::Get(text) => (text, 0),
            Reply::Status(status) => json_line("status", &status, 0),
            Reply::Reload(outcome) => {
                let code = match &outcome {
                    ReloadOutcome::Done { .. } => 0,
                    ReloadOutcome::Refused(_) => Errno::Invalid.code(),
                };
                json_line("reload", &outcome, code)
            }
            Reply::Refused(errno) => (nothing(), errno.code()),
        };
        (body, format!("errno={code}\n\n"))
    }
}

fn json_line(key: &str, value: &impl serde::Serialize, code: i32) -> (Zeroizing<String>, i32) {
    match serde_json::to_string(value) {
        Ok(json) => (Zeroizing::new(format!("{key}={json}\n")), code),
        Err(_) => (Zeroizing::new(String::new()), Errno::Io.code()),
    }
}

/// Renders the answer to `get=1`, without its errno line. `wall` turns the time of a handshake into
/// that of the clock on the wall.
pub fn render_get(
    snapshot: &Snapshot,
    listen_port: u16,
    fwmark: u32,
    wall: &dyn Fn(Instant) -> SystemTime,
) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(room_for(snapshot)));
    // Writing into a String cannot fail.
    let _ = write_device(&mut text, snapshot, listen_port, fwmark, wall);
    text
}

/// Never less than the length of the text, in bytes. A peer's fixed lines have 403 bytes at most, with
/// every number at its longest; an allowed IP's line has 55.
fn room_for(snapshot: &Snapshot) -> usize {
    let prefixes: usize = snapshot.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    128 + snapshot.peers.len() * 512 + prefixes * 56
}

fn write_device(
    text: &mut String,
    snapshot: &Snapshot,
    listen_port: u16,
    fwmark: u32,
    wall: &dyn Fn(Instant) -> SystemTime,
) -> std::fmt::Result {
    if let Some(key) = &snapshot.private_key {
        writeln!(text, "private_key={}", *key.to_hex())?;
    }
    if listen_port != 0 {
        writeln!(text, "listen_port={listen_port}")?;
    }
    if fwmark != 0 {
        writeln!(text, "fwmark={fwmark}")?;
    }
    snapshot.peers.iter().try_for_each(|peer| write_peer(text, peer, wall))
}

fn write_peer(
    text: &mut String,
    peer: &PeerSnapshot,
    wall: &dyn Fn(Instant) -> SystemTime,
) -> std::fmt::Result {
    writeln!(text, "public_key={}", peer.public_key.to_hex())?;
    // wireguard-go prints the line for a peer without one too; `wg` reads all zeros as none.
    let none = PresharedKey::from_bytes([0; KEY_LEN]);
    writeln!(text, "preshared_key={}", *peer.preshared_key.as_ref().unwrap_or(&none).to_hex())?;
    writeln!(text, "protocol_version=1")?;
    if let Some(endpoint) = peer.endpoint {
        writeln!(text, "endpoint={endpoint}")?;
    }
    let handshake = peer
        .last_handshake
        .and_then(|at| wall(at).duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    writeln!(text, "last_handshake_time_sec={}", handshake.as_secs())?;
    writeln!(text, "last_handshake_time_nsec={}", handshake.subsec_nanos())?;
    writeln!(text, "tx_bytes={}", peer.tx_bytes)?;
    writeln!(text, "rx_bytes={}", peer.rx_bytes)?;
    writeln!(text, "persistent_keepalive_interval={}", peer.persistent_keepalive)?;
    peer.allowed_ips.iter().try_for_each(|prefix| writeln!(text, "allowed_ip={prefix}"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wireguard::{Drops, PrivateKey, PublicKey, SessionState};

    pub(in super::super) fn peer(byte: u8) -> PeerSnapshot {
        PeerSnapshot {
            public_key: PublicKey::from_bytes([byte; KEY_LEN]),
            name: None,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: 0,
            allowed_ips: vec![],
            allow: None,
            session: SessionState::Idle,
            last_handshake: None,
            last_heard: None,
            unanswered_initiations: 0,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_packets: 0,
            tx_packets: 0,
            gossip_resent: 0,
            drops: Drops::default(),
        }
    }

    pub(in super::super) fn snapshot(peers: Vec<PeerSnapshot>) -> Snapshot {
        let private_key = Some(PrivateKey::from_bytes([0xab; KEY_LEN]));
        Snapshot { private_key, allow: None, drops: Drops::default(), peers }
    }

    #[allow(clippy::disallowed_methods, reason = "the test needs some instant, any will do")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn get_prints_the_keys_in_the_order_of_wireguard_go() {
        let then = now();
        let wall = |at: Instant| {
            UNIX_EPOCH + Duration::new(1_700_000_000, 5) + at.saturating_duration_since(then)
        };
        let full = PeerSnapshot {
            preshared_key: Some(PresharedKey::from_bytes([0xcd; KEY_LEN])),
            endpoint: Some("[2001:db8::2]:51820".parse().unwrap()),
            persistent_keepalive: 25,
            allowed_ips: vec!["10.99.0.2/32".parse().unwrap(), "fd00::/64".parse().unwrap()],
            last_handshake: Some(then),
            rx_bytes: 7,
            tx_bytes: 9,
            ..peer(1)
        };
        let text = render_get(&snapshot(vec![full, peer(2)]), 51820, 5, &wall);
        let expected = format!(
            "private_key={}\nlisten_port=51820\nfwmark=5\n\
             public_key={}\npreshared_key={}\nprotocol_version=1\nendpoint=[2001:db8::2]:51820\n\
             last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n\
             tx_bytes=9\nrx_bytes=7\npersistent_keepalive_interval=25\n\
             allowed_ip=10.99.0.2/32\nallowed_ip=fd00::/64\n\
             public_key={}\npreshared_key={}\nprotocol_version=1\n\
             last_handshake_time_sec=0\nlast_handshake_time_nsec=0\n\
             tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n",
            "ab".repeat(32),
            "01".repeat(32),
            "cd".repeat(32),
            "02".repeat(32),
            "00".repeat(32),
        );
        assert_eq!(*text, expected);
    }

    #[test]
    fn an_empty_device_prints_nothing() {
        let empty = Snapshot { private_key: None, ..snapshot(vec![]) };
        assert_eq!(*render_get(&empty, 0, 0, &|_| UNIX_EPOCH), "");
    }

    /// A String that grows moves, and leaves its secrets behind in the memory it had.
    #[test]
    fn the_text_of_a_get_never_outgrows_the_memory_reserved_for_it() {
        let longest = PeerSnapshot {
            preshared_key: Some(PresharedKey::from_bytes([0xff; KEY_LEN])),
            endpoint: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535".parse().ok(),
            persistent_keepalive: u16::MAX,
            allowed_ips: vec!["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap(); 100],
            last_handshake: Some(now()),
            rx_bytes: u64::MAX,
            tx_bytes: u64::MAX,
            ..peer(0xff)
        };
        assert!(longest.endpoint.is_some());
        let late = UNIX_EPOCH + Duration::new(i64::MAX as u64, 999_999_999);
        for peers in [vec![], vec![longest.clone()], vec![longest; 50]] {
            let snapshot = snapshot(peers);
            let text = render_get(&snapshot, u16::MAX, u32::MAX, &|_| late);
            assert_eq!(text.capacity(), room_for(&snapshot));
            assert!(text.len() <= room_for(&snapshot));
        }
    }

    #[test]
    fn every_reply_ends_with_an_errno_and_an_empty_line() {
        let text = |reply: Reply| {
            let (body, end) = reply.into_text();
            body.to_string() + &end
        };
        assert_eq!(text(Reply::Done), "errno=0\n\n");
        assert_eq!(text(Reply::Get(Zeroizing::new("fwmark=1\n".into()))), "fwmark=1\nerrno=0\n\n");
        assert_eq!(text(Reply::Refused(Errno::Invalid)), "errno=-22\n\n");
        let refused = ReloadOutcome::Refused("a\nb".to_owned());
        let expected = "reload={\"refused\":\"a\\nb\"}\nerrno=-22\n\n";
        assert_eq!(text(Reply::Reload(refused)), expected);
    }
}

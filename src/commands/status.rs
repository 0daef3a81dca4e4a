//! `hushwire status`: asks the daemon, prints text for people or JSON for scripts.
//!
//! The text fits 80 columns unless a single name is longer. `render` is pure.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use super::{Failure, interface, remark};
use crate::cli;
use crate::status::{PeerStatus, RightsStatus, Status};
use crate::sys::sandbox::Confinement;
use crate::uapi::fetch_status;
use crate::wireguard::SessionState;
use crate::wrap::flow;

/// Column of the values below a title.
const INDENT: usize = 14;
/// Prefixes shown for one peer; more would drown the rest.
const PREFIXES: usize = 8;

pub(super) fn run(arguments: &cli::Status, out: &mut dyn Write) -> Result<(), Failure> {
    let interface = interface(&arguments.running)?;
    let mut text = shown(fetch_status(&interface).map_err(Failure::failed)?, arguments)?;
    if !arguments.watch {
        return Ok(out.write_all(text.as_bytes())?);
    }
    // Clears what is on the screen and goes to its first line (ECMA-48: ED 2, CUP).
    let (before, after) = match (arguments.json, io::stdout().is_terminal()) {
        (true, _) => ("", ""),
        (false, true) => ("\x1b[2J\x1b[H", ""),
        (false, false) => ("", "\n"),
    };
    let mut remarked = String::new();
    loop {
        write!(out, "{before}{text}{after}")?;
        out.flush()?;
        sleep(Duration::from_secs(1));
        // Whoever watches a restart wants to see it come back.
        let missed = match fetch_status(&interface) {
            Ok(status) => {
                text = shown(status, arguments)?;
                remarked.clear();
                continue;
            }
            Err(error) => error.to_string(),
        };
        if !arguments.json {
            text = missed + "\n";
            continue;
        }
        // A script takes each line for a status; who looks after it is told, once.
        text.clear();
        if remarked != missed {
            remark(format_args!("hushwire: {missed}"));
            remarked = missed;
        }
    }
}

fn shown(status: Status, arguments: &cli::Status) -> Result<String, Failure> {
    let json = match (arguments.json, arguments.watch) {
        (false, _) => return Ok(render(&status)),
        (true, false) => serde_json::to_string_pretty(&status),
        (true, true) => serde_json::to_string(&status),
    };
    json.map(|text| text + "\n").map_err(Failure::failed)
}

/// The name of a peer, or its key.
pub(super) fn label(peer: &PeerStatus) -> &str {
    peer.name.as_deref().unwrap_or(&peer.public_key)
}

/// The state of a peer's session, in words.
pub(super) fn session(peer: &PeerStatus) -> String {
    match (peer.session, peer.unanswered_initiations) {
        (SessionState::Established, _) => "session established".to_owned(),
        (SessionState::Handshaking, 0 | 1) => "handshaking".to_owned(),
        (SessionState::Handshaking, count) => {
            format!("handshaking, {count} initiations unanswered")
        }
        (SessionState::Idle, _) => "idle, nothing to send".to_owned(),
    }
}

/// Renders a status for people.
fn render(status: &Status) -> String {
    let interface = &status.interface;
    let mut title = vec![interface.name.clone()];
    title.extend(interface.machine.clone());
    title.extend(interface.address.iter().map(ToString::to_string));
    title.push(format!("mtu {}", interface.mtu));
    title.push(format!("port {}", interface.listen_port));
    title.push(format!("up {}", duration(status.uptime_seconds)));
    let mut text = flow(String::new(), 2, "  ", &title);
    if !interface.attached {
        let words: Vec<_> = interface.detail.split_whitespace().map(str::to_owned).collect();
        text += &row("not up", " ", &words);
    }
    if let Some(netns) = &interface.netns {
        text += &row("namespace", "", std::slice::from_ref(netns));
    }
    let public_key = Some(&interface.public_key).filter(|key| !key.is_empty());
    let public_key = public_key.map_or("none yet; `wg set` gives a key", String::as_str);
    text += &row("public key", "", &[public_key.to_owned()]);
    if let Some(filter) = &interface.filter {
        text += &row("filter", " ", &rules(filter));
    }
    text += &row("guard", "", &[interface.guard]);
    text += &rights(&status.rights);
    text += &drops(&status.drops);
    for peer in &status.peers {
        text.push('\n');
        text += &render_peer(peer);
    }
    text
}

/// What is given up, in a row; what is not in force has a row of its own.
fn rights(rights: &RightsStatus) -> String {
    let Confinement { capabilities, bounding, landlock, .. } = &rights.process;
    let none = |capabilities: &[String]| match capabilities {
        [] => "no capability".to_owned(),
        some => some.join(" "),
    };
    let helper = match &rights.helper {
        Some(helper) if helper.capabilities.is_empty() => "keeper with none".to_owned(),
        Some(helper) => format!("helper with {}", helper.capabilities.join(" ")),
        None => "no helper".to_owned(),
    };
    let mut text = row("rights", ", ", &[none(capabilities), helper]);
    text += &row("landlock", "", &[landlock]);
    if !bounding.is_empty() {
        text += &row("bounding", " ", bounding);
    }
    text
}

fn render_peer(peer: &PeerStatus) -> String {
    let mut title = vec![label(peer).to_owned()];
    title.extend(peer.allowed_ips.iter().take(PREFIXES).map(ToString::to_string));
    if let Some(more @ 1..) = peer.allowed_ips.len().checked_sub(PREFIXES) {
        title.push(format!("and {more} more"));
    }
    title.push(session(peer));
    let mut text = flow(String::new(), 2, "  ", &title);
    if let Some(allow) = &peer.allow {
        text += &row("filter", " ", &rules(allow));
    }
    let endpoint = peer.endpoint.map(|endpoint| endpoint.to_string());
    let configured = peer.configured_endpoint.as_ref();
    let endpoint = match (endpoint, configured) {
        (Some(now), Some(configured)) if now != *configured => vec![now, format!("({configured})")],
        (Some(now), _) => vec![now],
        (None, Some(configured)) => vec![format!("no address yet ({configured})")],
        (None, None) => vec!["unknown until it speaks first".to_owned()],
    };
    text += &row("endpoint", "  ", &endpoint);
    let ago = |seconds: f64| format!("{} ago", duration(seconds));
    let mut handshake = vec![peer.handshake_age_seconds.map_or_else(|| "none yet".to_owned(), ago)];
    handshake.extend(peer.last_heard_seconds.map(|seconds| format!("heard {}", ago(seconds))));
    text += &row("handshake", ", ", &handshake);
    let traffic =
        [format!("{} received", bytes(peer.rx_bytes)), format!("{} sent", bytes(peer.tx_bytes))];
    text += &row("traffic", ", ", &traffic);
    if peer.gossip_resent > 0 {
        let resent = format!("{} gossip datagrams that it may have missed", peer.gossip_resent);
        text += &row("sent again", ", ", &[resent]);
    }
    text + &drops(&peer.drops)
}

/// What may pass: the rules, or that there is none.
fn rules(allow: &[String]) -> Vec<String> {
    if allow.is_empty() { vec!["nothing may pass".to_owned()] } else { allow.to_vec() }
}

/// The reasons that occurred, the most frequent one first; no line if there was none.
fn drops(drops: &BTreeMap<String, u64>) -> String {
    let mut counted: Vec<_> = drops.iter().filter(|(_, count)| **count > 0).collect();
    if counted.is_empty() {
        return String::new();
    }
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let items: Vec<_> = counted.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    row("dropped", ", ", &items)
}

fn row(label: &str, separator: &str, items: &[impl Display]) -> String {
    flow(format!("  {label:<width$}", width = INDENT - 2), INDENT, separator, items)
}

/// The two largest units of a duration; tenths below ten seconds.
fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A number of bytes with a binary unit and one decimal.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        // 1023.95 would print as 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::status::{HelperStatus, InterfaceStatus};
    use crate::sys::guard::Guard;
    use crate::sys::sandbox::Landlock;
    use crate::wireguard::DropReason;

    const KEY: &str = "gDYXBOEU38eQg+73lTqpIVBCMShxac9JTzwXN4xhvG8=";

    fn all_drops(counted: &[(DropReason, u64)]) -> BTreeMap<String, u64> {
        let mut drops: BTreeMap<_, _> =
            DropReason::ALL.iter().map(|reason| (reason.label().to_owned(), 0)).collect();
        drops.extend(counted.iter().map(|(reason, count)| (reason.label().to_owned(), *count)));
        drops
    }

    pub(in super::super) fn status(peers: Vec<PeerStatus>) -> Status {
        Status {
            version: "0.1.0".into(),
            pid: 4242,
            uptime_seconds: 11_525.0,
            interface: InterfaceStatus {
                name: "hush0".into(),
                machine: Some("machine1".into()),
                public_key: KEY.into(),
                address: vec!["10.99.0.1/32".parse().unwrap()],
                listen_port: 51820,
                mtu: 1440,
                filter: None,
                netns: None,
                attached: true,
                detail: String::new(),
                guard: Guard { policy_rules: true, nftables: true },
            },
            rights: RightsStatus {
                process: Confinement {
                    no_new_privileges: true,
                    no_core_dump: true,
                    landlock: Landlock::InForce,
                    seccomp: true,
                    ..Confinement::default()
                },
                helper: Some(HelperStatus { pid: 4243, capabilities: Vec::new() }),
            },
            peers,
            drops: all_drops(&[]),
        }
    }

    pub(in super::super) fn peer(name: &str, session: SessionState) -> PeerStatus {
        PeerStatus {
            name: Some(name.into()),
            public_key: KEY.into(),
            configured_endpoint: None,
            endpoint: None,
            allowed_ips: vec!["10.99.0.2/32".parse().unwrap()],
            allow: None,
            session,
            handshake_age_seconds: None,
            last_heard_seconds: None,
            unanswered_initiations: 0,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_packets: 0,
            tx_packets: 0,
            gossip_resent: 0,
            drops: all_drops(&[]),
        }
    }

    #[test]
    fn peers_sessions_traffic_and_drops_are_shown() {
        let established = PeerStatus {
            configured_endpoint: Some("machine2.example.org:51820".into()),
            endpoint: "192.0.2.2:51820".parse().ok(),
            handshake_age_seconds: Some(12.3),
            last_heard_seconds: Some(0.21),
            rx_bytes: 1_258_291,
            tx_bytes: 3_565_158,
            gossip_resent: 41,
            drops: all_drops(&[(DropReason::DisallowedSource, 1), (DropReason::Replayed, 3)]),
            ..peer("machine2", SessionState::Established)
        };
        let handshaking = PeerStatus {
            configured_endpoint: Some("[2001:db8::3]:51820".into()),
            endpoint: "[2001:db8::3]:51820".parse().ok(),
            allowed_ips: vec!["10.99.0.3/32".parse().unwrap(), "fd00:99::3/128".parse().unwrap()],
            unanswered_initiations: 7,
            tx_bytes: 1036,
            allow: Some(vec!["all".into()]),
            ..peer("machine3", SessionState::Handshaking)
        };
        let idle = PeerStatus { name: None, allow: Some(vec![]), ..peer("", SessionState::Idle) };
        let unresolved = PeerStatus {
            configured_endpoint: Some("machine5.example.org:51820".into()),
            ..peer("machine5", SessionState::Idle)
        };
        let mut status = status(vec![established, handshaking, idle, unresolved]);
        status.interface.filter = Some(vec!["tcp/9094".into(), "icmp".into()]);
        status.drops = all_drops(&[(DropReason::InvalidMac, 12), (DropReason::UnknownPeer, 400)]);
        assert_eq!(
            render(&status),
            "\
hush0  machine1  10.99.0.1/32  mtu 1440  port 51820  up 3 h 12 min
  public key  gDYXBOEU38eQg+73lTqpIVBCMShxac9JTzwXN4xhvG8=
  filter      tcp/9094 icmp
  guard       policy rules, nftables
  rights      no capability, keeper with none
  landlock    in force
  dropped     400 unknown_peer, 12 invalid_mac

machine2  10.99.0.2/32  session established
  endpoint    192.0.2.2:51820  (machine2.example.org:51820)
  handshake   12 s ago, heard 0.2 s ago
  traffic     1.2 MiB received, 3.4 MiB sent
  sent again  41 gossip datagrams that it may have missed
  dropped     3 replayed, 1 disallowed_source

machine3  10.99.0.3/32  fd00:99::3/128  handshaking, 7 initiations unanswered
  filter      all
  endpoint    [2001:db8::3]:51820
  handshake   none yet
  traffic     0 B received, 1.0 KiB sent

gDYXBOEU38eQg+73lTqpIVBCMShxac9JTzwXN4xhvG8=  10.99.0.2/32
  idle, nothing to send
  filter      nothing may pass
  endpoint    unknown until it speaks first
  handshake   none yet
  traffic     0 B received, 0 B sent

machine5  10.99.0.2/32  idle, nothing to send
  endpoint    no address yet (machine5.example.org:51820)
  handshake   none yet
  traffic     0 B received, 0 B sent
"
        );
    }

    #[test]
    fn long_values_are_broken_before_column_80() {
        let prefixes = |count: u8| {
            (1..=count).map(|n| format!("fd00:99:1234:5678::{n:x}/128").parse().unwrap()).collect()
        };
        let name = "a-machine-name-of-63-bytes-which-is-the-longest-that-is-allowed";
        let long = PeerStatus {
            configured_endpoint: Some(format!("{name}.example.org:51820")),
            endpoint: "[2001:db8:1234:5678:9abc:def0:1234:5678]:51820".parse().ok(),
            allowed_ips: prefixes(11),
            drops: all_drops(
                &DropReason::ALL[..5].iter().map(|&r| (r, 1_000_000)).collect::<Vec<_>>(),
            ),
            ..peer(name, SessionState::Established)
        };
        let mut status = status(vec![long]);
        status.interface.machine = Some(name.into());
        status.interface.address = prefixes(2);
        status.interface.netns = Some("docker:alertmanager".into());
        status.interface.attached = false;
        status.interface.detail =
            "the network namespace of the container is gone; it is looked for each second until it \
             is back"
                .into();
        assert_eq!(
            render(&status),
            "\
hush0  a-machine-name-of-63-bytes-which-is-the-longest-that-is-allowed
  fd00:99:1234:5678::1/128  fd00:99:1234:5678::2/128  mtu 1440  port 51820
  up 3 h 12 min
  not up      the network namespace of the container is gone; it is looked for
              each second until it is back
  namespace   docker:alertmanager
  public key  gDYXBOEU38eQg+73lTqpIVBCMShxac9JTzwXN4xhvG8=
  guard       policy rules, nftables
  rights      no capability, keeper with none
  landlock    in force

a-machine-name-of-63-bytes-which-is-the-longest-that-is-allowed
  fd00:99:1234:5678::1/128  fd00:99:1234:5678::2/128  fd00:99:1234:5678::3/128
  fd00:99:1234:5678::4/128  fd00:99:1234:5678::5/128  fd00:99:1234:5678::6/128
  fd00:99:1234:5678::7/128  fd00:99:1234:5678::8/128  and 3 more
  session established
  endpoint    [2001:db8:1234:5678:9abc:def0:1234:5678]:51820
              (a-machine-name-of-63-bytes-which-is-the-longest-that-is-allowed.example.org:51820)
  handshake   none yet
  traffic     0 B received, 0 B sent
  dropped     1000000 malformed_packet, 1000000 no_endpoint, 1000000 no_peer,
              1000000 routing_loop, 1000000 staged_overflow
"
        );
    }

    #[test]
    fn durations_have_the_two_largest_units() {
        let cases = [
            (0.0, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.7, "1 min 0 s"),
            (185.0, "3 min 5 s"),
            (11_525.0, "3 h 12 min"),
            (183_600.0, "2 d 3 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn bytes_have_binary_units() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (3_565_158, "3.4 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}

//! Texts become values: names, prefixes, endpoints, durations and keys, one function each.
//!
//! These are the rules for a single value; rules about two of them stand in `blocks` and `load`. Each
//! error is a [`Complaint`] that names the value. Called by the loader, and by the commands that take
//! the same values as arguments.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::error::{Complaint, may_be_key, shown};
use super::{Host, PeerEndpoint};
use crate::wireguard::{KEY_LEN, PortRange, PublicKey, Rule};

/// `IFNAMSIZ` of linux/if.h less its closing zero, in bytes.
const INTERFACE_NAME_MAX: usize = 15;
/// Longest label of a DNS name, in bytes: RFC 1035, section 2.3.4.
const LABEL_MAX: usize = 63;
/// Longest DNS name without its last dot, in bytes: RFC 1035, section 2.3.4.
const NAME_MAX: usize = 253;
/// Alertmanager repairs by a full exchange every 60 s; a few of those may fail, then keeping more is
/// of no use.
const RESEND_MAX: Duration = Duration::from_secs(600);

/// Reads the name of a network interface.
///
/// The characters are those of wg-quick; Linux takes more (`dev_valid_name` in net/core/dev.c), but a
/// `%` is a template there, and the rest is trouble in shells.
///
/// # Errors
/// A [`Complaint`] when Linux or wg-quick would not take it, or it means something else.
pub fn interface_name(text: &str) -> Result<String, Complaint> {
    // Linux has /proc/sys/net/ipv4/conf/all and .../default beside those of the interfaces.
    if matches!(text, "." | ".." | "all" | "default" | "lo") {
        return Err(Complaint::new(format!("{} is reserved by Linux", shown(text))));
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_=+.-".contains(&b);
    if text.is_empty() || text.len() > INTERFACE_NAME_MAX || !text.bytes().all(good) {
        return Err(Complaint::new(format!("{} is no name for an interface", shown(text)))
            .allowed(format!("1 to {INTERFACE_NAME_MAX} letters, digits and _ = + . -")));
    }
    Ok(text.to_owned())
}

/// Reads the name of a machine, as Alertmanager's `--cluster.peer-name` takes it.
///
/// # Errors
/// A [`Complaint`] when a shell or a log line could take it for something else.
pub fn machine_name(text: &str) -> Result<String, Complaint> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !starts_well || text.len() > LABEL_MAX || !text.bytes().all(good) {
        return Err(Complaint::new(format!("{} is no name for a machine", shown(text))).allowed(
            format!("1 to {LABEL_MAX} letters, digits and _ . -, beginning with a letter or digit"),
        ));
    }
    Ok(text.to_owned())
}

/// Reads an overlay address of this machine: `10.99.0.1`, `10.99.0.1/24`, `fd00::1/64`.
///
/// # Errors
/// A [`Complaint`] when it is no address that one machine can have.
pub fn overlay_address(text: &str) -> Result<IpNet, Complaint> {
    let net = prefix(text)?;
    // RFC 3021 and RFC 6164: a link of two has no network and no broadcast address.
    let has_network_address = net.prefix_len() + 1 < net.max_prefix_len();
    let ends =
        net.addr() == net.network() || (net.addr().is_ipv4() && net.addr() == net.broadcast());
    if has_network_address && ends {
        return Err(Complaint::new(format!("{net} is a network or its broadcast address"))
            .allowed("the address of this machine, such as \"10.99.0.1/32\""));
    }
    Ok(net)
}

/// Reads a prefix of the overlay: `10.99.0.2/32`, `10.99.0.2` (the same), `fd00:99::/64`.
///
/// # Errors
/// A [`Complaint`] when it is no prefix, has host bits set, or is not for one peer to have.
pub fn allowed_ip(text: &str) -> Result<IpNet, Complaint> {
    let net = prefix(text)?;
    if net.prefix_len() == 0 {
        return Err(Complaint::new(format!("{net} would send all traffic into the tunnel"))
            .allowed(
                "prefixes of the overlay: hushwire carries cluster traffic, not a default route",
            )
            .hint("name the overlay address of this machine, such as \"10.99.0.2/32\""));
    }
    if net != net.trunc() {
        let (network, address) = (net.trunc(), IpNet::from(net.addr()));
        return Err(Complaint::new(format!("{net} has bits set behind its prefix length")).hint(
            format!("write \"{network}\" for the network or \"{address}\" for the address"),
        ));
    }
    Ok(net)
}

fn prefix(text: &str) -> Result<IpNet, Complaint> {
    let net = IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from));
    let net = net.map_err(|_| {
        Complaint::new(format!("{} is neither an address nor a prefix", shown(text))).allowed(
            "an address with or without its prefix length, such as \"10.99.0.2/32\", \"fd00::2\"",
        )
    })?;
    let address = net.addr();
    if address.to_canonical() != address {
        return Err(Complaint::new(format!("{net} is an IPv4 address mapped into IPv6"))
            .hint(format!("write \"{}\"", address.to_canonical())));
    }
    let unspecified = address.is_unspecified() && net.prefix_len() == net.max_prefix_len();
    if address.is_loopback() || address.is_multicast() || unspecified || is_broadcast(address) {
        return Err(Complaint::new(format!("{net} belongs to no single machine"))
            .allowed("unicast addresses: no loopback, multicast, broadcast or unspecified ones"));
    }
    Ok(net)
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

impl FromStr for PeerEndpoint {
    type Err = Complaint;

    /// Reads `name:port`, `address:port` or `[IPv6 address]:port`.
    fn from_str(text: &str) -> Result<Self, Complaint> {
        let wrong = |why: &str| {
            Complaint::new(format!("{} {why}", shown(text))).allowed(
                "name:port, address:port or [IPv6 address]:port, such as \"alert1.example.org:51820\"",
            )
        };
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Err(wrong("is an IPv6 address without brackets and port")
                .hint(format!("write \"[{address}]:51820\"")));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let Some((inside, after)) = rest.split_once(']') else {
                    return Err(wrong("has a bracket that is not closed"));
                };
                if inside.contains('%') {
                    return Err(wrong("names a zone")
                        .hint("use a global or unique local address of the machine instead"));
                }
                let Ok(address) = inside.parse::<Ipv6Addr>() else {
                    return Err(wrong("has no IPv6 address in its brackets"));
                };
                (Host::Address(IpAddr::V6(address).to_canonical()), after.strip_prefix(':'))
            }
            None => match text.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return Err(wrong("has more than one colon")
                        .hint("an IPv6 address stands in brackets: \"[2001:db8::1]:51820\""));
                }
                Some((host, port)) => (self::host(host).map_err(&wrong)?, Some(port)),
                None => (host(text).map_err(&wrong)?, None),
            },
        };
        let Some(port) = port else { return Err(wrong("has no port").hint("add :51820")) };
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        match port.parse() {
            Ok(0) => Err(wrong("has port 0").hint("a port is a number from 1 to 65535")),
            Ok(port) if digits => match host {
                Host::Address(address) if !is_reachable(address) => {
                    Err(wrong("is an address that no other machine can send to"))
                }
                host => Ok(Self { host, port }),
            },
            _ => {
                Err(wrong("has a port that is no port").hint("a port is a number from 1 to 65535"))
            }
        }
    }
}

/// Whether a datagram can be sent there without naming an interface.
fn is_reachable(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    !(address.is_unspecified() || address.is_multicast() || is_broadcast(address) || link_local)
}

fn host(text: &str) -> Result<Host, &'static str> {
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    // Underscores are not for host names, but Docker and Compose make such names.
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(good)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.is_empty() {
        return Err("has no name or address before the port");
    }
    if name.len() > NAME_MAX || !name.split('.').all(label) {
        return Err("has a name that DNS cannot have");
    }
    // No top-level domain is a number: this was to be an address.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("has neither a name nor an address before its port");
    }
    Ok(Host::Name(text.to_owned()))
}

/// Reads a public key in base64.
///
/// # Errors
/// A [`Complaint`] when it is no key of a machine.
pub fn public_key(text: &str) -> Result<PublicKey, Complaint> {
    let hint = "copy the line that `hushwire init` or `hushwire pubkey` printed on that machine";
    let key: PublicKey = text.parse().map_err(|error| {
        let given = if may_be_key(text) { "this".to_owned() } else { shown(text) };
        Complaint::new(format!("{given} is no key: {error}"))
            .allowed("44 characters of base64, the last one =")
            .hint(hint)
    })?;
    if key.is_nobodys() {
        let what = if key.as_bytes() == &[0; KEY_LEN] { "all zero" } else { "of low order" };
        return Err(Complaint::new(format!("this key is {what}, which is nobody's")).hint(hint));
    }
    Ok(key)
}

/// Reads for how long gossip is kept: `"30s"`, `"500ms"`, `"2m"`, `"0s"`.
///
/// # Errors
/// A [`Complaint`] when it is no such duration or more than ten minutes.
pub fn resend(text: &str) -> Result<Duration, Complaint> {
    let allowed =
        "a number with ms, s or m, such as \"30s\" or \"500ms\"; at most \"10m\", \"0s\" is off";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => 0,
    };
    if number.is_empty() || milliseconds == 0 {
        let problem = format!("{} is no duration", shown(text));
        return Err(Complaint::new(problem).allowed(allowed));
    }
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds));
    match number.map(Duration::from_millis) {
        Some(duration) if duration <= RESEND_MAX => Ok(duration),
        _ => Err(Complaint::new(format!("{} is too long", shown(text))).allowed(allowed)),
    }
}

/// Reads what the filter lets pass: `tcp/9094`, `udp/9000-9100`, `icmp`, `all`.
///
/// # Errors
/// A [`Complaint`] when it is none of these.
pub fn rule(text: &str) -> Result<Rule, Complaint> {
    let wrong = |why: &str| {
        Complaint::new(format!("{} {why}", shown(text)))
            .allowed("tcp/PORT, udp/PORT, icmp or all; \"tcp/9000-9100\" for several ports")
    };
    let (protocol, ports) = match text.split_once('/') {
        None if text == "icmp" => return Ok(Rule::Icmp),
        None if text == "all" => return Ok(Rule::All),
        None if matches!(text, "tcp" | "udp") => {
            return Err(wrong("has no port")
                .hint(format!("write \"{text}/9094\", or \"{text}/1-65535\" for all of them")));
        }
        None => return Err(wrong("is nothing that can be allowed")),
        Some(parts) => parts,
    };
    let to_rule = match protocol {
        "tcp" => Rule::Tcp,
        "udp" => Rule::Udp,
        _ => return Err(wrong("has neither tcp nor udp before its port")),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(wrong("has a port that is no port").hint("a port is a number from 1 to 65535"));
    };
    let range = PortRange::new(first, last);
    range.map(to_rule).ok_or_else(|| wrong("ends before it begins"))
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

/// Reads the path of a file that holds a key.
///
/// # Errors
/// A [`Complaint`] when it is empty, or a key instead of a path.
pub fn key_file(text: &str) -> Result<PathBuf, Complaint> {
    let allowed = "the path of a file that holds one key in base64";
    if text.is_empty() || text.contains(char::is_control) {
        return Err(Complaint::new(format!("{} is no path", shown(text))).allowed(allowed));
    }
    // Also keeps it out of the message that the file does not exist.
    if may_be_key(text) {
        return Err(Complaint::new("this looks like a key, not like a path")
            .allowed(allowed)
            .hint("everybody who can read this file has seen it: make a new one"));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Option<(Host, u16)> {
        text.parse().ok().map(|PeerEndpoint { host, port }| (host, port))
    }

    #[test]
    fn endpoints_are_names_or_addresses_with_a_port() {
        let address = |text: &str| Host::Address(text.parse().unwrap());
        let name = |text: &str| Host::Name(text.to_owned());
        assert_eq!(endpoint("192.0.2.1:51820"), Some((address("192.0.2.1"), 51820)));
        assert_eq!(endpoint("[2001:db8::1]:1"), Some((address("2001:db8::1"), 1)));
        assert_eq!(endpoint("[::ffff:192.0.2.1]:1"), Some((address("192.0.2.1"), 1)));
        assert_eq!(endpoint("a.example.org.:65535"), Some((name("a.example.org."), 65535)));
        assert_eq!(endpoint("my_app-1:9"), Some((name("my_app-1"), 9)));
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        let long = format!("{}:1", "a".repeat(64));
        let very_long = format!("{}a:1", "a.".repeat(127));
        for text in [
            "",
            ":",
            ":1",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a: 1",
            "a:1 ",
            " a:1",
            "a..b:1",
            ".a:1",
            "-a:1",
            "a-:1",
            "ä:1",
            "a b:1",
            "2001:db8::1",
            "2001:db8::1:51820",
            "[2001:db8::1]",
            "[2001:db8::1]51820",
            "[2001:db8::1",
            "[192.0.2.1]:1",
            "[]:1",
            "[fe80::1%eth0]:1",
            "[fe80::1]:1",
            "192.0.2.300:1",
            "192.0.2:1",
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "http://a:1",
            "a/b:1",
            &long,
            &very_long,
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
    }

    #[test]
    fn endpoints_do_not_reach_the_terminal_as_they_are() {
        for text in ["a\u{1b}:b:1", "[\u{1b}]:1", "\u{1b}:1", "a:\u{1b}"] {
            let error = text.parse::<PeerEndpoint>().unwrap_err().to_string();
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
        assert!(key_file("a\u{1b}b").is_err());
    }

    #[test]
    fn durations_have_a_unit_and_an_end() {
        for (text, milliseconds) in
            [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("0s", 0), ("10m", 600_000)]
        {
            assert_eq!(resend(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "30 s",
            "1h",
            "11m",
            "99999999999999999999s",
            "600001ms",
            "3０s",
        ] {
            assert!(resend(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_may_pass_is_a_protocol_with_ports_or_a_word() {
        for text in ["tcp/9094", "udp/1-65535", "icmp", "all", "tcp/9000-9100"] {
            assert_eq!(rule(text).unwrap().to_string(), text);
        }
        assert_eq!(rule("udp/9094-9094"), rule("udp/9094"));
        let bad = "|tcp|udp|tcp/|tcp/0|tcp/65536|tcp/+1|tcp/1-|tcp/-1|tcp/2-1|TCP/9094|sctp/9094|icmp/8|\
                   any|9094|tcp/9094 |tcp/9094/1|tcp/１";
        for text in bad.split('|') {
            assert!(rule(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_interfaces_are_those_of_wg_quick() {
        for name in ["hush0", "a", "fifteen-letters", "wg_0=+.-"] {
            assert_eq!(interface_name(name).as_deref(), Ok(name));
        }
        for name in [
            "",
            ".",
            "..",
            "all",
            "default",
            "lo",
            "sixteen-letters1",
            "a/b",
            "a b",
            "hush%d",
            "a:b",
            "hüsh",
        ] {
            assert!(interface_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn addresses_of_a_machine_may_have_a_network_around_them() {
        for (text, net) in [
            ("10.99.0.1", "10.99.0.1/32"),
            ("10.99.0.1/24", "10.99.0.1/24"),
            ("10.99.0.0/31", "10.99.0.0/31"),
            ("fd00::1", "fd00::1/128"),
        ] {
            assert_eq!(overlay_address(text), Ok(net.parse().unwrap()), "{text}");
        }
        for text in [
            "10.99.0.0/24",
            "10.99.0.255/24",
            "fd00::/64",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "::ffff:10.0.0.1",
            "10.99.0.1/33",
            "x",
        ] {
            assert!(overlay_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn allowed_ips_are_networks_or_addresses() {
        assert_eq!(allowed_ip("10.99.0.2"), Ok("10.99.0.2/32".parse().unwrap()));
        assert_eq!(allowed_ip("fd00::2"), Ok("fd00::2/128".parse().unwrap()));
        assert_eq!(allowed_ip("10.99.0.0/24"), Ok("10.99.0.0/24".parse().unwrap()));
        let hint = allowed_ip("10.99.0.2/24").unwrap_err().to_string();
        assert!(hint.contains("\"10.99.0.0/24\"") && hint.contains("\"10.99.0.2/32\""), "{hint}");
        for text in
            ["0.0.0.0/0", "::/0", "10.99.0.2/33", "10.99.0.2/", "", "fe80::%1/64", "ff02::1"]
        {
            assert!(allowed_ip(text).is_err(), "{text}");
        }
    }
}

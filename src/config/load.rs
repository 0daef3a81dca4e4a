//! Reads the configuration file from top to bottom and puts a [`Config`] together.
//!
//! Every wrong thing is reported and reading goes on: a [`Config`] comes out only if nothing was. All
//! defaults are filled in here, but for the address, which is in `us`. Called by the commands and, on
//! reload, by the daemon.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::blocks::{self, Block, PEER};
use super::error::{Complaint, Errors, Placed, Report, shown};
use super::fields::{Item, Keys, Section};
use super::keyfile::{self, Kind};
use super::us::Us;
use super::{
    Config, Docker, Environment, Gossip, Interface, Mtu, Netns, Peer, netns, syntax, values,
};
use crate::wireguard::{Allow, KEY_LEN, KeyError, PresharedKey, PrivateKey};

/// More than a thousand peers with a thousand prefixes each need. A device has no end. In bytes.
const SIZE_MAX: u64 = 16 << 20;
/// The name of the TUN device, unless the file gives one.
pub const DEFAULT_NAME: &str = "hush0";
/// Where `hushwire init` writes the private key, beside the configuration.
const DEFAULT_PRIVATE_KEY_FILE: &str = "private.key";
/// The port that WireGuard's own documents use.
const DEFAULT_LISTEN_PORT: u16 = 51820;
/// `--cluster.listen-address` of Alertmanager is 0.0.0.0:9094 by default.
const DEFAULT_GOSSIP_PORT: u16 = 9094;
/// Half of Alertmanager's interval between full exchanges (60 s).
const DEFAULT_RESEND: Duration = Duration::from_secs(30);
/// Every IPv4 machine takes packets of this size: RFC 791, section 3.1. In bytes.
const MTU_MIN: u32 = 576;
/// Linux turns IPv6 off on an interface with a smaller one: RFC 8200, section 5. In bytes.
const MTU_MIN_IPV6: u16 = 1280;
/// 65,535 less IPv6, UDP and WireGuard's own headers (40 + 8 + 32). In bytes.
const MTU_MAX: u32 = 65_455;

const ROOT: Keys = Keys {
    section: "",
    known: &["interface", "filter", "gossip", "docker", "peer"],
    later: &["metrics"],
};

const INTERFACE: Keys = Keys {
    section: "[interface]",
    known: &[
        "name",
        "private_key_file",
        "address",
        "listen_port",
        "mtu",
        "fwmark",
        "netns",
        "preshared_key_file",
    ],
    later: &[],
};

const FILTER: Keys = Keys { section: "[filter]", known: &["allow"], later: &[] };

const GOSSIP: Keys = Keys { section: "[gossip]", known: &["port", "resend"], later: &[] };

const DOCKER: Keys = Keys { section: "[docker]", known: &["plugin", "socket"], later: &[] };

/// Reads a configuration file and the key files that it names.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, Errors> {
    load_with_files(path, environment).map(|(config, _)| config)
}

/// The same, and says which key files were read.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load_with_files(
    path: &Path,
    environment: &Environment,
) -> Result<(Config, Vec<PathBuf>), Errors> {
    let mut files = Vec::new();
    let read = |file: &Path, kind| {
        files.push(keyfile::locate(file, path, environment).0);
        keyfile::read(file, kind, path, environment)
    };
    let config = load_from(path, environment, read)?;
    Ok((config, files))
}

/// Reads a configuration file; `read_key` finds the text of a key file.
pub(super) fn load_from(
    path: &Path,
    environment: &Environment,
    read_key: impl FnMut(&Path, Kind) -> Result<Zeroizing<String>, Complaint>,
) -> Result<Config, Errors> {
    let mut config = parse(&text(path)?, path, read_key)?;
    config.docker.plugin |= environment.docker_plugin;
    Ok(config)
}

/// Reads the text of a configuration file.
pub(super) fn text(path: &Path) -> Result<String, Errors> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes));
    let problem = match read {
        Err(error) => Some(format!("cannot be read: {error}")),
        Ok(length) if length as u64 > SIZE_MAX => Some("is larger than 16 MiB".to_owned()),
        Ok(_) => None,
    };
    if let Some(problem) = problem {
        let complaint = Complaint::new(problem).hint("name the configuration file with --config");
        return Err(Errors::of_file(path, complaint));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).map(str::from_utf8);
        let good = good.and_then(Result::ok).unwrap_or_default();
        let mut report = Report::new(good);
        report.syntax(good.len(), Complaint::new("this byte is not UTF-8, which TOML has to be"));
        report.into_errors(path)
    })
}

/// Reads a configuration from text; `read_key` finds the text of a key file.
fn parse(
    text: &str,
    path: &Path,
    mut read_key: impl FnMut(&Path, Kind) -> Result<Zeroizing<String>, Complaint>,
) -> Result<Config, Errors> {
    syntax::read(text, path, |document, report| {
        read_document(document, path, &mut read_key, report)
    })
}

/// Reads text from a key file: its path as the configuration says it, and whose secret it is.
type ReadKey<'a> = dyn FnMut(&Path, Kind) -> Result<Zeroizing<String>, Complaint> + 'a;

/// `None`, or a value with gaps, only after something was reported.
fn read_document(
    document: &DeTable<'_>,
    path: &Path,
    read_key: &mut ReadKey<'_>,
    report: &mut Report<'_>,
) -> Option<Config> {
    let root = Section::root(document, &ROOT, report);
    let section = root.table("interface", &INTERFACE, report);
    let filter = filter(&root.table("filter", &FILTER, report), report);
    let gossip = gossip(&root.table("gossip", &GOSSIP, report), report);
    let docker = docker(&root.table("docker", &DOCKER, report), report);
    check_place(&section, &docker, report);
    let private_key = private_key(&section, read_key, report);
    let cluster_key = section
        .item("preshared_key_file")
        .and_then(|item| item.string(values::key_file, report))
        .and_then(|file| preshared_key(&file, read_key, report));
    let blocks = root.tables("peer", &PEER, report);
    let blocks: Vec<Block> =
        blocks.iter().map(|block| Block::read(block, private_key.as_ref(), report)).collect();
    blocks::compare(&blocks, report);
    // Our block may be among those that could not be read, or hide under a key like [[peers]].
    let list_complete = !report.has_syntax_errors()
        && root.item("peer").is_none_or(|peers| peers.value.is_array())
        && !root.has_unknown_keys(&ROOT)
        && blocks.iter().all(|block| block.public_key.is_some());
    let us = Us::find(private_key, &blocks, list_complete);
    let interface = interface(&section, &us, report);
    let mut peers = Vec::new();
    for block in blocks.iter().filter(|block| !us.is(block)) {
        peers.extend(peer(block, cluster_key.as_ref(), &us, read_key, report));
    }
    let interface = interface?;
    check_mtu(&section, &interface, &peers, report);
    Some(Config { path: path.to_owned(), interface, peers, gossip, filter, docker })
}

fn interface(section: &Section<'_>, us: &Us<'_>, report: &mut Report<'_>) -> Option<Interface> {
    // On the command line, which has the same rules, there is no line.
    let hint = format!("leave the line out to use \"{DEFAULT_NAME}\"");
    let name = |text: &str| values::interface_name(text).map_err(|wrong| wrong.hint(hint));
    let name = section.item("name").and_then(|item| item.string(name, report));
    let own_port = us.block.and_then(|block| block.endpoint.as_ref()).map(|e| e.value.port);
    let hint = "leave the line out to use the port of this machine's own endpoint";
    let listen_port =
        section.item("listen_port").and_then(|item| item.number(1..=65535, hint, report));
    let hint = "leave the line out for no mark";
    let fwmark = section.item("fwmark").and_then(|item| item.number(0..=u32::MAX, hint, report));
    let mtu = section.item("mtu").and_then(|item| mtu(item, report));
    let netns = section.item("netns").and_then(|item| item.string(str::parse, report));
    Some(Interface {
        name: name.map_or_else(|| DEFAULT_NAME.to_owned(), |name| name.value),
        private_key: us.private_key.clone()?,
        listed: us.block.is_some(),
        machine: us.block.and_then(|block| block.name.clone()).map(|name| name.value),
        address: us.address(section, report),
        listen_port: listen_port.or(own_port).unwrap_or(DEFAULT_LISTEN_PORT),
        mtu: mtu.unwrap_or(Mtu::Auto),
        fwmark: fwmark.unwrap_or(0),
        netns: netns.map_or(Netns::Own, |netns| netns.value),
    })
}

fn mtu(item: Item<'_>, report: &mut Report<'_>) -> Option<Mtu> {
    match item.value.as_str() {
        Some("auto") => Some(Mtu::Auto),
        Some(text) => {
            let complaint = Complaint::new(format!("{} is no MTU", shown(text)));
            let allowed = format!("\"auto\", or a number without quotes, {MTU_MIN} to {MTU_MAX}");
            report.add(item.at, item.key, complaint.allowed(allowed));
            None
        }
        None => {
            let hint = "\"auto\" takes the path MTU to the peers less the overhead";
            item.number(MTU_MIN..=MTU_MAX, hint, report).map(Mtu::Fixed)
        }
    }
}

fn check_mtu(
    section: &Section<'_>,
    interface: &Interface,
    peers: &[Peer],
    report: &mut Report<'_>,
) {
    let (Some(item), Mtu::Fixed(mtu)) = (section.item("mtu"), interface.mtu) else { return };
    let behind_peers = peers.iter().flat_map(|peer| &peer.allowed_ips);
    let ipv6 = interface.address.iter().chain(behind_peers).any(|net| net.addr().is_ipv6());
    if ipv6 && mtu < MTU_MIN_IPV6 {
        let complaint =
            Complaint::new(format!("{mtu} is too small for the IPv6 addresses in here"))
                .allowed(format!("\"auto\" or {MTU_MIN_IPV6} to {MTU_MAX}"))
                .hint("Linux turns IPv6 off on an interface with a smaller MTU");
        report.add(item.at, item.key, complaint);
    }
}

/// What the section says; without it everything may pass. One without its key says nothing, which is not
/// what somebody wrote it for.
fn filter(section: &Section<'_>, report: &mut Report<'_>) -> Option<Allow> {
    if let Some(item) = section.item("allow") {
        return blocks::allow(item, report);
    }
    if let Some(at) = section.at
        && !report.has_syntax_errors_below(at)
        && !section.has_unknown_keys(&FILTER)
    {
        let complaint = Complaint::new("missing in [filter]")
            .allowed("a list of what may pass, such as [\"tcp/9094\", \"udp/9094\", \"icmp\"]")
            .hint("[\"all\"], or no [filter] at all, lets everything pass; [] lets nothing");
        report.add(at, "allow", complaint);
    }
    None
}

fn gossip(section: &Section<'_>, report: &mut Report<'_>) -> Gossip {
    let hint = "the port of Alertmanager's --cluster.listen-address";
    let port = section.item("port").and_then(|item| item.number(1..=65535, hint, report));
    let resend = section.item("resend").and_then(|item| item.string(values::resend, report));
    Gossip {
        port: port.unwrap_or(DEFAULT_GOSSIP_PORT),
        resend: resend.map_or(DEFAULT_RESEND, |resend| resend.value),
    }
}

/// A network driver's interface goes where the engine moves it.
fn check_place(section: &Section<'_>, docker: &Docker, report: &mut Report<'_>) {
    if let Some(item) = section.item("netns").filter(|_| docker.plugin) {
        let complaint =
            Complaint::new("the network driver (plugin in [docker]) has the say already")
                .allowed("either netns or plugin = true")
                .hint("remove one of the two");
        report.add(item.at, item.key, complaint);
    }
}

fn docker(section: &Section<'_>, report: &mut Report<'_>) -> Docker {
    let plugin = section.item("plugin").and_then(|item| item.boolean(report));
    let socket = section.item("socket").and_then(|item| item.string(netns::socket, report));
    let default = Docker::default();
    Docker {
        plugin: plugin.unwrap_or(default.plugin),
        socket: socket.map_or(default.socket, |socket| socket.value),
    }
}

fn peer(
    block: &Block,
    cluster_key: Option<&PresharedKey>,
    us: &Us<'_>,
    read_key: &mut ReadKey<'_>,
    report: &mut Report<'_>,
) -> Option<Peer> {
    let preshared_key = match &block.preshared_key_file {
        // With our private key unknown, this may be our own block, whose file need not be here.
        Some(file) if us.public_key.is_some() => preshared_key(file, read_key, report),
        Some(_) => None,
        None => cluster_key.cloned(),
    };
    Some(Peer {
        name: block.name.clone().map(|name| name.value),
        public_key: block.public_key?.value,
        preshared_key,
        endpoint: block.endpoint.clone().map(|endpoint| endpoint.value),
        allowed_ips: block.allowed_ips.iter().map(|net| net.value).collect(),
        persistent_keepalive: block.persistent_keepalive,
        allow: block.allow.clone(),
    })
}

fn private_key(
    section: &Section<'_>,
    read_key: &mut ReadKey<'_>,
    report: &mut Report<'_>,
) -> Option<PrivateKey> {
    let (file, at) = match section.item("private_key_file") {
        Some(item) => {
            let Placed { value, at } = item.string(values::key_file, report)?;
            (value, Some(at))
        }
        None => (PathBuf::from(DEFAULT_PRIVATE_KEY_FILE), section.at),
    };
    let key = key(&file, Kind::Private, &PrivateKey::from_bytes([0; KEY_LEN]), read_key);
    key.map_err(|complaint| report.add_anywhere(at, "private_key_file", complaint)).ok()
}

fn preshared_key(
    file: &Placed<PathBuf>,
    read_key: &mut ReadKey<'_>,
    report: &mut Report<'_>,
) -> Option<PresharedKey> {
    let zero = PresharedKey::from_bytes([0; KEY_LEN]);
    let key = key(&file.value, Kind::Preshared, &zero, read_key);
    key.map_err(|complaint| report.add(file.at, "preshared_key_file", complaint)).ok()
}

fn key<K: FromStr<Err = KeyError> + PartialEq>(
    file: &Path,
    kind: Kind,
    zero: &K,
    read_key: &mut ReadKey<'_>,
) -> Result<K, Complaint> {
    let text = read_key(file, kind)?;
    let program = match kind {
        Kind::Private => "make one by `hushwire init` or `hushwire genkey`",
        Kind::Preshared => "make one by `hushwire genpsk`",
    };
    let no_key = |why: &str| {
        Complaint::new(format!("{} holds no key: {why}", file.display()))
            .allowed("one key in base64, 44 characters, and nothing else")
            .hint(program)
    };
    let key = text.parse().map_err(|error: KeyError| no_key(&error.to_string()))?;
    // WireGuard takes such a key for none, which is not what a file for it asks for.
    if key == *zero { Err(no_key("it is all zero")) } else { Ok(key) }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::config::{Host, PeerEndpoint};

    /// The machine `number`, its key made for these tests.
    fn machine(number: u8) -> PrivateKey {
        PrivateKey::from_random([number; KEY_LEN])
    }

    fn psk(number: u8) -> PresharedKey {
        PresharedKey::from_bytes([number; KEY_LEN])
    }

    fn block(number: u8, lines: &str) -> String {
        format!("[[peer]]\npublic_key = \"{}\"\n{lines}\n", machine(number).public_key())
    }

    /// Loads a file as machine 1; `N.psk` holds the preshared key N.
    fn load_text(text: &str) -> Result<Config, String> {
        let read_key = |file: &Path, kind: Kind| match (kind, file.to_str().unwrap()) {
            (Kind::Private, "private.key") => Ok(machine(1).to_base64()),
            (Kind::Preshared, "1.psk") => Ok(psk(1).to_base64()),
            (Kind::Preshared, "2.psk") => Ok(psk(2).to_base64()),
            (_, name) => Err(Complaint::new(format!("{name} is not there"))),
        };
        parse(text, Path::new("t.toml"), read_key).map_err(|errors| errors.to_string())
    }

    #[test]
    fn empty_values_are_filled_in_from_our_own_block() {
        let ours = "name = \"alert1\"\nendpoint = \"192.0.2.1:51821\"\nallowed_ips = [\"10.99.0.1\", \"10.98.0.0/24\", \"fd00:99::1\"]";
        let theirs = "allowed_ips = [\"10.99.0.2/32\"]";
        let config = load_text(&(block(1, ours) + &block(2, theirs))).unwrap();
        let expected = Config {
            path: "t.toml".into(),
            interface: Interface {
                name: "hush0".to_owned(),
                private_key: machine(1),
                listed: true,
                machine: Some("alert1".to_owned()),
                address: vec!["10.99.0.1/32".parse().unwrap(), "fd00:99::1/128".parse().unwrap()],
                listen_port: 51821,
                mtu: Mtu::Auto,
                fwmark: 0,
                netns: Netns::Own,
            },
            peers: vec![Peer {
                name: None,
                public_key: machine(2).public_key(),
                preshared_key: None,
                endpoint: None,
                allowed_ips: vec!["10.99.0.2/32".parse().unwrap()],
                persistent_keepalive: None,
                allow: None,
            }],
            gossip: Gossip { port: 9094, resend: Duration::from_secs(30) },
            filter: None,
            docker: Docker { plugin: false, socket: "/run/docker.sock".into() },
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn every_key_is_taken_as_it_is_written() {
        let text = "gossip.port = 9095 # dotted keys are TOML too\ngossip.resend = '1m'\n\
            docker.plugin = true\ndocker.socket = '/run/podman/podman.sock'\n\
            [interface]\nname = \"am0\"\naddress = [\"fd00:99::1/64\", # ours\n]\nlisten_port = 51_000\n\
            mtu = 1440\nfwmark = 0xca6c\n"
            .to_owned()
            + &block(
                2,
                "name = \"b\"\nendpoint = \"[2001:db8::2]:1\"\nallowed_ips = [\"fd00:99::2\"]\n\
                 persistent_keepalive = 25",
            )
            + &block(3, "endpoint = \"c.example:2\"\nallowed_ips = [\"fd00:99::3\"]\npersistent_keepalive = 0");
        let Config { interface, peers, gossip, docker, .. } = load_text(&text).unwrap();
        assert!(docker.plugin);
        assert_eq!(docker.socket, Path::new("/run/podman/podman.sock"));
        assert_eq!(interface.netns, Netns::Own);
        assert_eq!((gossip.port, gossip.resend), (9095, Duration::from_secs(60)));
        assert_eq!((interface.name.as_str(), interface.machine), ("am0", None));
        assert!(!interface.listed);
        assert_eq!(interface.address, ["fd00:99::1/64".parse().unwrap()]);
        assert_eq!((interface.listen_port, interface.mtu), (51000, Mtu::Fixed(1440)));
        assert_eq!(interface.fwmark, 0xca6c);
        let address = Host::Address("2001:db8::2".parse().unwrap());
        assert_eq!(peers[0].name.as_deref(), Some("b"));
        assert_eq!(peers[0].endpoint, Some(PeerEndpoint { host: address, port: 1 }));
        assert_eq!(peers[0].persistent_keepalive, NonZeroU16::new(25));
        let name = Host::Name("c.example".to_owned());
        assert_eq!(peers[1].endpoint, Some(PeerEndpoint { host: name, port: 2 }));
        assert_eq!(peers[1].persistent_keepalive, None);
    }

    #[test]
    fn cluster_of_one_is_a_cluster() {
        let config = load_text(&block(1, "allowed_ips = [\"10.99.0.1\"]")).unwrap();
        assert_eq!((config.peers, config.interface.listen_port), (Vec::new(), 51820));
    }

    #[test]
    fn preshared_key_of_the_cluster_is_for_peers_without_one_of_their_own() {
        let text = "[interface]\npreshared_key_file = \"1.psk\"\n".to_owned()
            // The file in our own block is for the others: it need not be here.
            + &block(1, "allowed_ips = [\"10.99.0.1\"]\npreshared_key_file = \"not-here.psk\"")
            + &block(2, "allowed_ips = [\"10.99.0.2\"]\npreshared_key_file = \"2.psk\"")
            + &block(3, "allowed_ips = [\"10.99.0.3\"]");
        let keys = load_text(&text).unwrap().peers.into_iter().map(|peer| peer.preshared_key);
        assert_eq!(keys.collect::<Vec<_>>(), [Some(psk(2)), Some(psk(1))]);
    }

    /// A value without quotes went to the terminal as it was: an escape sequence, or a key.
    #[test]
    fn a_value_without_quotes_does_not_reach_the_terminal_as_it_is() {
        let key = "0f".repeat(32);
        for value in ["9_9\u{1b}6", "4_294_967_29\0", "1_0.\u{7}5", &key, &key.replace('f', "1")] {
            for line in ["[interface]\nfwmark", "[interface]\nname", "[gossip]\nport"] {
                let error = load_text(&format!("{line} = {value}\n")).unwrap_err();
                assert!(!error.contains(|c: char| c.is_control() && c != '\n'), "{error:?}");
                assert!(!error.contains(value), "{error}");
            }
        }
    }

    #[test]
    fn shipped_example_loads_as_it_is_and_with_each_default_written_out() {
        let key = |number| machine(number).public_key().to_string();
        let example = include_str!("../../config/hushwire.toml")
            .replace("PUBLIC KEY OF machine1", &key(1))
            .replace("PUBLIC KEY OF machine2", &key(2))
            .replace("cluster.psk", "1.psk")
            .replace("machine2.psk", "2.psk");
        let config = load_text(&example).unwrap();
        assert_eq!(config.interface.machine.as_deref(), Some("machine1"));
        assert_eq!(config.peers.len(), 1);
        // Prose has a blank after its `#`, a key that is commented out has none.
        let line = |line: &str| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key.to_owned(),
            _ => line.to_owned(),
        };
        let written_out: Vec<_> = example.lines().map(line).collect();
        let sections = [INTERFACE, FILTER, GOSSIP, DOCKER, PEER];
        for key in sections.iter().flat_map(|section| section.known) {
            let shown = written_out.iter().any(|line| line.starts_with(&format!("{key} = ")));
            assert!(shown, "the example does not show {key}");
        }
        let mut full = load_text(&written_out.join("\n")).unwrap();
        // What has no default is shown by an example.
        assert_eq!(full.peers[0].preshared_key.take(), Some(psk(2)));
        assert_eq!(full.peers[0].persistent_keepalive.take(), NonZeroU16::new(25));
        let own = full.peers[0].allow.take().expect("an example of allow");
        assert_eq!(own.to_string(), "tcp/9094 udp/9094 tcp/9093");
        let netns = std::mem::replace(&mut full.interface.netns, Netns::Own);
        assert_eq!(netns, "docker:alertmanager".parse().unwrap());
        assert_eq!(full, config);
    }
}

//! `hushwire alertmanager-flags`: the exact flags for the Alertmanager of this machine.
//!
//! Addresses, never names: Alertmanager has to bind and dial the overlay. Its peer name is asked for
//! with a flag, since only Alertmanager 0.30 and later knows `--cluster.peer-name`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Environment, Failure, remark};
use crate::cli::AlertmanagerFlags;
use crate::config::{self, Config};

pub(super) fn run(
    arguments: &AlertmanagerFlags,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let config = config::load(arguments.file.path(), &environment.config)?;
    let (mut flags, remarks) = cluster_flags(&config);
    for text in remarks {
        remark(text);
    }
    if arguments.peer_name {
        let Some(name) = &config.interface.machine else {
            return Err(Failure::failed(format_args!(
                "no peer name to print: no [[peer]] block in {} has both a name and the public key \
                 of this machine",
                config.path.display()
            )));
        };
        flags.push(format!("--cluster.peer-name={name}"));
    }
    let separator = if arguments.one_per_line { "\n" } else { " " };
    Ok(writeln!(out, "{}", flags.join(separator))?)
}

/// The flags, and what to say about peers that do not fit into them.
fn cluster_flags(config: &Config) -> (Vec<String>, Vec<String>) {
    let port = config.gossip.port;
    let Some(own) = config.interface.address.first().map(IpNet::addr) else {
        return (Vec::new(), Vec::new());
    };
    let mut flags = vec![format!("--cluster.listen-address={}", SocketAddr::new(own, port))];
    let mut remarks = Vec::new();
    for peer in &config.peers {
        let key = peer.public_key.to_string();
        let name = peer.name.as_deref().unwrap_or(&key);
        match single_address(&peer.allowed_ips, own) {
            Some(address) => {
                if address.is_ipv4() != own.is_ipv4() {
                    remarks.push(format!(
                        "hushwire: {name} has no address of the family of {own}: Alertmanager will \
                         not reach it at {address}"
                    ));
                }
                flags.push(format!("--cluster.peer={}", SocketAddr::new(address, port)));
            }
            None => remarks.push(format!(
                "hushwire: {name} is left out: its allowed_ips hold no single address; add that of \
                 its Alertmanager, such as \"10.99.0.2/32\""
            )),
        }
    }
    (flags, remarks)
}

fn single_address(allowed_ips: &[IpNet], own: IpAddr) -> Option<IpAddr> {
    let single = || allowed_ips.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
    single()
        .find(|net| net.addr().is_ipv4() == own.is_ipv4())
        .or_else(|| single().next())
        .map(IpNet::addr)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Docker, Gossip, Interface, Mtu, Netns, Peer};
    use crate::wireguard::{KEY_LEN, PrivateKey, PublicKey};

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn config(address: &[&str], peers: &[&[&str]]) -> Config {
        let peer = |allowed_ips: &&[&str]| Peer {
            name: Some("machine2".into()),
            public_key: PublicKey::from_bytes([2; KEY_LEN]),
            preshared_key: None,
            endpoint: None,
            allowed_ips: nets(allowed_ips),
            persistent_keepalive: None,
            allow: None,
        };
        Config {
            path: "hushwire.toml".into(),
            interface: Interface {
                name: "hush0".into(),
                private_key: PrivateKey::from_bytes([1; KEY_LEN]),
                listed: true,
                machine: Some("machine1".into()),
                address: nets(address),
                listen_port: 51820,
                mtu: Mtu::Auto,
                fwmark: 0,
                netns: Netns::Own,
            },
            peers: peers.iter().map(peer).collect(),
            gossip: Gossip { port: 9094, resend: Duration::ZERO },
            filter: None,
            docker: Docker::default(),
        }
    }

    #[test]
    fn flags_name_our_first_address_and_one_of_each_peer() {
        let config = config(
            &["10.99.0.1/24", "fd00::1/64"],
            &[&["10.99.0.2/32"], &["fd00::3/128", "10.98.0.0/16", "10.99.0.3/32", "10.99.0.4/32"]],
        );
        let (flags, remarks) = cluster_flags(&config);
        assert_eq!(
            flags.join(" "),
            "--cluster.listen-address=10.99.0.1:9094 --cluster.peer=10.99.0.2:9094 \
             --cluster.peer=10.99.0.3:9094"
        );
        assert!(remarks.is_empty(), "{remarks:?}");
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        let config = config(&["fd00::1/64"], &[&["10.99.0.2/32", "fd00::2/128"]]);
        let (flags, _) = cluster_flags(&config);
        assert_eq!(
            flags.join(" "),
            "--cluster.listen-address=[fd00::1]:9094 --cluster.peer=[fd00::2]:9094"
        );
    }

    #[test]
    fn peers_that_do_not_fit_are_remarked_upon() {
        let config = config(&["10.99.0.1/32"], &[&["10.98.0.0/16"], &["fd00::2/128"]]);
        let (flags, remarks) = cluster_flags(&config);
        assert_eq!(
            flags.join(" "),
            "--cluster.listen-address=10.99.0.1:9094 --cluster.peer=[fd00::2]:9094"
        );
        assert!(remarks[0].contains("machine2 is left out"), "{remarks:?}");
        assert!(remarks[1].contains("will not reach it"), "{remarks:?}");
    }
}

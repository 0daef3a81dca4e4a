//! What can go wrong when the overlay is attached, in words for the operator.
//!
//! Each error is one line and says where, what was asked, what is allowed and what to do.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::sys::guard::GuardError;
use crate::sys::netlink::NetlinkError;
use crate::sys::netns::{Namespace, NamespaceError};
use crate::sys::tun::Owner;

/// Why an interface could not be attached. Each is one line: where, what, what is allowed, what to do.
#[derive(Debug)]
pub enum AttachError {
    /// Its network namespace cannot be entered.
    Namespace {
        /// Name of the interface.
        interface: String,
        /// Why not.
        error: NamespaceError,
    },
    /// Another network namespace has come to the place of the one that the interface is in.
    Moved {
        /// Name of the interface.
        interface: String,
        /// The place.
        namespace: Namespace,
    },
    /// `/dev/net/tun` cannot be opened.
    NoTunDevice {
        /// Name of the interface.
        interface: String,
        /// What opening it said.
        error: io::Error,
    },
    /// `CAP_NET_ADMIN` is missing.
    NotPermitted {
        /// Name of the interface.
        interface: String,
        /// What was to be done, and the kernel's answer.
        what: String,
    },
    /// Another process holds the TUN, and goes on living.
    Busy {
        /// Name of the interface.
        interface: String,
        /// That process, if it can be seen.
        owner: Option<Owner>,
    },
    /// There is a link of that name that is no TUN; it is left alone.
    NotATun {
        /// Name of the interface.
        interface: String,
        /// What it is; none for most physical cards.
        kind: Option<String>,
    },
    /// An IPv6 address or route is asked for where IPv6 is switched off.
    Ipv6Disabled {
        /// Name of the interface.
        interface: String,
        /// The address or the route's prefix.
        prefix: IpNet,
    },
    /// Another interface, which is up, has one of the addresses.
    AddressTaken {
        /// Name of the interface.
        interface: String,
        /// The address.
        address: IpAddr,
        /// Name of the other one.
        by: String,
    },
    /// Another route of the same prefix would win over the tunnel's or equal it.
    RouteTaken {
        /// Name of the interface.
        interface: String,
        /// The prefix.
        prefix: IpNet,
    },
    /// One that another process has attached is not what is wanted.
    NotAdopted {
        /// Name of the interface.
        interface: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel cannot keep neighbours on other interfaces from the addresses.
    Unguarded {
        /// Name of the interface.
        interface: String,
        /// Why not.
        error: GuardError,
    },
    /// The TUN driver refused for another reason.
    Tun {
        /// Name of the interface.
        interface: String,
        /// What it said.
        error: io::Error,
    },
    /// A netlink request was refused for another reason.
    Netlink {
        /// Name of the interface.
        interface: String,
        /// Which request, and what the kernel said.
        error: NetlinkError,
    },
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { interface, error } => write!(f, "interface {interface}: {error}"),
            Self::Moved { interface, namespace } => write!(
                f,
                "interface {interface}: {namespace} is another one by now, where the interface is made anew"
            ),
            Self::NoTunDevice { interface, error } => write!(
                f,
                "interface {interface}: cannot open /dev/net/tun: {error}; load the driver with `modprobe \
                 tun`, and give a container the device with `docker run --device /dev/net/tun`"
            ),
            Self::NotPermitted { interface, what } => write!(
                f,
                "interface {interface}: {what}; CAP_NET_ADMIN is needed: run as root, or in a container \
                 with `docker run --cap-add NET_ADMIN`"
            ),
            Self::Busy { interface, owner: Some(Owner { pid, command, here: true }) } => write!(
                f,
                "interface {interface}: in use by process {pid} ({command}); stop that process, or take \
                 another interface name"
            ),
            Self::Busy { interface, owner: Some(Owner { pid, command, here: false }) } => write!(
                f,
                "interface {interface}: in use, perhaps by process {pid} ({command}), which may as well \
                 have its {interface} in another network namespace; take another interface name"
            ),
            Self::Busy { interface, owner: None } => write!(
                f,
                "interface {interface}: in use by a process that cannot be seen from here (another \
                 container, or this process itself); stop that one, or take another interface name"
            ),
            Self::NotATun { interface, kind: Some(kind) } => write!(
                f,
                "interface {interface}: exists and is no TUN but a {kind} interface, which is left alone; \
                 take another interface name, or remove it with `ip link delete {interface}`"
            ),
            Self::NotATun { interface, kind: None } => write!(
                f,
                "interface {interface}: exists and is no TUN but a network card, which is left alone; \
                 take another interface name"
            ),
            Self::Ipv6Disabled { interface, prefix } => write!(
                f,
                "interface {interface}: cannot have {prefix}: IPv6 is switched off in this network \
                 namespace; switch it on with `sysctl net.ipv6.conf.all.disable_ipv6=0` (`docker run \
                 --sysctl net.ipv6.conf.all.disable_ipv6=0`), or use IPv4 alone"
            ),
            Self::AddressTaken { interface, address, by } => write!(
                f,
                "interface {interface}: {by} has the address {address} already, and its guard lets nobody \
                 reach it by two interfaces; take another `address`, or stop what runs {by} (`ip address \
                 show dev {by}`)"
            ),
            Self::RouteTaken { interface, prefix } => {
                let family = if prefix.addr().is_ipv6() { "-6" } else { "-4" };
                write!(
                    f,
                    "interface {interface}: another route to {prefix} exists and does not lead into the \
                     tunnel; remove it (`ip {family} route show {prefix}`), or take the prefix out of the \
                     peer's allowed IPs"
                )
            }
            Self::NotAdopted { interface, why } => {
                write!(f, "interface {interface}: the one that was kept does not fit: {why}")
            }
            Self::Unguarded { interface, error } => write!(
                f,
                "interface {interface}: {error}; without a guard a neighbour on another interface could \
                 speak to the overlay addresses past the tunnel"
            ),
            Self::Tun { interface, error } => {
                write!(f, "interface {interface}: cannot make the TUN: {error}")?;
                // What TUNSETIFF says to a TUN that was made with IFF_MULTI_QUEUE, and to a strange name.
                if error.raw_os_error() == Some(libc::EINVAL) {
                    write!(
                        f,
                        "; if it exists, it was made with other settings: remove it with `ip link delete \
                         {interface}`"
                    )?;
                }
                Ok(())
            }
            Self::Netlink { interface, error } => write!(f, "interface {interface}: {error}"),
        }
    }
}

impl AttachError {
    /// Whether it will be the same, however long one waits: it wants an operator.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Namespace { error, .. } => error.is_lasting(),
            Self::NoTunDevice { .. }
            | Self::NotPermitted { .. }
            | Self::NotATun { .. }
            | Self::Ipv6Disabled { .. } => true,
            _ => false,
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoTunDevice { error, .. } | Self::Tun { error, .. } => Some(error),
            Self::Netlink { error, .. } => Some(error),
            Self::Unguarded { error, .. } => Some(error),
            Self::Namespace { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_says_where_what_and_what_to_do_in_one_line() {
        let interface = || "hush0".to_owned();
        let os = io::Error::from_raw_os_error;
        let owner = |here| Some(Owner { pid: 4242, command: "wireguard-go".to_owned(), here });
        let cases = [
            (
                AttachError::Namespace {
                    interface: interface(),
                    error: NamespaceError::NotANamespace("/etc/hosts".into()),
                },
                "interface hush0: /etc/hosts is not a network namespace; name the file of one, such as \
                 /proc/PID/ns/net or /run/netns/NAME (where that is a plain file, `ip netns` has mounted \
                 it out of sight of this process)",
            ),
            (
                AttachError::Moved { interface: interface(), namespace: Namespace::Process(4242) },
                "interface hush0: the network namespace of process 4242 is another one by now, where the \
                 interface is made anew",
            ),
            (
                AttachError::NoTunDevice { interface: interface(), error: os(libc::ENOENT) },
                "interface hush0: cannot open /dev/net/tun: No such file or directory (os error 2); load \
                 the driver with `modprobe tun`, and give a container the device with `docker run \
                 --device /dev/net/tun`",
            ),
            (
                AttachError::NotPermitted {
                    interface: interface(),
                    what: "make the TUN: no".into(),
                },
                "interface hush0: make the TUN: no; CAP_NET_ADMIN is needed: run as root, or in a \
                 container with `docker run --cap-add NET_ADMIN`",
            ),
            (
                AttachError::Busy { interface: interface(), owner: owner(true) },
                "interface hush0: in use by process 4242 (wireguard-go); stop that process, or take \
                 another interface name",
            ),
            (
                AttachError::Busy { interface: interface(), owner: owner(false) },
                "interface hush0: in use, perhaps by process 4242 (wireguard-go), which may as well have \
                 its hush0 in another network namespace; take another interface name",
            ),
            (
                AttachError::Busy { interface: interface(), owner: None },
                "interface hush0: in use by a process that cannot be seen from here (another container, \
                 or this process itself); stop that one, or take another interface name",
            ),
            (
                AttachError::NotATun { interface: interface(), kind: Some("dummy".to_owned()) },
                "interface hush0: exists and is no TUN but a dummy interface, which is left alone; take \
                 another interface name, or remove it with `ip link delete hush0`",
            ),
            (
                AttachError::NotATun { interface: interface(), kind: None },
                "interface hush0: exists and is no TUN but a network card, which is left alone; take \
                 another interface name",
            ),
            (
                AttachError::Ipv6Disabled {
                    interface: interface(),
                    prefix: "fd00::1/128".parse().unwrap(),
                },
                "interface hush0: cannot have fd00::1/128: IPv6 is switched off in this network \
                 namespace; switch it on with `sysctl net.ipv6.conf.all.disable_ipv6=0` (`docker run \
                 --sysctl net.ipv6.conf.all.disable_ipv6=0`), or use IPv4 alone",
            ),
            (
                AttachError::AddressTaken {
                    interface: "office".to_owned(),
                    address: "10.99.0.1".parse().unwrap(),
                    by: interface(),
                },
                "interface office: hush0 has the address 10.99.0.1 already, and its guard lets nobody \
                 reach it by two interfaces; take another `address`, or stop what runs hush0 (`ip address \
                 show dev hush0`)",
            ),
            (
                AttachError::RouteTaken {
                    interface: interface(),
                    prefix: "10.99.0.2/32".parse().unwrap(),
                },
                "interface hush0: another route to 10.99.0.2/32 exists and does not lead into the tunnel; \
                 remove it (`ip -4 route show 10.99.0.2/32`), or take the prefix out of the peer's \
                 allowed IPs",
            ),
            (
                AttachError::NotAdopted { interface: interface(), why: "it was deleted".into() },
                "interface hush0: the one that was kept does not fit: it was deleted",
            ),
            (
                AttachError::Unguarded { interface: interface(), error: GuardError::Unsettled },
                "interface hush0: the policy rules of priority 0 were changed 8 times by somebody else \
                 meanwhile (`ip rule`, `ip -6 rule`): stop that; without a guard a neighbour on another interface \
                 could speak to the overlay addresses past the tunnel",
            ),
            (
                AttachError::Tun { interface: interface(), error: os(libc::EINVAL) },
                "interface hush0: cannot make the TUN: Invalid argument (os error 22); if it exists, it \
                 was made with other settings: remove it with `ip link delete hush0`",
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(error.to_string(), expected);
        }
    }
}

//! News of the guard: whether somebody took it away. `ip rule flush` does, and a firewall that is loaded
//! anew, mostly with `flush ruleset` first.
//!
//! Two subscriptions in one network namespace. Policy rules can be looked at by everybody, so that their news
//! are only a reason to look. nftables shows its rules to `CAP_NET_ADMIN` alone: its news are counted from a
//! guard that was whole. What is to be done about it is the daemon's to say.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Guard, Guarded, plan};
use crate::sys::netlink::{Netlink, NetlinkError};
use crate::sys::nftables::{self, GoneChains};

/// Bytes of one receive (net/netlink/af_netlink.c, `netlink_recvmsg`).
const RECEIVE_BYTES: usize = 32 << 10;

/// A subscription to what happens to the guard of an interface's addresses.
pub struct GuardWatch {
    interface: String,
    addresses: BTreeSet<IpAddr>,
    rules: Subscription,
    /// None when the kernel has no nftables, or the right to hear of it was not given.
    chains: Option<(Subscription, GoneChains)>,
}

impl GuardWatch {
    /// Subscribes in the network namespace of the calling thread: to nftables only with `CAP_NET_ADMIN`. Comes
    /// before the guard is put in. Runs inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the kernel has no netlink or no descriptor is left.
    pub fn open(interface: &str, addresses: BTreeSet<IpAddr>) -> io::Result<Self> {
        let groups = [libc::RTNLGRP_IPV4_RULE, libc::RTNLGRP_IPV6_RULE];
        let rules = Subscription::open(NETLINK_ROUTE, &groups)?;
        let chains = Subscription::open(NETLINK_NETFILTER, &[nftables::NEWS]).ok();
        let chains = chains.map(|news| (news, GoneChains::default()));
        Ok(Self { interface: interface.to_owned(), addresses, rules, chains })
    }

    /// Waits for news that may be about the guard. Nothing is lost when this is dropped.
    ///
    /// # Errors
    ///
    /// When a socket fails for good.
    pub async fn news(&mut self) -> io::Result<()> {
        let Some((subscription, gone)) = &mut self.chains else {
            return self.rules.receive(|_| true).await.map(|_| ());
        };
        // Others change their tables as often as they like.
        let mut concerns_us = false;
        while !concerns_us {
            concerns_us = tokio::select! {
                result = self.rules.receive(|_| true) => result?,
                result = subscription.receive(|news| gone.take(news)) => result?,
            };
        }
        Ok(())
    }

    /// What is in force of a guard that was in force when the news began.
    ///
    /// # Errors
    ///
    /// When the kernel does not list its policy rules.
    pub fn look(&self, whole: Guard) -> Result<Guard, NetlinkError> {
        let gone = self.chains.as_ref().is_some_and(|(_, gone)| gone.concern(&self.guarded()));
        Ok(Guard {
            policy_rules: whole.policy_rules && self.has_rules()?,
            nftables: whole.nftables && !gone,
        })
    }

    fn has_rules(&self) -> Result<bool, NetlinkError> {
        let mut kernel = Netlink::open()?;
        let none = BTreeSet::new();
        for v6 in [false, true] {
            let mut guarded = self.guarded();
            guarded.addresses.retain(|address| address.is_ipv6() == v6);
            if !guarded.addresses.is_empty()
                && !plan(&kernel.rules(v6)?, &guarded, &none).is_empty()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn guarded(&self) -> Guarded<'_> {
        let addresses = self.addresses.clone();
        Guarded { interface: &self.interface, addresses, behind: &[] }
    }
}

/// A non-blocking socket that hears of some groups.
struct Subscription {
    socket: AsyncFd<News>,
    buffer: Vec<u8>,
}

struct News(Socket);

impl AsRawFd for News {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Subscription {
    fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        socket.bind_auto()?;
        for &group in groups {
            socket.add_membership(group)?;
        }
        // SAFETY: the socket's descriptor is open and the same for as long as `News` lives.
        let socket = unsafe { AsyncFd::register_with_interest(News(socket), Interest::READABLE) };
        Ok(Self { socket: socket.map_err(io::Error::from)?, buffer: Vec::new() })
    }

    /// Waits for news and takes all that is there; whether some concern us. Of what was lost meanwhile
    /// nothing is known.
    async fn receive(&mut self, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
        let Self { socket, buffer } = self;
        let mut ready = socket.readable_mut().await?;
        buffer.reserve(RECEIVE_BYTES);
        let mut concerns_us = false;
        loop {
            buffer.clear();
            match ready.get_inner_mut().0.recv_from(buffer, 0) {
                // Nobody but the kernel has port 0.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => concerns_us |= take(buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    return Ok(concerns_us);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => concerns_us = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

//! Linux: TUN, UDP, netlink and namespaces; the only room with `unsafe`.
//!
//! Each file turns one kernel interface into plain functions with plain data. Nothing here knows the
//! protocol, the configuration or a policy; what the kernel or a peer hands over cannot panic.
#![allow(
    unsafe_code,
    reason = "the system calls that std does not have; each block says why it is sound"
)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod attach;
pub mod background;
mod call;
pub mod epoll;
pub mod guard;
pub mod helper;
pub mod inherit;
pub mod inotify;
pub mod interface;
pub mod locked;
pub mod memory;
mod message;
pub mod mounts;
pub mod netlink;
pub mod netns;
mod nftables;
pub mod notify;
pub mod pages;
pub mod poll;
pub mod rights;
pub mod sandbox;
pub mod scheduling;
pub mod tun;
pub mod udp;

/// Turns the -1 of a system call into its errno.
fn checked<T: PartialOrd + Default>(result: T) -> std::io::Result<T> {
    if result < T::default() { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

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
pub mod flock;
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

/// What to do when [`is_out_of_files`].
pub(crate) const MORE_FILES: &str = "raise the limit of open files (`ulimit -n 1024`; systemd: \
     LimitNOFILE=1024; of all processes: `sysctl fs.file-max`)";

/// Whether the reason of an error is that no descriptor is left, to this process or to all.
pub(crate) fn is_out_of_files(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)))
}

//! The kernel's side of hushwire, in network namespaces of its own: no test touches the machine's.
//!
//! ```text
//!   one process a test, and one namespace, made by the thread that runs it, gone with that thread
//!   +-----------------------------------------------------------+
//!   |  lo   hushN = the TUN under test   underN = "the underlay"  |
//!   +-----------------------------------------------------------+
//! ```
//!
//! Root is needed, or `unshare --user --map-root-user --net --mount cargo test --test sys`, and the program
//! `ip`: what the kernel was told is read back by somebody else's eyes. TUN names differ from test to test
//! because `/proc/PID/fdinfo` shows those of all namespaces.

mod adopt;
mod attach;
mod descriptors;
mod elsewhere;
mod guard;
mod netlink;
mod netns;
mod reconfigure;
mod udp;

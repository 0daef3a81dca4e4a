//! A cable that is back, or a switch behind it: not to lose what is sent while the kernel looks for neighbours.
//!
//! What is sent while there is no carrier makes the kernel ask for a link-layer address, three times, a
//! second apart; what waits for the answer is dropped a second after the last time (net/core/neighbour.c,
//! `neigh_timer_handler`). When the cable comes back just before that, a peer is heard at once, and what
//! is sent again to it is queued and dropped: seen in 6 of 16 cables pulled for 3 s. To make the kernel forget
//! what it asks in vain takes a right that hushwire has given up. So the packet loop is told, and sends
//! nothing once more before the kernel asks anew by itself, which is a second at most.

use std::collections::BTreeSet;
use std::future::pending;

use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::sys::netlink::{LinkEvent, LinkMonitor};

/// The interfaces of our network namespace, and whether each has a carrier.
pub(super) struct Carrier {
    /// None when the kernel tells nothing.
    monitor: Option<AsyncFd<LinkMonitor>>,
    /// Those that have one, by all that was told.
    carrying: BTreeSet<u32>,
}

impl Carrier {
    /// Begins to listen. Runs inside a tokio runtime.
    pub(super) fn watch() -> Self {
        let monitor = LinkMonitor::open().and_then(LinkMonitor::into_async);
        let monitor = monitor.inspect_err(|error| warn!(%error, "no news about interfaces")).ok();
        Self { monitor, carrying: BTreeSet::new() }
    }

    /// Waits until an interface has its carrier back. Nothing is lost when this is dropped.
    pub(super) async fn back(&mut self) {
        while let Some(monitor) = &mut self.monitor {
            let Ok(mut ready) = monitor.readable_mut().await else { break };
            match ready.get_inner_mut().next_event() {
                Ok(Some(LinkEvent::Link(link))) if link.carrier && !link.deleted => {
                    if self.carrying.insert(link.index) {
                        return;
                    }
                }
                Ok(Some(LinkEvent::Link(link))) => {
                    self.carrying.remove(&link.index);
                }
                Ok(Some(LinkEvent::Resync)) => self.carrying.clear(),
                Ok(None) => ready.clear_ready(),
                Err(error) => {
                    warn!(%error, "no more news about interfaces");
                    self.monitor = None;
                }
            }
        }
        pending().await
    }
}

//! An overlay interface that somebody sets down: noticing it where nobody has the right to bring it back.
//!
//! The kernel takes its routes and its IPv6 addresses along, and does not give them back when it is set up
//! again: the overlay would stay dead, with peers that answer. So the daemon ends with an error, as for an
//! interface that is deleted, and its supervisor starts it anew. Where there is a helper, the packet loop finds
//! it down by a packet that it cannot write. Called by the daemon's loop.

use std::future::pending;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::sys::netlink::{LinkEvent, LinkMonitor, Netlink};

/// One that is deleted is set down first, a moment before.
const SETTLES: Duration = Duration::from_millis(100);

/// The news of one interface.
pub(super) struct Lowered {
    index: u32,
    /// None when nobody has to be told, or the kernel tells nothing.
    monitor: Option<AsyncFd<LinkMonitor>>,
    /// When to look whether it is still there, after it was set down.
    look_at: Option<Instant>,
}

impl Lowered {
    /// Begins to listen for the interface of this index in our network namespace, if there is one to listen for.
    /// Runs inside a tokio runtime.
    pub(super) fn watch(index: Option<u32>) -> Self {
        let open = |_| {
            let monitor = LinkMonitor::open().and_then(LinkMonitor::into_async);
            monitor.inspect_err(|error| warn!(%error, "no news about the interface")).ok()
        };
        let mut this =
            Self { index: index.unwrap_or_default(), monitor: index.and_then(open), look_at: None };
        // After the monitor is open: what changes from now on is told.
        if this.monitor.is_some() {
            this.take(this.is_up() == Some(false));
        }
        this
    }

    /// Waits until it was set down. Nothing is lost when this is dropped.
    pub(super) async fn down(&mut self) {
        while let Some(monitor) = &mut self.monitor {
            if let Some(at) = self.look_at {
                sleep_until(at).await;
                self.look_at = None;
                // It may be up again, and its routes are gone all the same.
                if self.is_up().is_some() {
                    return;
                }
                continue;
            }
            let Ok(mut ready) = monitor.readable_mut().await else { break };
            match ready.get_inner_mut().next_event() {
                Ok(Some(LinkEvent::Link(link))) => {
                    self.take(link.index == self.index && !link.up && !link.deleted);
                }
                Ok(Some(LinkEvent::Resync)) => self.take(self.is_up() == Some(false)),
                Ok(None) => ready.clear_ready(),
                Err(error) => {
                    warn!(%error, "no more news about the interface");
                    self.monitor = None;
                }
            }
        }
        pending().await
    }

    fn take(&mut self, is_down: bool) {
        self.look_at = is_down.then(|| Instant::now() + SETTLES);
    }

    /// Whether it is up; none when it is gone, or the kernel does not say.
    fn is_up(&self) -> Option<bool> {
        let links = Netlink::open().and_then(|mut kernel| kernel.links()).ok()?;
        links.into_iter().find(|link| link.index == self.index).map(|link| link.up)
    }
}

//! A sidecar whose container has ended: noticing it, so that the engine can put us into the next one.
//!
//! Who shares a container's network namespace keeps it alive, and is alone in it once the container has
//! ended: the engine takes the container's interfaces away and gives the next one another namespace.
//! Nothing that is left can carry a datagram, ever. So when the last interface beside the loopback and
//! tunnels is gone, and an engine had made it (it is virtual: a veth, a macvlan), the daemon ends with an
//! error. A card that is pulled out of a machine, or a cable, comes back to the same namespace: it counts
//! as a way, and its loss ends nothing. Called by the daemon's loop.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use crate::sys::netlink::{LinkEvent, LinkMonitor, LinkState, Netlink};

/// From the loss to the end. An engine that restarts the container needs half a second until there is a new
/// namespace, and tries to start us once: into a container that does not run yet, that fails for good.
const PAUSE: Duration = Duration::from_secs(2);

/// The ways out of our network namespace.
pub(super) struct Ways {
    /// None when the kernel tells nothing.
    monitor: Option<AsyncFd<LinkMonitor>>,
    known: Known,
    /// The last one that there was, and when we end if there is no other by then.
    lost: Option<(String, Instant)>,
}

impl Ways {
    /// Begins to watch. Runs inside a tokio runtime.
    pub(super) fn watch() -> Self {
        let monitor = LinkMonitor::open().and_then(LinkMonitor::into_async);
        let monitor = monitor.inspect_err(|error| warn!(%error, "no news about interfaces")).ok();
        // After the monitor is open: what changes from now on is told.
        let mut this = Self { monitor, known: Known::default(), lost: None };
        this.look();
        this
    }

    /// Waits until the last way is gone and no other has come; says which it was. Nothing is lost when this is
    /// dropped.
    pub(super) async fn end(&mut self) -> String {
        while let Some(monitor) = &mut self.monitor {
            let mut ready = match &self.lost {
                None => monitor.readable_mut().await,
                Some((name, until)) => match timeout_at(*until, monitor.readable_mut()).await {
                    Ok(ready) => ready,
                    Err(_) => return name.clone(),
                },
            };
            let event = match &mut ready {
                Ok(ready) => match ready.get_inner_mut().next_event() {
                    Ok(None) => {
                        ready.clear_ready();
                        continue;
                    }
                    event => event,
                },
                Err(_) => break,
            };
            match event {
                Ok(Some(LinkEvent::Link(link))) => self.take(link),
                Ok(Some(LinkEvent::Resync)) => self.look(),
                Ok(None) | Err(_) => self.monitor = None,
            }
        }
        pending().await
    }

    fn take(&mut self, link: LinkState) {
        if link.deleted {
            if let Some(name) = self.known.gone(link.index) {
                error!(interface = name, "the last interface of the underlay was taken away");
                self.lost = Some((name, Instant::now() + PAUSE));
            }
        } else if self.known.there(link.index, link.name, link.kind) && self.lost.take().is_some() {
            info!("there is an interface for the underlay again");
        }
    }

    /// Looks at everything that is there. What went while nothing was told is not missed: this is no place
    /// to end by a guess.
    fn look(&mut self) {
        self.known = Known::default();
        match Netlink::open().and_then(|mut kernel| kernel.links()) {
            Ok(links) => links.into_iter().for_each(|link| {
                self.known.there(link.index, link.name, link.kind);
            }),
            Err(error) => warn!(%error, "the interfaces of the underlay are not known"),
        }
    }
}

/// Interfaces by which the underlay may leave.
#[derive(Default)]
struct Known(BTreeMap<u32, Way>);

struct Way {
    name: String,
    is_virtual: bool,
}

impl Known {
    /// Called for an interface that is there; whether it counts.
    fn there(&mut self, index: u32, name: String, kind: Option<String>) -> bool {
        let counts = name != "lo" && kind.as_deref() != Some("tun");
        if counts {
            self.0.insert(index, Way { name, is_virtual: kind.is_some() });
        }
        counts
    }

    /// Called for one that is gone: its name, if it was the last and no card.
    fn gone(&mut self, index: u32) -> Option<String> {
        let way = self.0.remove(&index)?;
        (way.is_virtual && self.0.is_empty()).then_some(way.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(links: &[(u32, &str, Option<&str>)]) -> Known {
        let mut known = Known::default();
        for (index, name, kind) in links {
            known.there(*index, (*name).to_owned(), kind.map(str::to_owned));
        }
        known
    }

    #[test]
    fn the_end_of_a_container_is_the_loss_of_its_last_interface() {
        let mut container = known(&[
            (1, "lo", None),
            (2, "hush0", Some("tun")),
            (14, "eth0", Some("veth")),
            (16, "eth1", Some("veth")),
        ]);
        assert_eq!(container.gone(14), None, "one network of two was taken away");
        assert_eq!(container.gone(16).as_deref(), Some("eth1"));
        assert_eq!(container.gone(2), None, "our own is no way out");
    }

    #[test]
    fn a_card_that_is_pulled_out_is_no_end() {
        let mut machine =
            known(&[(1, "lo", None), (2, "eth0", None), (3, "docker0", Some("bridge"))]);
        assert_eq!(machine.gone(3), None);
        assert_eq!(machine.gone(2), None);
    }
}

//! Following the interface of a bare device: its MTU, whether it is up, whether it is still there.
//!
//! In our own network namespace rtnetlink tells when to look. When the interface was moved elsewhere it is
//! looked at once a second, without keeping anything open in that namespace. What a change means is said
//! in bare.rs.

use std::io;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

use crate::sys::interface::{Sight, TunWatch};
use crate::sys::netlink::{LinkEvent, LinkMonitor};
use crate::sys::tun::Tun;

/// How often an interface that is in another network namespace is looked at.
const FAR_INTERVAL: Duration = Duration::from_secs(1);

/// What a look has shown.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is as it was.
    Same,
    /// It has changed.
    Changed(Sight),
    /// It was deleted.
    Gone,
}

/// The interface of a TUN, followed wherever it goes.
pub(super) struct Follower {
    watch: TunWatch,
    monitor: AsyncFd<LinkMonitor>,
    far: Interval,
    /// As it was seen last; none while it cannot be.
    sight: Option<Sight>,
}

impl Follower {
    /// Starts to follow; the first [`Follower::look`] shows it as it is.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn new(tun: &Tun) -> io::Result<Self> {
        let mut far = interval(FAR_INTERVAL);
        far.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let monitor = LinkMonitor::open()?.into_async()?;
        Ok(Self { watch: TunWatch::new(tun)?, monitor, far, sight: None })
    }

    /// As it was seen last; none while it cannot be seen.
    pub(super) fn sight(&self) -> Option<&Sight> {
        self.sight.as_ref()
    }

    /// Looks at the interface without taking note of it.
    pub(super) fn glance(&self) -> Option<Sight> {
        self.watch.look().ok().flatten()
    }

    /// Waits until another look is worth it. Nothing is lost when this is dropped.
    pub(super) async fn changed(&mut self) {
        if !self.sight.as_ref().is_some_and(|sight| sight.here) {
            self.far.tick().await;
            return;
        }
        loop {
            match self.monitor.readable_mut().await {
                Ok(mut ready) => {
                    let ours = self.sight.as_ref().map(|sight| sight.index);
                    let told = drain(ready.get_inner_mut(), ours);
                    ready.clear_ready();
                    match told {
                        Ok(false) => {}
                        Ok(true) => return,
                        Err(error) => {
                            warn!(%error, "no news about interfaces");
                            break;
                        }
                    }
                }
                Err(error) => {
                    warn!(%error, "no news about interfaces");
                    break;
                }
            }
        }
        self.far.tick().await;
    }

    /// Looks at the interface.
    pub(super) fn look(&mut self) -> Seen {
        let before = self.sight.take();
        match self.watch.look() {
            Ok(None) => Seen::Gone,
            Ok(Some(sight)) => {
                self.sight = Some(sight.clone());
                if before.as_ref() == Some(&sight) { Seen::Same } else { Seen::Changed(sight) }
            }
            Err(error) => {
                if before.is_some() {
                    warn!(%error, "the interface cannot be seen where it is; its MTU is not followed");
                }
                Seen::Same
            }
        }
    }
}

/// Takes what the monitor has; whether anything of it is about our interface.
fn drain(monitor: &mut LinkMonitor, ours: Option<u32>) -> io::Result<bool> {
    let mut told = false;
    while let Some(event) = monitor.next_event()? {
        told |= match event {
            LinkEvent::Link(link) => Some(link.index) == ours,
            LinkEvent::Resync => true,
        };
    }
    Ok(told)
}

//! A guard that somebody takes away while we run: noticing it, and what follows.
//!
//! Where hushwire works in its own network namespace it has given up the right to put the guard in again. Under
//! a service manager that keeps the interface it ends: it is started again at once, guarded, and nothing is
//! lost. Elsewhere it goes on, says so, and `status` shows what is left. In a container's namespace nobody
//! watches: the next attach puts in what is missing. Called by the daemon's loop.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::error::Error;
use super::{Daemon, rights};
use crate::config::Config;
use crate::sys::guard::{Guard, GuardWatch};

/// Who loads a firewall anew takes it away first: what is gone for longer is gone.
const SETTLES: Duration = Duration::from_secs(1);

/// The news of the guard.
pub(super) struct Guarding {
    /// None when nobody tells, or it is in another namespace.
    watch: Option<GuardWatch>,
    /// What is in force when nobody interferes.
    whole: Guard,
    /// When to look, after news.
    look_at: Option<Instant>,
}

impl Guarding {
    /// Begins to listen. Comes before the rights to do so are given up. Runs inside a tokio runtime.
    pub(super) fn watch(config: &Config) -> Self {
        let interface = &config.interface;
        let open = || {
            let addresses = interface.address.iter().map(|address| address.addr());
            GuardWatch::open(&interface.name, addresses.collect())
                .inspect_err(|error| warn!(%error, "no news of the guard"))
                .ok()
        };
        let watch = if rights::follows(config) { None } else { open() };
        Self { watch, whole: Guard::default(), look_at: None }
    }

    /// Tells what was put in.
    pub(super) fn put_in(&mut self, whole: Guard) {
        self.whole = whole;
    }

    /// Waits for news and says what is in force by then. Nothing is lost when this is dropped.
    pub(super) async fn changed(&mut self) -> Guard {
        while let Some(watch) = &mut self.watch {
            if let Some(at) = self.look_at {
                sleep_until(at).await;
                self.look_at = None;
                match watch.look(self.whole) {
                    Ok(guard) => return guard,
                    Err(error) => warn!(%error, "the guard cannot be looked at"),
                }
            }
            match watch.news().await {
                Ok(()) => self.look_at = Some(Instant::now() + SETTLES),
                Err(error) => {
                    warn!(%error, "no more news of the guard");
                    self.watch = None;
                }
            }
        }
        pending().await
    }
}

impl Daemon {
    /// Takes note of what is left of the guard.
    ///
    /// # Errors
    /// When some of it is gone and a restart puts it in again without a loss.
    pub(super) fn guard_changed(&mut self, now: Guard) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.guard, now);
        let is_less =
            (before.policy_rules && !now.policy_rules) || (before.nftables && !now.nftables);
        if is_less && self.service.keeps_descriptors() {
            return Err(Error::GuardGone(now));
        }
        if is_less {
            error!("{}", Error::GuardGone(now));
        } else if before != now {
            info!(guard = %now, "the guard is in force again");
        }
        Ok(())
    }
}

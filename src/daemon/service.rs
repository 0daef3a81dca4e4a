//! What the service manager (systemd) is told of `up`, and what it keeps for the next start.
//!
//! Under `Type=notify` it hears when the overlay is ready, when that is reloaded and when it ends, has a line
//! of status, and with a watchdog a beat that the packet loop gives. Descriptors that it keeps
//! (`FileDescriptorStoreMax=`) are the TUN and the underlay sockets: a restart finds them as they were, with
//! all that waits in them. Without a service manager nothing of this happens. Whatever is wrong with it is a
//! line in the log, and hushwire goes on. Used by the daemon of `up`.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::dataplane::Pulse;
use crate::sys::inherit;
use crate::sys::notify::{Notifier, monotonic_micros};
use crate::sys::tun::Tun;
use crate::sys::udp::Family;

/// Under which name the TUN is kept.
const TUN: &str = "tun";

fn underlay(family: Family) -> &'static str {
    match family {
        Family::V4 => "udp4",
        Family::V6 => "udp6",
    }
}

/// What a service manager says in the environment, see systemd.exec(5) and sd_notify(3).
#[derive(Clone, Debug, Default)]
pub struct ServiceEnvironment {
    /// `$NOTIFY_SOCKET`: where it listens.
    pub notify_socket: Option<OsString>,
    /// `$WATCHDOG_USEC`: a beat at least so often, in microseconds.
    pub watchdog_usec: Option<String>,
    /// `$WATCHDOG_PID`: from which process; ours if it is not there.
    pub watchdog_pid: Option<String>,
    /// `$LISTEN_FDS`: how many descriptors it passes.
    pub listen_fds: Option<String>,
    /// `$LISTEN_PID`: to which process.
    pub listen_pid: Option<String>,
    /// `$LISTEN_FDNAMES`: their names, with colons between.
    pub listen_fdnames: Option<String>,
    /// `$FDSTORE`: how many it keeps. systemd says so since version 254; before that, the unit must.
    pub fdstore: Option<String>,
}

/// The service manager of this process; perhaps there is none.
#[derive(Debug)]
pub struct Service {
    notifier: Option<Arc<Notifier>>,
    watchdog: Option<Duration>,
    keeps: bool,
    /// What it has kept of the process before.
    kept: Vec<(String, OwnedFd)>,
    /// What it was told last.
    status: String,
    /// The port of the sockets that it keeps; 0 for none.
    port: u16,
}

impl Service {
    /// Takes what the environment says and hands over. Comes before anything of ours is opened.
    pub fn take(environment: &ServiceEnvironment) -> Self {
        let number = |text: &Option<String>| text.as_ref()?.parse::<u64>().ok();
        let is_us = |pid: Option<u64>| pid == Some(std::process::id().into());
        let count =
            number(&environment.listen_fds).filter(|_| is_us(number(&environment.listen_pid)));
        let names = environment.listen_fdnames.as_deref().unwrap_or_default();
        let kept = inherit::take_row(count.unwrap_or(0).try_into().unwrap_or(0), names);
        let notifier = environment.notify_socket.as_ref().and_then(|address| {
            let notifier = Notifier::connect(address);
            notifier
                .inspect_err(|error| warn!(?address, %error, "NOTIFY_SOCKET: nobody to be told"))
                .ok()
        });
        let watchdog = number(&environment.watchdog_usec).filter(|&usec| {
            usec > 0
                && (environment.watchdog_pid.is_none() || is_us(number(&environment.watchdog_pid)))
        });
        Self {
            keeps: notifier.is_some() && number(&environment.fdstore).is_some_and(|most| most > 0),
            notifier: notifier.map(Arc::new),
            watchdog: watchdog.map(Duration::from_micros),
            kept,
            status: String::new(),
            port: 0,
        }
    }

    /// Whether what is left with it is there at the next start, also when this process is killed.
    pub fn keeps_descriptors(&self) -> bool {
        self.keeps
    }

    /// The TUN of the process before.
    pub(super) fn kept_tun(&mut self) -> Option<OwnedFd> {
        self.drain(|name| name == TUN).pop()
    }

    /// The underlay sockets of the process before.
    pub(super) fn kept_underlay(&mut self) -> Vec<OwnedFd> {
        self.drain(|name| [Family::V4, Family::V6].map(underlay).contains(&name))
    }

    fn drain(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<OwnedFd> {
        self.kept.extract_if(.., |(name, _)| wanted(name)).map(|(_, fd)| fd).collect()
    }

    /// Closes what was kept and nobody wants: by another version, or under another configuration.
    pub(super) fn forget_the_rest(&mut self) {
        for (name, _) in std::mem::take(&mut self.kept) {
            warn!(name, "descriptor passed to hushwire that it has no use for; closed");
            self.forget(&name);
        }
    }

    /// Has the TUN kept in place of the one before.
    pub(super) fn keep_tun(&self, tun: &Tun) {
        self.keep(TUN, tun.as_fd());
    }

    /// Has the TUN closed that was kept.
    pub(super) fn forget_tun(&self) {
        self.forget(TUN);
    }

    /// Has the underlay sockets kept in place of those before, if they have another port.
    pub(super) fn keep_underlay(&mut self, port: u16, sockets: &[(Family, OwnedFd)]) {
        if std::mem::replace(&mut self.port, port) != port {
            self.forget_underlay();
            self.port = port;
            for (family, socket) in sockets {
                self.keep(underlay(*family), socket.as_fd());
            }
        }
    }

    /// Has the underlay sockets closed that were kept: their port is free then.
    pub(super) fn forget_underlay(&mut self) {
        self.port = 0;
        [Family::V4, Family::V6].map(underlay).into_iter().for_each(|name| self.forget(name));
    }

    fn keep(&self, name: &str, fd: std::os::fd::BorrowedFd<'_>) {
        if let Some(notifier) = self.notifier.as_ref().filter(|_| self.keeps)
            && let Err(error) = notifier.store(name, fd)
        {
            warn!(%error, name, "the service manager does not keep it: a restart will make it anew");
        }
    }

    fn forget(&self, name: &str) {
        if let Some(notifier) = self.notifier.as_ref().filter(|_| self.keeps) {
            let _ = notifier.forget(name);
        }
    }

    /// The overlay can carry packets, or waits for its container; or a reload is over.
    pub(super) fn ready(&mut self, status: String) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(&status)));
        self.status = status;
    }

    /// The configuration is read again from now on, until [`Service::ready`].
    pub(super) fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()));
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=");
    }

    /// Says how it is, if that is news.
    pub(super) fn status(&mut self, status: String) {
        if status != self.status {
            self.tell(&format!("STATUS={}", one_line(&status)));
            self.status = status;
        }
    }

    fn tell(&self, lines: &str) {
        if let Some(notifier) = &self.notifier
            && let Err(error) = notifier.tell(lines)
        {
            debug!(%error, lines, "the service manager was not told");
        }
    }

    /// Lets the packet loop feed the watchdog, twice in its time. Runs inside a tokio runtime.
    pub(super) fn feed_watchdog(&self, pulse: Pulse) {
        let (Some(notifier), Some(watchdog)) = (self.notifier.clone(), self.watchdog) else {
            return;
        };
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(watchdog / 2).await;
                // A loop that does not turn does not answer, and nobody answers in its place.
                if pulse.beat().await.is_err() {
                    return;
                }
                if let Err(error) = notifier.tell("WATCHDOG=1") {
                    warn!(%error, "the watchdog was not fed");
                }
            }
        });
    }
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join("; ")
}

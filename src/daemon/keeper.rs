//! The daemon's dealings with its keeper, and with the one that a killed predecessor left.
//!
//! A keeper is a help, never a condition: whatever is wrong with it is a line in the log, and hushwire goes
//! on without. What it is for stands in `sys::keeper`.

use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::clock::Clock;
use super::control::{PREDECESSOR_PATIENCE, PREDECESSOR_POLL};
use crate::config::Config;
use crate::sys::keeper::{self, Keeper};
use crate::sys::tun::Tun;
use crate::uapi::{SOCKET_DIRECTORY, SocketFile, listen_privately};

/// How the keepers' sockets end; `wg` looks at `.sock` alone.
const SUFFIX: &str = ".keeper";

/// What a predecessor left: takes the TUN of this interface from its keeper, and ends the keeper of a
/// predecessor that had the same file and another interface name, which would stand in our way.
pub(super) async fn inherit(interface: &str, file: &Path) -> Option<OwnedFd> {
    let tun = take(interface).await;
    let file = absolute(file);
    let entries = std::fs::read_dir(SOCKET_DIRECTORY).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.to_str().is_some_and(|path| path.ends_with(SUFFIX)) && path != socket(interface) {
            keeper::dismiss(&path, &file);
        }
    }
    tun
}

/// Takes the TUN of an interface from the keeper of a hushwire that was killed. The caller has the control
/// socket, so that a hushwire which still lives by the word of its keeper is dying.
pub(super) async fn take(interface: &str) -> Option<OwnedFd> {
    let until = Clock::now() + PREDECESSOR_PATIENCE;
    loop {
        match keeper::take(&socket(interface)) {
            Ok(None) if Clock::now() < until => tokio::time::sleep(PREDECESSOR_POLL).await,
            taken => return taken.ok().flatten(),
        }
    }
}

fn socket(interface: &str) -> PathBuf {
    Path::new(SOCKET_DIRECTORY).join(format!("{interface}{SUFFIX}"))
}

fn absolute(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

/// Our own keeper, if there is one.
pub(super) struct Keeping {
    /// Dropped, and so ended, before its file goes.
    keeper: Option<AsyncFd<Keeper>>,
    file: Option<SocketFile>,
    patience: Duration,
}

impl Keeping {
    /// Gives the keeper what it needs, or ends it if nothing is to be kept. Runs inside a tokio runtime.
    pub(super) fn start(keeper: Option<Keeper>, config: &Config) -> Self {
        let patience = config.gossip.resend;
        let mut this = Self { keeper: None, file: None, patience };
        let Some(keeper) = keeper.filter(|_| !patience.is_zero()) else { return this };
        let path = socket(&config.interface.name);
        let (listener, file) = match listen_privately(&path) {
            Ok(listening) => listening,
            Err(error) => {
                warn!(%error, "nothing will be kept while hushwire is away");
                return this;
            }
        };
        let listens = keeper.listen(listener.as_fd(), &path, &absolute(&config.path));
        match listens.and_then(|()| keeper.into_async()) {
            Ok(keeper) => (this.keeper, this.file) = (Some(keeper), Some(file)),
            Err(error) => warn!(%error, "nothing will be kept while hushwire is away"),
        }
        this
    }

    /// Has a TUN held in place of the one before.
    pub(super) fn hold(&self, tun: &Tun) {
        if let Some(keeper) = &self.keeper {
            // One that was killed is noticed by `ended`.
            let _ = keeper.get_ref().hold(tun.as_fd(), self.patience);
        }
    }

    /// Has nothing held any more: the interface is to go.
    pub(super) fn let_go(&self) {
        if let Some(keeper) = &self.keeper {
            let _ = keeper.get_ref().let_go(self.patience);
        }
    }

    /// Takes a reloaded configuration.
    pub(super) fn reload(&mut self, config: &Config) {
        let before = std::mem::replace(&mut self.patience, config.gossip.resend);
        if self.patience.is_zero() {
            self.end();
        } else if let Some(keeper) = &self.keeper
            && before != self.patience
        {
            let _ = keeper.get_ref().set_patience(self.patience);
        }
    }

    /// Waits until the keeper was killed; for ever if there is none.
    pub(super) async fn ended(&self) {
        match &self.keeper {
            // It says nothing: what can be read is its end.
            Some(keeper) => drop(keeper.readable().await),
            None => pending().await,
        }
    }

    /// Goes on without a keeper that was killed.
    pub(super) fn give_up(&mut self) {
        warn!(
            "the keeper was killed: what is sent while hushwire is away is lost until the next start"
        );
        self.end();
    }

    fn end(&mut self) {
        self.keeper = None;
        self.file = None;
    }
}

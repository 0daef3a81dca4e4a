//! The daemon's dealings with its keeper, and with the one that a killed predecessor left.
//!
//! A keeper is a help, never a condition: whatever is wrong with it is a line in the log, and hushwire goes
//! on without. What it is for stands in `sys::helper`.

use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::clock::Clock;
use super::control::{PREDECESSOR_PATIENCE, PREDECESSOR_POLL};
use crate::config::Config;
use crate::sys::helper::{self, Helper};
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
            helper::dismiss(&path, &file);
        }
    }
    tun
}

/// Takes the TUN of an interface from the keeper of a hushwire that was killed. The caller has the control
/// socket, so that a hushwire which still lives by the word of its keeper is dying.
pub(super) async fn take(interface: &str) -> Option<OwnedFd> {
    let until = Clock::now() + PREDECESSOR_PATIENCE;
    loop {
        match helper::take(&socket(interface)) {
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
    helper: Option<AsyncFd<Helper>>,
    file: Option<SocketFile>,
    patience: Duration,
}

impl Keeping {
    /// Gives the keeper what it needs, if anything is to be kept. Runs inside a tokio runtime.
    ///
    /// # Errors
    /// When the runtime cannot wait for the helper.
    pub(super) fn start(helper: Helper, config: &Config, is_wanted: bool) -> io::Result<Self> {
        let patience = config.gossip.resend;
        let helper = helper.into_async()?;
        let mut this = Self { helper: Some(helper), file: None, patience };
        if !patience.is_zero() && is_wanted {
            let path = socket(&config.interface.name);
            match this.listen(&path, &absolute(&config.path)) {
                Ok(file) => this.file = Some(file),
                Err(error) => warn!(%error, "nothing will be kept while hushwire is away"),
            }
        }
        Ok(this)
    }

    fn listen(&self, path: &Path, file: &Path) -> io::Result<SocketFile> {
        let (listener, socket) = listen_privately(path).map_err(io::Error::other)?;
        if let Some(helper) = &self.helper {
            helper.get_ref().listen(listener.as_fd(), path, file)?;
        }
        Ok(socket)
    }

    /// The process that keeps and, before that, attaches; none if there is none any more.
    pub(super) fn helper(&self) -> Option<u32> {
        self.helper.as_ref().map(|helper| helper.get_ref().id())
    }

    /// Whether something is kept while hushwire is away.
    pub(super) fn keeps(&self) -> bool {
        self.file.is_some()
    }

    /// Has a TUN held in place of the one before.
    pub(super) fn hold(&self, tun: &Tun) {
        if let Some(helper) = self.helper.as_ref().filter(|_| self.keeps()) {
            // One that was killed is noticed by `ended`.
            let _ = helper.get_ref().hold(tun.as_fd(), self.patience);
        }
    }

    /// Has nothing held any more: the interface is to go.
    pub(super) fn let_go(&self) {
        if let Some(helper) = self.helper.as_ref().filter(|_| self.keeps()) {
            let _ = helper.get_ref().let_go(self.patience);
        }
    }

    /// The helper attaches nothing any more: if it keeps nothing either, it ends.
    pub(super) fn rights_ended(&mut self) {
        if !self.keeps() {
            self.end();
        }
    }

    /// Takes a reloaded configuration. `attaches` says that the helper is needed for more than keeping.
    pub(super) fn reload(&mut self, config: &Config, attaches: bool) {
        let before = std::mem::replace(&mut self.patience, config.gossip.resend);
        if self.patience.is_zero() {
            match &self.helper {
                Some(helper) if attaches => {
                    let _ = helper.get_ref().forget();
                    self.file = None;
                }
                _ => self.end(),
            }
        } else if let Some(helper) = self.helper.as_ref().filter(|_| self.keeps())
            && before != self.patience
        {
            let _ = helper.get_ref().set_patience(self.patience);
        }
    }

    /// Waits until the helper was killed; for ever if there is none.
    pub(super) async fn ended(&self) {
        match &self.helper {
            // It says nothing: what can be read is its end.
            Some(helper) => drop(helper.readable().await),
            None => pending().await,
        }
    }

    /// Goes on without a keeper that was killed.
    pub(super) fn give_up(&mut self) {
        self.end();
        warn!(
            "the keeper was killed: what is sent while hushwire is away is lost until the next start"
        );
    }

    fn end(&mut self) {
        self.helper = None;
        self.file = None;
    }
}

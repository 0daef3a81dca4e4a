//! Where the overlay interface is to be, and whether that is there now: a task follows it and says so.
//!
//! ```text
//!   engine's events, end of a process, mounts ──> task ──State──> daemon ──> attach, detach
//! ```
//!
//! A container is followed in target/container.rs; a path and a process are here. The task keeps no
//! descriptor of a network namespace: it would keep that of a container alive which has gone. It touches
//! neither interface nor packets. Called by the daemon.

mod container;

use std::path::Path;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::debug;

use crate::config::{Config, Netns};
use crate::engine::Engine;
use crate::sys::helper::{Attacher, Refused};
use crate::sys::mounts::MountWatch;
use crate::sys::netns::{Id, Namespace, ProcessWatch, identify};

/// How often a path is looked at beside all news: what a link leads to changes without any.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the start waits to hear where the interface is to be; it goes on without.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// Said until there is something to say.
const NO_ANSWER: &str = "the container engine has not answered yet";

/// What is known of the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is there.
    Here {
        /// How to enter it.
        namespace: Namespace,
        /// Which one it is: another may have come to the same path.
        id: Id,
    },
    /// Whom to ask does not answer, for this reason: it may be there or not.
    Unknown(String),
    /// It is not there.
    Away {
        /// Why, and what to do.
        why: String,
        /// Whether that is a mistake, and not something that comes later.
        lasting: bool,
    },
}

impl State {
    /// Asks the helper, if there is one with rights: to look at another user's process takes one.
    fn of(namespace: Namespace, attacher: Option<&Attacher>) -> Self {
        let id = match attacher {
            Some(attacher) => attacher.identify(&namespace),
            None => identify(&namespace).map_err(|error| Refused::from(&error)),
        };
        match id {
            Ok(id) => Self::Here { namespace, id },
            Err(error) => Self::Away { why: error.to_string(), lasting: error.is_lasting() },
        }
    }

    fn away(why: impl Into<String>) -> Self {
        Self::Away { why: why.into(), lasting: false }
    }
}

/// The place, followed.
pub(super) struct Target {
    states: watch::Receiver<State>,
    task: AbortHandle,
}

impl Target {
    /// Begins to follow what the configuration says. Runs inside a tokio runtime.
    pub(super) fn follow(config: &Config, attacher: Option<Attacher>) -> Self {
        let (sender, states) = watch::channel(State::Unknown(NO_ANSWER.to_owned()));
        let netns = config.interface.netns.clone();
        let engine = Engine::new(config.docker.socket.clone());
        let task = tokio::spawn(async move {
            match netns {
                Netns::Container(which) => container::follow(engine, which, attacher, sender).await,
                Netns::Pid(pid) => follow_process(pid, attacher.as_ref(), &sender).await,
                Netns::Name(_) | Netns::Path(_) => {
                    let path = netns.file().unwrap_or_default();
                    follow_path(&path, attacher.as_ref(), &sender).await;
                }
                Netns::Own => tell(&sender, State::of(Namespace::Own, None)),
            }
        });
        Self { states, task: task.abort_handle() }
    }

    /// The first that there is to say.
    pub(super) async fn first(&mut self) -> State {
        let _ = timeout(FIRST_PATIENCE, self.states.changed()).await;
        self.states.borrow_and_update().clone()
    }

    /// Waits for news. Nothing is lost when this is dropped, but what is no longer true.
    pub(super) async fn changed(&mut self) -> State {
        if self.states.changed().await.is_err() {
            // Nothing will ever change: it is our own, or a process that has ended.
            std::future::pending::<()>().await;
        }
        self.states.borrow_and_update().clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tell(states: &watch::Sender<State>, state: State) {
    states.send_if_modified(|known| {
        let news = *known != state;
        *known = state;
        news
    });
}

async fn follow_process(pid: u32, attacher: Option<&Attacher>, states: &watch::Sender<State>) {
    let ended = format!("process {pid} has ended; name another one in netns and reload");
    match ProcessWatch::new(pid) {
        Ok(process) => {
            tell(states, State::of(Namespace::Process(pid), attacher));
            end_of(process).await;
            tell(states, State::away(ended));
        }
        // Another process that gets the number later is not the one that was meant.
        Err(error) => tell(states, State::Away { why: error.to_string(), lasting: true }),
    }
}

/// Waits for the end of a process.
async fn end_of(process: ProcessWatch) {
    match process.into_async() {
        Ok(process) => drop(process.readable().await),
        Err(error) => {
            debug!(%error, "the end of a process will not be heard");
            std::future::pending().await
        }
    }
}

/// Looks when something was mounted, when the process of a path in /proc has ended, and now and then.
async fn follow_path(path: &Path, attacher: Option<&Attacher>, states: &watch::Sender<State>) {
    let mounts = MountWatch::open();
    let mounts = mounts.inspect_err(|error| debug!(%error, "no news about mounts")).ok();
    let process = process_of(path).and_then(|pid| ProcessWatch::new(pid).ok()?.into_async().ok());
    let mut ended = process.is_none();
    loop {
        tell(states, State::of(Namespace::File(path.to_owned()), attacher));
        tokio::select! {
            () = mounted(mounts.as_ref()) => {}
            () = ended_process(process.as_ref()), if !ended => ended = true,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// The process whose namespace a path is, such as `/proc/4242/ns/net`.
fn process_of(path: &Path) -> Option<u32> {
    path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()
}

async fn mounted(mounts: Option<&AsyncFd<MountWatch>>) {
    let Some(mounts) = mounts else { return std::future::pending().await };
    match mounts.ready(tokio::io::Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

async fn ended_process(process: Option<&AsyncFd<ProcessWatch>>) {
    match process {
        Some(process) => drop(process.readable().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_of_a_path_is_found() {
        assert_eq!(process_of(Path::new("/proc/4242/ns/net")), Some(4242));
        for path in ["/proc/self/ns/net", "/proc/4242/ns/pid", "/run/netns/4242", "/proc//ns/net"] {
            assert_eq!(process_of(Path::new(path)), None, "{path}");
        }
    }
}

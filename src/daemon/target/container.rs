//! Following a container: which process is its first, told by the engine's events and by that process's end.
//!
//! The engine may be absent, restarted or slow: a container that runs is believed to run until its first
//! process has ended, which the kernel tells. After each event, and whenever the engine is back, the
//! engine is asked anew: an event says when to look, never what there is. Called by `target`.

use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info};

use super::{State, ended_process, tell};
use crate::config::Selector;
use crate::engine::{Engine, EngineError, Events, Found, Running};
use crate::sys::helper::Attacher;
use crate::sys::netns::{Namespace, ProcessWatch};

/// Until an engine that is gone is called again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: a container that the engine starts with itself is to be found at once.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// Follows a container for ever.
pub(super) async fn follow(
    engine: Engine,
    which: Selector,
    attacher: Option<Attacher>,
    states: watch::Sender<State>,
) {
    let mut follower =
        Follower { engine, which, attacher, states, running: None, pid: 0, ended: false };
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match follower.engine.events().await {
            Ok(events) => {
                debug!("listening to the container engine");
                pause = FIRST_PAUSE;
                follower.listen(events).await
            }
            Err(error) => error,
        };
        follower.lost(&error);
        tokio::select! {
            () = sleep(pause) => {}
            () = ended_process(follower.running.as_ref()) => follower.ended(),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Follower {
    engine: Engine,
    which: Selector,
    attacher: Option<Attacher>,
    states: watch::Sender<State>,
    /// The first process of the container that runs.
    running: Option<AsyncFd<ProcessWatch>>,
    /// Its id.
    pid: u32,
    /// It has ended, and the engine was not there to say more.
    ended: bool,
}

impl Follower {
    /// Looks after each event until the engine says no more.
    async fn listen(&mut self, mut events: Events) -> EngineError {
        loop {
            match self.engine.find(&self.which).await {
                Ok(found) => self.found(found),
                Err(error) => return error,
            }
            let event = loop {
                tokio::select! {
                    event = events.next() => break event,
                    () = ended_process(self.running.as_ref()) => self.ended(),
                }
            };
            if let Err(error) = event {
                return error;
            }
        }
    }

    fn found(&mut self, found: Found) {
        self.ended = false;
        match found {
            Found::Running(running) if self.running.is_some() && self.pid == running.pid => {}
            Found::Running(running) => self.began(&running),
            // The one that we are with goes on; which of the others comes next will be seen then.
            Found::Several(_) if self.running.is_some() => {}
            Found::Several(names) => self.away(&format!(
                "{} running containers have the {}: {}; stop all but one, or name one in netns",
                names.len(),
                self.what(),
                names.join(", ")
            )),
            Found::Stopped => self.away(&format!("{} is not running", self.what())),
            Found::Missing => self.away(&match &self.which {
                Selector::Name(name) => {
                    format!("there is no container {name}; create it, or correct netns")
                }
                Selector::Label(_) => format!(
                    "no running container has the {}; start one, or correct netns",
                    self.what()
                ),
            }),
        }
    }

    fn began(&mut self, container: &Running) {
        let Running { name, pid } = container;
        match ProcessWatch::new(*pid).map(ProcessWatch::into_async) {
            Ok(Ok(process)) => {
                info!(container = name, pid, "container is running");
                (self.running, self.pid) = (Some(process), *pid);
                tell(&self.states, State::of(Namespace::Process(*pid), self.attacher.as_ref()));
            }
            // It may have ended since the engine has looked; then there is an event to come.
            Err(error) => self.away(&format!("container {name} runs, but {error}")),
            Ok(Err(error)) => self.away(&format!("container {name} cannot be followed: {error}")),
        }
    }

    /// Called when the container's first process has ended: sooner than the engine knows.
    fn ended(&mut self) {
        self.away(&format!("{} is not running", self.what()));
        self.ended = true;
    }

    /// Called when the engine is gone.
    fn lost(&self, error: &EngineError) {
        debug!(%error, "the container engine is asked again");
        if self.ended {
            tell(&self.states, State::away(format!("{} is not running; {error}", self.what())));
        } else if self.running.is_none() {
            tell(&self.states, State::Unknown(error.to_string()));
        }
    }

    fn away(&mut self, why: &str) {
        self.running = None;
        tell(&self.states, State::away(why));
    }

    fn what(&self) -> String {
        match &self.which {
            Selector::Name(name) => format!("container {name}"),
            Selector::Label(label) => format!("label {label}"),
        }
    }
}

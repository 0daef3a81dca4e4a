//! A client of the container engine: which process is a container's first, and what happens to containers.
//!
//! It makes a few calls of Docker's API (inspect, list, events, networks) by the engine's UNIX socket, as Docker and
//! podman serve them, in no particular version: the fields that are read have been there since the first.
//! What an engine says is believed as far as it can be read, and has a limit. Whoever follows a container
//! stands in `daemon::target`; nothing here is repeated or waited for but an answer.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod error;
mod http;
mod networks;

use std::path::PathBuf;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;

use crate::config::Selector;
pub use error::EngineError;
use http::Connection;
pub use networks::Attendant;

/// The longest event that is read: a container may have many labels. In bytes.
const EVENT_LIMIT: usize = 1 << 20;

/// A container engine, by its socket.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
}

/// What an engine says about the container that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Running(Running),
    /// There is one by that name, and it does not run.
    Stopped,
    /// There is none, or none that has the label runs.
    Missing,
    /// More than one that has the label runs: their names.
    Several(Vec<String>),
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// The id of its first process, in the PID namespace of the engine.
    pub pid: u32,
}

/// The parts of an inspection that matter.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspection {
    #[serde(default)]
    name: String,
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    pid: u32,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Names", default)]
    names: Vec<String>,
}

impl Engine {
    /// The engine that listens on a socket, now or later.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for a container.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: it cannot be asked, or its answer cannot be read.
    pub async fn find(&self, which: &Selector) -> Result<Found, EngineError> {
        match which {
            Selector::Name(name) => self.inspect(name).await,
            Selector::Label(label) => self.find_labelled(label).await,
        }
    }

    async fn inspect(&self, name: &str) -> Result<Found, EngineError> {
        let answer = self.get::<Inspection>(&format!("/containers/{name}/json")).await;
        let Inspection { name, state } = match answer {
            Err(EngineError::Refused { status: 404, .. }) => return Ok(Found::Missing),
            answer => answer?,
        };
        // One that is about to be restarted counts as running, without a process.
        if !state.running || state.pid == 0 {
            return Ok(Found::Stopped);
        }
        let name = name.trim_start_matches('/').to_owned();
        Ok(Found::Running(Running { name, pid: state.pid }))
    }

    async fn find_labelled(&self, label: &str) -> Result<Found, EngineError> {
        let filters = serde_json::json!({"label": [label], "status": ["running"]}).to_string();
        let path = format!("/containers/json?filters={}", http::escaped(&filters));
        let listed: Vec<Listed> = self.get(&path).await?;
        match &*listed {
            [] => Ok(Found::Missing),
            [one] => match self.inspect(&one.id).await? {
                Found::Stopped => Ok(Found::Missing),
                found => Ok(found),
            },
            several => {
                let name = |listed: &Listed| listed.names.first().unwrap_or(&listed.id).clone();
                let mut names: Vec<_> = several.iter().map(name).collect();
                names.iter_mut().for_each(|name| *name = name.trim_start_matches('/').to_owned());
                names.sort();
                Ok(Found::Several(names))
            }
        }
    }

    async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, EngineError> {
        let body = Connection::open(&self.socket).await?.get(path).await?;
        serde_json::from_slice(&body).map_err(|error| EngineError::Odd {
            socket: self.socket.clone(),
            what: error.to_string(),
        })
    }

    /// Begins to listen to what happens to containers: what happens after this has returned is heard.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: it cannot be asked, or refuses.
    pub async fn events(&self) -> Result<Events, EngineError> {
        let filters = http::escaped("{\"type\":[\"container\"]}");
        let mut connection = Connection::open(&self.socket).await?;
        let body = connection.stream(&format!("/events?filters={filters}")).await?;
        Ok(Events { socket: self.socket.clone(), body, read: Vec::new(), _connection: connection })
    }
}

/// What happens to containers, from one moment on.
#[derive(Debug)]
pub struct Events {
    socket: PathBuf,
    body: Incoming,
    /// The beginning of an event.
    read: Vec<u8>,
    _connection: Connection,
}

impl Events {
    /// Waits until a container has begun or ceased to run or to exist, or has another name. Nothing is lost
    /// when this is dropped.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when the engine says no more: it has ended, or is restarted.
    pub async fn next(&mut self) -> Result<(), EngineError> {
        loop {
            while let Some(event) = self.take()? {
                if event.matters() {
                    return Ok(());
                }
            }
            let Some(frame) = self.body.frame().await else { return Err(self.ended("it ended")) };
            let frame = frame.map_err(|error| self.ended(&error.to_string()))?;
            self.read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if self.read.len() > EVENT_LIMIT {
                return Err(self.odd("an event without an end"));
            }
        }
    }

    /// The first whole event of what was read. They stand one behind the other, mostly in lines.
    fn take(&mut self) -> Result<Option<Event>, EngineError> {
        let mut events = serde_json::Deserializer::from_slice(&self.read).into_iter::<Event>();
        match events.next() {
            None => Ok(None),
            Some(Ok(event)) => {
                let length = events.byte_offset();
                self.read.drain(..length);
                Ok(Some(event))
            }
            Some(Err(error)) if error.is_eof() => Ok(None),
            Some(Err(error)) => Err(self.odd(&error.to_string())),
        }
    }

    fn ended(&self, why: &str) -> EngineError {
        EngineError::Ended { socket: self.socket.clone(), why: why.to_owned() }
    }

    fn odd(&self, what: &str) -> EngineError {
        EngineError::Odd { socket: self.socket.clone(), what: what.to_owned() }
    }
}

/// An event; older engines have `status` alone, newer ones both.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(default)]
    status: String,
}

impl Event {
    /// Whether another process may be a container's first after it. What health checks do all the time is
    /// none of these. The words are Docker's and podman's.
    fn matters(&self) -> bool {
        const ACTIONS: &[&str] =
            &["start", "die", "died", "stop", "restart", "destroy", "remove", "rename"];
        ACTIONS.contains(&self.action.as_str()) || ACTIONS.contains(&self.status.as_str())
    }
}

#[cfg(test)]
mod tests;

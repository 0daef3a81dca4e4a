//! One HTTP/1.1 connection to an engine's UNIX socket: one request, one answer or one stream.
//!
//! A request has a deadline and an answer has a limit. The connection's task ends with its handle. Called by
//! the engine's client alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::EngineError;

/// An engine answers in milliseconds; while it starts other containers, in some hundreds of them.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer: a list of some thousand containers. In bytes.
const ANSWER_LIMIT: usize = 16 << 20;
/// The longest refusal that is repeated to the operator, in characters.
const MESSAGE_LIMIT: usize = 200;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: PathBuf,
    sender: SendRequest<Empty<Bytes>>,
    task: AbortHandle,
}

impl Connection {
    pub(super) async fn open(socket: &Path) -> Result<Self, EngineError> {
        let stream = in_time(socket, UnixStream::connect(socket)).await?;
        let stream = stream
            .map_err(|error| EngineError::Unreachable { socket: socket.to_owned(), error })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| ended(socket, &error))?;
        let task = tokio::spawn(async { drop(connection.await) }).abort_handle();
        Ok(Self { socket: socket.to_owned(), sender, task })
    }

    /// Asks for a page and takes all of it.
    pub(super) async fn get(mut self, path: &str) -> Result<Bytes, EngineError> {
        let socket = self.socket.clone();
        let answer = async {
            let response = self.send(path).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|error| ended(&self.socket, &*error))?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(self.refused(status.as_u16(), &body)) }
        };
        in_time(&socket, answer).await?
    }

    /// Asks for what comes bit by bit; returns once the engine has agreed.
    pub(super) async fn stream(&mut self, path: &str) -> Result<Incoming, EngineError> {
        let socket = self.socket.clone();
        let answer = async {
            let response = self.send(path).await?;
            match response.status() {
                status if status.is_success() => Ok(response.into_body()),
                status => Err(self.refused(status.as_u16(), &[])),
            }
        };
        in_time(&socket, answer).await?
    }

    async fn send(&mut self, path: &str) -> Result<Response<Incoming>, EngineError> {
        // HTTP/1.1 wants to know which host; a socket is none.
        let request = Request::get(path).header(hyper::header::HOST, "localhost");
        let request = request.body(Empty::new()).map_err(|error| ended(&self.socket, &error))?;
        self.sender.send_request(request).await.map_err(|error| ended(&self.socket, &error))
    }

    fn refused(&self, status: u16, body: &[u8]) -> EngineError {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        let said = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.message);
        let message = said.unwrap_or_else(|_| "refused".to_owned());
        let message = message.chars().filter(|c| !c.is_control()).take(MESSAGE_LIMIT).collect();
        EngineError::Refused { socket: self.socket.clone(), status, message }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn in_time<T>(socket: &Path, answer: impl Future<Output = T>) -> Result<T, EngineError> {
    let silent = |_| EngineError::Silent { socket: socket.to_owned() };
    timeout(DEADLINE, answer).await.map_err(silent)
}

fn ended(socket: &Path, error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Ended { socket: socket.to_owned(), why: error.to_string() }
}

/// A text as a part of a URL's query: RFC 3986, section 2.1.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

//! The other end of the control socket: how `status`, `wait` and `reload` ask the daemon.
//!
//! Blocking and with a deadline: the commands have nothing else to do. Errors are for the eyes of the
//! operator and say what to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Reload, ReloadOutcome, SOCKET_DIRECTORY, socket_path};
use crate::status::Status;

/// The daemon answers within this time, or something is wrong with it.
const DEADLINE: Duration = Duration::from_secs(2);
/// A reload may wait for a container engine, and for the interface; systemd waits for 90 s.
const RELOAD_DEADLINE: Duration = Duration::from_secs(60);
const STATUS: &str = "status=1\n\n";
const STATUS_KEY: &str = "status=";
/// Bytes of an answer: 130,560 allowed IPs are 6 MB.
const REPLY_LIMIT: u64 = 64 << 20;

/// Says why there is no status.
#[derive(Debug)]
pub enum ClientError {
    /// No socket, or nobody listens on it.
    NotRunning {
        /// Which interface was asked for.
        interface: String,
        /// Its socket.
        path: PathBuf,
    },
    /// The socket is not ours to open.
    Denied(PathBuf),
    /// Somebody listens, but does not answer as hushwire does.
    NotHushwire(PathBuf),
    /// Somebody listens, but does not answer in this time.
    Silent(PathBuf, Duration),
    /// A path cannot be told: it has a line break.
    LineBreak,
    /// The system refused.
    System {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::NotRunning { interface, path } => write!(
                f,
                "no hushwire runs for interface {interface}: nobody listens on {}; start it with \
                 `hushwire up`, or name another interface with --interface",
                path.display()
            ),
            ClientError::Denied(path) => write!(
                f,
                "{} may be opened by its owner only; run this as root or as the owner",
                path.display()
            ),
            ClientError::NotHushwire(path) => write!(
                f,
                "what listens on {} does not answer as hushwire of this version does; if it is \
                 another WireGuard, ask it with `wg show`, else restart it",
                path.display()
            ),
            ClientError::Silent(path, waited) => write!(
                f,
                "hushwire listens on {} but did not answer within {} s; look at its log",
                path.display(),
                (waited.as_secs_f64() * 10.0).round() / 10.0
            ),
            ClientError::LineBreak => f.write_str(
                "a path with a line break cannot be handed over; name the file without one",
            ),
            ClientError::System { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for ClientError {}

/// Asks the daemon of an interface for its status.
///
/// # Errors
/// [`ClientError`]: nobody there, not permitted, or no answer that makes sense within 2 s.
pub fn fetch_status(interface: &str) -> Result<Status, ClientError> {
    fetch_status_in(Path::new(SOCKET_DIRECTORY), interface)
}

/// Asks it with less patience than 2 s, if this is less; it is to be more than none.
///
/// # Errors
/// As [`fetch_status`].
pub fn fetch_status_within(interface: &str, limit: Duration) -> Result<Status, ClientError> {
    let deadline = limit.min(DEADLINE);
    ask(Path::new(SOCKET_DIRECTORY), interface, STATUS, STATUS_KEY, deadline)
}

/// Asks the daemon whose control socket is in another directory than that of `wg`.
///
/// # Errors
/// As [`fetch_status`].
pub fn fetch_status_in(directory: &Path, interface: &str) -> Result<Status, ClientError> {
    ask(directory, interface, STATUS, STATUS_KEY, DEADLINE)
}

/// Has the daemon of an interface read its configuration again, and waits for the outcome.
///
/// # Errors
/// [`ClientError`]: nobody there, not permitted, or no answer that makes sense within 60 s.
pub fn request_reload(interface: &str, reload: &Reload) -> Result<ReloadOutcome, ClientError> {
    request_reload_in(Path::new(SOCKET_DIRECTORY), interface, reload)
}

/// The same for a control socket in another directory than that of `wg`.
///
/// # Errors
/// As [`request_reload`].
pub fn request_reload_in(
    directory: &Path,
    interface: &str,
    reload: &Reload,
) -> Result<ReloadOutcome, ClientError> {
    let text = reload.to_text().ok_or(ClientError::LineBreak)?;
    ask(directory, interface, &text, "reload=", RELOAD_DEADLINE)
}

/// Sends a request; what stands as JSON behind this key of the answer.
fn ask<T: DeserializeOwned>(
    directory: &Path,
    interface: &str,
    request: &str,
    key: &str,
    deadline: Duration,
) -> Result<T, ClientError> {
    let path = socket_path(directory, interface);
    let lines = exchange(&path, request, deadline).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { interface: interface.to_owned(), path: path.clone() }
        }
        io::ErrorKind::PermissionDenied => ClientError::Denied(path.clone()),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            ClientError::Silent(path.clone(), deadline)
        }
        // wireguard-go hangs up on a request that it does not know.
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            ClientError::NotHushwire(path.clone())
        }
        _ => ClientError::System { path: path.clone(), error },
    })?;
    let json = lines.iter().find_map(|line| line.strip_prefix(key));
    json.filter(|_| lines.iter().any(|line| line.starts_with("errno=")))
        .and_then(|json| serde_json::from_str(json).ok())
        .ok_or(ClientError::NotHushwire(path))
}

/// Sends a request; the lines of the answer up to its empty line, or to its end.
fn exchange(path: &Path, request: &str, deadline: Duration) -> io::Result<Vec<String>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    stream.write_all(request.as_bytes())?;
    BufReader::new(stream.take(REPLY_LIMIT))
        .lines()
        .take_while(|line| !matches!(line, Ok(text) if text.is_empty()))
        .collect()
}

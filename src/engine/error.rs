//! Why a container engine cannot be asked, in words for the operator: one line each.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the engine gave no answer, or none that can be used.
#[derive(Debug)]
pub enum EngineError {
    /// Nobody can be reached there.
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It did not answer in time.
    Silent {
        /// Who.
        socket: PathBuf,
    },
    /// It said no.
    Refused {
        /// Who.
        socket: PathBuf,
        /// The status code.
        status: u16,
        /// Its words.
        message: String,
    },
    /// It stopped in the middle.
    Ended {
        /// Who.
        socket: PathBuf,
        /// How that was seen.
        why: String,
    },
    /// Its answer is none of an engine.
    Odd {
        /// Who.
        socket: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { socket, error } => {
                write!(f, "container engine {}: {error}; ", socket.display())?;
                f.write_str(match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "run hushwire as root, or in the group that owns this socket"
                    }
                    io::ErrorKind::ConnectionRefused => {
                        "nobody listens there: start the engine, or name its socket in [docker]"
                    }
                    _ => {
                        "start the engine, or name its socket in [docker] (podman: \
                         /run/podman/podman.sock)"
                    }
                })
            }
            Self::Silent { socket } => {
                write!(f, "container engine {}: no answer; is it overloaded?", socket.display())
            }
            Self::Refused { socket, status, message } => {
                write!(f, "container engine {}: {status}: {message}", socket.display())
            }
            Self::Ended { socket, why } => {
                write!(f, "container engine {}: stopped to answer: {why}", socket.display())
            }
            Self::Odd { socket, what } => write!(
                f,
                "container engine {}: not the answer of a container engine ({what}); name the socket \
                 of Docker's API in [docker]",
                socket.display()
            ),
        }
    }
}

impl std::error::Error for EngineError {}

//! The second process: it attaches interfaces while it has rights, and then keeps the TUN.
//!
//! An interface goes with the last descriptor of its TUN; as long as there is one, the kernel queues what is
//! sent into it (`txqueuelen`, which `attach` sets).
//!
//! ```text
//!  hushwire ──fork──> helper                     the hushwire after it
//!     │ request ──────>│ attaches, with rights            │
//!     │<────────── TUN │                                  │
//!     │ no more ──────>│ gives up its rights: a keeper    │
//!     │ hold(TUN) ────>│                                  │
//!     │ goodbye ──────>│ ends at once                     │
//!     X killed         │ listens on NAME.keeper           │
//!                      │<───────────────────────── take() │
//!                      │ TUN ────────────────────────────>│
//! ```
//!
//! This file is hushwire's side of both, before and after. It is forked before anything is read: it never had a
//! key, and what it reads are the messages of its own hushwire, which say names, addresses and places. Called
//! by the daemon of `up`, never for a bare device, whose interface goes with its process.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{checked, poll, rights};

mod attacher;
mod container;
mod keeper;
mod process;

pub use attacher::{Attacher, Refused};

/// Messages to a keeper begin with one of these.
mod word {
    /// Hushwire ends as it should: so does its helper.
    pub(super) const GOODBYE: u8 = b'B';
    /// A TUN to hold instead of the one before, or none; then for how long, in milliseconds.
    pub(super) const HOLD: u8 = b'H';
    /// Close the TUN that is held, and the socket for a successor.
    pub(super) const FORGET: u8 = b'F';
    /// Only for how long.
    pub(super) const PATIENCE: u8 = b'P';
    /// The socket for the successor; then its path, a zero byte, and which file configures hushwire.
    pub(super) const LISTEN: u8 = b'L';
    /// From a successor of the same interface: hand over the TUN.
    pub(super) const TAKE: u8 = b'T';
    /// From a successor under another name: end if you were of this file, which follows.
    pub(super) const END: u8 = b'E';
}

/// A path that the kernel takes has less than 4096 bytes; a message has one of those, and a socket's.
const MESSAGE_BYTES: usize = 4096 + 256;
/// Who does nothing but wait answers within this time, or something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The helper of this process. It is told that all is well, and waited for, when this is dropped.
#[derive(Debug)]
pub struct Helper {
    socket: OwnedFd,
    pid: libc::pid_t,
}

impl Helper {
    /// Forks it. Comes before any thread, and before any secret is read.
    ///
    /// # Errors
    ///
    /// When the process has more than one thread, the kernel gives no process or descriptor, or the helper
    /// could not give up what it does not need.
    pub fn fork() -> io::Result<(Self, Attacher)> {
        super::background::refuse_threads()?;
        let (ours, theirs) = pair()?;
        let (asking, asked) = pair()?;
        // SAFETY: this is the only thread (see above), so that no lock is held by one that is not there.
        match checked(unsafe { libc::fork() })? {
            0 => {
                drop((ours, asking));
                process::live(theirs, asked)
            }
            pid => Ok((Self { socket: ours, pid }, Attacher::new(asking))),
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Has it hold nothing, and listen to no successor.
    ///
    /// # Errors
    ///
    /// `EPIPE` when the helper was killed.
    pub fn forget(&self) -> io::Result<()> {
        rights::send(self.socket.as_fd(), &[word::FORGET], None)
    }

    /// Gives it the socket on which a successor will ask, the path of that, and what tells a successor
    /// under another interface name from somebody else: the file that configures this process.
    ///
    /// # Errors
    ///
    /// `EPIPE` when the helper was killed.
    pub fn listen(&self, listener: BorrowedFd<'_>, path: &Path, file: &Path) -> io::Result<()> {
        let parts =
            [&[word::LISTEN], path.as_os_str().as_bytes(), b"\0", file.as_os_str().as_bytes()];
        rights::send(self.socket.as_fd(), &parts.concat(), Some(listener))
    }

    /// Gives it a copy of a TUN to hold, for `patience` after the end of this process; it closes the one
    /// before.
    ///
    /// # Errors
    ///
    /// `EPIPE` when the helper was killed.
    pub fn hold(&self, tun: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
        self.tell(word::HOLD, patience, Some(tun))
    }

    /// Has it close the TUN that it holds.
    ///
    /// # Errors
    ///
    /// `EPIPE` when the keeper was killed.
    pub fn let_go(&self, patience: Duration) -> io::Result<()> {
        self.tell(word::HOLD, patience, None)
    }

    /// Changes for how long it will hold the TUN.
    ///
    /// # Errors
    ///
    /// `EPIPE` when the helper was killed.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.tell(word::PATIENCE, patience, None)
    }

    fn tell(&self, word: u8, patience: Duration, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let message = [&[word][..], &patience.to_ne_bytes()].concat();
        rights::send(self.socket.as_fd(), &message, fd)
    }

    /// Lets a task wait for it: readable once it has ended. Runs inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the runtime cannot wait for one more.
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is open and the same for as long as the helper's handle lives.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }
            .map_err(io::Error::from)
    }
}

impl AsRawFd for Helper {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // One that was killed does not hear it.
        let _ = rights::send(self.socket.as_fd(), &[word::GOODBYE], None);
        // It says nothing, so that the socket becomes readable by its end alone.
        let ended = poll::readable([Some(self.socket.as_fd())], Some(PATIENCE));
        // SAFETY: neither takes a pointer that is not null; the pid is that of a child which nobody has
        // waited for. A helper that is stopped does not end by itself.
        unsafe {
            if !matches!(ended, Ok([true])) {
                libc::kill(self.pid, libc::SIGKILL);
            }
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// Takes the TUN that the keeper of a hushwire that was killed holds. None when its hushwire lives, by all
/// that it knows. When this returns with a TUN, the keeper holds it no longer.
///
/// # Errors
///
/// When there is no keeper, or it does not answer.
pub fn take(socket: &Path) -> io::Result<Option<OwnedFd>> {
    let stream = ask(socket, &[word::TAKE])?;
    let (_, tun) = rights::receive(stream.as_fd(), &mut [0; 1])?;
    wait_for_the_end(&stream);
    Ok(tun)
}

/// Ends the keeper of a hushwire that was killed, if this file configured that. When this returns, it
/// holds its TUN no longer.
pub fn dismiss(socket: &Path, file: &Path) {
    if let Ok(stream) = ask(socket, &[&[word::END], file.as_os_str().as_bytes()].concat()) {
        wait_for_the_end(&stream);
    }
}

fn ask(socket: &Path, request: &[u8]) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(stream)
}

/// The keeper closes the connection after the TUN.
fn wait_for_the_end(stream: &UnixStream) {
    let mut byte = [0; 1];
    while matches!(rights::receive(stream.as_fd(), &mut byte), Ok((1.., _))) {}
}

/// A connection of messages, whose end is heard (a pair of datagram sockets does not tell it).
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: the kernel writes two descriptors, for which there is room, or none.
    checked(unsafe {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr())
    })?;
    // SAFETY: both are new and nobody else's.
    Ok(unsafe { fds.map(|fd| OwnedFd::from_raw_fd(fd)) }.into())
}

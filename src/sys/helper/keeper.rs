//! What the helper keeps: a TUN, for the hushwire after the one that was killed.
//!
//! It takes the words of its own hushwire and, once that is dead, those of a successor that runs as the same
//! user or as root. Requests that need rights go to attacher.rs, until there are no more: then all rights are
//! given up. Called by process.rs.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::attacher::{self, Served};
use super::process::{self, KEEPER, KEEPER_TITLE};
use super::{MESSAGE_BYTES, word};
use crate::sys::sandbox::{self, Capabilities, SandboxError};
use crate::sys::{checked, poll, rights};

/// A successor says what it wants at once; another one may be waiting.
const REQUEST_PATIENCE: Duration = Duration::from_millis(200);

/// What it was given.
#[derive(Default)]
pub(super) struct Kept {
    /// Where requests come that need rights, as long as there are any.
    requests: Option<OwnedFd>,
    tun: Option<OwnedFd>,
    patience: Duration,
    door: Option<Door>,
}

/// Where a successor knocks.
struct Door {
    listener: UnixListener,
    path: PathBuf,
    /// The socket's file: the name may be somebody else's by now.
    inode: (u64, u64),
    /// Which file configured hushwire.
    file: Vec<u8>,
}

/// How hushwire ended.
#[derive(PartialEq, Eq)]
pub(super) enum End {
    Goodbye,
    WithoutAWord,
}

impl Kept {
    /// Has rights, and takes requests that need them.
    pub(super) fn with_rights(requests: OwnedFd) -> Self {
        Self { requests: Some(requests), ..Self::default() }
    }

    /// Does what hushwire says until that ends.
    ///
    /// # Errors
    ///
    /// When rights could not be given up. Hushwire was told.
    pub(super) fn accompany(&mut self, hushwire: &OwnedFd) -> Result<End, SandboxError> {
        let mut message = [0; MESSAGE_BYTES];
        loop {
            let door = self.door.as_ref().map(|door| door.listener.as_fd());
            let requests = self.requests.as_ref().map(AsFd::as_fd);
            let fds = [Some(hushwire.as_fd()), door, requests];
            let Ok([spoke, knocked, asked]) = poll::readable(fds, None) else {
                return Ok(End::WithoutAWord);
            };
            if asked {
                self.serve()?;
            }
            // First: who knocks because hushwire is dead finds us knowing it.
            if spoke {
                match rights::receive(hushwire.as_fd(), &mut message) {
                    Ok((0, _)) | Err(_) => return Ok(End::WithoutAWord),
                    Ok((length, fd)) => match message.get(..length).and_then(<[u8]>::split_first) {
                        Some((&word::GOODBYE, _)) => return Ok(End::Goodbye),
                        Some((&said, rest)) => self.obey(said, rest, fd),
                        None => {}
                    },
                }
            } else if knocked && let Some(door) = &self.door {
                // There is no successor as long as hushwire lives.
                drop(door.listener.accept());
            }
        }
    }

    fn serve(&mut self) -> Result<(), SandboxError> {
        let Some(requests) = &self.requests else { return Ok(()) };
        match attacher::serve(requests.as_fd()) {
            Served::HasRights => Ok(()),
            Served::Finished => self.give_up_rights(),
        }
    }

    /// From here on it holds and waits, without a right.
    pub(super) fn give_up_rights(&mut self) -> Result<(), SandboxError> {
        let Some(requests) = self.requests.take() else { return Ok(()) };
        process::take_name(KEEPER, KEEPER_TITLE);
        let ended =
            sandbox::drop_rights(Capabilities::NONE).and_then(|()| sandbox::confine_keeper());
        attacher::confirm(requests.as_fd(), ended.as_ref().map(|_| ()));
        ended
    }

    fn obey(&mut self, said: u8, rest: &[u8], fd: Option<OwnedFd>) {
        if matches!(said, word::HOLD | word::PATIENCE)
            && let Some(&patience) = rest.first_chunk()
        {
            self.patience = Duration::from_millis(u64::from_ne_bytes(patience));
        }
        match said {
            word::HOLD => self.tun = fd,
            word::FORGET => (self.tun, self.door) = (None, None),
            word::LISTEN => self.door = fd.and_then(|fd| Door::new(fd, rest)),
            _ => {}
        }
    }

    /// Waits for a successor. A signal that asks to end ends us now, also one that came before hushwire's
    /// end: whoever sends it to the whole group or unit wants all of it gone.
    #[expect(clippy::disallowed_methods, reason = "this is the loop of a process of its own")]
    pub(super) fn await_successor(&mut self) {
        let (Some(tun), Some(door)) = (self.tun.take(), self.door.take()) else { return };
        let Ok(signals) = pending_signals() else { return };
        let start = Instant::now();
        while let Some(left) = self.patience.checked_sub(start.elapsed()) {
            let fds = [Some(signals.as_fd()), Some(door.listener.as_fd())];
            let ready = poll::readable(fds, Some(left));
            let Ok([false, knocked]) = ready else { break };
            if !knocked {
                continue;
            }
            let Ok((visitor, _)) = door.listener.accept() else { continue };
            match door.request(&visitor) {
                Some(Wish::Take) => {
                    door.close();
                    // Closed here first: the connection's end says that the other copy is the last.
                    let _ = rights::send(visitor.as_fd(), b"T", Some(tun.as_fd()));
                    drop(tun);
                    return;
                }
                Some(Wish::End) => {
                    door.close();
                    drop(tun);
                    return;
                }
                None => {}
            }
        }
        door.close();
    }
}

/// What a successor wants.
enum Wish {
    Take,
    End,
}

impl Door {
    fn new(listener: OwnedFd, names: &[u8]) -> Option<Self> {
        let end = names.iter().position(|&byte| byte == 0)?;
        let (path, file) = (names.get(..end)?, names.get(end + 1..)?);
        let path = Path::new(OsStr::from_bytes(path)).to_owned();
        let inode = inode(&path).ok()?;
        Some(Self { listener: listener.into(), path, inode, file: file.to_owned() })
    }

    /// Reads what somebody wants, if he may want anything.
    fn request(&self, mut visitor: &UnixStream) -> Option<Wish> {
        // SAFETY: takes nothing and cannot fail.
        let ours = unsafe { libc::geteuid() };
        if !may_ask(peer_uid(visitor).ok()?, ours) {
            return None;
        }
        visitor.set_nonblocking(false).ok()?;
        visitor.set_read_timeout(Some(REQUEST_PATIENCE)).ok()?;
        let mut said = [0; MESSAGE_BYTES];
        let mut length = 0;
        while let Some(room) = said.get_mut(length..).filter(|room| !room.is_empty()) {
            match visitor.read(room) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(_) => return None,
            }
        }
        match said.get(..length)?.split_first()? {
            (&word::TAKE, []) => Some(Wish::Take),
            (&word::END, file) if file == self.file => Some(Wish::End),
            _ => None,
        }
    }

    /// Removes the file, before the successor puts its own in the same place.
    fn close(&self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn may_ask(uid: libc::uid_t, ours: libc::uid_t) -> bool {
    uid == ours || uid == 0
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Who is at the other end of a connection, by the word of the kernel.
fn peer_uid(stream: &UnixStream) -> io::Result<libc::uid_t> {
    let mut peer = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `peer` has.
    checked(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    Ok(peer.uid)
}

/// Readable when one of them has come, also before this call.
fn pending_signals() -> io::Result<OwnedFd> {
    let set = process::ending_signals();
    // SAFETY: the set is filled and outlives the call; on success the descriptor is new and nobody else's.
    unsafe {
        let fd = checked(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }

    #[test]
    fn the_kernel_says_who_asks() {
        let (here, _there) = UnixStream::pair().unwrap();
        // SAFETY: takes nothing and cannot fail.
        assert_eq!(peer_uid(&here).unwrap(), unsafe { libc::geteuid() });
    }
}

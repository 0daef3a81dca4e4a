//! Hears when a file loses its name: a descriptor to wait on, over inotify(7).
//!
//! It says that something happened, never what: the file's owner looks. The daemon of a bare device uses
//! it for its control socket, whose removal is how `wg-quick` and people end such a device.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::checked;

/// News about one file.
#[derive(Debug)]
pub struct FileWatch(OwnedFd);

impl FileWatch {
    /// Watches the file that has this name now. It tells what happens from now on: look after this call.
    ///
    /// # Errors
    ///
    /// When there is no such file, or the user has too many watches (`fs.inotify.max_user_instances`).
    pub fn new(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: no pointers; on success the descriptor is new and nobody else's.
        let fd = unsafe {
            let flags = libc::IN_CLOEXEC | libc::IN_NONBLOCK;
            OwnedFd::from_raw_fd(checked(libc::inotify_init1(flags))?)
        };
        // An unlinked socket lives on while it is bound, so that its removal is a change of its link count.
        let events = libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF;
        // SAFETY: the path ends with a zero byte and lives through the call.
        checked(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), events) })?;
        Ok(Self(fd))
    }

    /// Lets a task wait for it. Runs inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the runtime cannot wait for one more.
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is open and the same for as long as the watch lives.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }
            .map_err(io::Error::from)
    }

    /// Forgets the news so far.
    pub fn drain(&self) {
        // Events of a watched file carry no name and have 16 bytes each.
        let mut events = [0u8; 1024];
        // SAFETY: the kernel writes at most the buffer's length. Non-blocking: it ends when none is left.
        while unsafe { libc::read(self.0.as_raw_fd(), events.as_mut_ptr().cast(), events.len()) }
            > 0
        {}
    }
}

impl AsRawFd for FileWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::super::poll;
    use super::*;

    #[test]
    fn removing_a_bound_socket_is_heard() {
        let path = std::env::temp_dir().join(format!("hushwire-inotify-{}", std::process::id()));
        let _listener = UnixListener::bind(&path).unwrap();
        let watch = FileWatch::new(&path).unwrap();
        let heard = || {
            // SAFETY: the watch outlives the borrow.
            let fd = unsafe { BorrowedFd::borrow_raw(watch.as_raw_fd()) };
            poll::readable([Some(fd)], Some(Duration::ZERO)).unwrap()[0]
        };
        assert!(!heard());
        std::fs::remove_file(&path).unwrap();
        assert!(heard());
        watch.drain();
        assert!(!heard());
    }
}

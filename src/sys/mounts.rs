//! Hears when something is mounted or unmounted in our mount namespace: a descriptor to wait on.
//!
//! `/proc/self/mountinfo` has urgent data whenever its contents change (proc_pid_mounts(5)). inotify tells
//! nothing of mounts, and a named network namespace is one. It says that something happened, never what:
//! who waits looks. The daemon uses it to follow a path.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// News about mounts.
#[derive(Debug)]
pub struct MountWatch(File);

impl MountWatch {
    /// Watches. It tells what happens from now on: look after this call. Runs inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When there is no `/proc`, or the runtime cannot wait for one more.
    pub fn open() -> io::Result<AsyncFd<Self>> {
        let watch = Self(File::open("/proc/self/mountinfo")?);
        // SAFETY: the descriptor is open and the same for as long as the watch lives.
        unsafe { AsyncFd::register_with_interest(watch, Interest::PRIORITY) }
            .map_err(io::Error::from)
    }
}

impl AsRawFd for MountWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

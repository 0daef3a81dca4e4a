//! A lock on a directory, while we look at what is in it and change that (flock(2)).
//!
//! It holds off those who ask for it, in whatever namespace they run, and nobody else; a process that dies
//! has it no more. Called by `uapi::socket`, before the process is confined: flock is on no list of system
//! calls.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use super::checked;

/// How often it is asked for. A wait in the kernel would have no end.
const POLL: Duration = Duration::from_millis(5);

/// The lock, until this is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Waits so long for the lock on a directory; `None` if somebody else has it until then.
    ///
    /// # Errors
    ///
    /// When the directory cannot be opened to read it, or its file system has no locks.
    pub fn take(directory: &Path, patience: Duration) -> io::Result<Option<Self>> {
        let directory = File::open(directory)?;
        let mut left = patience;
        loop {
            match flock(&directory, libc::LOCK_EX | libc::LOCK_NB) {
                Ok(()) => return Ok(Some(Self(directory))),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if left.is_zero() => return Ok(None),
                Err(_) => {}
            }
            let pause = left.min(POLL);
            std::thread::sleep(pause);
            left -= pause;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A child that another thread has just started may have a copy, which would keep it.
        let _ = flock(&self.0, libc::LOCK_UN);
    }
}

fn flock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: takes integers.
    checked(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_the_next_one_after_that() {
        let directory = std::env::temp_dir().join(format!("hushwire-flock-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let take = || Lock::take(&directory, 2 * POLL).unwrap();
        let lock = take();
        assert!(lock.is_some());
        assert!(take().is_none());
        drop(lock);
        assert!(take().is_some());
        std::fs::remove_dir(&directory).unwrap();
        assert!(Lock::take(&directory, POLL).is_err());
    }
}

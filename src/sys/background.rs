//! Going to the background: the process that was started ends once the daemon is ready, or says why not.
//!
//! ```text
//!   started by the user ──fork──> the daemon, in a session of its own
//!          │                        │ opens what can fail
//!          │ <── "ready" or why ────┘
//!          └ exit 0 or 1
//! ```
//!
//! Threads do not survive a fork, so that this comes before any thread and any runtime. Called by
//! `commands::device` alone.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use super::checked;

/// What the daemon says when it has everything; no error text begins with it.
const READY: &[u8] = b"\0ready";

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Fork {
    /// The one that the user started.
    Starter(Starter),
    /// The one that stays.
    Daemon(Daemon),
}

/// Splits the process in two. The daemon leaves the terminal, the session and the directory of the starter.
///
/// # Errors
///
/// When the process has more than one thread, or the kernel gives no process or descriptor.
pub fn fork() -> io::Result<Fork> {
    refuse_threads()?;
    let (reader, writer) = io::pipe()?;
    // SAFETY: this is the only thread (see above), so that the child may do what the parent might have
    // done: no lock is held by a thread that is not there.
    match checked(unsafe { libc::fork() })? {
        0 => {
            drop(reader);
            // SAFETY: takes no argument. It fails only for the leader of a group, which a child is not.
            unsafe { libc::setsid() };
            // A working directory keeps its file system from being unmounted.
            let _ = std::env::set_current_dir("/");
            Ok(Fork::Daemon(Daemon { starter: Some(writer) }))
        }
        _ => Ok(Fork::Starter(Starter { daemon: reader })),
    }
}

/// Says that this process has more than one thread, and so cannot be split in two.
pub(super) fn refuse_threads() -> io::Result<()> {
    // Without /proc there is nobody to ask; then the callers' word stands.
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(io::Error::other("threads are running, which do not survive a fork"));
    }
    Ok(())
}

/// The process that the user started.
#[derive(Debug)]
pub struct Starter {
    daemon: PipeReader,
}

impl Starter {
    /// Waits until the daemon is ready.
    ///
    /// # Errors
    ///
    /// What the daemon says, or that it ended without a word.
    pub fn wait(mut self) -> Result<(), String> {
        let mut said = Vec::new();
        match self.daemon.read_to_end(&mut said) {
            Ok(_) if said == READY => Ok(()),
            Ok(0) | Err(_) => Err("the process in the background ended without a word; start it \
                                   with -f to see why"
                .to_owned()),
            Ok(_) => Err(String::from_utf8_lossy(&said).into_owned()),
        }
    }
}

/// The process that stays. Dropped without a word, the starter fails.
#[derive(Debug)]
pub struct Daemon {
    /// Gone once it was told.
    starter: Option<PipeWriter>,
}

impl Daemon {
    /// Lets the starter end well. Standard input, and output unless it is wanted, are closed to us first:
    /// whoever waits for their end waits no longer.
    pub fn ready(&mut self, keep_output: bool) {
        let kept = if keep_output { 1 } else { 3 };
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            for standard in 0..kept {
                // SAFETY: both are descriptors of ours; dup2 takes and gives integers.
                unsafe { libc::dup2(null.as_raw_fd(), standard) };
            }
        }
        self.tell(READY);
    }

    /// Says why there will be no daemon; false when the starter has heard that there is one.
    pub fn failed(&mut self, why: &str) -> bool {
        self.tell(why.as_bytes())
    }

    fn tell(&mut self, what: &[u8]) -> bool {
        let Some(mut starter) = self.starter.take() else { return false };
        // Who was killed meanwhile does not want to know.
        let _ = starter.write_all(what);
        true
    }
}

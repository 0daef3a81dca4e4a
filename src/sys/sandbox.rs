//! Giving up what a process does not need: capabilities, new privileges, core dumps, files and system calls.
//!
//! Each step is a one-way street. One that fails is an error, so that nothing runs with more than is said
//! here; what a kernel does not have (Landlock) or the starter did not give (`CAP_SETPCAP`) is told by
//! [`Confinement`], which `hushwire status` shows. A system call that is not listed is refused with `EPERM`
//! and not answered with the end of the process: the log has an error then, at night the overlay goes on, and
//! the kernel's audit log has a line for each. Called by the daemon, by the helper process and by the packet
//! loop, each for itself; before it has threads, as most of this is of one thread and its later children.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::{MORE_FILES, checked, is_out_of_files};

mod calls;
mod capabilities;
mod files;
mod filter;

pub use capabilities::Capabilities;
pub use files::Files;

/// What a process has given up, read back from the kernel where that tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Capabilities that are left, in any of the sets that a process can use; none for `up`.
    pub capabilities: Vec<String>,
    /// Those in the bounding set, which could come back by running a program. That is refused by two other
    /// means; they stay where `CAP_SETPCAP` was not given.
    pub bounding: Vec<String>,
    /// Whether new privileges are refused for ever.
    pub no_new_privileges: bool,
    /// Whether the kernel writes no core of it.
    pub no_core_dump: bool,
    /// What Landlock does.
    pub landlock: Landlock,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

/// How far Landlock keeps files away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Landlock {
    /// All that is asked for.
    InForce,
    /// What this kernel knows of it.
    InPart,
    /// This kernel does not have it, or it is switched off.
    #[default]
    NotInForce,
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InForce => "in force",
            Self::InPart => "in part (an old kernel)",
            Self::NotInForce => "not in force (this kernel has none)",
        })
    }
}

/// Which right could not be given up, and why.
#[derive(Debug)]
pub struct SandboxError {
    what: &'static str,
    error: io::Error,
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cure = if is_out_of_files(&self.error) {
            MORE_FILES
        } else {
            "allow the system calls capset, prctl and seccomp"
        };
        write!(
            f,
            "cannot give up {}: {}; hushwire does not run with rights that it does not need: {cure}",
            self.what, self.error
        )
    }
}

impl std::error::Error for SandboxError {}

fn step<T>(what: &'static str, result: io::Result<T>) -> Result<T, SandboxError> {
    result.map_err(|error| SandboxError { what, error })
}

/// Says which of some capabilities the calling thread has.
///
/// # Errors
///
/// [`SandboxError`] when the kernel does not tell.
pub fn permitted(wanted: Capabilities) -> Result<Capabilities, SandboxError> {
    step("capabilities", capabilities::permitted(wanted))
}

/// Gives up all capabilities but some, new privileges and core dumps, in the calling thread and in all that
/// it starts later. Those that are kept are not passed on to a program.
///
/// # Errors
///
/// [`SandboxError`] when something could not be given up.
pub fn drop_rights(keep: Capabilities) -> Result<(), SandboxError> {
    // SAFETY: prctl takes integers, setrlimit a structure that it reads.
    unsafe {
        step("new privileges", checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))?;
        step("core dumps", checked(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)))?;
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        step("core dumps", checked(libc::setrlimit(libc::RLIMIT_CORE, &raw const none)))?;
    }
    step("capabilities", capabilities::keep_only(keep))
}

/// Confines the calling thread and all that it starts later to what the control plane does: to these files,
/// and to system calls that neither run a program nor trace one, nor enter or make a namespace, nor open a
/// socket but for UDP, TCP, UNIX and routing netlink. `helper` is the one process that it may signal.
///
/// # Errors
///
/// [`SandboxError`]; a kernel without Landlock is none.
pub fn confine(files: &Files, helper: Option<u32>) -> Result<Confinement, SandboxError> {
    let landlock = step("files", files::restrict(files))?;
    step("system calls", calls::control_plane(helper, false).install())?;
    look(landlock)
}

/// The same for a bare device, which looks at its interface in the network namespace to which others move
/// it, and so may enter one.
///
/// # Errors
///
/// [`SandboxError`]; a kernel without Landlock is none.
pub fn confine_bare(files: &Files) -> Result<Confinement, SandboxError> {
    let landlock = step("files", files::restrict(files))?;
    step("system calls", calls::control_plane(None, true).install())?;
    look(landlock)
}

/// Confines the packet loop's thread further: no file, no thread, no program; of sockets only UDP ones, as a
/// reload may change the port.
///
/// # Errors
///
/// [`SandboxError`].
pub fn confine_packet_loop() -> Result<(), SandboxError> {
    step("system calls", calls::packet_loop().install())
}

/// Confines the process that attaches interfaces: no program, no new process, no other socket than
/// netlink for routes and nftables.
///
/// # Errors
///
/// [`SandboxError`].
pub fn confine_attacher() -> Result<(), SandboxError> {
    step("system calls", calls::attacher().install())
}

/// Confines a process that holds a descriptor and waits.
///
/// # Errors
///
/// [`SandboxError`].
pub fn confine_keeper() -> Result<(), SandboxError> {
    step("system calls", calls::keeper().install())
}

fn look(landlock: Landlock) -> Result<Confinement, SandboxError> {
    let (usable, bounding) = step("capabilities", capabilities::left())?;
    // SAFETY: both take integers.
    let (no_new, dumpable) = unsafe {
        (
            libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
            libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0),
        )
    };
    Ok(Confinement {
        capabilities: usable.names(),
        bounding: bounding.names(),
        no_new_privileges: no_new == 1,
        no_core_dump: dumpable == 0,
        landlock,
        seccomp: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_want_of_a_descriptor_has_another_cure_than_what_is_forbidden() {
        let text = |errno: i32, wrapped: bool| {
            let error = io::Error::from_raw_os_error(errno);
            let error = if wrapped { io::Error::other(Wrapped(error)) } else { error };
            SandboxError { what: "files", error }.to_string()
        };
        for wrapped in [false, true] {
            for errno in [libc::EMFILE, libc::ENFILE] {
                let text = text(errno, wrapped);
                assert!(text.contains("ulimit -n") && !text.contains("seccomp"), "{text}");
            }
            let text = text(libc::EPERM, wrapped);
            assert!(text.ends_with("allow the system calls capset, prctl and seccomp"), "{text}");
        }
    }

    /// As the errors of Landlock are.
    #[derive(Debug)]
    struct Wrapped(io::Error);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    impl std::error::Error for Wrapped {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
}

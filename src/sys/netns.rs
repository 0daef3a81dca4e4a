//! Network namespaces: which one is meant, whether it is one, and doing something inside.
//!
//! A TUN keeps the namespace in which it was made, a socket the one in which it was opened, so that a thread
//! that has entered another namespace and ends there is all that is needed. Nothing here stays open: a
//! descriptor would keep the namespace of a container alive that has gone. `attach` enters; the daemon
//! only asks which one it is.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::checked;

/// The namespace of the calling thread.
const OURS: &str = "/proc/thread-self/ns/net";

/// Which network namespace is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// That of the calling thread.
    Own,
    /// The one that is mounted at a path.
    File(PathBuf),
    /// That of a process, by its id in our PID namespace.
    Process(u32),
}

impl Namespace {
    fn path(&self) -> PathBuf {
        match self {
            Self::Own => PathBuf::from(OURS),
            Self::File(path) => path.clone(),
            Self::Process(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("our own network namespace"),
            Self::File(path) => write!(f, "network namespace {}", path.display()),
            Self::Process(pid) => write!(f, "the network namespace of process {pid}"),
        }
    }
}

/// One network namespace among all that there are at this time; a later one may get the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    device: u64,
    inode: u64,
}

impl From<Metadata> for Id {
    fn from(found: Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// Why a network namespace cannot be used. Each is one line: where, what, what to do.
#[derive(Debug)]
pub enum NamespaceError {
    /// There is nothing at the path.
    Missing(PathBuf),
    /// There is something else at the path.
    NotANamespace(PathBuf),
    /// The process has ended, or is in a PID namespace that cannot be seen from ours.
    NoProcess(u32),
    /// The right to look or to enter is missing.
    NotPermitted(Namespace, io::Error),
    /// The kernel refused for another reason.
    System(Namespace, io::Error),
}

impl fmt::Display for NamespaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(
                f,
                "network namespace {}: there is no such file; make it with `ip netns add`, or correct netns",
                path.display()
            ),
            Self::NotANamespace(path) => write!(
                f,
                "{} is not a network namespace; name the file of one, such as /proc/PID/ns/net or \
                 /run/netns/NAME (where that is a plain file, `ip netns` has mounted it out of sight of \
                 this process)",
                path.display()
            ),
            Self::NoProcess(pid) => write!(
                f,
                "process {pid}: there is no such process; in a container, hushwire needs the PID namespace \
                 of the host (`docker run --pid host`)"
            ),
            Self::NotPermitted(namespace, error) => write!(
                f,
                "{namespace}: {error}; CAP_SYS_ADMIN and CAP_SYS_PTRACE are needed to enter it: run as root"
            ),
            Self::System(namespace, error) => write!(f, "{namespace}: {error}"),
        }
    }
}

impl std::error::Error for NamespaceError {}

impl NamespaceError {
    /// Whether it will be the same, however long one waits: a mistake, and not something that comes later.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::NotANamespace(_) | Self::NotPermitted(..))
    }
}

/// Says which namespace this is at the moment, without opening it.
///
/// # Errors
///
/// [`NamespaceError`]; whether a file is a namespace is known when it is opened.
pub fn identify(namespace: &Namespace) -> Result<Id, NamespaceError> {
    std::fs::metadata(namespace.path()).map(Id::from).map_err(|error| refused(namespace, error))
}

/// Does something inside a network namespace, on a thread that ends with it; in our own on this thread.
///
/// # Errors
///
/// [`NamespaceError`] when it cannot be entered, so that nothing was done.
pub fn inside<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce(Id) -> T + Send,
) -> Result<T, NamespaceError> {
    if *namespace == Namespace::Own {
        return identify(namespace).map(work);
    }
    let file = open(namespace)?;
    let id = file.metadata().map(Id::from).map_err(|error| refused(namespace, error))?;
    entered(file.as_fd(), || work(id)).map_err(|error| refused(namespace, error))
}

/// Does something inside the network namespace behind a descriptor, on a thread that ends with it.
pub(super) fn entered<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let entered =
            thread::Builder::new().name("namespace".into()).spawn_scoped(scope, || {
                // SAFETY: setns takes integers and changes the calling thread alone.
                checked(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
                Ok(work())
            })?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the thread in it ended by itself")))
    })
}

fn open(namespace: &Namespace) -> Result<File, NamespaceError> {
    let path = namespace.path();
    // Non-blocking: what is no namespace may be a pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let file = file.map_err(|error| refused(namespace, error))?;
    // SAFETY: NS_GET_NSTYPE (linux/nsfs.h) takes no argument; another file refuses it.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) } {
        libc::CLONE_NEWNET => Ok(file),
        _ => Err(NamespaceError::NotANamespace(path)),
    }
}

fn refused(namespace: &Namespace, error: io::Error) -> NamespaceError {
    match (error.raw_os_error(), namespace) {
        (Some(libc::ENOENT | libc::ESRCH), Namespace::Process(pid)) => {
            NamespaceError::NoProcess(*pid)
        }
        (Some(libc::ENOENT | libc::ESRCH), Namespace::File(path)) => {
            NamespaceError::Missing(path.clone())
        }
        (Some(libc::ENOTDIR | libc::ENXIO), Namespace::File(path)) => {
            NamespaceError::NotANamespace(path.clone())
        }
        (Some(libc::EACCES | libc::EPERM), _) => {
            NamespaceError::NotPermitted(namespace.clone(), error)
        }
        _ => NamespaceError::System(namespace.clone(), error),
    }
}

/// Whether two descriptors or paths lead to the same namespace: that of the calling thread, and another.
pub(super) fn is_ours(namespace: &OwnedFd) -> bool {
    let theirs = namespace.try_clone().and_then(|fd| File::from(fd).metadata()).map(Id::from);
    let ours = std::fs::metadata(Path::new(OURS)).map(Id::from);
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs == ours)
}

/// Waits for the end of a process; keeps nothing of it.
#[derive(Debug)]
pub struct ProcessWatch(OwnedFd);

impl ProcessWatch {
    /// Watches the process that has this id now.
    ///
    /// # Errors
    ///
    /// [`NamespaceError::NoProcess`] when there is none, or what else pidfd_open(2) says (Linux 5.3).
    pub fn new(pid: u32) -> Result<Self, NamespaceError> {
        let number = libc::pid_t::try_from(pid).unwrap_or(libc::pid_t::MAX);
        // SAFETY: takes integers; on success the descriptor is new and nobody else's. It is closed on exec.
        let opened = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) })
            .and_then(|fd| RawFd::try_from(fd).map_err(io::Error::other));
        let fd = opened.map_err(|error| refused(&Namespace::Process(pid), error))?;
        // SAFETY: see above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Lets a task wait for it: readable once the process has ended. Runs inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the runtime cannot wait for one more.
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is open and the same for as long as the watch lives.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }
            .map_err(io::Error::from)
    }
}

impl AsRawFd for ProcessWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_namespace_is_named() {
        let own = format!("/proc/{}/ns", std::process::id());
        let pid_namespace = format!("{own}/pid");
        for path in ["/etc/passwd", "/tmp", "/etc/passwd/x", "/dev/null", &pid_namespace] {
            let error = inside(&Namespace::File(path.into()), |_| ()).unwrap_err();
            assert!(error.is_lasting(), "{error}");
            assert!(error.to_string().starts_with(&format!("{path} is not a")), "{error}");
        }
        let error = inside(&Namespace::File("/run/netns/not-there".into()), |_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "network namespace /run/netns/not-there: there is no such file; make it with `ip netns add`, or \
             correct netns"
        );
        assert!(!error.is_lasting());
        // Above what the kernel gives (/proc/sys/kernel/pid_max is 4,194,304 at most).
        let error = inside(&Namespace::Process(4_194_305), |_| ()).unwrap_err();
        assert!(
            error.to_string().starts_with("process 4194305: there is no such process"),
            "{error}"
        );
    }

    #[test]
    fn a_namespace_has_one_identity_by_whatever_way() {
        let by_process = identify(&Namespace::Process(std::process::id())).unwrap();
        assert_eq!(identify(&Namespace::Own).unwrap(), by_process);
        let path = format!("/proc/{}/ns/net", std::process::id());
        assert_eq!(identify(&Namespace::File(path.into())).unwrap(), by_process);
        assert_eq!(inside(&Namespace::Own, |id| id).unwrap(), by_process);
    }

    #[test]
    fn the_end_of_a_process_is_readable() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let watch = ProcessWatch::new(child.id()).unwrap();
        let ended =
            |limit| super::super::poll::readable([Some(watch.0.as_fd())], Some(limit)).unwrap();
        assert_eq!(ended(std::time::Duration::ZERO), [false]);
        child.kill().unwrap();
        assert_eq!(ended(std::time::Duration::from_secs(5)), [true]);
        child.wait().unwrap();
        let error = ProcessWatch::new(child.id()).unwrap_err();
        assert!(matches!(error, NamespaceError::NoProcess(_)), "{error}");
    }
}

//! Telling the service manager how this service is, and leaving descriptors with it: sd_notify(3).
//!
//! One message is one datagram of lines `NAME=VALUE`, with a descriptor where it is to be kept. The socket is
//! opened once, at the start: later there may be no right to open another. Nothing is ever read from it. The
//! daemon's `service` decides what is said.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::{checked, rights};

/// A manager that does not read for so long is stuck; a message less is better than to be stuck with it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier(UnixDatagram);

impl Notifier {
    /// Opens the way that `$NOTIFY_SOCKET` names: a path, or `@` and an abstract name.
    ///
    /// # Errors
    ///
    /// When nobody listens there, or the address is of another kind.
    pub fn connect(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither a path nor @NAME",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Says something: lines of `NAME=VALUE`.
    ///
    /// # Errors
    ///
    /// When the manager is gone, or does not read.
    pub fn tell(&self, lines: &str) -> io::Result<()> {
        rights::send(self.0.as_fd(), lines.as_bytes(), None)
    }

    /// Leaves a copy of a descriptor under a name in place of the one before. The next start of this service
    /// gets it, if the manager keeps any (`FileDescriptorStoreMax=`).
    ///
    /// # Errors
    ///
    /// As [`Notifier::tell`].
    pub fn store(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.forget(name)?;
        // FDPOLL: the manager is not to close a socket for an error that passes.
        let lines = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        rights::send(self.0.as_fd(), lines.as_bytes(), Some(fd))
    }

    /// Has the manager close what was left under a name.
    ///
    /// # Errors
    ///
    /// As [`Notifier::tell`].
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
    }
}

/// The time as the service manager compares it (`CLOCK_MONOTONIC`), in microseconds.
pub fn monotonic_micros() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which `time` is. This clock is always there.
    let _ = checked(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) });
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000 + nanos.unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> (String, bool) {
        let mut bytes = [0; 256];
        let (length, fd) = rights::receive(socket.as_fd(), &mut bytes).unwrap();
        (String::from_utf8_lossy(&bytes[..length]).into_owned(), fd.is_some())
    }

    #[test]
    fn what_is_said_arrives_by_a_path_and_by_an_abstract_name() {
        let name = format!("hushwire-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ];
        for (socket, address) in &sockets {
            let notifier = Notifier::connect(address).unwrap();
            notifier.tell("READY=1\nSTATUS=well").unwrap();
            notifier.store("tun", socket.as_fd()).unwrap();
            assert_eq!(heard(socket), ("READY=1\nSTATUS=well".to_owned(), false));
            assert_eq!(heard(socket), ("FDSTOREREMOVE=1\nFDNAME=tun".to_owned(), false));
            assert_eq!(heard(socket), ("FDSTORE=1\nFDNAME=tun\nFDPOLL=0".to_owned(), true));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Notifier::connect(path.as_os_str()).is_err());
        assert!(Notifier::connect(OsStr::new("vsock:2:1234")).is_err());
        assert!(monotonic_micros() > 0);
    }
}

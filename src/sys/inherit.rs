//! Descriptors that another program opened for us and named by their number in the environment: `wg-quick`
//! one for each variable, a service manager a row of them with names (sd_listen_fds(3)).
//!
//! Each can be taken once, before anything else could have opened a descriptor of that number: called by
//! the daemon before it opens its own. What it is good for is checked by whoever adopts it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Mutex;

use super::checked;

/// What was taken: two owners of one descriptor would close it under each other.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes a descriptor by its number and keeps it from being inherited further.
///
/// # Errors
///
/// When it is not open, is one of the three standard ones, or was taken already.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN.lock().map_err(|_| io::Error::other("the list of descriptors"))?;
    if number <= libc::STDERR_FILENO || taken.contains(&number) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} is not for this; give one above 2 that has no other use"),
        ));
    }
    // SAFETY: F_SETFD takes an integer; a number that is not open is refused with EBADF.
    checked(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).map_err(|error| {
        io::Error::new(error.kind(), format!("descriptor {number} was not handed over: {error}"))
    })?;
    taken.push(number);
    // SAFETY: it is open, and nobody else owns it: our own descriptors are opened later, the standard
    // ones are refused, and so is a second call.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes the row of descriptors that a service manager passes, each with its name; one that cannot be taken
/// is left out. `count` is `$LISTEN_FDS`, `names` is `$LISTEN_FDNAMES`.
pub fn take_row(count: usize, names: &str) -> Vec<(String, OwnedFd)> {
    let names = names.split(':').chain(std::iter::repeat(""));
    let numbers = libc::STDERR_FILENO + 1..;
    let row = numbers.zip(names).take(count);
    row.filter_map(|(number, name)| Some((name.to_owned(), take(number).ok()?))).collect()
}

/// Makes a listener of a descriptor.
///
/// # Errors
///
/// When it is no UNIX stream socket that listens.
pub fn listener(fd: OwnedFd) -> io::Result<UnixListener> {
    let listens = [
        (libc::SO_DOMAIN, libc::AF_UNIX),
        (libc::SO_TYPE, libc::SOCK_STREAM),
        (libc::SO_ACCEPTCONN, 1),
    ];
    for (name, wanted) in listens {
        if socket_option(fd.as_fd(), libc::SOL_SOCKET, name)? != wanted {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a UNIX stream socket that listens",
            ));
        }
    }
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What getsockopt(2) says of an option that is one int.
pub(super) fn socket_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `value` has.
    checked(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_is_taken_once_and_never_a_standard_one() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let number = socket.into_raw_fd();
        let fd = take(number).unwrap();
        assert!(take(number).unwrap_err().to_string().contains("no other use"));
        assert!(take(2).is_err());
        let error = take(1 << 20).unwrap_err();
        assert!(error.to_string().contains("was not handed over"), "{error}");
        let error = listener(fd).unwrap_err();
        assert_eq!(error.to_string(), "not a UNIX stream socket that listens");
    }
}

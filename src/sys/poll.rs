//! Waiting for descriptors, and waking the one who waits from another thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Waits until one of `fds` can be read, has an error, or the time is over; says which can be read (an
/// error counts: the read will tell). A place without a descriptor is never ready. A signal ends the
/// wait early.
///
/// # Errors
/// What ppoll(2) says; none is to be expected.
pub fn readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut set = fds.map(|fd| libc::pollfd {
        // A negative descriptor is passed over, poll(2).
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    wait(&mut set, timeout)?;
    Ok(set.map(|entry| entry.revents != 0))
}

fn wait(set: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `set` is a slice of pollfd with its own length, `timeout` is null or points to a
    // timespec that outlives the call, and no signal mask is given.
    let ready = unsafe {
        libc::ppoll(set.as_mut_ptr(), set.len() as libc::nfds_t, timeout, std::ptr::null())
    };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        set.iter_mut().for_each(|entry| entry.revents = 0);
    }
    Ok(())
}

/// Ends another thread's wait: an eventfd that it has among its descriptors.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// Makes one.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is 8 bytes long. The write fails only when the counter is full, and then
        // the descriptor is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable again.
    pub fn reset(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is 8 bytes long. The read fails only when nobody woke us.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_ends_a_wait_until_it_is_reset() {
        let waker = Waker::new().unwrap();
        let wait = || readable([None, Some(waker.as_fd())], Some(Duration::ZERO)).unwrap();
        assert_eq!(wait(), [false, false]);
        waker.wake();
        waker.wake();
        assert_eq!(wait(), [false, true]);
        waker.reset();
        assert_eq!(wait(), [false, false]);
    }
}

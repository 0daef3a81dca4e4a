//! Waiting for the same descriptors again and again: the kernel keeps the list (epoll(7)), and a wait costs the
//! same for two as for twenty. poll(2) goes to each of them three times: with five of them that was 24 % of a
//! ping's processor time, sleep and wakeup included, and this is 17 %. Where a wait is a rare thing, poll.rs
//! needs no list to be kept.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{call, checked};

/// How many are told of in one wait: the others come with the next one, and before those that were told of.
const MOST_EVENTS: usize = 8;

/// Descriptors that one thread waits for, each under a number below [`Epoll::NUMBERS`].
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Numbers that there are.
    pub const NUMBERS: u32 = u64::BITS;

    /// Makes one without descriptors.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointer; on success the descriptor is new and nobody else's.
        Ok(Self(unsafe {
            OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?)
        }))
    }

    /// Waits for a descriptor, too, until it is taken out. Several may have one number.
    ///
    /// # Errors
    /// What epoll_ctl(2) says: it is there already, cannot be waited for, or there are too many.
    pub fn add(&self, fd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
        let events = libc::EPOLLIN as u32;
        let mut event = libc::epoll_event { events, u64: number.into() };
        self.control(libc::EPOLL_CTL_ADD, fd, &raw mut event)
    }

    /// No longer waits for a descriptor. One that was copied has to be taken out before it is closed: the
    /// kernel waits for as long as there is a copy.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        // It can only fail for what is not there.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut());
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        event: *mut libc::epoll_event,
    ) -> io::Result<()> {
        // SAFETY: `event` is null, which EPOLL_CTL_DEL takes, or points to an event of the caller's.
        checked(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), event) })
            .map(|_| ())
    }

    /// Waits until a descriptor can be read, has an error, or the time is over, which is rounded up to
    /// milliseconds; says which can be read (an error counts: the read will tell). A signal ends the wait
    /// early.
    ///
    /// # Errors
    /// What epoll_pwait(2) says; none is to be expected.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Ready> {
        let timeout = timeout.map_or(-1, |timeout| {
            let (seconds, rest) = (timeout.as_secs(), timeout.subsec_nanos().div_ceil(1_000_000));
            let millis = seconds.saturating_mul(1000).saturating_add(rest.into());
            libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX)
        });
        // SAFETY: `epoll_event` is two integers, and all zeros is a valid value of it.
        let mut events: [libc::epoll_event; MOST_EVENTS] = unsafe { mem::zeroed() };
        match call::epoll_wait(self.0.as_fd(), &mut events, timeout) {
            Ok(filled) => {
                let filled = events.iter().take(filled);
                Ok(Ready(
                    filled.fold(0, |ready, event| ready | 1u64.unbounded_shl(event.u64 as u32)),
                ))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Ready(0)),
            Err(error) => Err(error),
        }
    }
}

/// The numbers of the descriptors that can be read, the smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready(u64);

impl Ready {
    /// Whether none can be read.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Whether a descriptor with a smaller number than this can be read.
    pub fn contains_below(&self, number: u32) -> bool {
        self.0 & 1u64.unbounded_shl(number).wrapping_sub(1) != 0
    }

    /// Whether a descriptor with this number can be read.
    pub fn contains(&self, number: u32) -> bool {
        self.0 & 1u64.unbounded_shl(number) != 0
    }
}

impl Iterator for Ready {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let number = (self.0 != 0).then(|| self.0.trailing_zeros())?;
        self.0 &= self.0 - 1;
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn ready(epoll: &Epoll) -> Vec<u32> {
        epoll.wait(Some(Duration::ZERO)).unwrap().collect()
    }

    #[test]
    fn what_can_be_read_is_named_until_it_was_read() {
        let epoll = Epoll::new().unwrap();
        let numbers = [7, 0, 63];
        let mut pairs = numbers.map(|_| UnixStream::pair().unwrap());
        for ((one, _), number) in pairs.iter().zip(numbers) {
            epoll.add(one.as_fd(), number).unwrap();
        }
        assert!(epoll.wait(Some(Duration::ZERO)).unwrap().is_empty());
        for (_, other) in &mut pairs {
            other.write_all(b"x").unwrap();
        }
        assert_eq!(ready(&epoll), [0, 7, 63]);
        pairs[1].0.read_exact(&mut [0]).unwrap();
        assert_eq!(ready(&epoll), [7, 63]);
        let named = epoll.wait(None).unwrap();
        assert!(!named.is_empty());
        assert_eq!(
            [0, 7, 8, 64].map(|below| named.contains_below(below)),
            [false, false, true, true]
        );
        assert_eq!([0, 7, 8, 63].map(|number| named.contains(number)), [false, true, false, true]);
        pairs[2].1.shutdown(std::net::Shutdown::Both).unwrap();
        pairs[2].0.read_exact(&mut [0]).unwrap();
        assert_eq!(ready(&epoll), [7, 63], "an end can be read");
    }

    #[test]
    fn more_than_one_wait_tells_of_come_with_the_next() {
        let epoll = Epoll::new().unwrap();
        let pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
        for (number, (one, other)) in pairs.iter().enumerate() {
            epoll.add(one.as_fd(), number as u32).unwrap();
            (&*other).write_all(b"x").unwrap();
        }
        let mut told: Vec<u32> = (0..3).flat_map(|_| ready(&epoll)).collect();
        told.sort_unstable();
        told.dedup();
        assert_eq!(told, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_taken_out_is_not_named_though_a_copy_of_it_lives_on() {
        let epoll = Epoll::new().unwrap();
        let (one, mut other) = UnixStream::pair().unwrap();
        let copy = one.try_clone().unwrap();
        epoll.add(one.as_fd(), 1).unwrap();
        assert!(epoll.add(one.as_fd(), 2).is_err(), "it is there already");
        other.write_all(b"x").unwrap();
        epoll.remove(one.as_fd());
        drop(one);
        assert!(ready(&epoll).is_empty());
        drop(copy);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it measures a wait")]
    fn a_wait_is_not_over_before_its_time() {
        let (epoll, begin) = (Epoll::new().unwrap(), std::time::Instant::now());
        let timeout = Duration::from_micros(1_200);
        assert_eq!(epoll.wait(Some(timeout)).unwrap().next(), None);
        assert!(begin.elapsed() >= timeout);
    }
}

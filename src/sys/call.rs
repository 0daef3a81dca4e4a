//! The system calls that a packet costs, by their numbers. glibc's functions of the same names are points at
//! which a thread may be cancelled (pthreads(7)): each readies the thread for that and back, a dozen cache
//! lines of code that a lone packet finds cold. Nothing cancels a thread here, and `syscall` is one line.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_long;

use super::checked;

/// read(2).
pub(super) fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    let place = into.as_mut_ptr() as c_long;
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`.
    unsafe { call(libc::SYS_read, [fd.as_raw_fd().into(), place, into.len() as c_long, 0, 0, 0]) }
}

/// writev(2).
pub(super) fn writev(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let (first, count) = (slices.as_ptr() as c_long, slices.len() as c_long);
    // SAFETY: an `IoSlice` is an `iovec`, as its documentation promises, and the kernel only reads.
    unsafe { call(libc::SYS_writev, [fd.as_raw_fd().into(), first, count, 0, 0, 0]) }
}

/// sendmsg(2).
///
/// # Safety
/// What the message points to has to live, in the lengths that stand beside.
pub(super) unsafe fn sendmsg(fd: BorrowedFd<'_>, message: &libc::msghdr) -> io::Result<usize> {
    let message = std::ptr::from_ref(message) as c_long;
    // SAFETY: the kernel only reads, and the caller answers for the pointers within.
    unsafe { call(libc::SYS_sendmsg, [fd.as_raw_fd().into(), message, 0, 0, 0, 0]) }
}

/// recvmmsg(2), without waiting.
///
/// # Safety
/// What the headers point to has to live, in the lengths that stand beside, and be nobody else's.
pub(super) unsafe fn recvmmsg(
    fd: BorrowedFd<'_>,
    headers: &mut [libc::mmsghdr],
) -> io::Result<usize> {
    let (first, count) = (headers.as_mut_ptr() as c_long, headers.len() as c_long);
    let flags = libc::MSG_DONTWAIT as c_long;
    // SAFETY: the kernel writes to so many headers, and the caller answers for the pointers within.
    unsafe { call(libc::SYS_recvmmsg, [fd.as_raw_fd().into(), first, count, flags, 0, 0]) }
}

/// epoll_pwait(2) without a signal mask; the time is in milliseconds, and -1 is no limit.
pub(super) fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    timeout: libc::c_int,
) -> io::Result<usize> {
    let (first, count) = (events.as_mut_ptr() as c_long, events.len() as c_long);
    let arguments = [epoll.as_raw_fd().into(), first, count, timeout.into(), 0, 0];
    // SAFETY: the kernel writes at most so many events.
    unsafe { call(libc::SYS_epoll_pwait, arguments) }
}

/// # Safety
/// As the call of this number wants it.
unsafe fn call(number: c_long, arguments: [c_long; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller answers for it; a call that has fewer arguments looks at no more.
    checked(unsafe { libc::syscall(number, a, b, c, d, e, f) }).map(|result| result as usize)
}

//! One descriptor in a message from process to process (`SCM_RIGHTS`, unix(7)).
//!
//! `helper` and `notify` call this. What the kernel filled in is checked (level, type, length) before it is
//! believed, and a descriptor that came is owned at once: none is leaked, whatever else is wrong.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::checked;

/// Room for the control message of one descriptor, aligned as `cmsghdr` must be.
#[repr(C)]
struct Control {
    align: [libc::cmsghdr; 0],
    bytes: [u8; SPACE],
}

/// Bytes of the control message of one descriptor, padding included.
// SAFETY: CMSG_SPACE is arithmetic on its argument.
const SPACE: usize = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as libc::c_uint) } as usize;
/// The same without the padding.
// SAFETY: CMSG_LEN is arithmetic on its argument.
const LENGTH: usize = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as libc::c_uint) } as usize;

/// Sends some bytes, at least one, and a descriptor with them.
///
/// # Errors
///
/// What sendmsg(2) says: `EPIPE` when the other end is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut control = Control { align: [], bytes: [0; SPACE] };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = header(&mut part);
    if let Some(fd) = fd {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = SPACE as _;
        // SAFETY: `control` is aligned and has room for a header and a descriptor; it outlives the call.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const message);
            *first = libc::cmsghdr {
                cmsg_len: LENGTH as _,
                cmsg_level: libc::SOL_SOCKET,
                cmsg_type: libc::SCM_RIGHTS,
            };
            libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
    }
    // SAFETY: `message` points to one part that is only read, and to nothing or to `control`.
    checked(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })
        .map(|_| ())
}

/// Receives some bytes, and the descriptor that came with them. No bytes: the other end is gone.
///
/// # Errors
///
/// What recvmsg(2) says: `WouldBlock` when the socket's time is over.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = Control { align: [], bytes: [0; SPACE] };
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut message = header(&mut part);
    message.msg_control = (&raw mut control).cast();
    // Without the padding, in which a second descriptor would find room.
    message.msg_controllen = LENGTH as _;
    // SAFETY: `message` points to one part and to `control`, both of which the kernel may fill.
    let length = checked(unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
    })?;
    // SAFETY: the kernel has set `msg_controllen` to what it filled of `control`, which is aligned. A
    // message of this level, type and length has one descriptor, new and nobody else's.
    let fd = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        first
            .as_ref()
            .filter(|control| is_one_descriptor(control))
            .map(|_| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()))
    };
    Ok((length as usize, fd))
}

fn is_one_descriptor(control: &libc::cmsghdr) -> bool {
    // Its type differs from libc to libc.
    let length: usize = control.cmsg_len as _;
    control.cmsg_level == libc::SOL_SOCKET
        && control.cmsg_type == libc::SCM_RIGHTS
        && length == LENGTH
}

fn header(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: `msghdr` is plain C data, and all zeros is a valid value of it.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes_and_works() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut passed, mut kept) = UnixStream::pair().unwrap();
        send(here.as_fd(), b"with", Some(passed.as_fd())).unwrap();
        send(here.as_fd(), b"without", None).unwrap();
        passed.write_all(b"before").unwrap();
        drop((passed, here));

        let mut bytes = [0; 16];
        let (length, fd) = receive(there.as_fd(), &mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"with");
        UnixStream::from(fd.unwrap()).write_all(b" and after").unwrap();
        let (length, fd) = receive(there.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..length], fd.is_none()), (&b"without"[..], true));
        let mut text = String::new();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before and after");
        assert_eq!(receive(there.as_fd(), &mut bytes).unwrap().0, 0, "the other end is gone");
    }
}

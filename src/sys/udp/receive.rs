//! Receiving: datagrams come in batches, several of one sender joined by the kernel (UDP_GRO, udp(7)).
//!
//! Only `Udp::recv` fills a batch. What the kernel says about a datagram is read in `message`; nothing here
//! reads a datagram.

use std::fmt;
use std::io;
use std::mem::size_of;
use std::os::fd::BorrowedFd;

use super::super::call;
use super::super::message::{Ancillary, Control, RawAddress};
use super::empty_message;
use crate::wireguard::{Ecn, Endpoint};

/// A datagram and what the kernel knows of it, or several that it has joined.
#[derive(Debug)]
pub struct Received<'a> {
    /// Where they came from, and which local address they came to.
    pub from: Endpoint,
    /// The mark of their IP headers.
    pub ecn: Ecn,
    /// Their bytes, back to back.
    contents: &'a [u8],
    /// How many bytes each has but the last, which may have fewer.
    segment_size: usize,
}

impl<'a> Received<'a> {
    /// Bytes of all datagrams.
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Whether there is no byte: one empty datagram.
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// The datagrams, in the order in which they came.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let empty = self.contents.is_empty().then_some(self.contents);
        self.contents.chunks(self.segment_size).chain(empty)
    }
}

/// Room for some datagrams, taken once and used for every receive.
pub struct ReceiveBatch {
    size: usize,
    payloads: Box<[u8]>,
    addresses: Box<[RawAddress]>,
    controls: Box<[Control]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    filled: usize,
    truncated: u64,
}

// SAFETY: the raw pointers within `vectors` and `headers` are written anew by each `fill` and followed
// by no one after it; what they point to is owned by the same value.
unsafe impl Send for ReceiveBatch {}

impl ReceiveBatch {
    /// Takes so many places of `size` bytes each, for a datagram or several that were joined; both are at
    /// least 1. Memory is taken as it is filled.
    pub fn new(places: usize, size: usize) -> Self {
        let (places, size) = (places.max(1), size.max(1));
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let header = libc::mmsghdr { msg_hdr: empty_message(), msg_len: 0 };
        Self {
            size,
            payloads: vec![0; places * size].into(),
            addresses: vec![RawAddress::empty(); places].into(),
            controls: vec![Control::empty(); places].into(),
            vectors: vec![vector; places].into(),
            headers: vec![header; places].into(),
            filled: 0,
            truncated: 0,
        }
    }

    /// How often one receive can take something.
    pub fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// How often something was too large for its room, ever; it is not shown.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// What the last receive brought.
    pub fn received(&self) -> impl Iterator<Item = Received<'_>> {
        let received =
            self.headers.iter().zip(&self.addresses).zip(&self.controls).take(self.filled);
        received.zip(self.payloads.chunks_exact(self.size)).filter_map(
            |(((header, address), control), payload)| {
                if is_truncated(header) {
                    return None;
                }
                let address = address.to_std()?;
                let Ancillary { source, ecn, segment_size } =
                    control.read(header.msg_hdr.msg_controllen as _);
                let contents = payload.get(..header.msg_len as usize)?;
                let segment_size = segment_size.unwrap_or(contents.len()).max(1);
                Some(Received { from: Endpoint { address, source }, ecn, contents, segment_size })
            },
        )
    }

    pub(super) fn forget(&mut self) {
        self.filled = 0;
    }

    pub(super) fn fill(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let most = most.min(self.headers.len());
        let places = self
            .headers
            .iter_mut()
            .take(most)
            .zip(&mut self.vectors)
            .zip(&mut self.addresses)
            .zip(&mut self.controls)
            .zip(self.payloads.chunks_exact_mut(self.size));
        for ((((header, vector), address), control), payload) in places {
            *vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
            let message = &mut header.msg_hdr;
            *message = empty_message();
            message.msg_name = std::ptr::from_mut(address).cast();
            message.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
            message.msg_iov = vector;
            message.msg_iovlen = 1;
            message.msg_control = std::ptr::from_mut(control).cast();
            message.msg_controllen = Control::LEN as _;
        }
        let headers = self.headers.get_mut(..most).unwrap_or_default();
        // SAFETY: each header's pointers have just been made from places that live through the call, are
        // disjoint, and have the lengths that stand beside them.
        self.filled = unsafe { call::recvmmsg(socket, headers) }?;
        let truncated = self.headers.iter().take(self.filled).filter(|header| is_truncated(header));
        self.truncated += truncated.count() as u64;
        Ok(self.filled)
    }
}

fn is_truncated(header: &libc::mmsghdr) -> bool {
    header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0
}

impl fmt::Debug for ReceiveBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveBatch")
            .field("capacity", &self.capacity())
            .field("size", &self.size)
            .field("filled", &self.filled)
            .field("truncated", &self.truncated)
            .finish()
    }
}

//! Buffers of whole pages: memory that goes back to the system when it is dropped.
//!
//! An allocator keeps what is freed, in the middle of a heap for good. The packet loop has buffers that only
//! a burst needs, and takes them here.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// So many bytes, zero at first. A page takes memory once it is written to.
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and this value alone has its address.
unsafe impl Send for Pages {}

impl Pages {
    /// Takes `len` bytes, at least one. Ends the process when there is no memory, as every allocation does.
    pub fn new(len: usize) -> Self {
        let len = len.max(1);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel chooses a place where nothing else is.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, kind, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Self { start, len },
            _ => std::alloc::handle_alloc_error(
                std::alloc::Layout::array::<u8>(len).unwrap_or(std::alloc::Layout::new::<u8>()),
            ),
        }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` readable and initialised bytes are mapped there until this value is dropped, and
        // nobody writes to them while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and this value is borrowed by the caller alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the whole mapping is this value's, and nothing borrows from it any more. It cannot fail
        // for what mmap has given.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_keep_what_is_written_and_are_gone_when_dropped() {
        let mut pages = Pages::new(100_000);
        assert!(pages.len() == 100_000 && pages.iter().all(|&byte| byte == 0));
        pages[99_999] = 7;
        assert_eq!(pages[99_999], 7);
        let start = pages.start.as_ptr().addr() as u64;
        let is_mapped = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-')).any(|(a, b)| {
                let parse = |text| u64::from_str_radix(text, 16).unwrap();
                (parse(a)..parse(b)).contains(&start)
            })
        };
        assert!(is_mapped());
        drop(pages);
        assert!(!is_mapped());
    }
}

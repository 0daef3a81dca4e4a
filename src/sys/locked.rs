//! Memory for secrets: pages of their own, kept out of swap and out of core dumps, and wiped when dropped.
//!
//! The kernel may refuse to lock (`RLIMIT_MEMLOCK`) or to keep out of dumps; secrets are used all the same, and
//! [`refusal`] tells. What was computed from a secret, and what a library moved by value, may stay on a stack:
//! [`wipe_stack`] goes over that. Called by `wireguard` for keys and sessions, and by the loader of key files.
//!
//! System calls: mmap, mlock2, madvise and munmap, from any thread.

use std::alloc::{Layout, handle_alloc_error};
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use zeroize::Zeroize;

use super::checked;

/// The smallest page of all machines that Linux runs on is 4096; the kernel rounds lengths up by itself.
const PAGE: usize = 4096;
/// Deeper than what a handshake or the reading of a key file leaves behind, in bytes.
const STACK: usize = 48 * 1024;

/// The errno of the first refusal to lock; 0 if there was none.
static REFUSED: AtomicI32 = AtomicI32::new(0);

/// Why some secret is not locked in memory, if any is not.
pub fn refusal() -> Option<io::Error> {
    let errno = REFUSED.load(Ordering::Relaxed);
    (errno != 0).then(|| io::Error::from_raw_os_error(errno))
}

/// A secret in pages of its own.
pub struct Locked<T> {
    place: NonNull<T>,
}

impl<T> Locked<T> {
    const LAYOUT: Layout = Layout::new::<T>();

    /// Moves a value there. What the caller had of it by value is not wiped: see [`wipe_stack`].
    pub fn new(value: T) -> Self {
        const { assert!(align_of::<T>() <= PAGE && size_of::<T>() > 0) };
        let place = map(size_of::<T>()).unwrap_or_else(|| handle_alloc_error(Self::LAYOUT));
        protect(place, size_of::<T>());
        let place = place.cast::<T>();
        // SAFETY: these are fresh pages that nobody else has, long enough, and aligned to a page.
        unsafe { place.write(value) };
        Self { place }
    }
}

/// New pages, readable and writable; `None` when there are none.
fn map(length: usize) -> Option<NonNull<u8>> {
    // SAFETY: an anonymous mapping at a place of the kernel's choice touches no memory that is in use.
    let place = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if place == libc::MAP_FAILED { None } else { NonNull::new(place.cast()) }
}

/// Keeps pages out of swap and out of core dumps, as far as the kernel lets us. Locked are those in use: a
/// session is mostly room for sessions to come.
fn protect(place: NonNull<u8>, length: usize) {
    let place = place.as_ptr();
    let locks = || {
        // SAFETY: it changes how the kernel treats pages that are ours, not what is in them.
        checked(unsafe { libc::mlock2(place.cast(), length, libc::MLOCK_ONFAULT as _) })
    };
    let dumps = || {
        // SAFETY: as above.
        checked(unsafe { libc::madvise(place.cast(), length, libc::MADV_DONTDUMP) })
    };
    for result in [locks(), dumps()] {
        if let Err(error) = result {
            let errno = error.raw_os_error().unwrap_or(libc::EPERM);
            let _ = REFUSED.compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl<T> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it was written by `new` and is ours until `drop`; borrows follow those of `self`.
        unsafe { self.place.as_ref() }
    }
}

impl<T> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and nobody else can have a borrow.
        unsafe { self.place.as_mut() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        let length = size_of::<T>();
        // SAFETY: nobody can use the value any more. It is dropped once, its bytes are zeroed by writes that
        // the compiler may not leave out, and the pages, which are ours alone, go back.
        unsafe {
            self.place.drop_in_place();
            std::slice::from_raw_parts_mut(
                self.place.cast::<std::mem::MaybeUninit<u8>>().as_ptr(),
                length,
            )
            .zeroize();
            libc::munmap(self.place.as_ptr().cast(), length);
        }
    }
}

// SAFETY: it owns its value as a Box does.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Locked<T> {}

/// Overwrites what functions that have returned left on this thread's stack.
#[inline(never)]
pub fn wipe_stack() {
    let mut room = [0u8; STACK];
    room.zeroize();
    std::hint::black_box(&mut room);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_value_can_be_used_moved_shared_and_dropped() {
        let mut secret = Locked::new([7u8; 32]);
        secret[0] = 1;
        let moved = secret;
        assert_eq!((moved[0], moved[31]), (1, 7));
        let counted = Arc::new(());
        let holder = Locked::new((Arc::clone(&counted), [0u8; 20_000]));
        let shared = Arc::new(holder);
        let other = Arc::clone(&shared);
        assert_eq!(std::thread::spawn(move || other.1.len()).join().unwrap(), 20_000);
        drop(shared);
        assert_eq!(Arc::strong_count(&counted), 1, "the value itself is dropped, too");
    }

    #[test]
    fn its_pages_are_in_no_core_dump_and_locked_where_that_is_allowed() {
        let secret = Locked::new([0x5au8; 32]);
        let address = secret.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let flags = maps.lines().find(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let parse = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((Some(begin), Some(end))) = range.map(|(a, b)| (parse(a), parse(b))) {
                inside = (begin..end).contains(&address);
            }
            inside && line.starts_with("VmFlags:")
        });
        let flags: Vec<_> = flags.unwrap().split_whitespace().collect();
        assert!(flags.contains(&"dd"), "{flags:?}");
        assert!(flags.contains(&"lo") || refusal().is_some(), "{flags:?}");
    }

    #[test]
    fn nothing_stays_mapped() {
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let before = maps();
        for _ in 0..100 {
            drop(Locked::new([1u8; 10_000]));
        }
        assert!(maps() <= before + 20, "other tests run beside this one");
    }
}

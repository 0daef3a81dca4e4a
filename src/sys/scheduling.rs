//! When the scheduler lets the packet loop run. Called by the loop's thread for itself.

use std::io;

use super::checked;

/// The shortest slice that the kernel takes (kernel/sched/syscalls.c, `__setparam_fair`), in nanoseconds; its
/// own choice is 2.8 ms and more.
const SHORT_SLICE: u64 = 100_000;
/// Leaves the choice to the kernel.
const ANY_SLICE: u64 = 0;

/// Asks for short slices of processor time for the calling thread, or for those that any thread has. With
/// short ones it gets no more of it in all, but gets it sooner after a wakeup, since a short slice ends early
/// and the scheduler runs first what ends first (EEVDF). Linux before 6.12 takes no such wish and changes
/// nothing.
///
/// # Errors
///
/// When a sandbox refuses the call; nothing has changed then.
pub fn take_slices(short: bool) -> io::Result<()> {
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: `sched_attr` is plain C data, and all zeros is a valid value of it.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes, which `attributes` has; 0 is the calling thread.
    checked(unsafe {
        libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0 as libc::c_uint)
    })?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        // Somebody has chosen another policy for this process, and knows why.
        return Ok(());
    }
    attributes.sched_runtime = if short { SHORT_SLICE } else { ANY_SLICE };
    // SAFETY: the kernel reads `attributes`, which says itself how long it is.
    checked(unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0 as libc::c_uint)
    })
    .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_and_nice_value_stay_as_they_were() {
        std::thread::spawn(|| {
            // SAFETY: neither takes a pointer; 0 is the calling thread, on Linux also for `setpriority`.
            let state = || unsafe {
                (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0))
            };
            // SAFETY: takes no pointer.
            assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 7) }, 0);
            let before = state();
            for short in [true, false] {
                take_slices(short).unwrap();
                assert_eq!((state(), before.1), (before, 7));
            }
        })
        .join()
        .unwrap();
    }
}

//! A list of system calls as a program for the kernel (seccomp(2)): what is listed passes, the rest is refused.
//!
//! The list is a plain walk. That costs nothing: for a call that passes whatever its arguments are, the kernel
//! has found out beforehand that it does, and does not run the program (kernel/seccomp.c, since Linux 5.11).

use std::io;

use crate::sys::checked;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where the kernel puts the number, the architecture and the arguments: `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE_PLACE: u32 = 4;
const ARGUMENTS: u32 = 16;

const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
/// The C library asks for a thread in the older way then, whose flags can be looked at.
const NOT_THERE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// What the lower half of an argument must be, under a mask. All of those that are compared are `int`, or
/// have no meaning in the upper half.
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    index: u32,
    mask: u32,
    value: u32,
}

/// An argument, counted from 0, that must have a value.
pub(super) const fn argument(index: u32, value: u32) -> Argument {
    masked(index, u32::MAX, value)
}

/// An argument whose masked bits must have a value.
pub(super) const fn masked(index: u32, mask: u32, value: u32) -> Argument {
    Argument { index, mask, value }
}

/// A list under construction.
pub(super) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Lets nothing pass yet.
    pub(super) fn new() -> Self {
        let mut filter = Self(Vec::with_capacity(512));
        filter.load(ARCHITECTURE_PLACE);
        filter.jump_unless(ARCHITECTURE, 0, 1);
        filter.answer(REFUSED);
        filter.load(NUMBER);
        filter.unless_number(libc::SYS_clone3, 1);
        filter.answer(NOT_THERE);
        filter
    }

    /// Lets calls pass.
    pub(super) fn allow(mut self, calls: &[libc::c_long]) -> Self {
        for &call in calls {
            self.unless_number(call, 1);
            self.answer(libc::SECCOMP_RET_ALLOW);
        }
        self
    }

    /// Lets a call pass if all these arguments are as they must.
    pub(super) fn allow_if(mut self, call: libc::c_long, arguments: &[Argument]) -> Self {
        // Three instructions an argument, the answer, and the number that is loaded again.
        let length = arguments.len() as u8 * 3 + 2;
        self.unless_number(call, length);
        for (position, argument) in arguments.iter().enumerate() {
            self.load(ARGUMENTS + argument.index * 8);
            self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, argument.mask, 0, 0);
            let rest = (arguments.len() - position - 1) as u8 * 3 + 1;
            self.jump_unless(argument.value, rest, 0);
        }
        self.answer(libc::SECCOMP_RET_ALLOW);
        self.load(NUMBER);
        self
    }

    /// Puts it in force for the calling thread and those that it starts later, beside those that are.
    ///
    /// # Errors
    ///
    /// When the kernel has no such filters.
    pub(super) fn install(mut self) -> io::Result<()> {
        /// A line in the audit log for each refusal, since Linux 4.14; no slower speculation for it, which is
        /// the default since 5.16.
        const FLAGS: [libc::c_ulong; 3] = [
            libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            libc::SECCOMP_FILTER_FLAG_LOG,
            0,
        ];
        self.answer(REFUSED);
        // Who has no right to do without must do this first. It cannot be undone.
        // SAFETY: takes integers.
        checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        let length = u16::try_from(self.0.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len: length, filter: self.0.as_mut_ptr() };
        let mut result = Ok(0);
        for flags in FLAGS {
            // SAFETY: the kernel reads `length` instructions, which the program has.
            result = checked(unsafe {
                let mode = libc::SECCOMP_SET_MODE_FILTER;
                libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program)
            });
            if !matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EINVAL)) {
                break;
            }
        }
        result.map(|_| ())
    }

    fn unless_number(&mut self, call: libc::c_long, skip: u8) {
        self.jump_unless(call as u32, skip, 0);
    }

    /// Compares what was loaded; goes on with the next instruction but `equal` if it is that, else with the
    /// next but `skip`.
    fn jump_unless(&mut self, value: u32, skip: u8, equal: u8) {
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, equal, skip);
    }

    fn load(&mut self, place: u32) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, place, 0, 0);
    }

    fn answer(&mut self, answer: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, answer, 0, 0);
    }

    fn push(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        self.0.push(libc::sock_filter { code: code as u16, jt, jf, k });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a thread of its own sees under a filter.
    fn under<T: Send + 'static>(filter: Filter, see: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            filter.install().unwrap();
            see()
        });
        thread.join().unwrap()
    }

    fn everything_but(refused: &[libc::c_long]) -> Filter {
        let all: Vec<_> = (0..450).filter(|call| !refused.contains(call)).collect();
        Filter::new().allow(&all)
    }

    fn errno<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    fn socket(domain: i32, kind: i32) -> io::Result<()> {
        // SAFETY: takes integers; the descriptor is closed at once, and nobody else has it.
        unsafe {
            let fd = checked(libc::socket(domain, kind | libc::SOCK_CLOEXEC, 0))?;
            libc::close(fd);
        }
        Ok(())
    }

    #[test]
    fn a_call_passes_with_the_arguments_that_are_listed_alone() {
        let udp =
            [masked(0, u32::MAX, libc::AF_INET as u32), masked(1, 0xf, libc::SOCK_DGRAM as u32)];
        let unix = [argument(0, libc::AF_UNIX as u32)];
        let filter = everything_but(&[libc::SYS_socket])
            .allow_if(libc::SYS_socket, &udp)
            .allow_if(libc::SYS_socket, &unix);
        let seen = under(filter, || {
            [
                socket(libc::AF_INET, libc::SOCK_DGRAM),
                socket(libc::AF_INET, libc::SOCK_STREAM),
                socket(libc::AF_INET6, libc::SOCK_DGRAM),
                socket(libc::AF_UNIX, libc::SOCK_STREAM),
            ]
            .map(errno)
        });
        assert_eq!(seen, [None, Some(libc::EPERM), Some(libc::EPERM), None]);
    }

    #[test]
    fn what_is_not_listed_is_refused_and_threads_are_asked_for_in_the_old_way() {
        let seen = under(everything_but(&[libc::SYS_getppid]), || {
            // SAFETY: neither does anything but for its answer: the kernel has no such `size`.
            let (refused, clone3) = unsafe {
                let null = std::ptr::null::<libc::c_void>();
                (
                    errno(checked(libc::syscall(libc::SYS_getppid))),
                    errno(checked(libc::syscall(libc::SYS_clone3, null, 0))),
                )
            };
            let thread = std::thread::spawn(|| ()).join().is_ok();
            (refused, clone3, thread)
        });
        assert_eq!(seen, (Some(libc::EPERM), Some(libc::ENOSYS), true));
    }
}

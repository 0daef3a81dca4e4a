//! The capability sets of a thread, capabilities(7): all of them emptied, but for what is asked to stay.
//!
//! What was given up cannot be had again. Only `sandbox` calls this.

use std::io;

use crate::sys::checked;

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

const SETPCAP: Capabilities = Capabilities::one(8);

/// By number, linux/capability.h. One that a later kernel has is shown by its number.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

impl Capabilities {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// A UDP port below 1024.
    pub const NET_BIND_SERVICE: Self = Self::one(10);
    /// Interfaces, addresses, routes and marks.
    pub const NET_ADMIN: Self = Self::one(12);
    /// Finding the namespace of another user's process.
    pub const SYS_PTRACE: Self = Self::one(19);
    /// Entering a namespace.
    pub const SYS_ADMIN: Self = Self::one(21);

    /// What attaching an interface takes: interfaces, addresses, routes; and for another namespace, finding
    /// and entering it.
    pub const ATTACHING: Self = Self::NET_ADMIN.and(Self::SYS_ADMIN).and(Self::SYS_PTRACE);

    const fn one(number: u32) -> Self {
        Self(1 << number)
    }

    /// Both together.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Their names, in the order of their numbers.
    pub fn names(self) -> Vec<String> {
        let numbers = (0..u64::BITS).filter(|number| self.0 & (1 << number) != 0);
        let name = |number: u32| {
            let known = NAMES.get(number as usize).map(|&name| name.to_owned());
            known.unwrap_or_else(|| format!("capability {number}"))
        };
        numbers.map(name).collect()
    }
}

/// Leaves the calling thread with `keep`, as far as it has that, and with nothing in the sets that outlive
/// the start of a program.
///
/// # Errors
///
/// When something was refused, or is there afterwards all the same.
pub(super) fn keep_only(keep: Capabilities) -> io::Result<()> {
    let before = read()?;
    let kept = keep.common(before.permitted);
    // Both take CAP_SETPCAP. Without it they stay as they are, and what they would allow, running a
    // program, is refused in another way.
    if before.permitted.common(SETPCAP) == SETPCAP {
        write(Sets { effective: before.effective.and(SETPCAP), ..before })?;
        lock_securebits()?;
        empty_bounding()?;
    }
    // SAFETY: takes integers.
    checked(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    write(Sets { effective: kept, permitted: kept, inheritable: Capabilities::NONE })?;
    let after = read()?;
    if after.usable() != kept {
        return Err(io::Error::other(format!("{} are left", after.usable().names().join(", "))));
    }
    Ok(())
}

/// Those of a set that the calling thread has.
pub(super) fn permitted(wanted: Capabilities) -> io::Result<Capabilities> {
    read().map(|sets| sets.permitted.common(wanted))
}

/// What the calling thread can use, and what its bounding set has.
pub(super) fn left() -> io::Result<(Capabilities, Capabilities)> {
    let bounding = numbers_in_bounding().fold(0, |set, number| set | (1 << number));
    Ok((read()?.usable(), Capabilities(bounding)))
}

#[derive(Clone, Copy)]
struct Sets {
    effective: Capabilities,
    permitted: Capabilities,
    inheritable: Capabilities,
}

impl Sets {
    fn usable(self) -> Capabilities {
        self.effective.and(self.permitted).and(self.inheritable)
    }
}

/// `struct __user_cap_header_struct` with `_LINUX_CAPABILITY_VERSION_3`, capget(2); 0 is this thread.
fn header() -> [u32; 2] {
    [0x2008_0522, 0]
}

fn read() -> io::Result<Sets> {
    // Two times effective, permitted and inheritable.
    let mut data = [0u32; 6];
    // SAFETY: capget reads a header, and writes two triples, for which there is room.
    checked(unsafe { libc::syscall(libc::SYS_capget, header().as_mut_ptr(), data.as_mut_ptr()) })?;
    let [effective, permitted, inheritable, more_effective, more_permitted, more_inheritable] =
        data;
    let set = |low: u32, high: u32| Capabilities(u64::from(low) | u64::from(high) << 32);
    Ok(Sets {
        effective: set(effective, more_effective),
        permitted: set(permitted, more_permitted),
        inheritable: set(inheritable, more_inheritable),
    })
}

fn write(sets: Sets) -> io::Result<()> {
    let all = [sets.effective.0, sets.permitted.0, sets.inheritable.0];
    let [effective, permitted, inheritable] = all.map(|set| set as u32);
    let [more_effective, more_permitted, more_inheritable] = all.map(|set| (set >> 32) as u32);
    let data =
        [effective, permitted, inheritable, more_effective, more_permitted, more_inheritable];
    // SAFETY: capset reads a header and two triples, which both arrays are.
    checked(unsafe { libc::syscall(libc::SYS_capset, header().as_mut_ptr(), data.as_ptr()) })
        .map(|_| ())
}

/// User 0 is no longer special, and that for ever. A bit that somebody has locked stays as it is.
fn lock_securebits() -> io::Result<()> {
    /// The bits to set, linux/securebits.h: NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE; KEEP_CAPS is to be
    /// clear. The bit above each locks it.
    const BITS: [(libc::c_ulong, bool); 4] =
        [(1 << 0, true), (1 << 2, true), (1 << 4, false), (1 << 6, true)];
    // SAFETY: takes integers.
    let mut bits = checked(unsafe { libc::prctl(libc::PR_GET_SECUREBITS) })? as libc::c_ulong;
    for (bit, wanted) in BITS {
        let lock = bit << 1;
        if bits & lock == 0 {
            bits = if wanted { bits | bit } else { bits & !bit } | lock;
        }
    }
    // SAFETY: takes integers.
    checked(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) }).map(|_| ())
}

fn empty_bounding() -> io::Result<()> {
    numbers_in_bounding().try_for_each(|number| {
        // SAFETY: takes integers.
        checked(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }).map(|_| ())
    })
}

/// Those that the kernel knows and that are in the bounding set.
fn numbers_in_bounding() -> impl Iterator<Item = libc::c_ulong> {
    // SAFETY: takes integers; a number that the kernel does not know is refused.
    let state =
        |number: libc::c_ulong| unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
    (0..u64::BITS.into()).filter(move |&number| state(number) == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_names_of_the_manual() {
        let three = Capabilities::NET_ADMIN.and(Capabilities::SYS_ADMIN).and(Capabilities::one(50));
        assert_eq!(three.names(), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "capability 50"]);
        assert!(Capabilities::NONE.names().is_empty());
    }

    #[test]
    fn what_is_given_up_is_gone_and_nothing_else() {
        // The capabilities of this thread alone.
        std::thread::spawn(|| {
            let had = read().unwrap().permitted;
            keep_only(Capabilities::NET_ADMIN).unwrap();
            let (usable, bounding) = left().unwrap();
            assert_eq!(usable, Capabilities::NET_ADMIN.common(had));
            if had.common(SETPCAP) == SETPCAP {
                assert_eq!(bounding, Capabilities::NONE);
            }
            keep_only(Capabilities::NONE).unwrap();
            assert_eq!(left().unwrap().0, Capabilities::NONE);
            // There is no way back.
            assert!(
                had == Capabilities::NONE
                    || write(Sets {
                        effective: had,
                        permitted: had,
                        inheritable: Capabilities::NONE
                    })
                    .is_err()
            );
        })
        .join()
        .unwrap();
    }
}

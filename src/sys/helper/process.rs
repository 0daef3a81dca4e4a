//! The helper process from its first moment to its last.
//!
//! It has one thread, no key and no standard streams. Until nothing needs rights any more it has those that
//! attaching takes, and no others; ps(1) shows it as `hushwire-helper` then, and as `hushwire-keeper` once it
//! has none. Called by [`Helper::fork`](super::Helper::fork) in the new process, and does not return.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::attacher;
use super::keeper::{End, Kept};
use crate::sys::checked;
use crate::sys::sandbox::{self, Capabilities, SandboxError};

/// As `ps` and `top` show it, 15 bytes at most: with rights, and without.
const HELPER: &CStr = c"hushwire-helper";
pub(super) const KEEPER: &CStr = c"hushwire-keeper";
/// As `ps aux` shows it.
const HELPER_TITLE: &[u8] = b"hushwire: helper";
pub(super) const KEEPER_TITLE: &[u8] = b"hushwire: keeper";

/// Lives until hushwire says goodbye or, if that is killed, until there is a successor or patience is over.
pub(super) fn live(hushwire: OwnedFd, requests: OwnedFd) -> ! {
    if let Ok([hushwire, requests]) = leave_everything(hushwire, requests) {
        match give_up_the_rest() {
            Ok(()) => {
                let mut kept = Kept::with_rights(requests);
                let ended = kept.accompany(&hushwire);
                if matches!(ended, Ok(End::WithoutAWord)) && kept.give_up_rights().is_ok() {
                    kept.await_successor();
                }
                // The interface goes before anybody hears of our end.
                drop(kept);
            }
            // Its first request finds this answer.
            error => attacher::confirm(requests.as_fd(), error),
        }
    }
    // SAFETY: takes no pointer. What the parent left in its buffers is the parent's to write.
    unsafe { libc::_exit(0) }
}

/// Keeps what attaching takes, and nothing else.
fn give_up_the_rest() -> Result<(), SandboxError> {
    sandbox::drop_rights(Capabilities::ATTACHING)?;
    sandbox::confine_attacher()
}

/// Is shown under this name from now on.
pub(super) fn take_name(name: &CStr, title: &[u8]) {
    // SAFETY: takes a text that ends with a zero byte.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    set_title(title);
}

/// Lets go of everything of the parent's but its word, and of every right. Signals that ask to end wait
/// until hushwire is dead: a terminal sends them to both.
fn leave_everything(hushwire: OwnedFd, requests: OwnedFd) -> io::Result<[OwnedFd; 2]> {
    let asked = ending_signals();
    // SAFETY: `asked` is a filled signal set and outlives the call; the other calls take integers and a
    // text that ends with a zero byte. This is the only thread.
    unsafe {
        checked(libc::sigprocmask(libc::SIG_BLOCK, &raw const asked, std::ptr::null_mut()))?;
        // Hushwire takes it for a reload.
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
    take_name(HELPER, HELPER_TITLE);
    let ours = close_all_but([hushwire, requests])?;
    // It would keep a file system from being unmounted.
    let _ = std::env::set_current_dir("/");
    Ok(ours)
}

/// Closes every descriptor but two. Standard streams lead nowhere then: who waits for their end, as a
/// reader of hushwire's log does, must not wait for us.
fn close_all_but(kept: [OwnedFd; 2]) -> io::Result<[OwnedFd; 2]> {
    const FIRST: RawFd = libc::STDERR_FILENO + 1;
    // SAFETY: fcntl, dup3, dup2, close and close_range take integers. What is closed belongs to values of the
    // parent, none of which is used or dropped in this process; `kept` is not used any more.
    unsafe {
        // Out of the way first: one may have the number that the other is to get.
        let mut away = [-1; 2];
        for (away, kept) in away.iter_mut().zip(&kept) {
            *away = checked(libc::fcntl(kept.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST + 2))?;
        }
        std::mem::forget(kept);
        let ours = [FIRST, FIRST + 1];
        for (away, ours) in away.into_iter().zip(ours) {
            checked(libc::dup3(away, ours, libc::O_CLOEXEC))?;
        }
        let null = File::options().read(true).write(true).open("/dev/null");
        for standard in 0..FIRST {
            match &null {
                Ok(null) => libc::dup2(null.as_raw_fd(), standard),
                Err(_) => libc::close(standard),
            };
        }
        std::mem::forget(null);
        let first = FIRST + 2;
        // Linux 5.9.
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) < 0 {
            (first..1024).for_each(|fd| {
                libc::close(fd);
            });
        }
        Ok(ours.map(|fd| OwnedFd::from_raw_fd(fd)))
    }
}

/// Writes over the arguments, which this process does not look at. Without `/proc` they stay.
fn set_title(text: &[u8]) {
    let _ = title_place().and_then(|(start, length)| {
        let mut title = vec![0; length];
        // One zero byte stays: without it the kernel shows the environment as well.
        let shown = text.len().min(length.saturating_sub(1));
        title.iter_mut().zip(text.iter().take(shown)).for_each(|(to, from)| *to = *from);
        let mut memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
        memory.seek(SeekFrom::Start(start))?;
        memory.write_all(&title)
    });
}

/// Where the kernel finds the arguments, and how many bytes they have: fields 48 and 49 of proc_pid_stat(5).
fn title_place() -> io::Result<(u64, usize)> {
    let text = fs::read_to_string("/proc/self/stat")?;
    // The second field may contain anything, and ends with the last parenthesis.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut fields = fields.split_whitespace().skip(45).map(str::parse::<u64>);
    match (fields.next(), fields.next()) {
        (Some(Ok(start)), Some(Ok(end))) if start != 0 && end > start => {
            Ok((start, usize::try_from(end - start).unwrap_or(0)))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(super) fn ending_signals() -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain C data; sigemptyset makes any such value a valid one.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_arguments_of_this_process_are_where_they_are_said_to_be() {
        let (start, length) = title_place().unwrap();
        let mut memory = File::open("/proc/self/mem").unwrap();
        memory.seek(SeekFrom::Start(start)).unwrap();
        let mut bytes = vec![0; length];
        memory.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, fs::read("/proc/self/cmdline").unwrap());
    }
}

//! What the keeper does: wait, and hand over one descriptor.
//!
//! It has one thread, no rights, no key, no standard streams, and reads nothing but the words of its own
//! hushwire and, once that is dead, those of a successor that runs as the same user or as root. Called by
//! [`Keeper::fork`](super::Keeper::fork) in the new process, and does not return.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{MESSAGE_BYTES, word};
use crate::sys::{checked, poll, rights};

/// A successor says what it wants at once; another one may be waiting.
const REQUEST_PATIENCE: Duration = Duration::from_millis(200);
/// As `ps` and `top` show it, 15 bytes at most.
const NAME: &std::ffi::CStr = c"hushwire-keeper";
/// As `ps aux` shows it.
const TITLE: &[u8] = b"hushwire: keeper";

/// What it was given.
#[derive(Default)]
struct Kept {
    tun: Option<OwnedFd>,
    patience: Duration,
    door: Option<Door>,
}

/// Where a successor knocks.
struct Door {
    listener: UnixListener,
    path: PathBuf,
    /// The socket's file: the name may be somebody else's by now.
    inode: (u64, u64),
    /// Which file configured hushwire.
    file: Vec<u8>,
}

/// Lives until hushwire says goodbye or, if that is killed, until there is a successor or patience is over.
pub(super) fn live(hushwire: OwnedFd) -> ! {
    if let Ok(hushwire) = leave_everything(hushwire) {
        let mut kept = Kept::default();
        if kept.accompany(&hushwire) == End::WithoutAWord {
            kept.await_successor();
        }
        // The interface goes before anybody hears of our end.
        drop(kept);
    }
    // SAFETY: takes no pointer. What the parent left in its buffers is the parent's to write.
    unsafe { libc::_exit(0) }
}

/// How hushwire ended.
#[derive(PartialEq, Eq)]
enum End {
    Goodbye,
    WithoutAWord,
}

impl Kept {
    /// Does what hushwire says until that ends.
    fn accompany(&mut self, hushwire: &OwnedFd) -> End {
        let mut message = [0; MESSAGE_BYTES];
        loop {
            let door = self.door.as_ref().map(|door| door.listener.as_fd());
            let Ok([spoke, knocked]) = poll::readable([Some(hushwire.as_fd()), door], None) else {
                return End::WithoutAWord;
            };
            // First: who knocks because hushwire is dead finds us knowing it.
            if spoke {
                match rights::receive(hushwire.as_fd(), &mut message) {
                    Ok((0, _)) | Err(_) => return End::WithoutAWord,
                    Ok((length, fd)) => match message.get(..length).and_then(<[u8]>::split_first) {
                        Some((&word::GOODBYE, _)) => return End::Goodbye,
                        Some((&said, rest)) => self.obey(said, rest, fd),
                        None => {}
                    },
                }
            } else if knocked && let Some(door) = &self.door {
                // There is no successor as long as hushwire lives.
                drop(door.listener.accept());
            }
        }
    }

    fn obey(&mut self, said: u8, rest: &[u8], fd: Option<OwnedFd>) {
        if matches!(said, word::HOLD | word::PATIENCE)
            && let Some(&patience) = rest.first_chunk()
        {
            self.patience = Duration::from_millis(u64::from_ne_bytes(patience));
        }
        match said {
            word::HOLD => self.tun = fd,
            word::LISTEN => self.door = fd.and_then(|fd| Door::new(fd, rest)),
            _ => {}
        }
    }

    /// Waits for a successor. A signal that asks to end ends us now, also one that came before hushwire's
    /// end: whoever sends it to the whole group or unit wants all of it gone.
    #[expect(clippy::disallowed_methods, reason = "this is the loop of a process of its own")]
    fn await_successor(&mut self) {
        let (Some(tun), Some(door)) = (self.tun.take(), self.door.take()) else { return };
        let Ok(signals) = pending_signals() else { return };
        let start = Instant::now();
        while let Some(left) = self.patience.checked_sub(start.elapsed()) {
            let fds = [Some(signals.as_fd()), Some(door.listener.as_fd())];
            let ready = poll::readable(fds, Some(left));
            let Ok([false, knocked]) = ready else { break };
            if !knocked {
                continue;
            }
            let Ok((visitor, _)) = door.listener.accept() else { continue };
            match door.request(&visitor) {
                Some(Wish::Take) => {
                    door.close();
                    // Closed here first: the connection's end says that the other copy is the last.
                    let _ = rights::send(visitor.as_fd(), b"T", Some(tun.as_fd()));
                    drop(tun);
                    return;
                }
                Some(Wish::End) => {
                    door.close();
                    drop(tun);
                    return;
                }
                None => {}
            }
        }
        door.close();
    }
}

/// What a successor wants.
enum Wish {
    Take,
    End,
}

impl Door {
    fn new(listener: OwnedFd, names: &[u8]) -> Option<Self> {
        let end = names.iter().position(|&byte| byte == 0)?;
        let (path, file) = (names.get(..end)?, names.get(end + 1..)?);
        let path = Path::new(OsStr::from_bytes(path)).to_owned();
        let inode = inode(&path).ok()?;
        Some(Self { listener: listener.into(), path, inode, file: file.to_owned() })
    }

    /// Reads what somebody wants, if he may want anything.
    fn request(&self, mut visitor: &UnixStream) -> Option<Wish> {
        // SAFETY: takes nothing and cannot fail.
        let ours = unsafe { libc::geteuid() };
        if !may_ask(peer_uid(visitor).ok()?, ours) {
            return None;
        }
        visitor.set_nonblocking(false).ok()?;
        visitor.set_read_timeout(Some(REQUEST_PATIENCE)).ok()?;
        let mut said = [0; MESSAGE_BYTES];
        let mut length = 0;
        while let Some(room) = said.get_mut(length..).filter(|room| !room.is_empty()) {
            match visitor.read(room) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(_) => return None,
            }
        }
        match said.get(..length)?.split_first()? {
            (&word::TAKE, []) => Some(Wish::Take),
            (&word::END, file) if file == self.file => Some(Wish::End),
            _ => None,
        }
    }

    /// Removes the file, before the successor puts its own in the same place.
    fn close(&self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn may_ask(uid: libc::uid_t, ours: libc::uid_t) -> bool {
    uid == ours || uid == 0
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Who is at the other end of a connection, by the word of the kernel.
fn peer_uid(stream: &UnixStream) -> io::Result<libc::uid_t> {
    let mut peer = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which `peer` has.
    checked(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    Ok(peer.uid)
}

/// Lets go of everything of the parent's but its word, and of every right. Signals that ask to end wait
/// until hushwire is dead: a terminal sends them to both.
fn leave_everything(hushwire: OwnedFd) -> io::Result<OwnedFd> {
    let asked = ending_signals();
    // SAFETY: `asked` is a filled signal set and outlives the call; the other calls take integers and a
    // text that ends with a zero byte. This is the only thread.
    unsafe {
        checked(libc::sigprocmask(libc::SIG_BLOCK, &raw const asked, std::ptr::null_mut()))?;
        // Hushwire takes it for a reload.
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
    }
    set_title();
    let hushwire = close_all_but(hushwire)?;
    // It would keep a file system from being unmounted.
    let _ = std::env::set_current_dir("/");
    drop_rights()?;
    Ok(hushwire)
}

/// Closes every descriptor but one. Standard streams lead nowhere then: who waits for their end, as a
/// reader of hushwire's log does, must not wait for us.
fn close_all_but(hushwire: OwnedFd) -> io::Result<OwnedFd> {
    const OURS: RawFd = libc::STDERR_FILENO + 1;
    // SAFETY: dup3, dup2, close and close_range take integers. What is closed belongs to values of the
    // parent, none of which is used or dropped in this process; `hushwire` is not used any more.
    unsafe {
        if hushwire.as_raw_fd() != OURS {
            checked(libc::dup3(hushwire.as_raw_fd(), OURS, libc::O_CLOEXEC))?;
        }
        std::mem::forget(hushwire);
        let null = File::options().read(true).write(true).open("/dev/null");
        for standard in 0..OURS {
            match &null {
                Ok(null) => libc::dup2(null.as_raw_fd(), standard),
                Err(_) => libc::close(standard),
            };
        }
        std::mem::forget(null);
        let first = OURS + 1;
        // Linux 5.9.
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) < 0 {
            (first..1024).for_each(|fd| {
                libc::close(fd);
            });
        }
        Ok(OwnedFd::from_raw_fd(OURS))
    }
}

/// Gives up all capabilities, for ever: holding a descriptor takes none.
fn drop_rights() -> io::Result<()> {
    /// `struct __user_cap_header_struct` with `_LINUX_CAPABILITY_VERSION_3`, capget(2); 0 is this process.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    // Two times effective, permitted and inheritable.
    let none = [0u32; 6];
    // SAFETY: capset reads a header and two triples, which both arrays are; prctl takes integers.
    unsafe {
        checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        checked(libc::syscall(libc::SYS_capset, HEADER.as_ptr(), none.as_ptr()))?;
    }
    Ok(())
}

/// Writes over the arguments, which this process does not look at. Without `/proc` they stay.
fn set_title() {
    let _ = title_place().and_then(|(start, length)| {
        let mut title = vec![0; length];
        // One zero byte stays: without it the kernel shows the environment as well.
        let shown = TITLE.len().min(length.saturating_sub(1));
        title.iter_mut().zip(TITLE.iter().take(shown)).for_each(|(to, from)| *to = *from);
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

fn ending_signals() -> libc::sigset_t {
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

/// Readable when one of them has come, also before this call.
fn pending_signals() -> io::Result<OwnedFd> {
    let set = ending_signals();
    // SAFETY: the set is filled and outlives the call; on success the descriptor is new and nobody else's.
    unsafe {
        let fd = checked(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }

    #[test]
    fn the_kernel_says_who_asks() {
        let (here, _there) = UnixStream::pair().unwrap();
        // SAFETY: takes nothing and cannot fail.
        assert_eq!(peer_uid(&here).unwrap(), unsafe { libc::geteuid() });
    }

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

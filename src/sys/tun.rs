//! A TUN device: whole IP packets, one a read and one a write, without packet information.
//!
//! This room opens, adopts and names the device; it gives it neither address nor route, which is the
//! work of `attach`. The packet loop reads and writes it. Descriptors are non-blocking and are closed
//! on exec; the interface goes when the last one is closed, unless somebody made it persistent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::checked;

/// The one descriptor of a TUN device.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
}

impl Tun {
    /// Makes a TUN device, or takes over a persistent one that no process holds, in the network
    /// namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// What opening `/dev/net/tun` says, or what `TUNSETIFF` says: `EPERM` without `CAP_NET_ADMIN`,
    /// `EBUSY` while another process holds it, `EINVAL` for a link of that name that is no TUN or
    /// whose queues differ.
    pub fn create(name: &str) -> io::Result<Self> {
        let device = open_device()?;
        claim(device.as_fd(), name)?;
        Self::from_claimed(device)
    }

    /// Adopts a descriptor that somebody else has opened, and its interface's name.
    ///
    /// # Errors
    ///
    /// When it is not a TUN device that is attached to an interface, or one that puts anything (packet
    /// information, a virtio header) before the packets.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let tun = Self::from_claimed(fd)?;
        // TUNGETIFF cannot tell: where IFF_NO_PI stands, it puts IFF_NOFILTER, the same bit. But four zeros
        // are an empty packet with its information, and otherwise a packet of IP version 0, which
        // drivers/net/tun.c (`tun_get_user`) refuses with EINVAL before it looks at anything else. The
        // interface counts one dropped packet.
        match tun.send(&[0; 4]) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(tun),
            _ => Err(invalid(
                "a TUN descriptor with packet information before each packet; open it with IFF_NO_PI",
            )),
        }
    }

    /// The same for a descriptor that [`claim`] has attached, so that there is no packet information.
    pub(super) fn from_claimed(fd: OwnedFd) -> io::Result<Self> {
        let Interface { name, flags } = interface_of(fd.as_fd())
            .map_err(|error| invalid(format!("not an attached TUN descriptor ({error})")))?;
        if flags & libc::IFF_TUN == 0 {
            return Err(invalid("a TAP descriptor (IFF_TAP); a TUN (IFF_TUN) is needed"));
        }
        if flags & libc::IFF_VNET_HDR != 0 {
            return Err(invalid(
                "a TUN descriptor with a virtio header before each packet; open it without IFF_VNET_HDR",
            ));
        }
        make_nonblocking_cloexec(fd.as_fd())?;
        Ok(Self { file: File::from(fd), name })
    }

    /// The interface's name when the descriptor was opened or adopted.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one packet that the local network stack sends, and says how many bytes it has.
    ///
    /// A buffer smaller than the packet gets its beginning only: have room for the interface's MTU.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none; `EBADFD` once the interface is deleted.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry_interrupted(|| (&self.file).read(buffer))
    }

    /// Hands one packet to the local network stack.
    ///
    /// # Errors
    ///
    /// `EIO` while the interface is down, `EBADFD` once it is deleted, `EINVAL` for what is neither an
    /// IPv4 nor an IPv6 packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        // The kernel takes a packet whole or not at all.
        retry_interrupted(|| (&self.file).write(packet)).map(|_| ())
    }

    /// Lets the interface go with its last descriptor, also one that was made to stay.
    pub(super) fn clear_persistent(&self) -> io::Result<()> {
        let off: libc::c_ulong = 0;
        // SAFETY: TUNSETPERSIST takes its argument by value; the descriptor is open.
        checked(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETPERSIST, off) }).map(|_| ())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens `/dev/net/tun`, which is not yet an interface.
///
/// Apart from [`claim`] because the same errno (`EPERM`) means another cure in each.
pub(super) fn open_device() -> io::Result<OwnedFd> {
    // std adds O_CLOEXEC.
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    Ok(options.open("/dev/net/tun")?.into())
}

/// Makes the interface behind an opened `/dev/net/tun`, or attaches to a left-over one.
pub(super) fn claim(device: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut request = empty_request();
    // The last byte stays 0.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(invalid(format!("an interface name has 1 to 15 bytes, not {name:?}")));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is; the descriptor is open.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
        .map(|_| ())
}

/// What TUNGETIFF tells about a descriptor.
pub(super) struct Interface {
    /// The present name of its interface.
    pub(super) name: String,
    flags: i32,
}

/// Asks a descriptor for its interface: `EBADFD` when that is deleted or was never there.
pub(super) fn interface_of(fd: BorrowedFd<'_>) -> io::Result<Interface> {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes one `ifreq`, which `request` is; the descriptor is open.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: TUNGETIFF has filled `ifru_flags`, and any bits are a `c_short`.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    let name = request.ifr_name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0);
    let name = String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned();
    Ok(Interface { name, flags })
}

fn empty_request() -> libc::ifreq {
    // SAFETY: `ifreq` is plain C data, and all zeros is a valid value of it.
    unsafe { std::mem::zeroed() }
}

fn make_nonblocking_cloexec(fd: BorrowedFd<'_>) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: F_GETFL, F_SETFL and F_SETFD take and give integers; the descriptor is open.
    unsafe {
        let flags = checked(libc::fcntl(fd, libc::F_GETFL))?;
        checked(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
        checked(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC))?;
    }
    Ok(())
}

fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

/// A process that holds a TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// Its name, as `/proc/PID/comm` has it.
    pub command: String,
}

/// Finds another living process that holds a TUN device of this name, by the `iff:` line that
/// `drivers/net/tun.c` puts into `/proc/PID/fdinfo`.
///
/// The line does not say which network namespace the device is in (it need not be the process's own), so
/// a device of the same name in another namespace is found too; and processes of another PID namespace
/// or of another user are not seen. It is for error messages, not for decisions.
pub fn owner(name: &str) -> Option<Owner> {
    let ours = std::process::id();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        if pid == ours {
            return None;
        }
        let mut descriptors = fs::read_dir(entry.path().join("fdinfo")).ok()?.flatten();
        descriptors.find(|descriptor| {
            fs::read_to_string(descriptor.path()).is_ok_and(|info| names_interface(&info, name))
        })?;
        let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        Some(Owner { pid, command: command.trim_end().to_owned() })
    })
}

fn names_interface(fdinfo: &str, name: &str) -> bool {
    fdinfo.lines().filter_map(|line| line.strip_prefix("iff:")).any(|rest| rest.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_of_a_descriptor_is_read_from_its_fdinfo() {
        let info = "pos:\t0\nflags:\t02104002\nmnt_id:\t25\nino:\t9\niff:\thush0\n";
        assert!(names_interface(info, "hush0"));
        assert!(!names_interface(info, "hush"));
        assert!(!names_interface("pos:\t0\niff:\t\n", "hush0"));
    }

    #[test]
    fn a_descriptor_that_is_no_tun_is_refused() {
        let null = File::open("/dev/null").unwrap();
        let error = Tun::from_fd(null.into()).unwrap_err();
        assert!(error.to_string().contains("not an attached TUN descriptor"), "{error}");
    }

    #[test]
    fn names_that_linux_cannot_take_are_refused_before_the_kernel_sees_them() {
        let null = File::open("/dev/null").unwrap();
        for name in ["", "sixteen-bytes-xx", "a\0b"] {
            let error = claim(null.as_fd(), name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}

//! A TUN device: IP packets, one a read and one a write, or several of one flow joined to a large one.
//!
//! Where the kernel can (IFF_VNET_HDR), a header before each packet says how to cut a large one, in both
//! directions; without it packets are read and written whole. This room opens, adopts and names the
//! device; it gives it neither address nor route, which is the work of `attach`. The packet loop reads and
//! writes it. Descriptors are non-blocking and are closed on exec; the interface goes when the last one is
//! closed, unless somebody made it persistent.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::netns::{self, Namespace};
use super::{call, checked};
use crate::offload::{Offload, VnetHeader};

/// The one descriptor of a TUN device.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    /// Whether a virtio header stands before each packet.
    headers: bool,
    offload: Offload,
}

/// Where a packet begins in a buffer for [`Tun::recv`]: behind the header, also if there is none.
pub const HEADROOM: usize = VnetHeader::LEN;
/// The most parts that one packet is written in, beside its header.
pub const MOST_PARTS: usize = 64;

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
    /// When it is not a TUN device that is attached to an interface, or one that puts packet information
    /// before the packets.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let tun = Self::from_claimed(fd)?;
        // TUNGETIFF cannot tell: where IFF_NO_PI stands, it puts IFF_NOFILTER, the same bit. But four zeros
        // are an empty packet with its information, and otherwise a packet of IP version 0, which
        // drivers/net/tun.c (`tun_get_user`) refuses with EINVAL before it looks at anything else. The
        // interface counts one dropped packet.
        match tun.send(&VnetHeader::default(), std::iter::once(&[0; 4][..])) {
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
        make_nonblocking_cloexec(fd.as_fd())?;
        let headers = flags & libc::IFF_VNET_HDR != 0;
        let offload = if headers { offload(fd.as_fd())? } else { Offload::None };
        Ok(Self { fd, name, headers, offload })
    }

    /// Which packets may be joined before they are written here.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The interface's name when the descriptor was opened or adopted.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one packet that the local network stack sends, or a large one that is several, and says how
    /// many bytes it has. It begins at [`HEADROOM`] in the buffer.
    ///
    /// A buffer smaller than the packet gets its beginning only: have room for 65,535 bytes, which is as
    /// large as any gets.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none; `EBADFD` once the interface is deleted.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        let start = if self.headers { 0 } else { HEADROOM };
        let place = buffer.get_mut(start..).unwrap_or_default();
        let read = retry_interrupted(|| call::read(self.as_fd(), place))?;
        let header = buffer.first_chunk().filter(|_| self.headers).map(VnetHeader::from_bytes);
        Ok((header.unwrap_or_default(), (start + read).saturating_sub(HEADROOM)))
    }

    /// Hands one packet, or a large one that is several, to the local network stack: its parts, of which
    /// no more than [`MOST_PARTS`] are looked at, one behind the other.
    ///
    /// # Errors
    ///
    /// `EIO` while the interface is down, `EBADFD` once it is deleted, `EINVAL` for what is neither an
    /// IPv4 nor an IPv6 packet, or does not fit its header.
    pub fn send<'a>(
        &self,
        header: &VnetHeader,
        parts: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let header = header.to_bytes();
        let header: &[u8] = if self.headers { &header } else { &[] };
        // A lone packet does not pay for the slices of a joined one.
        if parts.len() <= 1 {
            self.write::<2>(header, parts)
        } else {
            self.write::<{ 1 + MOST_PARTS }>(header, parts)
        }
    }

    fn write<'a, const SLICES: usize>(
        &self,
        header: &[u8],
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let mut slices = [IoSlice::new(header); SLICES];
        let mut used = 1;
        for (slice, part) in slices.iter_mut().skip(1).zip(parts) {
            *slice = IoSlice::new(part);
            used += 1;
        }
        let slices = slices.get(..used).unwrap_or_default();
        // The kernel takes a packet whole or not at all.
        retry_interrupted(|| call::writev(self.as_fd(), slices)).map(|_| ())
    }

    /// Lets the interface go with its last descriptor, also one that was made to stay.
    pub(super) fn clear_persistent(&self) -> io::Result<()> {
        let off: libc::c_ulong = 0;
        // SAFETY: TUNSETPERSIST takes its argument by value; the descriptor is open.
        checked(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETPERSIST, off) }).map(|_| ())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
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

/// Makes the interface behind an opened `/dev/net/tun`, or attaches to a left-over one; with a header before
/// each packet if the kernel has that.
pub(super) fn claim(device: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match claim_with(device, name, libc::IFF_VNET_HDR) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => claim_with(device, name, 0),
        result => result,
    }
}

fn claim_with(device: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> io::Result<()> {
    let mut request = empty_request();
    // The last byte stays 0.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(invalid(format!("an interface name has 1 to 15 bytes, not {name:?}")));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | flags) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is; the descriptor is open.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
        .map(|_| ())
}

/// Asks for large packets and unfinished checksums on a descriptor with headers, and says what may be
/// written to it in turn. The kernel takes either all bits or none, and does not know all everywhere: UDP
/// since Linux 6.2, and perhaps nothing in a sandbox, which is no reason to fail.
fn offload(fd: BorrowedFd<'_>) -> io::Result<Offload> {
    let length = VnetHeader::LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call; the descriptor is open.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) })?;
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let takes = |features: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes its argument by value; the descriptor is open.
        unsafe {
            libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(features)) == 0
        }
    };
    Ok(if takes(tcp | udp) {
        Offload::TcpAndUdp
    } else if takes(tcp) {
        Offload::Tcp
    } else {
        Offload::None
    })
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
    /// Whether it is in the network namespace of the calling thread, as its device most likely is then.
    pub here: bool,
}

/// Finds another living process that holds a TUN device of this name, by the `iff:` line that
/// `drivers/net/tun.c` puts into `/proc/PID/fdinfo`.
///
/// The line does not say which network namespace the device is in (it need not be the process's own). A
/// process in ours comes first; another may have a device of the same name in another namespace. Processes of
/// another PID namespace or of another user are not seen. It is for error messages, not for decisions.
pub fn owner(name: &str) -> Option<Owner> {
    let namespace = netns::identify(&Namespace::Own).ok();
    let ours = std::process::id();
    let owners = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        if pid == ours {
            return None;
        }
        let mut descriptors = fs::read_dir(entry.path().join("fdinfo")).ok()?.flatten();
        descriptors.find(|descriptor| {
            fs::read_to_string(descriptor.path()).is_ok_and(|info| names_interface(&info, name))
        })?;
        let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let here = netns::identify(&Namespace::Process(pid)).ok() == namespace;
        Some(Owner { pid, command: command.trim_end().to_owned(), here })
    });
    owners.min_by_key(|owner| !owner.here)
}

fn names_interface(fdinfo: &str, name: &str) -> bool {
    fdinfo.lines().filter_map(|line| line.strip_prefix("iff:")).any(|rest| rest.trim() == name)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

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

//! Ethernet frames of any content, sent out of an interface; and what of IP a machine takes for its own.
//!
//! A raw socket gets a copy of each packet that the kernel delivers to the machine, whatever becomes of it
//! there (net/ipv4/ip_input.c, `ip_protocol_deliver_rcu`): the judge of what got in.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::machine::Machine;

/// Marks the payloads that [`Deliveries`] looks for; a number follows.
const MARK: &[u8; 8] = b"stranger";

/// The payload of this number.
pub(crate) fn marked(number: u32) -> Vec<u8> {
    [&MARK[..], &number.to_be_bytes()].concat()
}

/// The way out of an interface.
pub(crate) struct Frames {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Frames {
    /// Opens it.
    pub(crate) fn on(machine: &Machine, interface: &str) -> Self {
        let socket = machine.inside(|| {
            let (family, kind) = (AddressFamily::Packet, SockType::Raw);
            socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("cannot make a packet socket")
        });
        Self { socket, interface: link(machine, interface) }
    }

    /// Sends one frame, from its Ethernet header on.
    pub(crate) fn send(&self, frame: &[u8]) {
        let sent = sendto(self.socket.as_raw_fd(), frame, &self.interface, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "a frame of {} bytes", frame.len());
    }
}

/// The hardware address of an interface.
pub(crate) fn hardware_address(machine: &Machine, interface: &str) -> [u8; 6] {
    link(machine, interface).addr().expect("an Ethernet interface has an address")
}

fn link(machine: &Machine, interface: &str) -> LinkAddr {
    let found = machine.inside(|| {
        let mut all = getifaddrs().expect("cannot list the interfaces");
        all.find_map(|one| {
            let link = one.address.and_then(|address| address.as_link_addr().copied());
            link.filter(|_| one.interface_name == interface)
        })
    });
    found.unwrap_or_else(|| panic!("there is no interface {interface} on {}", machine.name))
}

/// Collects the numbers of the marked payloads that are delivered to a machine.
pub(crate) struct Deliveries {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    numbers: Mutex<BTreeSet<u32>>,
}

impl Deliveries {
    /// Collects TCP, UDP and ICMP of both families, from now on.
    pub(crate) fn start(machine: &Machine) -> Self {
        use {AddressFamily::Inet, AddressFamily::Inet6};
        let kinds = [
            (Inet, SockProtocol::Tcp),
            (Inet, SockProtocol::Udp),
            (Inet, SockProtocol::Icmp),
            (Inet6, SockProtocol::Tcp),
            (Inet6, SockProtocol::Udp),
            (Inet6, SockProtocol::IcmpV6),
        ];
        let shared = Arc::new(Shared::default());
        let readers = kinds.map(|(family, protocol)| {
            let socket = machine.inside(|| raw_socket(family, protocol));
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.read(&socket, protocol))
        });
        Self { shared, readers: readers.into() }
    }

    /// Ends it, once nothing more is waiting.
    pub(crate) fn stop(mut self) -> BTreeSet<u32> {
        self.end();
        std::mem::take(&mut *self.shared.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for reader in self.readers.drain(..) {
            reader.join().expect("a raw socket failed");
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.end();
    }
}

fn raw_socket(family: AddressFamily, protocol: SockProtocol) -> OwnedFd {
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
        .expect("cannot make a raw socket");
    let patience = TimeVal::new(0, 200_000);
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience).expect("cannot set a timeout");
    // The forced form goes past net.core.rmem_max, but not inside a user namespace.
    setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)))
        .expect("cannot set a buffer");
    socket
}

impl Shared {
    fn read(&self, socket: &OwnedFd, protocol: SockProtocol) {
        let mut buffer = [0; 65_535];
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) if is_about_a_refusal(&buffer[..len], protocol) => {}
                Ok(len) => {
                    let marks = buffer[..len].windows(MARK.len() + 4);
                    let found = marks.filter(|window| window.starts_with(MARK)).map(|window| {
                        u32::from_be_bytes([window[8], window[9], window[10], window[11]])
                    });
                    let numbers = self.numbers.lock();
                    numbers.unwrap_or_else(PoisonError::into_inner).extend(found);
                }
                Err(Errno::EAGAIN) if self.stop.load(Ordering::Relaxed) => return,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => panic!("a raw socket broke: {error}"),
            }
        }
    }
}

/// Whether it is an ICMP error of the machine's own, which it tells itself where the source was forged, with
/// what it refused inside. "Too big" is none of these.
fn is_about_a_refusal(packet: &[u8], protocol: SockProtocol) -> bool {
    match protocol {
        SockProtocol::Icmp => {
            let header_len = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
            !matches!(packet.get(header_len..), Some([3, 4, ..] | [0 | 8, ..]))
        }
        SockProtocol::IcmpV6 => !matches!(packet.first(), Some(2 | 128 | 129)),
        _ => false,
    }
}

//! What really was on a wire: a packet socket on one interface of a machine.
//!
//! Not tcpdump: inside a user namespace it cannot give up root, and refuses to run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::machine::Machine;

/// A running capture.
pub(crate) struct Capture {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    packets: Mutex<Vec<Vec<u8>>>,
}

/// Protocol numbers of IANA's list: hop-by-hop options (which multicast listener reports carry), ICMP,
/// IGMP, UDP and ICMPv6.
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ICMP: u8 = 1;
pub(crate) const IGMP: u8 = 2;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// One UDP datagram that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Length of the whole IP packet.
    pub(crate) packet_len: usize,
    pub(crate) payload: Vec<u8>,
}

/// What a capture held.
pub(crate) struct Captured {
    /// All IP packets: source, destination and protocol number.
    pub(crate) packets: Vec<(IpAddr, IpAddr, u8)>,
    /// The UDP datagrams among them.
    pub(crate) datagrams: Vec<Datagram>,
    raw: Vec<Vec<u8>>,
}

impl Captured {
    /// How often a text stands in it. A text that crosses two packets is not found.
    pub(crate) fn count(&self, text: &str) -> usize {
        count(&self.raw, text)
    }

    /// The packets as they were, from their IP headers on.
    pub(crate) fn raw(&self) -> &[Vec<u8>] {
        &self.raw
    }
}

impl Capture {
    /// Captures what passes an interface in either direction, from now on.
    pub(crate) fn start(machine: &Machine, interface: &str) -> Self {
        let (socket, interface) = machine.inside(|| packet_socket(interface));
        let shared = Arc::new(Shared::default());
        let reading = Arc::clone(&shared);
        let reader = std::thread::spawn(move || reading.read(&socket, interface));
        Self { shared, reader: Some(reader) }
    }

    /// How often a text was seen so far.
    pub(crate) fn count(&self, text: &str) -> usize {
        count(&self.shared.packets.lock().unwrap_or_else(PoisonError::into_inner), text)
    }

    /// Ends it, once nothing more is waiting, and takes the packets apart.
    pub(crate) fn stop(mut self) -> Captured {
        self.end();
        let mut packets = self.shared.packets.lock().unwrap_or_else(PoisonError::into_inner);
        take_apart(std::mem::take(&mut packets))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the capture failed");
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// A packet socket that hands out packets from their network header on (packet(7), `SOCK_DGRAM`), and
/// the interface's index.
fn packet_socket(interface: &str) -> (OwnedFd, usize) {
    let index = if_nametoindex(interface)
        .unwrap_or_else(|error| panic!("there is no interface {interface}: {error}"));
    let (family, kind) = (AddressFamily::Packet, SockType::Datagram);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .expect("cannot make a packet socket");
    let patience = TimeVal::new(0, 50_000);
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience).expect("cannot set a timeout");
    // The forced form goes past net.core.rmem_max, but not inside a user namespace.
    setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)))
        .expect("cannot set a buffer");
    (socket, index as usize)
}

impl Shared {
    /// The socket is not bound to the interface: safe Rust has no way to say so for one without a
    /// hardware address, as a TUN is. Packets of other interfaces are passed over.
    fn read(&self, socket: &OwnedFd, interface: usize) {
        let mut buffer = [0; 65_535];
        loop {
            match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
                Ok((len, from)) => {
                    if from.is_some_and(|from| from.ifindex() == interface) {
                        let packets = self.packets.lock();
                        let mut packets = packets.unwrap_or_else(PoisonError::into_inner);
                        packets.push(buffer[..len].to_vec());
                    }
                }
                Err(Errno::EAGAIN) if self.stop.load(Ordering::Relaxed) => return,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => panic!("a packet socket broke: {error}"),
            }
        }
    }
}

fn count(packets: &[Vec<u8>], text: &str) -> usize {
    let windows = packets.iter().flat_map(|packet| packet.windows(text.len()));
    windows.filter(|window| *window == text.as_bytes()).count()
}

fn take_apart(raw: Vec<Vec<u8>>) -> Captured {
    let (mut datagrams, mut packets) = (Vec::new(), Vec::new());
    for packet in &raw {
        let Some((source, destination, protocol, body)) = dissect(packet) else { continue };
        packets.push((source, destination, protocol));
        if protocol == UDP && body.len() >= 8 {
            datagrams.push(Datagram {
                source,
                source_port: u16::from_be_bytes([body[0], body[1]]),
                destination_port: u16::from_be_bytes([body[2], body[3]]),
                packet_len: packet.len(),
                payload: body[8..].to_vec(),
            });
        }
    }
    Captured { packets, datagrams, raw }
}

/// Addresses, protocol and payload of an IP packet; none for ARP and for later fragments.
fn dissect(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let header_len = usize::from(packet[0] & 15) * 4;
            let address = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).map(Ipv4Addr::from);
            let first = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff == 0;
            let body = packet.get(header_len..).filter(|_| first)?;
            Some((address(12).ok()?.into(), address(16).ok()?.into(), packet[9], body))
        }
        6 if packet.len() >= 40 => {
            let address =
                |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).map(Ipv6Addr::from);
            Some((address(8).ok()?.into(), address(24).ok()?.into(), packet[6], &packet[40..]))
        }
        _ => None,
    }
}

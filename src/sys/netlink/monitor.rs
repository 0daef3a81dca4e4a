//! News about interfaces: which went up or down, changed its MTU or its name, or is gone.
//!
//! A non-blocking multicast socket for the daemon to wait on; what is to be done about an event is the
//! daemon's to say. Events that could not be kept are told as [`LinkEvent::Resync`], never hidden.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Link;
use super::convert::LinkMessage;
use super::exchange::{Messages, RECEIVE_BYTES, receive};
use super::message::Message;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// An interface is new, has changed, or is gone.
    Link(LinkState),
    /// Events were lost: look again at every interface that matters.
    Resync,
}

/// An interface after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Its index.
    pub index: u32,
    /// Its name, which may be new.
    pub name: String,
    /// What kind of virtual interface it is; none for hardware and the loopback.
    pub kind: Option<String>,
    /// Whether it is up.
    pub up: bool,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether packets can leave by it: it is up, and so is what is behind it (a cable, the other end).
    pub carrier: bool,
    /// Whether it has left this network namespace: deleted, or moved to another.
    pub deleted: bool,
}

/// A subscription to the events of one network namespace.
#[derive(Debug)]
pub struct LinkMonitor {
    socket: Socket,
    buffer: Vec<u8>,
    waiting: VecDeque<LinkEvent>,
}

impl LinkMonitor {
    /// Subscribes in the network namespace of the calling thread. It tells what happens from now on: look
    /// at the present state after this call, not before it.
    ///
    /// # Errors
    ///
    /// When the kernel has no netlink or no descriptor is left.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind_auto()?;
        socket.add_membership(libc::RTNLGRP_LINK)?;
        Ok(Self { socket, buffer: Vec::with_capacity(RECEIVE_BYTES), waiting: VecDeque::new() })
    }

    /// Lets a task wait for it. Runs inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the runtime cannot wait for one more.
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the socket's descriptor is open and the same for as long as the monitor lives.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }
            .map_err(io::Error::from)
    }

    /// Takes the next event; none when nothing waits (wait until the descriptor is readable).
    ///
    /// # Errors
    ///
    /// When the socket fails for good.
    pub fn next_event(&mut self) -> io::Result<Option<LinkEvent>> {
        while self.waiting.is_empty() {
            match receive(&self.socket, &mut self.buffer) {
                Ok(datagram) => self.waiting.extend(Messages(datagram).filter_map(|message| {
                    match message.map(|message| message.payload) {
                        Ok(NetlinkPayload::InnerMessage(message)) => read_event(&message),
                        Ok(_) => None,
                        Err(_) => Some(LinkEvent::Resync),
                    }
                })),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // The socket's buffer overflowed; it goes on after this.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Some(LinkEvent::Resync));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Ok(Some(LinkEvent::Resync));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.waiting.pop_front())
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LinkMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn read_event(message: &Message) -> Option<LinkEvent> {
    let deleted = match message.kind {
        libc::RTM_NEWLINK => false,
        libc::RTM_DELLINK => true,
        _ => return None,
    };
    let Ok(message) = LinkMessage::read(&message.body) else {
        // From a newer kernel, perhaps: something changed, and we cannot say what.
        return Some(LinkEvent::Resync);
    };
    if !is_about_the_link(&message) {
        return None;
    }
    let carrier = message.carrier();
    let Link { index, name, kind, mtu, up } = message.link;
    let (up, carrier) = (up && !deleted, carrier && up && !deleted);
    Some(LinkEvent::Link(LinkState { index, name, kind, up, mtu, carrier, deleted }))
}

/// A bridge tells about its ports in the same group and the same words: there, "deleted" means that an
/// interface has left the bridge (net/bridge/br_netlink.c).
fn is_about_the_link(message: &LinkMessage) -> bool {
    i32::from(message.family) == libc::AF_UNSPEC
}

#[cfg(test)]
mod tests {
    use super::super::attributes::Attributes;
    use super::*;

    const UP: u32 = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;

    fn message(kind: u16, family: u8, attributes: &Attributes) -> Message {
        let header = [[family, 0, 0, 0], 7u32.to_ne_bytes(), UP.to_ne_bytes(), [0; 4]];
        Message::new(kind, header, attributes)
    }

    #[test]
    fn an_interface_that_has_gone_is_not_up_and_has_no_carrier() {
        let attributes = Attributes::default().text(libc::IFLA_IFNAME, "hush0");
        let there = LinkState {
            index: 7,
            name: "hush0".to_owned(),
            kind: None,
            up: true,
            mtu: 0,
            carrier: true,
            deleted: false,
        };
        let gone = LinkState { up: false, carrier: false, deleted: true, ..there.clone() };
        for (kind, state) in [(libc::RTM_NEWLINK, there), (libc::RTM_DELLINK, gone)] {
            let event = read_event(&message(kind, 0, &attributes));
            assert_eq!(event, Some(LinkEvent::Link(state)));
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_reason_to_look_and_what_is_about_something_else_is_none() {
        let strange = Attributes::default().bytes(libc::IFLA_MTU, &[1, 2, 3]);
        let broken = message(libc::RTM_NEWLINK, 0, &strange);
        assert_eq!(read_event(&broken), Some(LinkEvent::Resync));
        let mut short = message(libc::RTM_DELLINK, 0, &Attributes::default());
        short.body.pop();
        assert_eq!(read_event(&short), Some(LinkEvent::Resync));
        assert_eq!(read_event(&message(libc::RTM_NEWADDR, 0, &strange)), None);
        let of_bridge = message(libc::RTM_DELLINK, libc::AF_BRIDGE as u8, &Attributes::default());
        assert_eq!(read_event(&of_bridge), None);
    }
}

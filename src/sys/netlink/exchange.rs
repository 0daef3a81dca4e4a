//! One netlink request and its answers: sequence numbers, acknowledgements, dumps, and the kernel's own
//! words about a refusal.
//!
//! Nothing here knows what a request asks for; the requests stand in the room above, and the monitor
//! reads its datagrams with the same two helpers. What the kernel sends is parsed, never indexed.

use std::fmt;
use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::attributes::text;
use super::message::Message;

/// Bytes of one receive: what a dump puts into one datagram at most (net/netlink/af_netlink.c,
/// `netlink_recvmsg`). The single answers that are asked for here are far smaller.
pub(super) const RECEIVE_BYTES: usize = 32 << 10;

/// How often a dump is asked for again when the tables changed under it.
const DUMP_ATTEMPTS: usize = 8;

/// Type of the attribute that holds the kernel's own words about an error (`NLMSGERR_ATTR_MSG`).
const ERROR_TEXT: u16 = 1;

/// A request that the kernel refused: which one, for what, and why.
#[derive(Debug)]
pub struct NetlinkError {
    request: String,
    error: io::Error,
    kernel: Option<String>,
}

impl NetlinkError {
    /// The kernel's errno, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.error.raw_os_error()
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.request, self.error)?;
        self.kernel.as_ref().map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

impl std::error::Error for NetlinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A socket for requests to the routing part of the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel has no netlink or no descriptor is left.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_socket().map_err(|error| NetlinkError {
            request: "open a netlink socket".to_owned(),
            error,
            kernel: None,
        })
    }

    fn open_socket() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Errors in the kernel's own words; Linux 4.12. Dumps filtered by the kernel; Linux 4.20. What an
        // older one sends too much is filtered here.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    pub(super) fn command(
        &mut self,
        what: fmt::Arguments<'_>,
        message: Message,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(what, message, flags).map(|_| ())
    }

    /// Asks for one thing, and reads what the kernel says about it.
    pub(super) fn ask<T>(
        &mut self,
        what: fmt::Arguments<'_>,
        message: Message,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        let answer = message.answer();
        let answers = self.exchange(what, message, 0)?;
        read_all(what, &answers, answer, read)
    }

    /// Asks for all that there is of something, and reads what the kernel says about each; what `read` has
    /// nothing for is left out.
    pub(super) fn dump<T>(
        &mut self,
        what: fmt::Arguments<'_>,
        message: Message,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut attempts = DUMP_ATTEMPTS;
        loop {
            attempts -= 1;
            match self.exchange(what, message.clone(), NLM_F_DUMP) {
                Err(error) if error.error.kind() == io::ErrorKind::Interrupted && attempts > 0 => {}
                result => return read_all(what, &result?, message.answer(), read),
            }
        }
    }

    /// Sends one request, and collects its answers up to the acknowledgement or the end of the dump.
    fn exchange(
        &mut self,
        what: fmt::Arguments<'_>,
        message: Message,
        flags: u16,
    ) -> Result<Vec<Message>, NetlinkError> {
        self.send(message, flags)
            .and_then(|()| self.collect())
            .map_err(|(error, kernel)| NetlinkError { request: what.to_string(), error, kernel })
    }

    fn send(&mut self, message: Message, flags: u16) -> Result<(), Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        self.buffer.clear();
        self.buffer.resize(packet.buffer_len(), 0);
        packet.serialize(&mut self.buffer);
        self.socket.send_to(&self.buffer, &SocketAddr::new(0, 0), 0).map_err(because)?;
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<Message>, Refusal> {
        let mut answers = Vec::new();
        let mut changed_under_us = false;
        loop {
            let datagram = receive(&self.socket, &mut self.buffer).map_err(because)?;
            for message in Messages(datagram) {
                let message = message.map_err(because)?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                changed_under_us |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err((
                            error.to_io(),
                            error_text(message.header.flags, &error.header),
                        ));
                    }
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        return Err(because(io::Error::from_raw_os_error(done.code.abs())));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) if changed_under_us => {
                        return Err(because(io::ErrorKind::Interrupted.into()));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

/// Reads the answers of one type; there are no others, unless a newer kernel adds some.
fn read_all<T>(
    what: fmt::Arguments<'_>,
    answers: &[Message],
    answer: u16,
    read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, NetlinkError> {
    let wanted = answers.iter().filter(|message| message.kind == answer);
    let read: Result<Vec<T>, _> =
        wanted.filter_map(|message| read(&message.body).transpose()).collect();
    read.map_err(|error| {
        let error = format!("Failed to parse message with type {answer}: {error}");
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        NetlinkError { request: what.to_string(), error, kernel: None }
    })
}

/// The errno, and the kernel's own words if it has any.
type Refusal = (io::Error, Option<String>);

fn because(error: io::Error) -> Refusal {
    (error, None)
}

/// Receives one datagram of the kernel's; those of other processes are thrown away.
pub(super) fn receive<'a>(socket: &Socket, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    loop {
        buffer.clear();
        buffer.reserve(RECEIVE_BYTES);
        match socket.recv_from(buffer, libc::MSG_TRUNC) {
            Ok((_, sender)) if sender.port_number() != 0 => {}
            Ok((length, _)) if length > buffer.len() => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "a netlink datagram of {length} bytes, expected at most {RECEIVE_BYTES}"
                    ),
                ));
            }
            Ok(_) => return Ok(buffer),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The messages of one datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<NetlinkMessage<Message>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<Message>::deserialize(self.0);
        // Messages begin at multiples of 4 bytes (NLMSG_ALIGN). One that cannot be read ends the walk.
        let length = message.as_ref().map_or(usize::MAX, |message| message.header.length as usize);
        let next = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
        self.0 = self.0.get(next..).unwrap_or_default();
        Some(message.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string())))
    }
}

/// Finds the kernel's own words in what stands behind the errno: the request's header (the whole
/// request if the kernel does not cap it), then attributes.
fn error_text(flags: u16, rest: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = if flags & NLM_F_CAPPED != 0 {
        16
    } else {
        u32::from_ne_bytes(*rest.first_chunk()?).next_multiple_of(4) as usize
    };
    let mut attributes = NlasIterator::new(rest.get(request..)?).flatten();
    Some(text(attributes.find(|attribute| attribute.kind() == ERROR_TEXT)?.value()))
}

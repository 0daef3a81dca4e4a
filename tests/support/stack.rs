//! What a network stack makes of packets, written after the RFCs and not after the filter: which ports they
//! reach in the end. It is as credulous as any stack that ever was: it takes every SYN without ACK for the
//! beginning of a connection, and puts fragments together that overlap.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::collections::{BTreeSet, HashMap};

/// What becomes of bytes that two fragments bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    FirstWins,
    LastWins,
}

/// What was reached: a TCP connection was opened there, or a UDP datagram was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    Tcp(u16),
    Udp(u16),
    /// Of ICMP: not echo, not an error.
    Icmp(u8),
    /// Some other protocol.
    Protocol(u8),
}

/// A stack, and what was reached in it.
pub struct Stack {
    overlap: Overlap,
    queues: HashMap<Key, Queue>,
    pub reached: BTreeSet<Reached>,
}

/// Source and destination, protocol (IPv4), identification.
type Key = (Vec<u8>, u8, u32);

#[derive(Default)]
struct Queue {
    /// The protocol of the first fragment.
    protocol: Option<u8>,
    bytes: Vec<Option<u8>>,
    end: Option<usize>,
}

impl Stack {
    pub fn new(overlap: Overlap) -> Self {
        Self { overlap, queues: HashMap::new(), reached: BTreeSet::new() }
    }

    /// Takes a packet.
    pub fn take(&mut self, packet: &[u8]) {
        // What cannot be read is dropped.
        let _ = match packet.first().map(|first| first >> 4) {
            Some(4) => self.v4(packet),
            Some(6) => self.v6(packet),
            _ => None,
        };
    }

    fn v4(&mut self, packet: &[u8]) -> Option<()> {
        let packet = packet.get(..usize::from(word(packet, 2)?))?;
        let payload = packet.get(usize::from(packet[0] & 15).max(5) * 4..)?;
        let place = word(packet, 6)?;
        let (offset, more) = (usize::from(place & 0x1fff) * 8, place & 0x2000 != 0);
        let protocol = *packet.get(9)?;
        if offset == 0 && !more {
            self.deliver(protocol, payload);
            return Some(());
        }
        let key = (packet.get(12..20)?.to_vec(), protocol, u32::from(word(packet, 4)?));
        let (protocol, bytes) = self.put_together(key, protocol, offset, more, payload)?;
        self.deliver(protocol, &bytes);
        Some(())
    }

    fn v6(&mut self, packet: &[u8]) -> Option<()> {
        let packet = packet.get(..40 + usize::from(word(packet, 4)?))?;
        let addresses = packet.get(8..40)?.to_vec();
        let (mut protocol, mut rest) = (packet[6], packet.get(40..)?.to_vec());
        // One after the other, as long as there are any.
        loop {
            match protocol {
                0 | 43 | 60 => {
                    let length = (usize::from(*rest.get(1)?) + 1) * 8;
                    protocol = *rest.first()?;
                    rest = rest.get(length..)?.to_vec();
                }
                44 => {
                    let (next, place) = (*rest.first()?, word(&rest, 2)?);
                    let (offset, more) = (usize::from(place & !7), place & 1 != 0);
                    let id = u32::from(word(&rest, 4)?) << 16 | u32::from(word(&rest, 6)?);
                    let payload = rest.get(8..)?.to_vec();
                    (protocol, rest) = if offset == 0 && !more {
                        (next, payload)
                    } else {
                        let key = (addresses.clone(), 0, id);
                        self.put_together(key, next, offset, more, &payload)?
                    };
                }
                _ => {
                    self.deliver(protocol, &rest);
                    return Some(());
                }
            }
        }
    }

    fn put_together(
        &mut self,
        key: Key,
        protocol: u8,
        offset: usize,
        more: bool,
        payload: &[u8],
    ) -> Option<(u8, Vec<u8>)> {
        let queue = self.queues.entry(key.clone()).or_default();
        let end = offset + payload.len();
        if queue.bytes.len() < end {
            queue.bytes.resize(end, None);
        }
        for (place, byte) in queue.bytes[offset..end].iter_mut().zip(payload) {
            if place.is_none() || self.overlap == Overlap::LastWins {
                *place = Some(*byte);
            }
        }
        if offset == 0 && (queue.protocol.is_none() || self.overlap == Overlap::LastWins) {
            queue.protocol = Some(protocol);
        }
        if !more {
            queue.end = Some(end);
        }
        let whole: Option<Vec<u8>> = queue.bytes.get(..queue.end?)?.iter().copied().collect();
        let done = (queue.protocol?, whole?);
        self.queues.remove(&key);
        Some(done)
    }

    fn deliver(&mut self, protocol: u8, payload: &[u8]) {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        let port = word(payload, 2);
        let reached = match protocol {
            6 => port
                .filter(|_| payload.get(13).is_some_and(|flags| flags & (SYN | ACK) == SYN))
                .map(Reached::Tcp),
            17 => port.map(Reached::Udp),
            1 => payload
                .first()
                .filter(|kind| ![0, 3, 8, 11, 12].contains(*kind))
                .map(|kind| Reached::Icmp(*kind)),
            58 => payload
                .first()
                .filter(|kind| ![1, 2, 3, 4, 128, 129].contains(*kind))
                .map(|kind| Reached::Icmp(*kind)),
            59 => None,
            other => Some(Reached::Protocol(other)),
        };
        self.reached.extend(reached);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

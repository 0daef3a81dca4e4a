//! Opened packets of one flow become one write to the TUN: what GRO does in the kernel
//! (net/ipv4/tcp_offload.c, net/ipv4/udp_offload.c), for a batch that is there as a whole.
//!
//! Each packet is opened at a place that the [`Coalescer`] gives. Where the packet before may have a
//! successor, that place begins before its end: by so many bytes as there are headers, which are kept
//! aside meanwhile. Once the headers were read and are found to go on there, the bytes that they covered
//! come back, and the payload of the flow lies in one piece without a copy. A packet that does not go on
//! there is moved behind. So a group is a few ranges of the memory, for `writev`, under the patched
//! headers of its first packet. It is written where that stood, and a packet joins only the latest group
//! of its flow: so no packet overtakes another one of its flow.

use std::ops::Range;

use super::Offload;
use super::checksum::{fold, pseudo_header, sum};
use super::flow::{Class, Flow, Joins, Segment};
use super::header::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};
use super::{PSH, TCP, UDP};

/// Bytes of a joined packet, IP header included: the length field of IPv4 has 16 bits, and a socket
/// buffer that need not say otherwise is not longer (GRO_LEGACY_MAX_SIZE in include/linux/netdevice.h).
const MAX_LEN: usize = 65_535;
/// UDP_MAX_SEGMENTS (include/linux/udp.h) of the kernels before 6.9: a longer one is refused.
const MAX_DATAGRAMS: usize = 64;
/// Parts of one write. The kernel takes more (UIO_MAXIOV), but at the usual size 48 fill a packet.
const MAX_PARTS: usize = 64;
/// The headers of what is joined: of IPv6, and of TCP with all its options.
const MAX_HEADERS: usize = 40 + 60;

/// One packet for the overlay, or a large one that several were joined to: one write to the TUN.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    /// Says how the kernel is to take it apart: all zero for a lone packet.
    pub header: VnetHeader,
    packets: usize,
    bytes: &'a [u8],
    parts: &'a [Range<usize>],
}

impl<'a> Joined<'a> {
    /// How many packets it is.
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Its bytes, from the IP header on: these parts, one behind the other.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.parts.iter().map(|part| bytes.get(part.clone()).unwrap_or_default())
    }
}

/// Joins the packets of one batch after the other in the same memory.
#[derive(Debug)]
pub struct Coalescer {
    offload: Offload,
    bytes: Vec<u8>,
    /// Where the packets end that were pushed.
    end: usize,
    covered: Covered,
    /// Whether the last packet that was expected to go on where the one before ends did so.
    in_train: bool,
    /// The first of the batch was not read: there may be no second one.
    first_unread: bool,
    taken: Vec<Taken>,
    plans: Vec<Plan>,
    parts: Vec<Range<usize>>,
    table: Table,
    /// The next group to be written, once they are planned.
    next: Option<usize>,
}

/// What stood before the end, where the place given last begins.
#[derive(Debug)]
struct Covered {
    bytes: [u8; MAX_HEADERS],
    len: usize,
}

/// A packet or several in one piece, or what of them goes into the write.
#[derive(Debug)]
struct Taken {
    range: Range<usize>,
    plan: usize,
}

impl Coalescer {
    /// Joins what this offload allows.
    pub fn new(offload: Offload) -> Self {
        Self {
            offload,
            bytes: Vec::new(),
            end: 0,
            covered: Covered { bytes: [0; MAX_HEADERS], len: 0 },
            in_train: true,
            first_unread: false,
            taken: Vec::new(),
            plans: Vec::new(),
            parts: Vec::new(),
            table: Table::new(),
            next: None,
        }
    }

    /// Joins what another offload allows from now on.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// Room for one more packet; it counts once [`Coalescer::push`] is called, and is given again if not.
    pub fn place(&mut self, len: usize) -> &mut [u8] {
        self.uncover();
        self.cover();
        let begin = self.end - self.covered.len;
        // It may have to be moved behind the one before.
        let most = self.end + len;
        if self.bytes.len() < most {
            self.bytes.resize(most, 0);
        }
        self.bytes.get_mut(begin..begin + len).unwrap_or_default()
    }

    /// Takes the packet in the first `len` bytes of the place given last. All that is planned is read by
    /// [`Coalescer::poll`] before another one is pushed.
    ///
    /// Its checksum is not looked at when it is joined: Poly1305 has just shown that it is as the peer
    /// sent it, and the kernel's WireGuard marks packets as checked for the same reason
    /// (wg_packet_consume_data_done() in drivers/net/wireguard/receive.c). A lone packet goes as it is,
    /// and the kernel verifies it.
    pub fn push(&mut self, len: usize) {
        let len = len.min(self.bytes.len().saturating_sub(self.end));
        let begin = self.end - self.covered.len;
        let packet = begin..begin + len;
        if self.take(packet.clone()) {
            self.uncover();
            self.end = packet.end;
        } else {
            if self.covered.len > 0 {
                self.in_train = false;
                self.bytes.copy_within(packet, self.end);
                self.uncover();
            }
            self.end += len;
        }
    }

    /// The next write; `None` after the last one, and the memory is used again.
    pub fn poll(&mut self) -> Option<Joined<'_>> {
        let next = match self.next {
            Some(next) => next,
            None if self.plans.is_empty() => return None,
            None => {
                self.plan();
                0
            }
        };
        let Some(plan) = self.plans.get(next) else {
            self.clear();
            return None;
        };
        self.next = Some(next + 1);
        let parts = plan.next_part - plan.parts..plan.next_part;
        Some(Joined {
            header: plan.header,
            packets: plan.packets,
            bytes: &self.bytes,
            parts: self.parts.get(parts).unwrap_or_default(),
        })
    }

    fn clear(&mut self) {
        self.end = 0;
        self.taken.clear();
        self.plans.clear();
        self.table.clear();
        self.first_unread = false;
        self.next = None;
    }

    /// Keeps aside what the headers of the next packet may cover.
    fn cover(&mut self) {
        let len = self.expected_headers();
        if let Some(begin) = self.end.checked_sub(len)
            && let Some(before) = self.bytes.get(begin..self.end)
            && let Some(kept) = self.covered.bytes.get_mut(..len)
        {
            kept.copy_from_slice(before);
            self.covered.len = len;
        }
    }

    /// Puts back what was covered.
    fn uncover(&mut self) {
        let len = std::mem::take(&mut self.covered.len);
        if len == 0 {
            return;
        }
        if let (Some(kept), Some(before)) =
            (self.covered.bytes.get(..len), self.bytes.get_mut(self.end - len..self.end))
        {
            before.copy_from_slice(kept);
        }
    }

    /// How many bytes of headers the next packet has if it goes on where the last one ends; 0 if it is not
    /// likely to. The payload of the last one has as many: its own headers are not covered.
    fn expected_headers(&mut self) -> usize {
        self.read_first();
        let last = self.taken.last().and_then(|last| self.plans.get(last.plan));
        last.filter(|plan| self.in_train && plan.is_open && plan.size >= plan.headers)
            .map_or(0, |plan| plan.headers)
    }

    /// Reads the first packet, now that a second one comes.
    fn read_first(&mut self) {
        if !std::mem::take(&mut self.first_unread) {
            return;
        }
        let (Some(first), Some(plan)) = (self.taken.first(), self.plans.first_mut()) else {
            return;
        };
        let packet = self.bytes.get(first.range.clone()).unwrap_or_default();
        if let Class::Segment(segment) = classify(self.offload, packet) {
            *plan = Plan::of(&segment, first.range.start);
            let (slot, _) = self.table.find(&segment.flow, &[]);
            self.table.put(slot, 0);
        }
    }

    /// Finds the group of the next packet. Whether it goes on where the last one ends; if not it is
    /// to stand behind that.
    fn take(&mut self, lies: Range<usize>) -> bool {
        let packet = self.bytes.get(lies.clone()).unwrap_or_default();
        let covered = self.covered.len;
        let stands = lies.start + covered..lies.end + covered;
        let Some(last) = self.taken.last_mut() else {
            self.first_unread = self.offload != Offload::None;
            self.begin(Plan::lone(), stands);
            return false;
        };
        let segment = match classify(self.offload, packet) {
            Class::Segment(segment) => segment,
            class => {
                if class == Class::Barrier {
                    self.table.clear();
                }
                self.begin(Plan::lone(), stands);
                return false;
            }
        };
        // Mostly it is of the flow of the last one, and the table need not be asked.
        let (slot, latest) = match self.plans.get(last.plan) {
            Some(plan) if plan.flow == segment.flow => (None, Some(last.plan)),
            _ => {
                let (slot, latest) = self.table.find(&segment.flow, &self.plans);
                (Some(slot), latest)
            }
        };
        if let Some(index) = latest
            && let Some(plan) = self.plans.get_mut(index)
        {
            let goes_on = index == last.plan && covered == segment.headers;
            let has_part = goes_on || plan.parts < MAX_PARTS;
            if has_part && plan.join(&segment, packet, &self.bytes) {
                self.in_train |= index == last.plan;
                if goes_on {
                    last.range.end = lies.end;
                } else {
                    plan.parts += 1;
                    let range = stands.start + segment.headers..stands.end;
                    self.taken.push(Taken { range, plan: index });
                }
                return goes_on;
            }
        }
        // What cannot be joined ends what went before: its flow goes on here.
        let slot = slot.unwrap_or_else(|| self.table.find(&segment.flow, &self.plans).0);
        self.table.put(slot, self.plans.len());
        self.begin(Plan::of(&segment, stands.start), stands);
        false
    }

    fn begin(&mut self, plan: Plan, range: Range<usize>) {
        self.taken.push(Taken { range, plan: self.plans.len() });
        self.plans.push(plan);
    }

    /// Brings the parts of each group together, in the order in which the groups began, and patches the
    /// headers of those that are several packets.
    fn plan(&mut self) {
        self.uncover();
        let mut begin = 0;
        for plan in &mut self.plans {
            plan.next_part = begin;
            begin += plan.parts;
        }
        self.parts.resize(begin, 0..0);
        for taken in self.taken.drain(..) {
            if let Some(plan) = self.plans.get_mut(taken.plan)
                && let Some(part) = self.parts.get_mut(plan.next_part)
            {
                *part = taken.range;
                plan.next_part += 1;
            }
        }
        for plan in self.plans.iter_mut().filter(|plan| plan.packets > 1) {
            plan.header = plan.patch(&mut self.bytes).unwrap_or_default();
        }
    }
}

fn classify(offload: Offload, packet: &[u8]) -> Class {
    match offload {
        Offload::None => Class::Aside,
        offload => Class::of(packet, offload == Offload::TcpAndUdp),
    }
}

/// A group as it grows.
#[derive(Debug, Default)]
struct Plan {
    header: VnetHeader,
    packets: usize,
    /// Of the write: fewer than packets where several lie in one piece.
    parts: usize,
    /// Where the next range goes while the parts are laid out.
    next_part: usize,
    flow: Flow,
    /// Where the first packet begins in the buffer.
    begin: usize,
    transport: usize,
    headers: usize,
    /// Payload of each packet but the last.
    size: usize,
    /// Of the joined packet, from the IP header on.
    length: usize,
    alike: [u64; 2],
    next_sequence: u32,
    ids: Ids,
    push: bool,
    is_open: bool,
}

/// How the identification of IPv4 goes on.
#[derive(Clone, Copy, Debug, Default)]
enum Ids {
    /// IPv6 has none.
    #[default]
    None,
    /// One packet can go on either way.
    Unknown(u16),
    CountsFrom(u16),
    Stays(u16),
}

impl Plan {
    /// A packet that no other joins.
    fn lone() -> Self {
        Self { packets: 1, parts: 1, ..Self::default() }
    }

    fn of(segment: &Segment, begin: usize) -> Self {
        Self {
            flow: segment.flow,
            begin,
            transport: segment.transport,
            headers: segment.headers,
            size: segment.payload,
            length: segment.headers + segment.payload,
            alike: segment.alike,
            next_sequence: segment.sequence.wrapping_add(segment.payload as u32),
            ids: segment.id.map_or(Ids::None, Ids::Unknown),
            is_open: segment.joins == Joins::Anywhere,
            ..Self::lone()
        }
    }

    /// Takes in the packet if it goes on where the group ends.
    fn join(&mut self, segment: &Segment, packet: &[u8], buffer: &[u8]) -> bool {
        let udp = self.flow.is_udp();
        let fits = self.is_open
            && segment.joins != Joins::Nowhere
            && segment.alike == self.alike
            && segment.payload <= self.size
            && self.length + segment.payload <= MAX_LEN
            && (!udp || self.packets < MAX_DATAGRAMS)
            && (udp || segment.sequence == self.next_sequence);
        let Some(ids) = self.ids.then(segment).filter(|_| fits) else { return false };
        // The data offset is the same; the options begin after 20 bytes of the TCP header.
        let options = packet.get(self.transport + 20..self.headers);
        let first = self.begin + self.transport + 20..self.begin + self.headers;
        if !udp && options != buffer.get(first) {
            return false;
        }
        self.packets += 1;
        self.length += segment.payload;
        self.next_sequence = self.next_sequence.wrapping_add(segment.payload as u32);
        self.ids = ids;
        self.push = segment.joins == Joins::Last;
        self.is_open = !self.push && segment.payload == self.size;
        true
    }

    /// Makes the headers of the first packet those of the joined one.
    fn patch(&self, buffer: &mut [u8]) -> Option<VnetHeader> {
        let headers = buffer.get_mut(self.begin..)?.get_mut(..self.headers)?;
        let (ip, transport) = headers.split_at_mut_checked(self.transport)?;
        let addresses: &[u8] = if self.flow.is_v6() {
            let header: &mut [u8; 40] = ip.first_chunk_mut()?;
            [header[4], header[5]] = ((self.length - 40) as u16).to_be_bytes();
            &header[8..]
        } else {
            let header: &mut [u8; 20] = ip.first_chunk_mut()?;
            [header[2], header[3]] = (self.length as u16).to_be_bytes();
            [header[10], header[11]] = [0, 0];
            let checksum = !fold(sum(header));
            [header[10], header[11]] = checksum.to_be_bytes();
            &header[12..]
        };
        let length = self.length - self.transport;
        let (protocol, gso_type, csum_offset) = match (self.flow.is_udp(), self.flow.is_v6()) {
            (true, _) => (UDP, GSO_UDP_L4, 6),
            (false, true) => (TCP, GSO_TCPV6, 16),
            (false, false) => (TCP, GSO_TCPV4, 16),
        };
        let pseudo = fold(pseudo_header(addresses, protocol, length)).to_be_bytes();
        if protocol == UDP {
            let header: &mut [u8; 8] = transport.first_chunk_mut()?;
            [header[4], header[5]] = (length as u16).to_be_bytes();
            [header[6], header[7]] = pseudo;
        } else {
            let header: &mut [u8; 20] = transport.first_chunk_mut()?;
            if self.push {
                header[13] |= PSH;
            }
            [header[16], header[17]] = pseudo;
        }
        Some(VnetHeader {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: self.headers as u16,
            gso_size: self.size as u16,
            csum_start: self.transport as u16,
            csum_offset,
        })
    }
}

impl Ids {
    /// After the segment, or `None` if it does not go on as it began: by one, or, where it means nothing,
    /// not at all (inet_gro_flush() in include/net/gro.h).
    fn then(self, segment: &Segment) -> Option<Self> {
        match (self, segment.id) {
            (Ids::None, None) => Some(Ids::None),
            (Ids::Unknown(last) | Ids::CountsFrom(last), Some(id))
                if id == last.wrapping_add(1) =>
            {
                Some(Ids::CountsFrom(id))
            }
            (Ids::Unknown(last) | Ids::Stays(last), Some(id)) if id == last && segment.atomic => {
                Some(Ids::Stays(id))
            }
            _ => None,
        }
    }
}

/// The latest group of each flow of the batch.
///
/// A flow that finds no place takes that of another one, whose next packet then begins a new group: it
/// costs a write, and never the order.
#[derive(Debug)]
struct Table {
    /// One more than the group; 0 is free.
    slots: Box<[u32; SLOTS]>,
    used: bool,
}

/// Room for 64 flows with few collisions.
const SLOTS: usize = 256;
/// How many slots a flow may stand in.
const WAYS: usize = 8;

impl Table {
    fn new() -> Self {
        Self { slots: Box::new([0; SLOTS]), used: false }
    }

    fn clear(&mut self) {
        if self.used {
            self.slots.fill(0);
            self.used = false;
        }
    }

    /// The slot of the flow and its group, or the slot that it may have.
    fn find(&self, flow: &Flow, plans: &[Plan]) -> (usize, Option<usize>) {
        let home = flow.hash();
        for way in 0..WAYS {
            let slot = home.wrapping_add(way) % SLOTS;
            let Some(index) = self.slots.get(slot).and_then(|group| group.checked_sub(1)) else {
                return (slot, None);
            };
            let index = index as usize;
            if plans.get(index).is_some_and(|plan| plan.flow == *flow) {
                return (slot, Some(index));
            }
        }
        (home % SLOTS, None)
    }

    fn put(&mut self, slot: usize, plan: usize) {
        self.used = true;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = u32::try_from(plan).map_or(0, |plan| plan.saturating_add(1));
        }
    }
}

//! Opened packets of one flow become one write to the TUN: what GRO does in the kernel
//! (net/ipv4/tcp_offload.c, net/ipv4/udp_offload.c), for a batch that is there as a whole.
//!
//! [`Coalescer::plan`] sees the packets where they were opened and moves none of them: it patches the
//! headers of the first of each group and tells which ranges to hand to `writev`. A group is written
//! where its first packet stood, and a packet joins only the latest group of its flow: so no packet
//! overtakes another one of its flow.

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

/// One write to the TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// What to write first: all zero for a lone packet.
    pub header: VnetHeader,
    /// What to write after it, as ranges of the buffer: one a packet, the first with its headers.
    pub parts: &'a [Range<usize>],
}

/// Plans the writes of one batch after the other in the same memory.
#[derive(Debug)]
pub struct Coalescer {
    offload: Offload,
    packets: Vec<Packet>,
    plans: Vec<Plan>,
    parts: Vec<Range<usize>>,
    table: Table,
}

/// A packet, or what of it goes into the write.
#[derive(Debug)]
struct Packet {
    range: Range<usize>,
    plan: usize,
}

impl Coalescer {
    /// Joins what this offload allows.
    pub fn new(offload: Offload) -> Self {
        let table = Table::new();
        Self { offload, packets: Vec::new(), plans: Vec::new(), parts: Vec::new(), table }
    }

    /// Joins what another offload allows from now on.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// Groups the packets, given as ranges of the buffer in their order, and patches the headers of
    /// those that others join. Forgets the batch before.
    ///
    /// Their own checksums are not looked at when they are joined: Poly1305 has just shown that they are
    /// as the peer sent them, and the kernel's WireGuard marks them as checked for the same reason
    /// (wg_packet_consume_data_done() in drivers/net/wireguard/receive.c). A lone packet goes as it is,
    /// and the kernel verifies it.
    pub fn plan(&mut self, buffer: &mut [u8], packets: impl IntoIterator<Item = Range<usize>>) {
        self.packets.clear();
        self.plans.clear();
        self.parts.clear();
        let mut packets = packets.into_iter();
        let Some(first) = packets.next() else { return };
        let Some(second) = packets.next() else {
            self.plans.push(Plan { next_part: 1, ..Plan::lone() });
            self.parts.push(first);
            return;
        };
        self.table.clear();
        for range in [first, second].into_iter().chain(packets) {
            self.take(buffer, range);
        }
        self.lay_out();
        for plan in self.plans.iter_mut().filter(|plan| plan.packets > 1) {
            plan.header = plan.patch(buffer).unwrap_or_default();
        }
    }

    /// The writes that were planned, in their order.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        (0..).map_while(|index| self.group(index))
    }

    /// One of the writes that were planned, from 0 on in their order.
    pub fn group(&self, index: usize) -> Option<Group<'_>> {
        let plan = self.plans.get(index)?;
        let parts = self.parts.get(plan.next_part.checked_sub(plan.packets)?..plan.next_part)?;
        Some(Group { header: plan.header, parts })
    }

    /// Finds the group of the next packet.
    fn take(&mut self, buffer: &[u8], range: Range<usize>) {
        let packet = buffer.get(range.clone()).unwrap_or_default();
        let class = match self.offload {
            Offload::None => Class::Aside,
            offload => Class::of(packet, offload == Offload::TcpAndUdp),
        };
        let segment = match class {
            Class::Segment(segment) => segment,
            class => {
                if class == Class::Barrier {
                    self.table.clear();
                }
                return self.begin(Plan::lone(), range);
            }
        };
        let (slot, plan) = self.table.find(&segment.flow, &self.plans);
        if let Some(index) = plan
            && let Some(plan) = self.plans.get_mut(index)
            && plan.join(&segment, packet, buffer)
        {
            let range = range.start + segment.headers..range.end;
            return self.packets.push(Packet { range, plan: index });
        }
        // What cannot be joined ends what went before: its flow goes on here.
        self.table.put(slot, self.plans.len());
        self.begin(Plan::of(&segment, range.start), range);
    }

    fn begin(&mut self, plan: Plan, range: Range<usize>) {
        self.packets.push(Packet { range, plan: self.plans.len() });
        self.plans.push(plan);
    }

    /// Brings the parts of each group together, in the order in which the groups began.
    fn lay_out(&mut self) {
        let mut begin = 0;
        for plan in &mut self.plans {
            plan.next_part = begin;
            begin += plan.packets;
        }
        self.parts.resize(begin, 0..0);
        for packet in self.packets.drain(..) {
            if let Some(plan) = self.plans.get_mut(packet.plan)
                && let Some(part) = self.parts.get_mut(plan.next_part)
            {
                *part = packet.range;
                plan.next_part += 1;
            }
        }
    }
}

/// A group as it grows.
#[derive(Debug, Default)]
struct Plan {
    header: VnetHeader,
    packets: usize,
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
        Self { packets: 1, ..Self::default() }
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
            && self.packets < if udp { MAX_DATAGRAMS } else { MAX_PARTS }
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

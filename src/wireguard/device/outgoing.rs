//! What the overlay sends, on its way to a peer: inner destination, allowed IPs, peer. A large packet is cut
//! on the way; what stands in the way of a packet is counted.

use std::net::IpAddr;
use std::time::Instant;

use super::Device;
use crate::offload::{self, Segments, Unusable, VnetHeader};
use crate::wireguard::drops::DropReason;
use crate::wireguard::ecn::Ecn;
use crate::wireguard::io::PeerId;
use crate::wireguard::packet::{Addresses, Udp, is_echo_request};
use crate::wireguard::resend::Kept;

/// Inner packets are padded to a multiple of this (section 5.4.6 of the paper).
const PADDING: usize = 16;

impl Device {
    /// Takes what the overlay sends: the first `len` bytes of `buffer`, one packet or, by its header, a
    /// large one that is to be cut. Up to 15 bytes behind it are used for padding, if they are there.
    pub fn handle_tun(&mut self, now: Instant, header: &VnetHeader, buffer: &mut [u8], len: usize) {
        self.handle_outgoing(now, header, buffer, len, 0);
    }

    /// Takes what the overlay sends too fast. Its transport is told so: by a mark if it understands that (RFC
    /// 3168), or else by the loss of one packet, the first one of a large one. More would tell it nothing more.
    pub fn handle_tun_congested(
        &mut self,
        now: Instant,
        header: &VnetHeader,
        buffer: &mut [u8],
        len: usize,
    ) {
        let marked = Ecn::mark_congested(buffer.get_mut(..len).unwrap_or_default());
        let lost = usize::from(!marked);
        self.drops.add(DropReason::Backlog, lost);
        if marked || header.is_large() {
            self.handle_outgoing(now, header, buffer, len, lost);
        }
    }

    /// Sends a packet, or a large one without the first `lost` of its segments.
    fn handle_outgoing(
        &mut self,
        now: Instant,
        header: &VnetHeader,
        buffer: &mut [u8],
        len: usize,
        lost: usize,
    ) {
        let packet = buffer.get(..len).unwrap_or_default();
        let Some(addresses) = Addresses::of(packet) else {
            return self.drops.count(DropReason::MalformedPacket);
        };
        let Some(id) = self.allowed_ips.route(addresses.destination) else {
            return self.drops.count(DropReason::NoPeer);
        };
        let udp = Udp::of(packet);
        if udp.is_some_and(|udp| self.is_our_own_datagram(addresses.destination, udp)) {
            return self.drops.count(DropReason::RoutingLoop);
        }
        let kept = self.common.gossip.and_then(|gossip| match udp {
            Some(udp) => udp.may_go_to(gossip.port).then_some(Kept::Gossip),
            None => is_echo_request(packet).then_some(Kept::Echo),
        });
        let result = if header.is_large() {
            if !self.lets_out(now, id, packet) {
                return;
            }
            Segments::of(header, buffer, len)
                .map(|segments| self.send_large(now, id, segments, lost, kept))
        } else {
            self.send_one(now, id, header, buffer, len, kept)
        };
        if result.is_err() {
            self.drops.count(DropReason::MalformedPacket);
        }
    }

    fn send_one(
        &mut self,
        now: Instant,
        id: PeerId,
        header: &VnetHeader,
        buffer: &mut [u8],
        len: usize,
        kept: Option<Kept>,
    ) -> Result<(), Unusable> {
        offload::finish_checksum(header, buffer.get_mut(..len).unwrap_or_default())?;
        let packet = pad(buffer, len, self.mtu);
        self.with_peer(now, id, |peer, cx| {
            if peer.lets_out(cx, packet) {
                peer.send(cx, packet, kept);
            }
        });
        Ok(())
    }

    /// Asks the filter about a large packet: its segments have the same headers, but for flags that it does
    /// not look at.
    fn lets_out(&mut self, now: Instant, id: PeerId, packet: &[u8]) -> bool {
        self.with_peer(now, id, |peer, cx| peer.lets_out(cx, packet)).unwrap_or(false)
    }

    /// Sends the segments of a large packet but the first `lost`.
    fn send_large(
        &mut self,
        now: Instant,
        id: PeerId,
        mut segments: Segments<'_>,
        lost: usize,
        kept: Option<Kept>,
    ) {
        let Some(slot) = self.peers.get_mut(&id) else { return };
        let mut cx = self.common.context(now, id);
        for _ in 0..lost {
            segments.next();
        }
        while let Some((segment, len)) = segments.next() {
            slot.peer.send(&mut cx, pad(segment, len, self.mtu), kept);
        }
        Self::schedule(&mut self.deadlines, id, slot);
    }

    /// Whether the routing table has led a datagram of ours back to us: the route to an endpoint goes
    /// through the tunnel itself, and sealing it once more would do so for ever (kernel: socket.c,
    /// send4, `ELOOP`).
    fn is_our_own_datagram(&self, to: IpAddr, udp: Udp) -> bool {
        let is_endpoint = |port: Option<u16>| {
            self.peers.values().filter_map(|slot| slot.peer.endpoint()).any(|endpoint| {
                endpoint.ip() == to && port.is_none_or(|port| port == endpoint.port())
            })
        };
        match udp {
            Udp::Ports { source, destination } => {
                source == self.listen_port && is_endpoint(Some(destination))
            }
            Udp::LaterFragment => is_endpoint(None),
        }
    }
}

/// Pads the packet in the first `len` bytes with zeros, but never past the MTU: a datagram just as long as
/// the path carries must not grow (kernel: send.c, calculate_skb_padding).
fn pad(buffer: &mut [u8], len: usize, mtu: usize) -> &[u8] {
    let padded = len.next_multiple_of(PADDING).min(mtu.max(len)).min(buffer.len());
    buffer.get_mut(len..padded).unwrap_or_default().fill(0);
    buffer.get(..padded).unwrap_or_default()
}

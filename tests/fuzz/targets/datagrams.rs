//! Datagrams into a live device: two devices with a session, and a script of what the path between them
//! and its attackers do: deliver, lose, reorder, replay, reflect, change, invent, flood, wait.
//!
//! What must hold: nothing is delivered that was not sent, and nothing twice (gossip that is sent again
//! after a silence aside, and that once); what nobody sealed delivers nothing; every datagram is
//! delivered, answered, heard or counted as one drop; and however the script ends, on a good path the
//! two find each other again.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use hushwire::offload::VnetHeader;
use hushwire::wireguard::{Change, DropReason, Ecn, Endpoint, GossipChange, PeerChange, Snapshot};
use hushwire_fuzz::wire::{Station, Wire, peer, preshared, udp};
use hushwire_fuzz::{Script, drops, sign};
use libfuzzer_sys::fuzz_target;

const GOSSIP_PORT: u16 = 9094;
/// Steps of one script: more cost time and find nothing that these do not.
const STEPS: usize = 150;
/// Milliseconds that may pass at once: the timers' own, and a little more or less.
const WAITS: [u64; 16] = [
    1, 19, 21, 249, 251, 501, 1000, 4999, 5334, 9999, 15_400, 30_001, 89_999, 120_001, 179_999,
    600_000,
];
/// Virtual seconds within which a good path heals whatever was done: an unanswered packet is noticed
/// after 15 s, and then each address of the peer is tried.
const HEALED_AFTER: usize = 60;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let mut scene = Scene::new(script.byte() & 1 != 0);
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        scene.step(&mut script);
    }
    scene.heal();
});

struct Scene {
    wire: Wire,
    gossip: bool,
    /// On their way: from the first device or not, where to, what.
    flying: Vec<(bool, SocketAddr, Vec<u8>)>,
    /// All that the devices ever sent, in order, and the same to look up.
    history: Vec<(bool, Vec<u8>)>,
    genuine: HashSet<Vec<u8>>,
    /// Packets by their serial number: from the first device or not, the bytes, times delivered.
    packets: HashMap<u32, (bool, Vec<u8>, u32)>,
}

impl Scene {
    fn new(gossip: bool) -> Self {
        let mut wire = Wire::strangers();
        for station in [&mut wire.a, &mut wire.b] {
            let resend = Duration::from_secs(if gossip { 30 } else { 0 });
            let gossip = GossipChange { port: GOSSIP_PORT, resend };
            station.device.apply(wire.now, vec![Change::Gossip(gossip)]);
        }
        wire.b.know(wire.now, &wire.a, false);
        wire.a.know(wire.now, &wire.b, true);
        let mut scene = Self {
            wire,
            gossip,
            flying: Vec::new(),
            history: Vec::new(),
            genuine: HashSet::new(),
            packets: HashMap::new(),
        };
        scene.settle();
        scene.restore_peers();
        scene
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let what = script.byte();
        let first = what & 0x80 != 0;
        match what & 0x1f {
            0..=3 => self.send(first, script.byte(), script.byte()),
            4..=7 => {
                let index = usize::from(script.byte());
                self.deliver_flying(index, Ecn::NotCapable);
            }
            8 => self.settle(),
            9 => {
                let index = usize::from(script.byte());
                self.deliver_flying(index, Ecn::from_bits(what >> 5));
            }
            10 => self.flying.clear(),
            11 => self.wait(WAITS[usize::from(script.byte() & 15)]),
            // Genuine, but once more, from elsewhere, or back to its sender.
            12 | 13 => {
                if let Some(datagram) = self.recall(script) {
                    let from = self.strange_address(script.byte());
                    self.take(first, from, Ecn::NotCapable, &datagram);
                }
            }
            14 => {
                if let Some(datagram) = self.recall(script) {
                    for n in 0..script.byte() & 31 {
                        let from = self.strange_address(if what & 0x40 == 0 { 7 } else { n + 8 });
                        self.take(first, from, Ecn::NotCapable, &datagram);
                    }
                }
            }
            // Changed: one byte, one byte behind a valid mac1, the length, two spliced.
            15..=17 => {
                if let Some(mut datagram) = self.recall(script) {
                    let at = usize::from(script.word()) % datagram.len();
                    datagram[at] ^= script.byte().max(1);
                    if what & 0x40 != 0 {
                        sign(&mut datagram, &self.station(first).public_key());
                    }
                    self.take(first, self.other_address(first), Ecn::NotCapable, &datagram);
                }
            }
            18 => {
                if let Some(mut datagram) = self.recall(script) {
                    datagram.resize(usize::from(script.word()) % 2048, script.byte());
                    self.take(first, self.other_address(first), Ecn::NotCapable, &datagram);
                }
            }
            19 => {
                if let (Some(mut head), Some(tail)) = (self.recall(script), self.recall(script)) {
                    let at = usize::from(script.byte()).min(head.len()).min(tail.len());
                    head.truncate(at);
                    head.extend(&tail[at..]);
                    self.take(first, self.other_address(first), Ecn::NotCapable, &head);
                }
            }
            // Invented, as it is or with an index that belongs to a session or handshake.
            20 => {
                let len = usize::from(script.byte());
                let datagram = script.bytes(len).to_vec();
                self.take(first, self.other_address(first), Ecn::NotCapable, &datagram);
            }
            21 => {
                if let Some(genuine) = self.recall(script) {
                    let len = 24 + usize::from(script.byte());
                    let mut datagram = vec![script.byte() & 7, 0, 0, 0];
                    datagram.extend(genuine.get(4..8).unwrap_or_default());
                    datagram.extend(script.bytes(len));
                    sign(&mut datagram, &self.station(first).public_key());
                    self.take(first, self.other_address(first), Ecn::NotCapable, &datagram);
                }
            }
            22 => self.stranger(first),
            23 => self.refuse(first, script.byte()),
            24..=27 => self.change(first, script.byte(), what & 0x40 != 0),
            _ => self.wait(script.byte().into()),
        }
    }

    fn send(&mut self, first: bool, form: u8, len: u8) {
        let (now, packet) = (self.wire.now, self.packet(first, form, len));
        self.station(first).send(now, &packet);
        self.gather();
    }

    /// Makes a packet with a number of its own; `form` holds its port and its congestion mark.
    fn packet(&mut self, first: bool, form: u8, len: u8) -> Vec<u8> {
        let serial = self.packets.len() as u32;
        let mut payload = serial.to_be_bytes().to_vec();
        payload.resize(4 + usize::from(len) * (1 + usize::from(form >> 7) * 4), form);
        let (from, to) = match first {
            true => (&self.wire.a.overlay, &self.wire.b.overlay),
            false => (&self.wire.b.overlay, &self.wire.a.overlay),
        };
        let mut packet = udp(from, to, &payload);
        packet[1] = form & 3;
        if form & 4 != 0 {
            packet[22..24].copy_from_slice(&(GOSSIP_PORT + 1).to_be_bytes());
        }
        self.packets.insert(serial, (first, packet.clone(), 0));
        packet
    }

    fn deliver_flying(&mut self, index: usize, ecn: Ecn) {
        if self.flying.is_empty() {
            return;
        }
        let (from_first, to, datagram) = self.flying.remove(index % self.flying.len());
        if to == self.station(!from_first).address {
            self.take(!from_first, self.other_address(!from_first), ecn, &datagram);
        }
    }

    /// Delivers in order until nothing moves.
    fn settle(&mut self) {
        self.gather();
        for _ in 0..5000 {
            if self.flying.is_empty() {
                return;
            }
            self.deliver_flying(0, Ecn::NotCapable);
        }
        panic!("the two never fall silent");
    }

    fn wait(&mut self, milliseconds: u64) {
        self.wire.now += Duration::from_millis(milliseconds);
        let now = self.wire.now;
        self.wire.a.timeout(now);
        self.wire.b.timeout(now);
        for first in [true, false] {
            let next = self.station(first).device.next_timeout();
            assert!(next.is_none_or(|at| at > now), "what was due is done");
        }
        self.gather();
    }

    /// An initiation by somebody who is no peer.
    fn stranger(&mut self, to_first: bool) {
        let now = self.wire.now;
        let mut stranger = Station::new(3, now);
        stranger.know(now, self.station(to_first), true);
        for (_, initiation) in stranger.sent {
            self.take(to_first, stranger.address, Ecn::NotCapable, &initiation);
        }
    }

    /// The kernel refuses a datagram, or the address it would leave from is gone.
    fn refuse(&mut self, first: bool, how: u8) {
        let now = self.wire.now;
        let mut packet = self.packet(first, how >> 1, 0);
        let len = packet.len();
        let device = &mut self.station(first).device;
        device.handle_tun(now, &VnetHeader::default(), &mut packet, len);
        let refused =
            device.poll_transmit().map(|transmit| (transmit.peer, transmit.contents.len()));
        if let Some((peer, len)) = refused {
            match how & 1 {
                0 => device.transmit_failed(now, peer, 1, len),
                _ => device.source_gone(peer),
            }
        }
        self.station(first).collect();
        self.gather();
    }

    /// Changes one device's mind about its peer, or that of both.
    fn change(&mut self, first: bool, how: u8, both: bool) {
        let now = self.wire.now;
        for side in [first, !first].into_iter().take(1 + usize::from(both)) {
            let mut change = PeerChange::new(self.station(!side).public_key());
            let mut changes = Vec::new();
            match how & 7 {
                0 => change.preshared_key = Some(None),
                1 | 2 => change.preshared_key = Some(Some(preshared(how & 7))),
                3 => {
                    changes.push(Change::RemovePeer(change.public_key));
                    change = peer(self.station(!side));
                }
                4 => change.persistent_keepalive = Some(u16::from(how >> 3)),
                5 => change.endpoints = Some(vec![self.strange_address(how >> 3)]),
                6 => change.endpoints = Some(vec![self.other_address(side)]),
                _ => changes.push(Change::Mtu(u16::from(how >> 3) * 100)),
            }
            changes.push(Change::Peer(change));
            self.station(side).device.apply(now, changes);
            self.station(side).collect();
        }
        self.gather();
    }

    /// Both devices are peers again with equal keys, and know where they are.
    fn restore_peers(&mut self) {
        let now = self.wire.now;
        for side in [true, false] {
            let mut change = peer(self.station(!side));
            change.preshared_key = Some(None);
            change.endpoints = Some(vec![self.other_address(side)]);
            self.station(side).device.apply(now, vec![Change::Peer(change)]);
            self.station(side).collect();
        }
        self.gather();
    }

    /// From here on the path is good: packets pass both ways in the end.
    fn heal(&mut self) {
        self.restore_peers();
        for _ in 0..HEALED_AFTER {
            let serial = self.packets.len() as u32;
            self.send(true, 4, 0);
            self.send(false, 4, 0);
            self.settle();
            if (serial..serial + 2).all(|serial| self.packets[&serial].2 == 1) {
                return;
            }
            self.wait(1000);
        }
        panic!("no packet passes after {HEALED_AFTER} s on a good path");
    }

    /// Hands a datagram to a device and looks at what becomes of it.
    fn take(&mut self, to_first: bool, from: SocketAddr, ecn: Ecn, datagram: &[u8]) {
        let now = self.wire.now;
        self.gather();
        let before = self.station(to_first).device.snapshot(now);
        let endpoint = Endpoint::from(from);
        self.station(to_first).device.handle_udp(now, endpoint, ecn, datagram);
        self.station(to_first).collect();
        let after = self.station(to_first).device.snapshot(now);

        let drops = |snapshot| drops(snapshot, comes_from_the_underlay);
        let heard = |snapshot: &Snapshot| snapshot.peers.iter().map(|p| p.rx_bytes).sum::<u64>();
        let (dropped, heard) = (drops(&after) - drops(&before), heard(&after) > heard(&before));
        let station = self.station(to_first);
        let (delivered, answered) = (station.received.len() as u64, !station.sent.is_empty());
        let genuine = self.genuine.contains(datagram);
        let what = || format!("{} of {} B", hushwire_fuzz::wire::kind(datagram), datagram.len());
        assert!(delivered + dropped <= 1, "{delivered} delivered, {dropped} drops: {}", what());
        let cookie = genuine && datagram[0] == 3;
        let noticed = dropped == 1 || delivered == 1 || answered || heard;
        assert!(noticed || cookie, "a silent end of a {}", what());
        if !genuine {
            assert_eq!(delivered, 0, "nobody sealed this {}", what());
            // A cookie stands behind mac1: another one does not make a handshake message another one.
            assert!(dropped == 1 || matches!(datagram[0], 1 | 2), "nobody sent this {}", what());
        }
        self.gather();
    }

    /// Takes what the devices have made, and compares what was delivered with what was sent.
    fn gather(&mut self) {
        for first in [true, false] {
            let station = if first { &mut self.wire.a } else { &mut self.wire.b };
            for (to, datagram) in station.sent.drain(..) {
                self.genuine.insert(datagram.clone());
                self.history.push((first, datagram.clone()));
                self.flying.push((first, to, datagram));
            }
            for received in station.received.drain(..) {
                let serial = received.get(28..32).and_then(|serial| serial.try_into().ok());
                let serial = u32::from_be_bytes(serial.expect("a packet with a number"));
                let Some((from_first, packet, times)) = self.packets.get_mut(&serial) else {
                    panic!("packet {serial} was never sent");
                };
                assert_ne!(*from_first, first, "packet {serial} came back to its sender");
                assert_eq!(unmarked(&received), unmarked(packet), "packet {serial} was changed");
                *times += 1;
                let gossip = self.gossip && packet[22..24] == GOSSIP_PORT.to_be_bytes();
                assert!(*times <= 1 + u32::from(gossip), "packet {serial} came {times} times");
            }
            station.events.clear();
        }
    }

    fn station(&mut self, first: bool) -> &mut Station {
        if first { &mut self.wire.a } else { &mut self.wire.b }
    }

    fn other_address(&self, first: bool) -> SocketAddr {
        if first { self.wire.b.address } else { self.wire.a.address }
    }

    fn strange_address(&self, n: u8) -> SocketAddr {
        match n {
            0 => self.wire.a.address,
            1 => self.wire.b.address,
            n if n & 1 == 0 => SocketAddr::from(([203, 0, 113, n], 51820)),
            n => SocketAddr::from(([0x2001, 0xdb8, 0, n.into(), 0, 0, 0, 1], 51820)),
        }
    }

    /// Something that a device sent once.
    fn recall(&self, script: &mut Script<'_>) -> Option<Vec<u8>> {
        // Counted from the end: what is young is more likely to be taken.
        let back = 1 + usize::from(script.byte()) % self.history.len().max(1);
        Some(self.history[self.history.len().checked_sub(back)?].1.clone())
    }
}

fn comes_from_the_underlay(reason: DropReason) -> bool {
    use DropReason as R;
    !matches!(
        reason,
        R::MalformedPacket
            | R::NoPeer
            | R::RoutingLoop
            | R::NoEndpoint
            | R::StagedOverflow
            | R::StagedExpired
            | R::SendFailed
            | R::TunWriteFailed
    )
}

/// A packet without its congestion mark and the checksum that stands for it.
fn unmarked(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[1] &= !3;
    packet[10..12].fill(0);
    packet
}

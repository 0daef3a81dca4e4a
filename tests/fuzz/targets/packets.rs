//! IP packets from the TUN: any bytes, any length, several MTUs, gossip on and off.
//!
//! What must hold: a packet that is whole and has a route is sealed once, padded to 16 bytes or up to
//! the MTU, and opened by the other device to the same bytes; any other one is counted as one drop and
//! sends nothing. What is sent again after a silence was gossip, and comes once.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hushwire::offload::VnetHeader;
use hushwire::wireguard::{AllowedIpChange, Change, DropReason, GossipChange};
use hushwire_fuzz::wire::{Wire, peer, udp};
use hushwire_fuzz::{Script, drops};
use libfuzzer_sys::fuzz_target;

const GOSSIP_PORT: u16 = 9094;
const MTUS: [u16; 8] = [0, 1, 68, 576, 1280, 1420, 1433, u16::MAX];
/// What transport data adds to a packet (section 5.4.6 of the paper).
const OVERHEAD: usize = 32;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let settings = script.byte();
    let mtu = MTUS[usize::from(settings & 7)];
    let (gossip, everything) = (settings & 8 != 0, settings & 16 != 0);
    let mut wire = connected(everything);
    let mut changes = vec![Change::Mtu(mtu), Change::ListenPort(51820)];
    if gossip {
        let resend = Duration::from_secs(30);
        changes.push(Change::Gossip(GossipChange { port: GOSSIP_PORT, resend }));
    }
    wire.a.device.apply(wire.now, changes);

    let mut opened = Vec::new();
    for _ in 0..100 {
        if script.is_over() {
            break;
        }
        let (mut buffer, len) = next_packet(&mut script);
        let packet = buffer[..len.min(buffer.len())].to_vec();
        let before = wire.a.device.snapshot(wire.now);
        wire.a.device.handle_tun(wire.now, &VnetHeader::default(), &mut buffer, len);
        wire.a.collect();
        let after = wire.a.device.snapshot(wire.now);
        let dropped = drops(&after, |_| true) - drops(&before, |_| true);
        let loops = |snapshot| drops(snapshot, |reason| reason == DropReason::RoutingLoop);
        let looped = loops(&after) > loops(&before);
        let sent: Vec<_> = wire.a.sent.drain(..).collect();

        let whole = if len <= buffer.len() { whole(&packet) } else { None };
        let routed = whole.filter(|(_, to, _)| everything || to.to_string() == wire.b.overlay);
        let Some((from, to, total)) = routed else {
            assert_eq!((dropped, sent.len()), (1, 0), "no packet for the peer: {packet:02x?}");
            continue;
        };
        if looped {
            assert_eq!((dropped, sent.len(), to), (1, 0, wire.b.address.ip()), "{packet:02x?}");
            continue;
        }
        assert_eq!((dropped, sent.len()), (0, 1), "a packet for the peer: {packet:02x?}");
        let padded = sent[0].1.len() - OVERHEAD;
        let full = len.next_multiple_of(16).min(usize::from(mtu).max(len)).min(buffer.len());
        assert_eq!(padded, full, "{len} bytes of {}, MTU {mtu}", buffer.len());

        let refused = wire.b.dropped(wire.now, DropReason::DisallowedSource);
        wire.b.take(wire.now, wire.a.address, &sent[0].1);
        let refused = wire.b.dropped(wire.now, DropReason::DisallowedSource) - refused;
        let received: Vec<_> = wire.b.received.drain(..).collect();
        if everything || from.to_string() == wire.a.overlay {
            assert_eq!((received.as_slice(), refused), (&[packet[..total].to_vec()][..], 0));
            opened.extend(received);
        } else {
            assert_eq!((received.len(), refused), (0, 1), "{from} is not its address");
        }
    }
    send_again(&mut wire, gossip, opened);
});

/// After a silence the other device speaks: gossip that it may have missed comes again, nothing else.
fn send_again(wire: &mut Wire, gossip: bool, mut opened: Vec<Vec<u8>>) {
    wire.b.sent.clear();
    wire.now += Duration::from_secs(2);
    wire.b.send(wire.now, &udp(&wire.b.overlay, &wire.a.overlay, b"heard"));
    wire.settle();
    for packet in wire.b.received.drain(..) {
        assert!(gossip, "sent again with gossip off: {packet:02x?}");
        let place = opened.iter().position(|other| *other == packet);
        opened.swap_remove(place.unwrap_or_else(|| panic!("never sent: {packet:02x?}")));
    }
}

/// One handshake, and every address routed to the other device if `everything`.
fn connected(everything: bool) -> Wire {
    let mut wire = Wire::strangers();
    let (mut of_a, mut of_b) = (peer(&wire.b), peer(&wire.a));
    if everything {
        let all = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a prefix"));
        of_a.allowed_ips.extend(all.map(AllowedIpChange::Add));
        of_b.allowed_ips.extend(all.map(AllowedIpChange::Add));
    }
    of_a.endpoints = Some(vec![wire.b.address]);
    wire.b.device.apply(wire.now, vec![Change::Peer(of_b)]);
    wire.a.device.apply(wire.now, vec![Change::Peer(of_a)]);
    wire.a.collect();
    wire.settle();
    wire
}

/// A buffer and how much of it is the packet: the length may lie. A few bytes of the script make a
/// packet of any size, and its length field may be put right.
fn next_packet(script: &mut Script<'_>) -> (Vec<u8>, usize) {
    let form = script.byte();
    let len = usize::from(if form & 1 == 0 { script.byte().into() } else { script.word() });
    let given = script.byte();
    let pattern = script.bytes(given.into());
    let mut buffer: Vec<u8> = pattern.iter().copied().cycle().take(len).collect();
    buffer.resize(len, 0);
    if form & 2 != 0 {
        put_length(&mut buffer, len);
    }
    let slack = usize::from(form >> 4);
    if form & 12 == 12 {
        buffer.truncate(len.saturating_sub(slack));
    } else {
        buffer.resize(len + slack, 0xee);
    }
    (buffer, len)
}

fn put_length(packet: &mut [u8], len: usize) {
    let (at, length) = match packet.first().map(|first| first >> 4) {
        Some(4) => (2, len),
        Some(6) => (4, len.saturating_sub(40)),
        _ => return,
    };
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&(length as u16).to_be_bytes());
    }
}

/// Source, destination and length of a packet whose header is whole and says no more than is there:
/// written after RFC 791 and RFC 8200, not after the device.
fn whole(packet: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let v4 = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let v6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    let (from, to, total) = match packet.first()? >> 4 {
        4 if packet.len() >= 20 && word(2) >= 20 => (v4(12).into(), v4(16).into(), word(2)),
        6 if packet.len() >= 40 => (v6(8).into(), v6(24).into(), 40 + word(4)),
        _ => return None,
    };
    (total <= packet.len()).then_some((from, to, total))
}

//! Packets at a filter that lets gossip and ping pass: bytes of any kind, or crafted ones changed here and
//! there, in both directions, with time between them.
//!
//! What must hold: a stack that takes what got through, as credulous as any, is reached at the gossip port and
//! by ping, and nowhere else; each packet arrives as it was sent or is counted once.
#![no_main]

use std::sync::OnceLock;
use std::time::Duration;

use hushwire::wireguard::{Allow, AllowedIpChange, Change, PortRange, Rule};
use hushwire_fuzz::crafted::{Ends, GOSSIP};
use hushwire_fuzz::stack::{Overlap, Reached, Stack};
use hushwire_fuzz::wire::{Wire, peer};
use hushwire_fuzz::{Script, drops};
use libfuzzer_sys::fuzz_target;

/// IPv4 and IPv6, there and back.
const ENDS: [[&str; 2]; 4] = [
    ["10.99.0.1", "10.99.0.2"],
    ["fd00:99::1", "fd00:99::2"],
    ["10.99.0.2", "10.99.0.1"],
    ["fd00:99::2", "fd00:99::1"],
];

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let mut wire = filtered();
    // What goes in and what goes out reach different machines.
    let mut stacks = [Overlap::FirstWins, Overlap::LastWins]
        .map(|overlap| [Stack::new(overlap), Stack::new(overlap)]);
    for _ in 0..64 {
        if script.is_over() {
            break;
        }
        let form = script.byte();
        wire.now += Duration::from_millis(if form & 0x80 == 0 { 1 } else { 20_000 });
        let way = usize::from(form & 3);
        let packet = next_packet(&mut script, way, form & 0x40 != 0);
        let outwards = way >= 2;
        let before = drops(&wire.b.device.snapshot(wire.now), |_| true)
            + drops(&wire.a.device.snapshot(wire.now), |_| true);
        let (now, from) = (wire.now, if outwards { &mut wire.b } else { &mut wire.a });
        from.send(now, &packet);
        // With the handshake, where the session has grown too old.
        wire.settle();
        let to = if outwards { &mut wire.a } else { &mut wire.b };
        let arrived = std::mem::take(&mut to.received);
        let after = drops(&wire.b.device.snapshot(wire.now), |_| true)
            + drops(&wire.a.device.snapshot(wire.now), |_| true);
        assert_eq!(arrived.len() as u64 + after - before, 1, "lost without a word: {packet:02x?}");
        for packet in &arrived {
            for [inwards, out] in &mut stacks {
                if outwards { out.take(packet) } else { inwards.take(packet) }
            }
        }
    }
    for stack in stacks.iter().flatten() {
        let other = stack
            .reached
            .iter()
            .find(|reached| !matches!(reached, Reached::Tcp(GOSSIP) | Reached::Udp(GOSSIP)));
        assert_eq!(other, None, "reached what is not allowed");
    }
});

/// Bytes of the script behind a header that leads there, or one of the crafted packets with some changed.
fn next_packet(script: &mut Script<'_>, way: usize, raw: bool) -> Vec<u8> {
    static CRAFTED: OnceLock<Vec<Vec<Vec<u8>>>> = OnceLock::new();
    let crafted = CRAFTED.get_or_init(|| {
        let groups = ENDS.map(|[from, to]| Ends::new(from, to).groups());
        groups
            .into_iter()
            .map(|groups| groups.into_iter().flat_map(|group| group.attempts.concat()).collect())
            .collect()
    });
    if raw {
        let [from, to] = ENDS[way];
        let protocol = script.byte();
        let length = usize::from(script.byte());
        return Ends::new(from, to).packet(protocol, script.bytes(length));
    }
    let all = &crafted[way];
    let mut packet = all[usize::from(script.word()) % all.len()].clone();
    for _ in 0..script.byte() & 7 {
        let (at, value) = (usize::from(script.byte()) % packet.len(), script.byte());
        packet[at] = value;
    }
    packet
}

/// Two devices with a session; B has the filter.
fn filtered() -> Wire {
    let mut wire = Wire::connected();
    let (mut of_a, mut of_b) = (peer(&wire.b), peer(&wire.a));
    for (change, address) in [(&mut of_a, "fd00:99::2/128"), (&mut of_b, "fd00:99::1/128")] {
        change.allowed_ips.push(AllowedIpChange::Add(address.parse().expect("a prefix")));
    }
    let port = PortRange::new(GOSSIP, GOSSIP).expect("one port");
    let allow = Allow::new(vec![Rule::Tcp(port), Rule::Udp(port), Rule::Icmp]);
    wire.a.device.apply(wire.now, vec![Change::Peer(of_a)]);
    wire.b.device.apply(wire.now, vec![Change::Peer(of_b), Change::Filter(Some(allow))]);
    wire
}

//! What cutting and joining costs: one large TCP segment of the TUN, and the packets that it is on the
//! wire. `seal` is the whole way of such a segment through a device, from the TUN to the datagrams.

#[path = "../../support/counting.rs"]
mod counting;
#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../../offload/inner.rs"]
mod inner;
#[path = "../../support/wire.rs"]
mod wire;

use std::hint::black_box;

use counting::allocations;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hushwire::offload::{Coalescer, Offload, Segments};
use hushwire::wireguard::{AllowedIpChange, Change};
use inner::Inner;
use wire::{Wire, peer};

/// What the kernel hands over at most, and cuts at an MTU of 1,420 less the headers with timestamps.
const PAYLOAD: usize = 64_000;
const SEGMENT: u16 = 1368;

criterion_group!(benches, cut, join, seal);
criterion_main!(benches);

fn cut(criterion: &mut Criterion) {
    let (header, packet) = Inner::tcp(false, PAYLOAD).large(SEGMENT);
    let mut buffer = packet.clone();
    run(criterion, "cut", || {
        // Cutting uses the packet up: each time is with a copy of 64 kB.
        buffer.copy_from_slice(&packet);
        let mut segments = Segments::of(&header, &mut buffer, packet.len()).expect("it can be cut");
        while let Some(segment) = segments.next() {
            black_box(segment);
        }
    });
}

fn join(criterion: &mut Criterion) {
    let packets = Inner::tcp(false, PAYLOAD).cut(SEGMENT);
    let mut coalescer = Coalescer::new(Offload::Tcp);
    run(criterion, "join", || {
        // Opening writes each packet to its place: each time is with a copy of 64 kB.
        for packet in &packets {
            coalescer.place(packet.len()).copy_from_slice(packet);
            coalescer.push(packet.len());
        }
        let mut writes = 0;
        while let Some(joined) = coalescer.poll() {
            black_box(joined);
            writes += 1;
        }
        assert_eq!(writes, 1);
    });
}

fn seal(criterion: &mut Criterion) {
    let (header, packet) = Inner::tcp(false, PAYLOAD).large(SEGMENT);
    let mut wire = Wire::connected();
    let mut change = peer(&wire.b);
    change.allowed_ips.push(AllowedIpChange::Add("10.99.200.0/24".parse().expect("a prefix")));
    wire.a.device.apply(wire.now, vec![Change::Peer(change)]);
    let mut buffer = packet.clone();
    buffer.resize(packet.len() + 15, 0);
    run(criterion, "seal", || {
        let mut datagrams = 0;
        buffer[..packet.len()].copy_from_slice(&packet);
        wire.a.device.handle_tun(wire.now, &header, &mut buffer, packet.len());
        while let Some(transmit) = wire.a.device.poll_transmit() {
            datagrams += black_box(transmit).datagrams().len();
        }
        assert_eq!(datagrams, PAYLOAD.div_ceil(SEGMENT.into()));
    });
}

fn run(criterion: &mut Criterion, what: &str, mut one: impl FnMut()) {
    one();
    let made = allocations(|| (0..100).for_each(|_| one()));
    println!("large/{what}: {} allocations each", made as f64 / 100.0);
    let mut group = criterion.benchmark_group("large");
    group.throughput(Throughput::Bytes(PAYLOAD as u64));
    group.bench_function(what, |bencher| bencher.iter(&mut one));
}

//! What one packet costs in the protocol: sealed by one device in memory, opened by another, without
//! sockets. Beside each time stands how many allocations an operation makes; `cargo test` holds that to 0
//! (tests/allocations.rs).

#[path = "../../support/counting.rs"]
mod counting;
#[path = "../../support/wire.rs"]
mod wire;

use std::hint::black_box;
use std::time::{Duration, Instant};

use counting::allocations;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hushwire::offload::VnetHeader;
use hushwire::wireguard::{Allow, Change, Ecn, Endpoint, PortRange, Rule};
use wire::{Wire, udp};

/// Whole inner packets: the smallest that is usual, one in between, the largest that gossip comes in.
const SIZES: [usize; 3] = [64, 512, 1433];
/// IPv4 and UDP.
const HEADERS: usize = 28;
/// Packets that are sealed before the clock runs for opening them: fewer than a replay window.
const BATCH: usize = 64;

criterion_group!(benches, seal, open);
criterion_main!(benches);

fn seal(criterion: &mut Criterion) {
    seal_with(criterion, "seal", None);
    seal_with(criterion, "seal filtered", Some(gossip_alone()));
}

fn open(criterion: &mut Criterion) {
    open_with(criterion, "open", None);
    open_with(criterion, "open filtered", Some(gossip_alone()));
}

/// What `hushwire init` writes.
fn gossip_alone() -> Allow {
    let port = PortRange::new(9094, 9094).expect("a port");
    Allow::new(vec![Rule::Tcp(port), Rule::Udp(port), Rule::Icmp])
}

fn seal_with(criterion: &mut Criterion, what: &str, allow: Option<Allow>) {
    let mut group = criterion.benchmark_group(what);
    for size in SIZES {
        let mut sealer = Sealer::new(size, allow.clone());
        sealer.seal(|_| {});
        report(what, size, allocations(|| (0..1000).for_each(|_| sealer.seal(|_| {}))), 1000);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| sealer.seal(|datagram| _ = black_box(datagram)));
        });
    }
}

fn open_with(criterion: &mut Criterion, what: &str, allow: Option<Allow>) {
    let mut group = criterion.benchmark_group(what);
    for size in SIZES {
        let mut sealer = Sealer::new(size, allow.clone());
        let mut datagrams = vec![Vec::new(); BATCH];
        let mut round = |count: usize| {
            datagrams.iter_mut().take(count).for_each(|place| {
                sealer.seal(|datagram| {
                    place.clear();
                    place.extend_from_slice(datagram);
                });
            });
            let mut time = Duration::ZERO;
            let made = allocations(|| time = sealer.open(&datagrams[..count]));
            (time, made)
        };
        round(BATCH);
        report(what, size, round(BATCH).1, BATCH as u64);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut left, mut time) = (iterations as usize, Duration::ZERO);
                while left > 0 {
                    let count = left.min(BATCH);
                    time += round(count).0;
                    left -= count;
                }
                time
            });
        });
    }
}

/// Two devices with a session, and one packet for it.
struct Sealer {
    wire: Wire,
    packet: Vec<u8>,
    buffer: Vec<u8>,
}

impl Sealer {
    fn new(size: usize, allow: Option<Allow>) -> Self {
        let mut wire = Wire::connected();
        wire.a.device.apply(wire.now, vec![Change::Filter(allow.clone())]);
        wire.b.device.apply(wire.now, vec![Change::Filter(allow)]);
        let packet = udp(&wire.a.overlay, &wire.b.overlay, &vec![7; size - HEADERS]);
        let buffer = vec![0; packet.len() + 15];
        Self { wire, packet, buffer }
    }

    /// From the place where the TUN was read to the datagram.
    fn seal(&mut self, mut take: impl FnMut(&[u8])) {
        self.buffer[..self.packet.len()].copy_from_slice(&self.packet);
        let a = &mut self.wire.a.device;
        a.handle_tun(self.wire.now, &VnetHeader::default(), &mut self.buffer, self.packet.len());
        let mut sealed = 0;
        while let Some(transmit) = a.poll_transmit() {
            for datagram in transmit.datagrams() {
                take(datagram);
                sealed += 1;
            }
        }
        assert_eq!(sealed, 1, "no session");
    }

    /// From datagrams to packets; returns how long that took.
    #[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
    fn open(&mut self, datagrams: &[Vec<u8>]) -> Duration {
        let from = Endpoint::from(self.wire.a.address);
        let b = &mut self.wire.b.device;
        let start = Instant::now();
        for datagram in datagrams {
            b.handle_udp(self.wire.now, from, Ecn::NotCapable, datagram);
            let packet = black_box(b.poll_packet()).expect("no packet");
            assert_eq!(packet.parts().map(<[u8]>::len).sum::<usize>(), self.packet.len());
            assert!(b.poll_packet().is_none());
        }
        start.elapsed()
    }
}

fn report(what: &str, size: usize, allocations: u64, operations: u64) {
    println!("{what}/{size}: {} allocations each", allocations as f64 / operations as f64);
}

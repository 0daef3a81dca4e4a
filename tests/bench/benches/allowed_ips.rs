//! What cryptokey routing costs, by the number of allowed IPs. The table is private to the protocol: it is
//! asked through the device, with a packet that nobody is to get (the lookup and hardly more), and with
//! one that is found and sealed.

#[path = "../../support/counting.rs"]
mod counting;
#[path = "../../support/wire.rs"]
mod wire;

use std::net::Ipv4Addr;

use counting::allocations;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hushwire::offload::VnetHeader;
use hushwire::wireguard::{AllowedIpChange, Change, PeerChange, PrivateKey};
use ipnet::{IpNet, Ipv4Net};
use wire::{Wire, udp};

/// 65,280 is 256 times 255: every /24 of 10.0.0.0/8 whose third byte is not 255.
const ENTRIES: [u32; 3] = [2, 1000, 65_280];

criterion_group!(benches, lookup);
criterion_main!(benches);

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allowed_ips");
    for entries in ENTRIES {
        let mut wire = Wire::connected();
        // One is the other station's; a peer that is never called has the rest.
        let mut rest = PeerChange::new(PrivateKey::from_random([9; 32]).public_key());
        rest.allowed_ips = (0..entries - 1).map(|n| AllowedIpChange::Add(prefix(n))).collect();
        wire.a.device.apply(wire.now, vec![Change::Peer(rest)]);
        // As deep in the table as one that is found.
        for (what, to) in [("nobody", "10.99.255.1"), ("found and sealed", "10.99.0.2")] {
            let packet = udp("10.99.0.1", to, &[7; 36]);
            let mut buffer = packet.clone();
            buffer.resize(packet.len() + 15, 0);
            let mut one = || {
                wire.a.device.handle_tun(
                    wire.now,
                    &VnetHeader::default(),
                    &mut buffer,
                    packet.len(),
                );
                while wire.a.device.poll_transmit().is_some() {}
            };
            one();
            let made = allocations(|| (0..1000).for_each(|_| one()));
            println!("{what}/{entries}: {} allocations each", made as f64 / 1000.0);
            group.bench_function(BenchmarkId::new(what, entries), |bencher| bencher.iter(&mut one));
        }
    }
}

fn prefix(number: u32) -> IpNet {
    let (second, third) = (number / 255, number % 255);
    let address = Ipv4Addr::from(0x0a00_0000 | second << 16 | third << 8);
    IpNet::from(Ipv4Net::new_assert(address, 24))
}

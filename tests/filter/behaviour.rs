//! What the filter remembers, what it tells, and what a change of it does.

use std::time::Duration;

use hushwire::offload::{GSO_TCPV4, NEEDS_CSUM, VnetHeader};
use hushwire::wireguard::{
    Allow, Change, DropReason, Event, PeerChange, PortRange, Refused, Rule, Way as Told,
};

use super::crafted::{ACK, Ends, GOSSIP, SYN, WEB};
use super::{Way, gossip_only, passed, refused, wire};

const IN: Ends = Ends {
    from: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 1)),
    to: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 2)),
};
const OUT: Ends = Ends { from: IN.to, to: IN.from };

#[test]
fn tcp_passes_both_ways_whoever_dials() {
    let mut wire = wire(Some(gossip_only()));
    for (dial, answer, there, back) in [(Way::In, Way::Out, IN, OUT), (Way::Out, Way::In, OUT, IN)]
    {
        let segments = [
            (dial, there.segment(40_000, GOSSIP, SYN, 0)),
            (answer, back.segment(GOSSIP, 40_000, SYN | ACK, 0)),
            (dial, there.segment(40_000, GOSSIP, ACK, 100)),
            (answer, back.segment(GOSSIP, 40_000, ACK | 0x01, 100)),
            (dial, there.segment(40_000, GOSSIP, 0x04, 0)),
        ];
        for (way, segment) in segments {
            assert_eq!(passed(&mut wire, way, std::slice::from_ref(&segment)), [segment]);
        }
    }
    assert_eq!(refused(&wire), 0);
}

#[test]
fn a_udp_answer_is_let_in_to_the_port_that_asked_and_for_30_s() {
    let mut wire = wire(Some(gossip_only()));
    let answer = |port| [IN.datagram(GOSSIP, port)];
    assert!(passed(&mut wire, Way::In, &answer(50_000)).is_empty(), "nobody asked");
    assert_eq!(passed(&mut wire, Way::Out, &[OUT.datagram(50_000, GOSSIP)]).len(), 1);
    assert_eq!(passed(&mut wire, Way::In, &answer(50_000)).len(), 1);
    assert!(passed(&mut wire, Way::In, &answer(50_001)).is_empty(), "another port");
    assert!(passed(&mut wire, Way::In, &[IN.datagram(GOSSIP + 1, 50_000)]).is_empty());
    wire.now += Duration::from_secs(30);
    assert_eq!(passed(&mut wire, Way::In, &answer(50_000)).len(), 1);
    wire.now += Duration::from_millis(1);
    assert!(passed(&mut wire, Way::In, &answer(50_000)).is_empty(), "too late");
    // The answers of a peer do not keep the door open: what we send does.
    assert_eq!(passed(&mut wire, Way::Out, &[OUT.datagram(50_000, GOSSIP)]).len(), 1);
    // And the other way round: who asks us from any port has our answer.
    assert_eq!(passed(&mut wire, Way::In, &[IN.datagram(40_000, GOSSIP)]).len(), 1);
    assert_eq!(passed(&mut wire, Way::Out, &[OUT.datagram(GOSSIP, 40_000)]).len(), 1);
    assert!(passed(&mut wire, Way::Out, &[OUT.datagram(GOSSIP, 40_001)]).is_empty());
}

#[test]
fn a_peer_that_floods_the_table_loses_answers_of_its_own_only() {
    let mut wire = wire(Some(gossip_only()));
    for port in 0..1000 {
        assert_eq!(passed(&mut wire, Way::In, &[IN.datagram(20_000 + port, GOSSIP)]).len(), 1);
    }
    assert_eq!(passed(&mut wire, Way::Out, &[OUT.datagram(GOSSIP, 20_999)]).len(), 1);
    assert!(passed(&mut wire, Way::Out, &[OUT.datagram(GOSSIP, 20_000)]).is_empty());
    // Gossip itself needs no entry.
    assert_eq!(passed(&mut wire, Way::Out, &[OUT.datagram(GOSSIP, GOSSIP)]).len(), 1);
}

#[test]
fn flows_that_need_no_entry_push_out_none() {
    let ports = PortRange::new(GOSSIP, GOSSIP + 99).unwrap();
    let mut wire = wire(Some(Allow::new(vec![Rule::Udp(ports)])));
    assert_eq!(passed(&mut wire, Way::Out, &[OUT.datagram(50_000, GOSSIP)]).len(), 1);
    for port in GOSSIP..GOSSIP + 100 {
        assert_eq!(passed(&mut wire, Way::Out, &[OUT.datagram(port, GOSSIP)]).len(), 1);
    }
    assert_eq!(passed(&mut wire, Way::In, &[IN.datagram(GOSSIP, 50_000)]).len(), 1);
}

/// The next header of a later fragment need not be that of the first one (RFC 8200 section 4.5).
#[test]
fn the_protocol_of_a_later_fragment_counts_in_ipv4_alone() {
    let mut wire = wire(Some(gossip_only()));
    for (ends, headers, protocol, passing) in
        [(IN, 20, 9, 1), (Ends::new("fd00:99::1", "fd00:99::2"), 40, 40, 2)]
    {
        let datagram = ends.datagram(50_000, GOSSIP).split_off(headers);
        let mut pieces = ends.pieces(7, 17, &datagram, &[8]);
        pieces[1][protocol] = 6;
        assert_eq!(passed(&mut wire, Way::In, &pieces).len(), passing, "{}", ends.from);
    }
    assert_eq!(wire.b.dropped(wire.now, DropReason::FilteredFragment), 1);
}

/// Path MTU discovery works where ping is refused.
#[test]
fn an_error_about_gossip_passes_where_icmp_is_not_allowed() {
    let mut allow = gossip_only().rules().to_vec();
    allow.retain(|rule| *rule != Rule::Icmp);
    let mut wire = wire(Some(Allow::new(allow)));
    let groups = IN.groups();
    let group = |what: &str| {
        let found = groups.iter().find(|group| group.what == what);
        found.unwrap().attempts.concat()
    };
    assert_eq!(passed(&mut wire, Way::In, &group("icmp, error about tcp to 9094")).len(), 3);
    assert_eq!(passed(&mut wire, Way::In, &group("icmp, error about udp to 9094")).len(), 3);
    assert_eq!(passed(&mut wire, Way::In, &group("icmp, error about ping")).len(), 0);
    assert_eq!(passed(&mut wire, Way::In, &group("icmp, all types but errors")).len(), 0);
}

#[test]
fn a_large_packet_is_judged_once_by_its_headers() {
    let mut wire = wire(Some(gossip_only()));
    let mut send = |port| {
        let packet = OUT.segment(50_000, port, ACK, 5 * 1000);
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 40,
            gso_size: 1000,
            csum_start: 20,
            csum_offset: 16,
        };
        let mut buffer = packet.clone();
        buffer.resize(packet.len() + 15, 0);
        wire.b.device.handle_tun(wire.now, &header, &mut buffer, packet.len());
        wire.b.collect();
        wire.settle();
        (std::mem::take(&mut wire.a.received).len(), refused(&wire))
    };
    assert_eq!(send(GOSSIP), (5, 0));
    assert_eq!(send(WEB), (0, 1));
}

#[test]
fn a_list_of_the_peer_takes_the_place_of_that_of_the_device() {
    let mut wire = wire(Some(gossip_only()));
    let syn = |port| [IN.segment(40_000, port, SYN, 0)];
    let own = |allow: Option<Allow>, wire: &mut super::Wire| {
        let change = PeerChange { allow: Some(allow), ..PeerChange::new(wire.a.public_key()) };
        wire.b.device.apply(wire.now, vec![Change::Peer(change)]);
    };
    for (allow, reachable) in [
        (Some(Allow::new(vec![Rule::All])), [true, true]),
        (Some(Allow::new(vec![])), [false, false]),
        (None, [true, false]),
    ] {
        own(allow, &mut wire);
        let reached = [GOSSIP, WEB].map(|port| !passed(&mut wire, Way::In, &syn(port)).is_empty());
        assert_eq!(reached, reachable);
    }
    wire.b.device.apply(wire.now, vec![Change::Filter(None)]);
    assert_eq!(passed(&mut wire, Way::In, &syn(WEB)).len(), 1);
}

#[test]
fn refusals_are_counted_by_reason_and_told_of_once_a_minute() {
    let mut wire = wire(Some(gossip_only()));
    wire.b.events.clear();
    let syn = IN.segment(40_000, WEB, SYN, 0);
    for _ in 0..90 {
        passed(&mut wire, Way::In, std::slice::from_ref(&syn));
        wire.now += Duration::from_secs(1);
    }
    let told: Vec<_> =
        wire.b.events.drain(..).filter(|e| matches!(e, Event::Filtered { .. })).collect();
    let what =
        Refused { source: IN.from, destination: IN.to, protocol: 6, ports: Some((40_000, WEB)) };
    let event = |packets| Event::Filtered {
        peer: wire.a.public_key(),
        way: Told::In,
        packets,
        what: Some(what),
    };
    assert_eq!(told, [event(1), event(60)]);
    assert_eq!(what.to_string(), "tcp 10.99.0.1:40000 to 10.99.0.2:9093");

    passed(&mut wire, Way::Out, &[OUT.datagram(1, WEB)]);
    let tiny = IN.pieces(1, 6, &[0; 64], &[8]).remove(0);
    passed(&mut wire, Way::In, &[tiny]);
    let drops = wire.b.peer(wire.now, &wire.a).drops;
    let of = |reason| drops.get(reason);
    let counted =
        [DropReason::FilteredIn, DropReason::FilteredOut, DropReason::FilteredFragment].map(of);
    assert_eq!(counted, [90, 1, 1]);
}

//! The underlay sockets: both families, sticky sources and their end, no DF.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use hushwire::sys::tun::{HEADROOM, Tun};
use hushwire::sys::udp::{Family, ReceiveBatch, Sent, Udp, path_mtu, refuses_segmentation};
use hushwire::wireguard::{Ecn, Endpoint, Source};

use crate::netns::{drop_capabilities, eventually, in_namespace, ip, ip_json, make_link};

/// An interface with addresses `.1` and `.2` of each family.
fn underlay() {
    make_link("under40");
    for address in ["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64"] {
        ip(&format!(
            "address add {address} dev under40{}",
            if address.contains(':') { " nodad" } else { "" }
        ));
    }
    ip("link set under40 up");
    eventually("duplicate address detection is through", || {
        !ip("-6 address show").contains("tentative")
    });
}

fn peer(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Receives one datagram, which must come.
fn receive(udp: &Udp, family: Family) -> (Endpoint, Vec<u8>) {
    let mut batch = ReceiveBatch::new(4, 2048);
    eventually("a datagram", || udp.recv(family as usize, &mut batch, 64).is_ok());
    let received = batch.received().next().unwrap();
    (received.from, received.datagrams().next().unwrap().to_vec())
}

/// Sends one datagram.
fn send(udp: &mut Udp, to: &Endpoint, ecn: Ecn, datagram: &[u8]) -> io::Result<Sent> {
    udp.send(to, ecn, datagram, datagram.len())
}

#[test]
fn a_mark_is_set_on_the_wire_and_read_from_it() {
    in_namespace(|| {
        underlay();
        let (mut from, to) = (Udp::bind(0, 0).unwrap(), Udp::bind(0, 0).unwrap());
        for (family, server) in [(Family::V4, "192.0.2.2"), (Family::V6, "2001:db8::2")] {
            let server = SocketAddr::new(server.parse().unwrap(), to.port());
            for mark in [Ecn::NotCapable, Ecn::Capable0, Ecn::Capable1, Ecn::Congested] {
                let mut batch = ReceiveBatch::new(1, 64);
                // The first IPv6 datagrams may be lost while the link is coming up.
                eventually(&format!("{family:?} {mark:?}"), || {
                    let _ = send(&mut from, &Endpoint::from(server), mark, b"marked").unwrap();
                    to.recv(family as usize, &mut batch, 64).is_ok()
                });
                let received = batch.received().next().map(|received| received.ecn);
                assert_eq!(received, Some(mark), "{family:?}");
            }
        }
    });
}

#[test]
fn answers_leave_from_the_address_that_was_asked_until_it_is_gone() {
    in_namespace(|| {
        underlay();
        let mut udp = Udp::bind(0, 0).unwrap();
        let families = [
            (Family::V4, "192.0.2.1:0", "192.0.2.2", "192.0.2.2/24"),
            (Family::V6, "[2001:db8::1]:0", "2001:db8::2", "2001:db8::2/64"),
        ];
        for (family, client, server, prefix) in families {
            let client = peer(client);
            let server = SocketAddr::new(server.parse().unwrap(), udp.port());
            client.send_to(b"question", server).unwrap();
            let (from, datagram) = receive(&udp, family);
            assert_eq!(datagram, b"question");
            assert_eq!(from.address, client.local_addr().unwrap());
            assert_eq!(from.source.map(|source| source.address), Some(server.ip()));

            let mut buffer = [0; 64];
            assert_eq!(send(&mut udp, &from, Ecn::NotCapable, b"answer").unwrap(), Sent::AsAsked);
            let (length, answered_from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], answered_from), (&b"answer"[..], server));

            // The control: left to itself, the kernel takes the other address.
            let no_source = Endpoint::from(from.address);
            assert_eq!(
                send(&mut udp, &no_source, Ecn::NotCapable, b"answer").unwrap(),
                Sent::AsAsked
            );
            let other = client.recv_from(&mut buffer).unwrap().1;
            assert_ne!(other, server);

            ip(&format!("address delete {prefix} dev under40"));
            assert_eq!(
                send(&mut udp, &from, Ecn::NotCapable, b"answer").unwrap(),
                Sent::WithoutSource
            );
            assert_eq!(client.recv_from(&mut buffer).unwrap().1, other);
        }
    });
}

/// The places of the sockets that have the port.
fn bound(udp: &Udp) -> Vec<usize> {
    let has_port = |fd: BorrowedFd<'_>| {
        let socket = UdpSocket::from(fd.try_clone_to_owned().unwrap());
        socket.local_addr().unwrap().port() == udp.port()
    };
    udp.fds().filter(|(_, fd)| has_port(*fd)).map(|(place, _)| place).collect()
}

/// Sends to an endpoint until a socket is connected to it; says at which place.
fn connected(udp: &mut Udp, to: &Endpoint) -> usize {
    let before = bound(udp);
    for _ in 0..16 {
        assert_eq!(send(udp, to, Ecn::NotCapable, b"gossip").unwrap(), Sent::AsAsked);
    }
    let added: Vec<usize> =
        bound(udp).into_iter().filter(|place| !before.contains(place)).collect();
    assert_eq!(added.len(), 1, "{added:?}");
    added[0]
}

#[test]
fn whoever_is_sent_to_often_has_a_socket_and_everybody_else_is_heard_too() {
    in_namespace(|| {
        underlay();
        let mut udp = Udp::bind(0, 0).unwrap();
        let mut batch = ReceiveBatch::new(4, 2048);
        let families = [
            (Family::V4, "192.0.2.1:0", "192.0.2.2", "192.0.2.2/24"),
            (Family::V6, "[2001:db8::1]:0", "2001:db8::2", "2001:db8::2/64"),
        ];
        for (family, client, server, prefix) in families {
            let (client, other) = (peer(client), peer(client));
            let server = SocketAddr::new(server.parse().unwrap(), udp.port());
            client.send_to(b"question", server).unwrap();
            let (from, _) = receive(&udp, family);
            let index = connected(&mut udp, &from);
            let mut buffer = [0; 64];
            for _ in 0..16 {
                assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, server));
            }
            // More go by the socket, marked and several at once.
            for mark in [Ecn::NotCapable, Ecn::Capable0] {
                assert_eq!(udp.send(&from, mark, &[7; 30], 10).unwrap(), Sent::AsAsked);
                for _ in 0..3 {
                    assert_eq!(client.recv_from(&mut buffer).unwrap(), (10, server));
                }
            }
            client.send_to(b"answer", server).unwrap();
            eventually("the answer", || udp.recv(index, &mut batch, 4).is_ok());
            let received = batch.received().next().unwrap();
            assert_eq!(received.from, from);
            assert_eq!(received.datagrams().next().unwrap(), b"answer");

            other.send_to(b"stranger", server).unwrap();
            let (stranger, datagram) = receive(&udp, family);
            assert_eq!(
                (stranger.address, &datagram[..]),
                (other.local_addr().unwrap(), &b"stranger"[..])
            );
            assert_eq!(
                send(&mut udp, &stranger, Ecn::NotCapable, b"to you").unwrap(),
                Sent::AsAsked
            );
            assert_eq!(other.recv_from(&mut buffer).unwrap(), (6, server));

            // A stranger gets no socket, however often it is answered.
            let sockets = bound(&udp);
            for _ in 0..32 {
                let _ = udp.send_shared(&stranger, Ecn::NotCapable, b"cookie", 6).unwrap();
            }
            assert_eq!(bound(&udp), sockets);

            // The port is as taken as it was.
            let taken = Udp::bind(udp.port(), 0).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);

            ip(&format!("address delete {prefix} dev under40"));
            assert_eq!(
                send(&mut udp, &from, Ecn::NotCapable, b"answer").unwrap(),
                Sent::WithoutSource
            );
            assert_ne!(client.recv_from(&mut buffer).unwrap().1, server);
        }
    });
}

#[test]
fn a_peer_that_refuses_and_comes_back_is_sent_to_and_heard() {
    in_namespace(|| {
        underlay();
        let mut udp = Udp::bind(0, 0).unwrap();
        let mut batch = ReceiveBatch::new(4, 2048);
        let client = peer("192.0.2.1:0");
        let (address, server) = (client.local_addr().unwrap(), ("192.0.2.2", udp.port()));
        client.send_to(b"question", server).unwrap();
        let (from, _) = receive(&udp, Family::V4);
        let index = connected(&mut udp, &from);
        drop(client);
        for _ in 0..5 {
            // Each but the first finds the refusal of the one before.
            assert_eq!(send(&mut udp, &from, Ecn::NotCapable, b"gossip").unwrap(), Sent::AsAsked);
        }
        let nothing = udp.recv(index, &mut batch, 4).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let client = peer(&address.to_string());
        assert_eq!(send(&mut udp, &from, Ecn::NotCapable, b"gossip").unwrap(), Sent::AsAsked);
        assert_eq!(client.recv_from(&mut [0; 64]).unwrap().0, 6);
        client.send_to(b"answer", server).unwrap();
        eventually("the answer", || udp.recv(index, &mut batch, 4).is_ok());
    });
}

#[test]
fn a_peer_that_left_gives_its_place_to_another() {
    /// Of IPv4: as many as ten machines need.
    const PLACES: usize = 10;
    in_namespace(|| {
        let mut udp = Udp::bind(0, 0).unwrap();
        let peers: Vec<UdpSocket> = (0..=PLACES).map(|_| peer("127.0.0.1:0")).collect();
        let endpoints: Vec<Endpoint> = peers
            .iter()
            .map(|peer| {
                peer.send_to(b"question", ("127.0.0.1", udp.port())).unwrap();
                receive(&udp, Family::V4).0
            })
            .collect();
        for endpoint in &endpoints[..PLACES] {
            connected(&mut udp, endpoint);
        }
        let all = bound(&udp);
        let mut batch = ReceiveBatch::new(4, 2048);
        let mut comes_to = |udp: &Udp| {
            peers[PLACES].send_to(b"answer", ("127.0.0.1", udp.port())).unwrap();
            let mut at = None;
            eventually("the answer", || {
                at = bound(udp).into_iter().find(|at| udp.recv(*at, &mut batch, 4).is_ok());
                at.is_some()
            });
            at
        };
        for _ in 0..3900 {
            let _ = send(&mut udp, &endpoints[PLACES], Ecn::NotCapable, b"gossip").unwrap();
        }
        assert_eq!(comes_to(&udp), Some(Family::V4 as usize), "the others may come back");
        for _ in 0..4000 {
            let _ = send(&mut udp, &endpoints[PLACES], Ecn::NotCapable, b"gossip").unwrap();
        }
        assert!(comes_to(&udp) > Some(Family::V6 as usize));
        assert_eq!(bound(&udp), all);
    });
}

#[test]
fn a_link_local_endpoint_keeps_its_scope_both_ways() {
    in_namespace(|| {
        underlay();
        ip("address add fe80::aa/64 dev under40 nodad");
        let index = ip_json("link show dev under40")[0]["ifindex"].as_u64().unwrap() as u32;
        let mut udp = Udp::bind(0, 0).unwrap();
        let client = peer(&format!("[fe80::aa%{index}]:0"));
        client.send_to(b"question", format!("[fe80::aa%{index}]:{}", udp.port())).unwrap();
        let (from, _) = receive(&udp, Family::V6);
        assert_eq!(from.address, client.local_addr().unwrap());
        let source = Source { address: "fe80::aa".parse().unwrap(), interface: index };
        assert_eq!(from.source, Some(source));
        assert_eq!(send(&mut udp, &from, Ecn::NotCapable, b"answer").unwrap(), Sent::AsAsked);
        assert_eq!(client.recv_from(&mut [0; 64]).unwrap().0, 6);
    });
}

#[test]
fn a_batch_takes_what_waits_and_leaves_out_what_was_cut() {
    in_namespace(|| {
        let udp = Udp::bind(0, 0).unwrap();
        let mut batch = ReceiveBatch::new(4, 100);
        for family in [Family::V4, Family::V6] {
            let nothing = udp.recv(family as usize, &mut batch, 64).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        }
        let client = peer("127.0.0.1:0");
        for length in [1, 100, 101, 0, 50] {
            client.send_to(&vec![7; length], ("127.0.0.1", udp.port())).unwrap();
        }
        assert_eq!(udp.recv(Family::V4 as usize, &mut batch, 64).unwrap(), 4);
        let lengths: Vec<usize> =
            batch.received().flat_map(|received| received.datagrams().map(<[u8]>::len)).collect();
        assert_eq!(lengths, [1, 100, 0]);
        assert_eq!(batch.truncated(), 1);
        assert_eq!(udp.recv(Family::V4 as usize, &mut batch, 64).unwrap(), 1);
        assert_eq!(batch.received().count(), 1);
        udp.recv(Family::V4 as usize, &mut batch, 64).unwrap_err();
        assert_eq!(batch.received().count(), 0, "old datagrams are not shown again");
        assert_eq!(batch.truncated(), 1);
    });
}

#[test]
fn several_datagrams_leave_and_come_with_one_system_call_each() {
    in_namespace(|| {
        let (mut from, to) = (Udp::bind(0, 0).unwrap(), Udp::bind(0, 0).unwrap());
        let mut batch = ReceiveBatch::new(4, 65_536);
        for address in ["127.0.0.1", "::1"] {
            let server = SocketAddr::new(address.parse().unwrap(), to.port());
            let contents: Vec<u8> = (0..10 * 1000 + 7).map(|i| (i / 1000) as u8).collect();
            for mark in [Ecn::NotCapable, Ecn::Capable0] {
                let sent = from.send(&Endpoint::from(server), mark, &contents, 1000).unwrap();
                assert_eq!(sent, Sent::AsAsked);
                let family = Family::of(&server);
                eventually("datagrams", || to.recv(family as usize, &mut batch, 1).is_ok());
                let received: Vec<_> = batch.received().collect();
                assert_eq!(received.len(), 1, "{address}: joined by the kernel");
                assert_eq!((received[0].from.address.port(), received[0].ecn), (from.port(), mark));
                assert!(received[0].datagrams().eq(contents.chunks(1000)), "{address}");
            }
        }
    });
}

#[test]
fn several_datagrams_that_are_larger_than_the_path_are_refused_as_several() {
    in_namespace(|| {
        let tun = Tun::create("hush42").unwrap();
        ip("address add 192.0.2.1/24 dev hush42");
        ip("link set hush42 mtu 1000 up");
        let mut udp = Udp::bind(0, 0).unwrap();
        let to = Endpoint::from("192.0.2.9:51820".parse::<SocketAddr>().unwrap());
        let refused = udp.send(&to, Ecn::NotCapable, &[7; 2400], 1200).unwrap_err();
        assert!(refuses_segmentation(&refused), "{refused:?}");
        assert_eq!(send(&mut udp, &to, Ecn::NotCapable, &[7; 1200]).unwrap(), Sent::AsAsked);
        drop(tun);
    });
}

#[test]
fn a_peer_that_is_not_there_stops_nothing() {
    in_namespace(|| {
        let mut udp = Udp::bind(0, 0).unwrap();
        let gone = peer("127.0.0.1:0").local_addr().unwrap();
        for _ in 0..3 {
            let _ = send(&mut udp, &Endpoint::from(gone), Ecn::NotCapable, b"anybody?").unwrap();
        }
        let client = peer("127.0.0.1:0");
        client.send_to(b"here", ("127.0.0.1", udp.port())).unwrap();
        assert_eq!(receive(&udp, Family::V4).1, b"here");
    });
}

#[test]
fn an_outer_packet_may_be_cut_on_its_way() {
    in_namespace(|| {
        let tun = Tun::create("hush41").unwrap();
        ip("address add 192.0.2.1/24 dev hush41");
        ip("link set hush41 mtu 1000 up");
        let mut udp = Udp::bind(0, 0).unwrap();
        let to = Endpoint::from("192.0.2.9:51820".parse::<SocketAddr>().unwrap());
        assert_eq!(send(&mut udp, &to, Ecn::NotCapable, &[7; 1400]).unwrap(), Sent::AsAsked);
        assert_eq!(send(&mut udp, &to, Ecn::NotCapable, &[7; 100]).unwrap(), Sent::AsAsked);
        let mut fragments = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok((_, length)) = tun.recv(&mut buffer) {
            let packet = &buffer[HEADROOM..];
            // IPv4 alone: the kernel may speak IPv6 of its own on the new interface.
            if packet[0] == 0x45 {
                fragments.push((length, packet[6] & 0xe0));
            }
        }
        // Flags: 0x40 would be DF, 0x20 is "more fragments".
        assert_eq!(fragments, [(996, 0x20), (452, 0), (128, 0)]);
    });
}

#[test]
fn a_port_in_use_is_named() {
    in_namespace(|| {
        let first = Udp::bind(0, 0).unwrap();
        assert!(first.fd(Family::V4).is_some() && first.fd(Family::V6).is_some());
        let error = Udp::bind(first.port(), 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let expected = format!("UDP port {} on IPv4: ", first.port());
        assert!(error.to_string().starts_with(&expected), "{error}");
        first.set_fwmark(7).unwrap();
        first.set_fwmark(0).unwrap();
    });
}

#[test]
fn the_path_mtu_follows_the_route() {
    in_namespace(|| {
        underlay();
        let to = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(path_mtu(to("192.0.2.9:51820"), 0).unwrap(), 1500);
        assert_eq!(path_mtu(to("[2001:db8::9]:51820"), 0).unwrap(), 1500);
        ip("route add 198.51.100.0/24 dev under40 mtu 1300");
        ip("route add 2001:db8:1::/48 dev under40 mtu 1290");
        assert_eq!(path_mtu(to("198.51.100.1:51820"), 0).unwrap(), 1300);
        assert_eq!(path_mtu(to("[2001:db8:1::1]:51820"), 0).unwrap(), 1290);
        let error = path_mtu(to("203.0.113.1:51820"), 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
        // A mark of its own leads by a table of its own.
        ip("rule add fwmark 7 table 77");
        ip("route add 203.0.113.0/24 dev under40 mtu 1400 table 77");
        assert_eq!(path_mtu(to("203.0.113.1:51820"), 7).unwrap(), 1400);
    });
}

#[test]
fn adopted_sockets_keep_their_port_and_what_waits_in_them() {
    in_namespace(|| {
        underlay();
        let copies = |udp: &Udp| -> Vec<_> {
            let sockets = [Family::V4, Family::V6].into_iter().filter_map(|family| udp.fd(family));
            sockets.map(|fd| fd.try_clone_to_owned().unwrap()).collect()
        };
        let before = Udp::bind(0, 0).unwrap();
        let port = before.port();
        peer("192.0.2.2:0").send_to(b"waits", ("192.0.2.1", port)).unwrap();
        let kept = copies(&before);
        drop(before);
        assert!(Udp::bind(port, 0).is_err(), "the port is free");
        let udp = Udp::adopt(kept, port, 7).unwrap();
        assert_eq!(receive(&udp, Family::V4).1, b"waits");
        assert_eq!(udp.port(), port);

        // With a socket of one family alone the other is opened.
        let kept = copies(&udp).pop().unwrap();
        drop(udp);
        let udp = Udp::adopt(vec![kept], port, 0).unwrap();
        assert!(udp.fd(Family::V4).is_some() && udp.fd(Family::V6).is_some());
        let mut twice = copies(&udp);
        twice.push(twice[0].try_clone().unwrap());
        assert!(Udp::adopt(twice, port, 0).unwrap_err().to_string().contains("a second socket"));
        assert!(Udp::adopt(copies(&udp), port + 1, 0).unwrap_err().to_string().contains("bound"));
        assert!(Udp::adopt(Vec::new(), port, 0).is_err());
    });
}

#[test]
fn a_port_that_cannot_be_had_says_what_to_do() {
    in_namespace(|| {
        let taken = Udp::bind(51820, 0).unwrap();
        let error = Udp::bind(51820, 0).unwrap_err().to_string();
        let cure = "(`ss -ulpn 'sport = :51820'` shows it), or set another listen_port";
        assert!(error.contains("UDP port 51820 on IPv4") && error.contains(cure), "{error}");
        drop(taken);
        drop_capabilities();
        let error = Udp::bind(53, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let error = error.to_string();
        assert!(error.contains("CAP_NET_BIND_SERVICE") && error.contains("listen_port"), "{error}");
        let error = Udp::bind(51820, 7).unwrap_err().to_string();
        assert!(error.contains("a fwmark needs CAP_NET_ADMIN"), "{error}");
    });
}

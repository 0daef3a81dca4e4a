//! Making the interface: as asked, in place of a left-over one, never in place of anything else.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use hushwire::offload::{Offload, VnetHeader, finish_checksum};
use hushwire::sys::attach::{AttachError, AttachRequest, FAIL_CLOSED_METRIC, attach};
use hushwire::sys::netns::Namespace;
use hushwire::sys::tun::{HEADROOM, Tun, owner};

use crate::netns::{
    addresses, drop_capabilities, eventually, exists, in_namespace, in_new_namespace, ip, ip_json,
    make_link, open_tun, routes, unreachable,
};

/// A request with an IPv4 and an IPv6 address and two peers.
pub(crate) fn request(name: &str) -> AttachRequest {
    AttachRequest {
        namespace: Namespace::Own,
        name: name.to_owned(),
        addresses: vec!["10.99.0.1/32".parse().unwrap(), "fd99::1/128".parse().unwrap()],
        routes: vec![
            "10.99.0.2/32".parse().unwrap(),
            "fd99::2/128".parse().unwrap(),
            "10.98.0.0/16".parse().unwrap(),
        ],
        mtu: 1440,
    }
}

/// A way out for everything, as a container has one: without fail-closed routes packets would take it.
fn default_route() {
    make_link("under0");
    ip("address add 192.0.2.1/24 dev under0");
    ip("address add 2001:db8::1/64 dev under0 nodad");
    ip("link set under0 up");
    ip("route add default via 192.0.2.254");
    ip("-6 route add default via 2001:db8::254");
}

fn connect(to: &str) -> io::Result<()> {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    UdpSocket::bind(any).unwrap().connect(to)
}

/// Another process that holds a TUN, as its standard input.
struct Holder(Child);

impl Holder {
    fn of(tun: &Tun) -> Self {
        let stdin = Stdio::from(tun.as_fd().try_clone_to_owned().unwrap());
        Self(Command::new("sleep").arg("60").stdin(stdin).spawn().unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn an_attached_interface_has_what_was_asked_for_and_nothing_else() {
    in_namespace(|| {
        let attachment = attach(&request("hush1")).unwrap();
        assert_eq!(attachment.tun.name(), "hush1");
        let link = &ip_json("link show dev hush1")[0];
        assert_eq!(link["ifindex"], attachment.place.index);
        assert_eq!(link["mtu"], 1440);
        assert!(link["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");
        // No link-local address of the kernel's own.
        assert_eq!(addresses("hush1"), ["10.99.0.1/32", "fd99::1/128"]);
        assert_eq!(routes("hush1"), ["10.98.0.0/16", "10.99.0.2", "fd99::2"]);
        let metric = u64::from(FAIL_CLOSED_METRIC);
        let closed = ["10.98.0.0/16", "10.99.0.2", "fd99::2"].map(|prefix| (prefix.into(), metric));
        assert_eq!(unreachable(), closed);
        drop(attachment);
        eventually("the interface goes with its TUN", || !exists("hush1"));
    });
}

#[test]
fn a_prefix_that_is_an_addresss_own_network_gets_no_second_route() {
    in_namespace(|| {
        let mut request = request("hush2");
        request.addresses = vec!["10.98.0.1/16".parse().unwrap(), "fd99::1/64".parse().unwrap()];
        request.routes.push("fd99::/64".parse().unwrap());
        let _attachment = attach(&request).unwrap();
        assert_eq!(routes("hush2"), ["10.99.0.2", "fd99::2"]);
        assert_eq!(unreachable().len(), 4);
        assert!(ip("route get 10.98.7.7").contains("dev hush2"));
        assert!(ip("route get fd99::77").contains("dev hush2"));
    });
}

#[test]
fn packets_pass_the_tun_both_ways() {
    in_namespace(|| {
        let attachment = attach(&request("hush3")).unwrap();
        let socket = UdpSocket::bind("10.99.0.1:9094").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(b"gossip", "10.99.0.2:9094").unwrap();

        let mut buffer = [0; 1440];
        let (header, length) = attachment.tun.recv(&mut buffer).unwrap();
        assert_eq!(length, 20 + 8 + 6);
        let packet = &mut buffer[HEADROOM..][..length];
        assert_eq!(packet[..2], [0x45, 0], "no packet information before the packet");
        assert_eq!(packet[28..34], *b"gossip");
        finish_checksum(&header, packet).unwrap();
        let nothing = attachment.tun.recv(&mut [0; 1440]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);

        // Swapping source and destination keeps both checksums.
        let (source, destination) = packet[12..20].split_at_mut(4);
        source.swap_with_slice(destination);
        let write =
            |packet: &[u8]| attachment.tun.send(&VnetHeader::default(), std::iter::once(packet));
        write(packet).unwrap();
        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..length], from), (&b"gossip"[..], "10.99.0.2:9094".parse().unwrap()));

        ip("link set hush3 down");
        let down = write(packet).unwrap_err();
        assert_eq!(down.raw_os_error(), Some(libc::EIO));
        ip("link delete hush3");
        let gone = attachment.tun.recv(&mut buffer).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::EBADFD));
    });
}

#[test]
fn a_left_over_tun_is_replaced_with_all_that_it_had() {
    in_namespace(|| {
        ip("tuntap add dev hush4 mode tun");
        ip("address add 10.1.1.1/24 dev hush4");
        ip("address add fd11::1/64 dev hush4");
        ip("link set hush4 up mtu 9000");
        ip("route add 10.99.0.2/32 dev hush4");
        ip("route add 172.16.0.0/12 dev hush4");
        let attachment = attach(&request("hush4")).unwrap();
        assert_eq!(addresses("hush4"), ["10.99.0.1/32", "fd99::1/128"]);
        assert_eq!(routes("hush4"), ["10.98.0.0/16", "10.99.0.2", "fd99::2"]);
        assert_eq!(ip_json("link show dev hush4")[0]["mtu"], 1440);
        drop(attachment);
        eventually("the persistent interface is not persistent any more", || !exists("hush4"));
    });
}

#[test]
fn a_link_that_is_no_tun_is_refused_and_untouched() {
    in_namespace(|| {
        ip("link add hush5 type bridge");
        ip("address add 10.1.1.1/24 dev hush5");
        ip("tuntap add dev hush5b mode tap");
        make_link("hush5c");
        for (name, kind) in [("hush5", "bridge"), ("hush5b", "tap"), ("hush5c", "veth")] {
            let before = ip(&format!("address show dev {name}"));
            match attach(&request(name)).unwrap_err() {
                AttachError::NotATun { kind: Some(found), .. } => assert_eq!(found, kind),
                other => panic!("{name}: {other}"),
            }
            assert_eq!(ip(&format!("address show dev {name}")), before);
        }
        assert_eq!(unreachable(), [], "nothing was changed");
    });
}

#[test]
fn a_tun_in_use_names_its_owner() {
    in_namespace(|| {
        let tun = Tun::create("hush6").unwrap();
        assert_eq!(owner("hush6"), None, "this process is not another one");
        let holder = Holder::of(&tun);
        drop(tun);
        let error = attach(&request("hush6")).unwrap_err();
        let expected = format!("in use by process {} (sleep)", holder.0.id());
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(exists("hush6"));
    });
}

/// A process was named, and was to be stopped, that had an interface of this name somewhere else.
#[test]
fn a_process_in_another_namespace_is_named_as_a_guess_and_only_if_there_is_no_other() {
    in_namespace(|| {
        let mut elsewhere = None;
        in_new_namespace(|| elsewhere = Some(Holder::of(&Tun::create("hush14").unwrap())));
        let elsewhere = elsewhere.unwrap();
        let tun = Tun::create("hush14").unwrap();
        let error = attach(&request("hush14")).unwrap_err().to_string();
        let guess = format!("in use, perhaps by process {} (sleep), which", elsewhere.0.id());
        assert!(error.contains(&guess) && !error.contains("stop"), "{error}");
        let here = Holder::of(&tun);
        drop(tun);
        let error = attach(&request("hush14")).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {} (", here.0.id())), "{error}");
    });
}

#[test]
fn a_tun_whose_owner_is_dying_is_waited_for() {
    in_namespace(|| {
        let tun = Tun::create("hush7").unwrap();
        let holder = Holder::of(&tun);
        drop(tun);
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            drop(holder);
        });
        let attachment = attach(&request("hush7")).unwrap();
        killer.join().unwrap();
        assert_eq!(attachment.tun.name(), "hush7");
    });
}

#[test]
fn the_peers_prefixes_fail_closed_when_the_interface_is_gone() {
    in_namespace(|| {
        default_route();
        let peers = ["10.99.0.2:9094", "10.98.1.1:9094", "[fd99::2]:9094"];
        for peer in peers {
            connect(peer)
                .unwrap_or_else(|error| panic!("the control must succeed: {peer}: {error}"));
        }
        let attachment = attach(&request("hush8")).unwrap();
        for peer in peers {
            connect(peer).unwrap();
        }
        ip("link set hush8 down");
        for peer in peers {
            let error = connect(peer).unwrap_err();
            let kinds = [io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable];
            assert!(kinds.contains(&error.kind()), "down: {peer}: {error}");
        }
        drop(attachment);
        eventually("the interface is gone", || !exists("hush8"));
        for peer in peers {
            let error = connect(peer).unwrap_err();
            let kinds = [io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable];
            assert!(kinds.contains(&error.kind()), "gone: {peer}: {error}");
        }
        let _again = attach(&request("hush8")).unwrap();
        for peer in peers {
            connect(peer).unwrap();
        }
        assert_eq!(unreachable().len(), 3, "the routes of the run before are not doubled");
    });
}

#[test]
fn attaching_again_at_once_works() {
    in_namespace(|| {
        for _ in 0..20 {
            let attachment = attach(&request("hush9")).unwrap();
            assert_eq!(routes("hush9").len(), 3);
            drop(attachment);
        }
    });
}

#[test]
fn a_route_that_leads_elsewhere_is_an_error_and_no_leak() {
    in_namespace(|| {
        default_route();
        ip("route add 10.99.0.2/32 dev under0");
        match attach(&request("hush10")).unwrap_err() {
            AttachError::RouteTaken { prefix, .. } => {
                assert_eq!(prefix.to_string(), "10.99.0.2/32")
            }
            other => panic!("{other}"),
        }
        eventually("the half-made interface is gone", || !exists("hush10"));
    });
}

#[test]
fn a_namespace_without_ipv6_says_so() {
    in_namespace(|| {
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        match attach(&request("hush11")).unwrap_err() {
            AttachError::Ipv6Disabled { prefix, .. } => assert!(prefix.addr().is_ipv6()),
            other => panic!("{other}"),
        }
        let mut request = request("hush11");
        request.addresses.retain(|address| address.addr().is_ipv4());
        request.routes.retain(|route| route.addr().is_ipv4());
        attach(&request).unwrap();
    });
}

#[test]
fn missing_rights_name_the_capability() {
    in_namespace(|| {
        drop_capabilities();
        let error = attach(&request("hush12")).unwrap_err();
        assert!(matches!(error, AttachError::NotPermitted { .. }), "{error}");
        assert!(error.to_string().contains("--cap-add NET_ADMIN"), "{error}");
    });
}

#[test]
fn only_a_tun_without_packet_information_is_adopted() {
    in_namespace(|| {
        let plain = libc::IFF_TUN | libc::IFF_NO_PI;
        let adopted = Tun::from_fd(open_tun("hush13", plain)).unwrap();
        assert_eq!(adopted.name(), "hush13");
        // Non-blocking, though it was not opened so.
        let nothing = adopted.recv(&mut [0; 1440]).map_err(|error| error.kind());
        assert_eq!(nothing, Err(io::ErrorKind::WouldBlock));

        ip("link set hush13 up");
        Tun::from_fd(adopted.as_fd().try_clone_to_owned().unwrap()).unwrap();

        // Packet information is told in both states of the interface.
        let with_information = open_tun("hush13e", libc::IFF_TUN);
        ip("link set hush13e up");
        let unattached = fs::File::open("/dev/net/tun").unwrap();
        let cases = [
            (unattached.into(), "not an attached TUN"),
            (open_tun("hush13b", libc::IFF_TAP | libc::IFF_NO_PI), "a TAP descriptor"),
            (open_tun("hush13c", libc::IFF_TUN), "IFF_NO_PI"),
            (with_information, "IFF_NO_PI"),
            (open_tun("hush13f", libc::IFF_TUN | libc::IFF_VNET_HDR), "IFF_NO_PI"),
        ];
        for (descriptor, expected) in cases {
            let error = Tun::from_fd(descriptor).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(expected), "{error}");
        }

        // One with a virtio header is, and its offloads are put to use.
        let adopted = Tun::from_fd(open_tun("hush13d", plain | libc::IFF_VNET_HDR)).unwrap();
        assert_ne!(adopted.offload(), Offload::None);
    });
}

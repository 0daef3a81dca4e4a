//! Requests and events that attaching does not show.

use hushwire::sys::netlink::{LinkEvent, LinkMonitor, LinkState, Netlink, Route, RouteTarget};

use crate::netns::{eventually, in_namespace, ip, ip_json, make_link};

/// Waits for an event about one interface that meets a condition; others pass by.
fn wait_for(monitor: &mut LinkMonitor, what: &str, condition: impl Fn(&LinkState) -> bool) {
    eventually(what, || {
        while let Some(event) = monitor.next_event().unwrap() {
            match event {
                LinkEvent::Link(link) if condition(&link) => return true,
                LinkEvent::Link(_) => {}
                LinkEvent::Resync => panic!("nothing can have been lost"),
            }
        }
        false
    });
}

#[test]
fn the_monitor_tells_of_up_down_mtu_rename_and_delete() {
    in_namespace(|| {
        let mut monitor = LinkMonitor::open().unwrap();
        assert_eq!(monitor.next_event().unwrap(), None);
        make_link("under30");
        let index = ip_json("link show dev under30")[0]["ifindex"].as_u64().unwrap() as u32;
        wait_for(&mut monitor, "new", |link| {
            link.name == "under30" && link.index == index && !link.up
        });
        ip("link set under30 up");
        wait_for(&mut monitor, "up", |link| link.index == index && link.up);
        ip("link set under30 mtu 1300");
        wait_for(&mut monitor, "MTU", |link| link.index == index && link.mtu == 1300);
        ip("link set under30 down");
        wait_for(&mut monitor, "down", |link| link.index == index && !link.up);
        ip("link set under30 name under31");
        wait_for(&mut monitor, "renamed", |link| link.index == index && link.name == "under31");
        ip("link delete under31");
        wait_for(&mut monitor, "deleted", |link| link.index == index && link.deleted && !link.up);
    });
}

#[test]
fn a_carrier_that_comes_and_goes_with_the_other_end_is_told() {
    in_namespace(|| {
        ip("link add under34 type veth peer name other34");
        ip("link set under34 up");
        let mut monitor = LinkMonitor::open().unwrap();
        for _ in 0..2 {
            ip("link set other34 up");
            wait_for(&mut monitor, "a carrier", |link| link.name == "under34" && link.carrier);
            ip("link set other34 down");
            wait_for(&mut monitor, "none", |link| {
                link.name == "under34" && link.up && !link.carrier
            });
        }
    });
}

#[test]
fn an_interface_that_leaves_a_bridge_is_not_taken_for_deleted() {
    in_namespace(|| {
        ip("link add br30 type bridge");
        make_link("under32");
        ip("link set under32 master br30");
        let mut monitor = LinkMonitor::open().unwrap();
        ip("link set under32 nomaster");
        ip("link set under32 mtu 1234");
        wait_for(&mut monitor, "the MTU after it", |link| {
            assert!(!link.deleted, "{link:?}");
            link.name == "under32" && link.mtu == 1234
        });
    });
}

#[test]
fn lost_events_are_told_and_the_monitor_goes_on() {
    in_namespace(|| {
        let mut kernel = Netlink::open().unwrap();
        make_link("under33");
        let index = kernel.link("under33").unwrap().unwrap().index;
        let mut monitor = LinkMonitor::open().unwrap();
        for round in 0..2000 {
            kernel.set_mtu(index, 1300 + round % 2).unwrap();
        }
        let mut resyncs = 0;
        while let Some(event) = monitor.next_event().unwrap() {
            resyncs += u32::from(event == LinkEvent::Resync);
        }
        assert!(resyncs > 0);
        kernel.set_mtu(index, 1500).unwrap();
        wait_for(&mut monitor, "the next event", |link| link.index == index && link.mtu == 1500);
    });
}

#[test]
fn links_are_found_sized_and_deleted() {
    in_namespace(|| {
        let mut kernel = Netlink::open().unwrap();
        assert_eq!(kernel.link("under34").unwrap(), None);
        make_link("under34");
        let link = kernel.link("under34").unwrap().unwrap();
        assert_eq!(link.kind.as_deref(), Some("veth"));
        assert!(!link.up);
        kernel.set_txqueuelen(link.index, 77).unwrap();
        kernel.set_up(link.index, true).unwrap();
        assert_eq!(ip_json("link show dev under34")[0]["txqlen"], 77);
        assert!(kernel.link("under34").unwrap().unwrap().up);
        kernel.set_up(link.index, false).unwrap();
        assert!(!kernel.link("under34").unwrap().unwrap().up);
        assert_eq!(kernel.link("lo").unwrap().unwrap().kind, None);
        kernel.delete_link(link.index).unwrap();
        assert_eq!(kernel.link("under34").unwrap(), None);
    });
}

#[test]
fn a_refused_request_says_which_one_and_why() {
    in_namespace(|| {
        let mut kernel = Netlink::open().unwrap();
        let lo = kernel.link("lo").unwrap().unwrap().index;
        let error = kernel.delete_address(lo, "10.1.2.3/32".parse().unwrap()).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EADDRNOTAVAIL));
        let text = error.to_string();
        let expected = format!("take the address 10.1.2.3/32 from interface {lo}: ");
        assert!(text.starts_with(&expected), "{text}");
        // The kernel's own words stand behind the errno.
        make_link("under36");
        let index = kernel.link("under36").unwrap().unwrap().index;
        let prefix = "10.1.2.0/24".parse().unwrap();
        let route = Route { prefix, target: RouteTarget::Interface(index) };
        let text = kernel.add_route(&route).unwrap_err().to_string();
        let expected =
            format!("add the route to 10.1.2.0/24 through interface {index}: Network is down");
        assert!(
            text.starts_with(&expected) && text.ends_with(": Device for nexthop is not up"),
            "{text}"
        );
        // And the same socket goes on.
        let loopback = "127.0.0.1/8".parse().unwrap();
        assert!(kernel.addresses(lo).unwrap().contains(&loopback));
    });
}

#[test]
fn a_table_larger_than_one_datagram_is_listed_whole() {
    in_namespace(|| {
        let mut kernel = Netlink::open().unwrap();
        make_link("under35");
        let index = kernel.link("under35").unwrap().unwrap().index;
        let wanted: Vec<ipnet::IpNet> = (0..1000)
            .map(|n| format!("10.9.{}.{}/32", n / 250, n % 250 + 1).parse().unwrap())
            .collect();
        for &address in &wanted {
            kernel.add_address(index, address).unwrap();
        }
        let mut found = kernel.addresses(index).unwrap();
        found.sort();
        assert_eq!(found, wanted);
    });
}

//! Reload: the difference between two requests, and nothing else.

use hushwire::sys::attach::{AttachRequest, attach, reconfigure};
use ipnet::IpNet;

use crate::attach::request;
use crate::netns::{addresses, in_namespace, ip, ip_json, routes, unreachable};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn closed() -> Vec<String> {
    unreachable().into_iter().map(|(prefix, _)| prefix).collect()
}

#[test]
fn only_what_differs_changes() {
    in_namespace(|| {
        let old = request("hush20");
        let attachment = attach(&old).unwrap();
        // What an operator added by hand stays.
        ip("address add 10.77.0.1/32 dev hush20");
        ip("route add 10.78.0.0/16 dev hush20");
        let new = AttachRequest {
            addresses: nets(&["10.99.0.9/32", "fd99::1/128"]),
            routes: nets(&["10.99.0.2/32", "10.99.0.3/32", "fd99::3/128"]),
            mtu: 1380,
            ..old.clone()
        };
        // Twice: the second call meets what the first has done.
        for _ in 0..2 {
            reconfigure(attachment.place, &old, &new).unwrap();
            assert_eq!(addresses("hush20"), ["10.77.0.1/32", "10.99.0.9/32", "fd99::1/128"]);
            assert_eq!(routes("hush20"), ["10.78.0.0/16", "10.99.0.2", "10.99.0.3", "fd99::3"]);
            assert_eq!(closed(), ["10.99.0.2", "10.99.0.3", "fd99::3"]);
            assert_eq!(ip_json("link show dev hush20")[0]["mtu"], 1380);
        }
    });
}

#[test]
fn what_the_kernel_takes_along_with_an_address_comes_back() {
    in_namespace(|| {
        let old = AttachRequest {
            addresses: nets(&["10.98.0.1/16", "10.98.0.2/16"]),
            ..request("hush21")
        };
        let attachment = attach(&old).unwrap();
        // The first address of the subnet goes, and takes the second with it.
        let second = AttachRequest { addresses: nets(&["10.98.0.2/16"]), ..old.clone() };
        reconfigure(attachment.place, &old, &second).unwrap();
        assert_eq!(addresses("hush21"), ["10.98.0.2/16"]);
        assert_eq!(routes("hush21"), ["10.99.0.2", "fd99::2"]);
        // The last IPv4 address goes, and takes the IPv4 routes with it; 10.98.0.0/16 needs its own now.
        let none = AttachRequest { addresses: nets(&["fd99::1/128"]), ..old.clone() };
        reconfigure(attachment.place, &second, &none).unwrap();
        assert_eq!(addresses("hush21"), ["fd99::1/128"]);
        assert_eq!(routes("hush21"), ["10.98.0.0/16", "10.99.0.2", "fd99::2"]);
        assert_eq!(closed(), ["10.98.0.0/16", "10.99.0.2", "fd99::2"]);
    });
}

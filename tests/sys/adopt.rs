//! Taking over an interface that is up: it comes out as a new one would, and what does not fit is refused.

use std::os::fd::{AsFd, OwnedFd};

use hushwire::sys::attach::{AttachError, AttachRequest, Attachment, adopt, attach};
use ipnet::IpNet;

use crate::attach::request;
use crate::netns::{
    addresses, eventually, exists, in_namespace, in_new_namespace, ip, ip_json, open_tun, routes,
    unreachable,
};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The descriptor that a keeper would hold.
fn kept(attachment: Attachment) -> OwnedFd {
    attachment.tun.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn an_adopted_interface_is_the_same_one_and_looks_like_a_new_one() {
    let shapes = [
        AttachRequest { mtu: 1380, ..request("hush60") },
        AttachRequest {
            addresses: nets(&["10.98.0.2/16", "fd98::2/64"]),
            routes: nets(&["10.99.0.3/32", "10.98.0.0/16", "fd98::/64", "fd99::3/128"]),
            ..request("hush60")
        },
        AttachRequest {
            addresses: nets(&["fd99::1/128"]),
            routes: nets(&["10.98.0.0/16", "fd98::/64"]),
            ..request("hush60")
        },
        request("hush60"),
    ];
    let look = || {
        let link = ip_json("link show dev hush60")[0].clone();
        let size = (link["mtu"].clone(), link["txqlen"].clone());
        (addresses("hush60"), routes("hush60"), size)
    };
    in_namespace(|| {
        let fresh = |shape| {
            let mut seen = None;
            in_new_namespace(|| {
                let _attachment = attach(shape).unwrap();
                seen = Some(look());
            });
            seen.unwrap()
        };
        let fresh: Vec<_> = shapes.iter().map(fresh).collect();
        let mut attachment = attach(&request("hush60")).unwrap();
        for (shape, fresh) in shapes.iter().zip(&fresh) {
            let index = attachment.place.index;
            ip("address add 10.77.0.1/24 dev hush60");
            ip("route add 10.78.0.0/16 dev hush60");
            ip("link set hush60 txqueuelen 500");
            // Once as it was left, once down, where the kernel has dropped the routes.
            for down in [false, true] {
                if down {
                    ip("link set hush60 down");
                }
                attachment = adopt(kept(attachment), shape).unwrap();
                assert_eq!(attachment.place.index, index);
                assert_eq!(&look(), fresh, "down: {down}");
            }
            let closed: Vec<_> = unreachable().into_iter().map(|(prefix, _)| prefix).collect();
            for route in &shape.routes {
                let text = route.to_string();
                let single = text.trim_end_matches("/32").trim_end_matches("/128");
                assert!(
                    closed.iter().any(|prefix| prefix == single),
                    "{route} is open: {closed:?}"
                );
            }
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_and_goes() {
    in_namespace(|| {
        let refused = |fd: OwnedFd, wanted: &str| match adopt(fd, &request(wanted)) {
            Err(error @ AttachError::NotAdopted { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let other = kept(attach(&request("hush61")).unwrap());
        let why = refused(other, "hush62");
        assert!(why.contains("hush62") && why.contains("its name is hush61"), "{why}");
        eventually("the interface to go", || !exists("hush61"));

        let tap = open_tun("hush63", libc::IFF_TAP | libc::IFF_NO_PI);
        assert!(refused(tap, "hush63").contains("TAP"));

        let deleted = kept(attach(&request("hush64")).unwrap());
        ip("link delete hush64");
        assert!(refused(deleted, "hush64").contains("not an attached TUN"));

        let far = kept(attach(&request("hush65")).unwrap());
        in_namespace(|| {
            let why = refused(far, "hush65");
            assert!(why.contains("in another network namespace"), "{why}");
        });
        eventually("the interface to go", || !exists("hush65"));
    });
}

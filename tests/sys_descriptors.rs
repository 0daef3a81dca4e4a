//! Descriptors over many attachments: a test program of its own, because a process has one table of them
//! and other tests would open theirs meanwhile.

use std::fs;

use hushwire::sys::attach::{AttachRequest, attach, reconfigure};
use hushwire::sys::netlink::LinkMonitor;
use hushwire::sys::netns::Namespace;
use hushwire::sys::udp::{Udp, path_mtu};

#[allow(dead_code, reason = "only a part of it is needed here")]
#[path = "sys/netns.rs"]
mod netns;

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn fifty_rounds_leave_no_descriptor_behind() {
    netns::in_namespace(|| {
        let old = AttachRequest {
            namespace: Namespace::Own,
            name: "hush50".to_owned(),
            addresses: vec!["10.99.0.1/32".parse().unwrap()],
            routes: vec!["10.99.0.2/32".parse().unwrap()],
            mtu: 1440,
        };
        let new = AttachRequest { routes: vec!["10.99.0.3/32".parse().unwrap()], ..old.clone() };
        let before = open_descriptors();
        for _ in 0..50 {
            let attachment = attach(&old).unwrap();
            reconfigure(attachment.place, &old, &new).unwrap();
            let _monitor = LinkMonitor::open().unwrap();
            let _udp = Udp::bind(0, 0).unwrap();
            path_mtu("127.0.0.1:9".parse().unwrap(), 0).unwrap();
        }
        netns::make_link("hush50");
        attach(&old).unwrap_err();
        assert_eq!(open_descriptors(), before);
    });
}

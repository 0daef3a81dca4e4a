//! Descriptors over many attachments: the table of them is the process's, which each test has to itself.

use std::fs;

use hushwire::sys::attach::{AttachRequest, attach, reconfigure};
use hushwire::sys::netlink::LinkMonitor;
use hushwire::sys::netns::Namespace;
use hushwire::sys::udp::{Udp, path_mtu};

use crate::netns::{in_namespace, make_link};

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn fifty_rounds_leave_no_descriptor_behind() {
    in_namespace(|| {
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
        make_link("hush50");
        attach(&old).unwrap_err();
        assert_eq!(open_descriptors(), before);
    });
}

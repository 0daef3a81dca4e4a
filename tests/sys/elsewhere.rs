//! The interface in another network namespace than that of the caller, who is left as he was.

use std::os::fd::AsFd;
use std::process::{Child, Command};

use hushwire::sys::attach::{AttachError, AttachRequest, Attachment, adopt, attach, reconfigure};
use hushwire::sys::netns::Namespace;

use crate::attach::request;
use crate::netns::{eventually, exists, in_namespace, ip, unreachable};

/// A process with a network namespace to itself; it ends with the test.
struct Other(Child);

impl Other {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        let (ours, theirs) =
            ("/proc/thread-self/ns/net".to_owned(), format!("/proc/{}/ns/net", child.id()));
        let link = |path: &str| std::fs::read_link(path).unwrap();
        eventually("a namespace of its own", || link(&ours) != link(&theirs));
        Self(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn ip(&self, arguments: &str) -> String {
        let net = format!("--net={}", self.path());
        let output = Command::new("nsenter")
            .args([net.as_str(), "ip"])
            .args(arguments.split(' '))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn it_is_made_changed_and_taken_over_there_and_nothing_is_left_here() {
    in_namespace(|| {
        let other = Other::new();
        let (before, running) = (ip("-d link show"), threads());
        for namespace in [Namespace::Process(other.0.id()), Namespace::File(other.path().into())] {
            let old = AttachRequest { namespace, ..request("hush70") };
            let Attachment { tun, place, .. } = attach(&old).unwrap();
            assert!(other.ip("-brief address").contains("10.99.0.1/32"));
            assert!(other.ip("route").contains("10.98.0.0/16 dev hush70"));

            let new = AttachRequest { mtu: 1400, ..old };
            reconfigure(place, &request("hush70"), &new).unwrap();
            assert!(other.ip("link show hush70").contains("mtu 1400"));

            let kept = tun.as_fd().try_clone_to_owned().unwrap();
            drop(tun);
            let again = adopt(kept, &new).unwrap();
            assert_eq!(again.place, place);
            drop(again);
            eventually("the interface to go", || !other.ip("link").contains("hush70"));
            assert!(other.ip("route show type unreachable").contains("10.98.0.0/16"));
        }
        assert!(!exists("hush70") && unreachable().is_empty(), "something is left here");
        assert_eq!(ip("-d link show"), before);
        // Others run tests beside this one.
        println!("{running} threads before, {} after", threads());
    });
}

#[test]
fn an_interface_is_not_looked_for_in_the_namespace_that_took_its_place() {
    in_namespace(|| {
        let (first, second) = (Other::new(), Other::new());
        let old =
            AttachRequest { namespace: Namespace::Process(first.0.id()), ..request("hush71") };
        let Attachment { tun, place, .. } = attach(&old).unwrap();
        let new = AttachRequest {
            namespace: Namespace::Process(second.0.id()),
            mtu: 1400,
            ..old.clone()
        };
        let error = reconfigure(place, &old, &new).unwrap_err();
        assert!(matches!(error, AttachError::Moved { .. }), "{error}");
        let error = adopt(tun.as_fd().try_clone_to_owned().unwrap(), &new).unwrap_err();
        assert!(error.to_string().contains("in another network namespace"), "{error}");

        // A TUN keeps its namespace alive; without it, that goes with its last process.
        let gone = AttachRequest { namespace: old.namespace.clone(), ..request("hush71") };
        drop((tun, first));
        let error = attach(&gone).unwrap_err();
        assert!(error.to_string().contains("there is no such process"), "{error}");
    });
}

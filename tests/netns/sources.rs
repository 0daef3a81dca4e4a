//! Local addresses that come and go under traffic: sticky, but not too sticky.
//!
//! ```text
//!       left                                      right
//!   wg1, UDP 10000                            wg2, UDP 20000
//!   10.0.0.1/24  ... and others --- eth0 --- 10.0.0.200/24
//!   fd00:aa::1/96              (one wire)    fd00:aa::200/96
//! ```

use crate::device::{Device, introduce, nothing_is_left, ping};
use crate::support::machine::Machine;
use crate::support::{millis, seconds, wait_for};

struct Wire {
    left: Machine,
    right: Machine,
}

impl Wire {
    fn new() -> Self {
        let [left, right] = ["left", "right"].map(Machine::new);
        left.ip(&format!("link add eth0 type veth peer name eth0 netns {}", right.pid()));
        // When the first address of a prefix goes, the others stay.
        left.sysctl("net/ipv4/conf/eth0/promote_secondaries", "1");
        let wire = Self { left, right };
        for address in ["10.0.0.1", "fd00:aa::1"] {
            wire.add(address);
        }
        wire.right.ip("addr add 10.0.0.200/24 dev eth0");
        wire.right.ip("addr add fd00:aa::200/96 dev eth0 nodad");
        wire.left.ip("link set eth0 up");
        wire.right.ip("link set eth0 up");
        wire
    }

    /// Adds an address on the left.
    fn add(&self, address: &str) {
        self.change("add", address);
    }

    /// Deletes an address on the left.
    fn delete(&self, address: &str) {
        self.change("del", address);
    }

    fn change(&self, what: &str, address: &str) {
        let (length, option) = if address.contains(':') { (96, " nodad") } else { (24, "") };
        let option = if what == "add" { option } else { "" };
        self.left.ip(&format!("addr {what} {address}/{length} dev eth0{option}"));
    }

    fn devices(&self) -> [Device<'_>; 2] {
        let wg1 = Device::start(1, &self.left, &self.left);
        let wg2 = Device::start(2, &self.right, &self.right);
        introduce(&wg1, &wg2);
        [wg1, wg2]
    }

    fn end(&self, devices: [Device<'_>; 2]) {
        devices.into_iter().for_each(Device::delete);
        nothing_is_left(&[&self.left, &self.right]);
    }
}

#[test]
fn traffic_goes_on_when_the_address_it_leaves_from_is_replaced() {
    let wire = Wire::new();
    let [wg1, wg2] = wire.devices();
    for (first, second, far) in [
        ("10.0.0.1", "10.0.0.10", "10.0.0.200:20000"),
        ("fd00:aa::1", "fd00:aa::10", "[fd00:aa::200]:20000"),
    ] {
        wg1.wg_set_peer(&wg2, &format!("endpoint {far}"));
        ping(&wire.left, "10.99.0.2");
        let session = wg2.peer(&wg1.public_key()).handshake_age_seconds;
        let mut pings = wire.left.start("ping", &["-q", "-i0.02", "-c250", "-W1", "10.99.0.2"]);
        for _ in 0..3 {
            std::thread::sleep(millis(300));
            wire.add(second);
            wire.delete(first);
            leaves_from(&wg2, second);
            std::thread::sleep(millis(300));
            wire.add(first);
            wire.delete(second);
            leaves_from(&wg2, first);
        }
        assert!(pings.ended().is_none(), "all changes were made under traffic");
        let (status, _) = wait_for("the end of ping", seconds(10), || pings.ended());
        let log = pings.log();
        let summary = log.lines().find(|line| line.contains("packet loss")).expect("a summary");
        println!("{far}: {summary}");
        let later = wg2.peer(&wg1.public_key()).handshake_age_seconds;
        assert!(session.is_some() && later > session, "a new session: {session:?}, {later:?}");
        // Lost are the replies to what was under way at each of the six changes: some, on a busy computer.
        // A tunnel that waits for a timer after a change would lose 50 a second.
        let received = summary.split(' ').nth(3).and_then(|word| word.parse::<u32>().ok());
        assert!(status.success() && received >= Some(200), "{log}");
    }
    wire.end([wg1, wg2]);
}

/// Waits until wg2 has heard wg1 from this address.
#[track_caller]
fn leaves_from(wg2: &Device<'_>, address: &str) {
    let address = address.parse::<std::net::IpAddr>().expect("an address");
    wait_for(&format!("wg1 to be heard from {address}"), seconds(2), || {
        (wg2.endpoint().ip() == address).then_some(())
    });
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let wire = Wire::new();
    let [wg1, wg2] = wire.devices();
    let asked =
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "[fd00:aa::1]", "[fd00:aa::2]", "[fd00:aa::3]"];
    for address in ["10.0.0.2", "10.0.0.3", "fd00:aa::2", "fd00:aa::3"] {
        wire.add(address);
    }
    // Forth and back, so that each is asked after one before it and after one behind it. wg2 would follow
    // an answer from anywhere else there.
    for address in asked.iter().chain(asked.iter().rev()) {
        let endpoint = format!("{address}:10000");
        wg2.wg_set_peer(&wg1, &format!("endpoint {endpoint}"));
        wire.right.run("ping", &["-q", "-i0.02", "-c10", "-W1", "10.99.0.1"]);
        assert_eq!(wg2.endpoint().to_string(), endpoint);
    }
    // Other addresses come and go meanwhile: the one that is asked goes on answering.
    wg2.wg_set_peer(&wg1, "endpoint 10.0.0.2:10000");
    let mut pings = wire.right.start("ping", &["-q", "-i0.02", "-c150", "-W1", "10.99.0.1"]);
    for address in ["10.0.0.1", "10.0.0.3", "fd00:aa::1", "fd00:aa::3"] {
        wire.delete(address);
        std::thread::sleep(millis(150));
        wire.add(address);
        std::thread::sleep(millis(150));
        assert_eq!(wg2.endpoint().to_string(), "10.0.0.2:10000", "while {address} went and came");
    }
    assert!(pings.ended().is_none(), "all changes were made under traffic");
    wait_for("the end of ping", seconds(10), || pings.ended());
    assert!(pings.log().contains(" 0% packet loss"), "{}", pings.log());
    assert_eq!(wg2.endpoint().to_string(), "10.0.0.2:10000");
    wire.end([wg1, wg2]);
}

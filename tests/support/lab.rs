//! Machines on one switch.
//!
//! ```text
//!      machine1                machine2                machine3
//!   10.99.0.1 fd99::1       10.99.0.2 fd99::2       10.99.0.3 fd99::3      overlay (by the tunnel)
//!        hush0                   hush0                   hush0
//!
//!   192.0.2.1/24            192.0.2.2/24            192.0.2.3/24           underlay, MTU 1500
//!   2001:db8::1/64          2001:db8::2/64          2001:db8::3/64
//!        eth0                    eth0                    eth0
//!          |                       |                       |
//!        port1                   port2                   port3
//!          +---------------------- br0 --------------------+
//!                       192.0.2.254, 2001:db8::fe
//!                                switch          (a Forwarder listens here)
//! ```
//!
//! There is no default route and no way out: what these machines send stays in the lab.

use super::machine::Machine;
use super::{seconds, wait_for};

/// The switch and the machines on it.
pub(crate) struct Lab {
    machines: Vec<Machine>,
    /// Where all underlay traffic passes.
    pub(crate) switch: Machine,
}

impl Lab {
    /// Makes a switch with `count` machines.
    pub(crate) fn new(count: usize) -> Self {
        let switch = Machine::new("switch");
        switch.ip("link add br0 type bridge");
        switch.ip("addr add 192.0.2.254/24 dev br0");
        switch.ip("addr add 2001:db8::fe/64 dev br0 nodad");
        switch.ip("link set br0 up");
        let machines = (1..=count).map(|number| Self::plug_in(&switch, number)).collect();
        // A busy kernel takes its time to tell the switch of a carrier, and until then nothing passes.
        wait_for("all ports of the switch to forward", seconds(20), || {
            let ports = switch.ip("-details link show master br0");
            (ports.matches("state forwarding").count() == count).then_some(())
        });
        Self { machines, switch }
    }

    fn plug_in(switch: &Machine, number: usize) -> Machine {
        let machine = Machine::new(&format!("machine{number}"));
        let pid = machine.pid();
        switch.ip(&format!("link add port{number} type veth peer name eth0 netns {pid}"));
        switch.ip(&format!("link set port{number} master br0 up"));
        machine.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
        machine.ip(&format!("addr add 2001:db8::{number}/64 dev eth0 nodad"));
        machine.ip("link set eth0 up");
        machine
    }

    /// A machine by its number, from 1.
    pub(crate) fn machine(&self, number: usize) -> &Machine {
        &self.machines[number - 1]
    }

    /// Pulls a machine's plug.
    pub(crate) fn unplug(&self, number: usize) {
        self.switch.ip(&format!("link set port{number} down"));
    }

    /// Plugs a machine in again.
    pub(crate) fn plug(&self, number: usize) {
        self.switch.ip(&format!("link set port{number} up"));
    }

    /// Gives a machine another IPv4 underlay address in place of its own.
    pub(crate) fn move_to(&self, number: usize, address: &str) {
        let machine = self.machine(number);
        // In this order: with the first address of a prefix, Linux takes the later ones away too.
        machine.ip(&format!("addr del 192.0.2.{number}/24 dev eth0"));
        machine.ip(&format!("addr add {address}/24 dev eth0"));
    }
}

/// The overlay address of a machine in one family.
pub(crate) fn overlay(number: usize, family: Family) -> String {
    match family {
        Family::V4 => format!("10.99.0.{number}"),
        Family::V6 => format!("fd99::{number}"),
    }
}

/// The underlay address of a machine in one family.
pub(crate) fn underlay(number: usize, family: Family) -> String {
    match family {
        Family::V4 => format!("192.0.2.{number}"),
        Family::V6 => format!("2001:db8::{number}"),
    }
}

/// An address and a port as Alertmanager and hushwire write them: `10.99.0.1:9094`, `[fd99::1]:9094`.
pub(crate) fn with_port(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

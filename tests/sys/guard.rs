//! The guard's policy rules: put in once, in the right order, never open, and never without the machine's own
//! addresses, whatever was there before.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hushwire::sys::attach::{AttachError, AttachRequest, attach, reconfigure};
use hushwire::sys::guard::{Guarded, close};
use hushwire::sys::netlink::{Netlink, Rule, Sort};

use crate::attach::request;
use crate::netns::{eventually, exists, in_namespace, ip, make_link, unreachable};

/// The rules of both families, one a line, without a priority of 0 and without what is said of the guard's
/// only: who made them, and that there is no such interface now.
fn rules() -> Vec<String> {
    let text = [ip("-4 rule"), ip("-6 rule")].concat();
    let line = |line: &str| {
        let line = line.replace('\t', " ").replace(" proto 107", "").replace(" [detached]", "");
        line.trim_start_matches("0: from all ").trim().to_owned()
    };
    text.lines().map(line).collect()
}

const UNTOUCHED: [&str; 5] = [
    "lookup local",
    "32766: from all lookup main",
    "32767: from all lookup default",
    "lookup local",
    "32766: from all lookup main",
];

fn guard(interface: &str, addresses: &[&str], behind: &[&str]) {
    let addresses: BTreeSet<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let behind: Vec<_> = behind.iter().map(|text| text.parse().unwrap()).collect();
    let mut kernel = Netlink::open().unwrap();
    close(&mut kernel, &Guarded { interface, addresses, behind: &behind }).unwrap();
}

fn rules_v4() -> Vec<String> {
    let mut all = rules();
    all.truncate(all.iter().position(|line| line.ends_with("lookup default")).unwrap() - 1);
    all
}

fn three(to: &str, by: &str) -> [String; 3] {
    [
        format!("to {to} iif {by} lookup local"),
        format!("to {to} iif lo lookup local"),
        format!("to {to} blackhole"),
    ]
}

#[test]
fn an_attached_interface_is_guarded_and_stays_so_when_it_goes_and_comes_again() {
    in_namespace(|| {
        assert_eq!(rules(), UNTOUCHED);
        let untouched = UNTOUCHED.map(str::to_owned);
        let (v4, v6) = (three("10.99.0.1", "hush50"), three("fd99::1", "hush50"));
        let guarded = [&v4[..], &untouched[..3], &v6, &untouched[3..]].concat();
        for _ in 0..3 {
            let attachment = attach(&request("hush50")).unwrap();
            assert!(attachment.guard.policy_rules);
            assert_eq!(rules(), guarded);
            // The machine's own way to its own address.
            ip("route get 10.99.0.1");
            drop(attachment);
            eventually("the interface goes with its TUN", || !exists("hush50"));
            assert_eq!(rules(), guarded);
        }
        // `ip rule flush` passes over what has no priority.
        for _ in 0..3 {
            ip("rule del protocol 107");
            ip("-6 rule del protocol 107");
        }
        assert_eq!(rules(), UNTOUCHED);
    });
}

#[test]
fn an_address_that_goes_takes_its_guard_along() {
    in_namespace(|| {
        let old = request("hush51");
        let attachment = attach(&old).unwrap();
        let new = AttachRequest { addresses: vec!["10.99.0.9/32".parse().unwrap()], ..old.clone() };
        for _ in 0..2 {
            reconfigure(attachment.place, &old, &new).unwrap();
            let expected = [&three("10.99.0.9", "hush51")[..], &UNTOUCHED.map(str::to_owned)];
            assert_eq!(rules(), expected.concat());
        }
    });
}

#[test]
fn two_in_one_namespace_keep_to_themselves_and_what_others_added_stays_behind_the_local_table() {
    in_namespace(|| {
        guard("hush52", &["10.99.0.1"], &["10.99.0.2/32"]);
        // Without a priority; it lands at 0, behind the local table.
        ip("rule add fwmark 0x1 lookup 100");
        ip("rule add priority 5 fwmark 0x2 lookup 100");
        for _ in 0..2 {
            guard("hush53", &["10.88.0.1"], &["10.88.0.2/32"]);
            guard("hush52", &["10.99.0.1"], &["10.99.0.2/32"]);
            let expected = [
                &three("10.99.0.1", "hush52")[..],
                &three("10.88.0.1", "hush53"),
                &[
                    "lookup local".to_owned(),
                    "fwmark 0x1 lookup 100".to_owned(),
                    "5: from all fwmark 0x2 lookup 100".to_owned(),
                ],
            ]
            .concat();
            let all: Vec<_> = rules().into_iter().take(expected.len()).collect();
            assert_eq!(all, expected);
        }
    });
}

#[test]
fn a_left_over_guard_does_not_cut_off_whoever_has_the_address_now() {
    in_namespace(|| {
        // Another name for the interface, the same address.
        guard("hush54", &["10.99.0.1"], &[]);
        guard("hush55", &["10.99.0.1"], &[]);
        assert_eq!(
            rules()[..4],
            [&three("10.99.0.1", "hush55")[..], &["lookup local".into()]].concat()
        );
        // The address is a peer's now.
        guard("hush56", &["10.99.0.2"], &["10.99.0.0/24"]);
        assert_eq!(
            rules()[..4],
            [&three("10.99.0.2", "hush56")[..], &["lookup local".into()]].concat()
        );
        // Another address of the same interface.
        guard("hush56", &["10.99.0.3"], &[]);
        assert_eq!(
            rules()[..4],
            [&three("10.99.0.3", "hush56")[..], &["lookup local".into()]].concat()
        );
    });
}

#[test]
fn a_local_table_that_somebody_else_has_moved_is_left_there() {
    in_namespace(|| {
        ip("rule add priority 100 lookup local");
        ip("rule del priority 0");
        guard("hush57", &["10.99.0.1"], &[]);
        let expected = [&three("10.99.0.1", "hush57")[..], &["100: from all lookup local".into()]];
        assert_eq!(rules()[..4], expected.concat());
    });
}

/// Crash anywhere: each state on the way is one from which the next start comes to the same end, has a
/// rule of the local table, and is not open if the address was guarded before.
#[test]
fn an_interruption_at_any_step_leaves_nothing_open_and_is_mended_by_the_next_start() {
    in_namespace(|| {
        guard("hush58", &["10.99.0.1"], &[]);
        ip("rule add fwmark 0x1 lookup 100");
        let before = rules_v4();
        guard("hush59", &["10.99.0.1", "10.99.0.9"], &[]);
        let after = rules_v4();
        assert_ne!(before, after);
        let mut left = Vec::new();
        for victim in 0..after.len() {
            // As a crash, or a stranger's hand, may leave it: with one rule of the guard missing.
            let mut kernel = Netlink::open().unwrap();
            let there = kernel.rules(false).unwrap();
            if !matches!(there[victim].sort(), Sort::Deliver { .. } | Sort::Drop { .. }) {
                continue;
            }
            kernel.delete_rule(&there[victim]).unwrap();
            left.push(rules_v4());
            guard("hush59", &["10.99.0.1", "10.99.0.9"], &[]);
            let mut mended = rules_v4();
            let mut wanted = after.clone();
            mended.sort();
            wanted.sort();
            assert_eq!(mended, wanted, "after {left:?}");
        }
        assert_eq!(left.len(), 6);
        // A second rule of the local table, from a crash between adding it and deleting the first.
        ip("rule add priority 0 lookup local");
        guard("hush59", &["10.99.0.1"], &[]);
        guard("hush60", &["10.88.0.1"], &[]);
        assert_eq!(rules_v4().iter().filter(|line| *line == "lookup local").count(), 1);
    });
}

/// An earlier run ended before the local table's rule was moved behind what it had added.
#[test]
fn a_guard_that_was_not_finished_leaves_nothing_behind_the_local_table() {
    in_namespace(|| {
        let untouched = UNTOUCHED.map(str::to_owned);
        let guarded = [&three("10.99.0.1", "hush66")[..], &untouched].concat();
        guard("hush66", &["10.99.0.1"], &[]);
        for to in ["10.99.0.1", "10.99.0.9"] {
            let mut kernel = Netlink::open().unwrap();
            kernel.add_rule(&Rule::deliver(to.parse().unwrap(), "hush66")).unwrap();
            assert_ne!(rules(), guarded);
            guard("hush66", &["10.99.0.1"], &[]);
            assert_eq!(rules(), guarded, "of {to}");
        }
    });
}

/// Somebody who looks all the time, while guards come and go.
#[test]
fn the_local_table_is_never_missing_and_a_guarded_address_never_open() {
    in_namespace(|| {
        guard("hush61", &["10.99.0.1"], &[]);
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let done = AtomicBool::new(false);
        let looks = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let mut kernel = Netlink::open().unwrap();
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    let rules = kernel.rules(false).unwrap();
                    let local = rules.iter().position(|rule| rule.sort() == Sort::Local);
                    let drop = Rule::drop_all("10.99.0.1".parse().unwrap()).sort();
                    let drop = rules.iter().position(|rule| rule.sort() == drop);
                    assert!(local.is_some() && drop.is_some() && drop < local, "{rules:?}");
                    looks += 1;
                }
                looks
            });
            for round in 0..200 {
                let (interface, other) = (format!("hush{}", 70 + round % 2), round % 5);
                guard(&interface, &["10.99.0.1", &format!("10.99.1.{other}")], &[]);
                guard("hush62", &["10.88.0.1"], &[]);
                guard("hush62", &[], &["10.88.0.1/32"]);
            }
            done.store(true, Ordering::Relaxed);
            watcher.join().unwrap()
        });
        println!("looked {looks} times");
        assert!(looks > 100);
    });
}

/// The table as nft shows it, without the lines that only close something.
fn table() -> Vec<String> {
    let output = Command::new("nft").args(["list", "table", "inet", "hushwire"]).output();
    let output = output.expect("these tests need the program `nft` (nftables)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| line.trim().to_owned()).filter(|line| line.len() > 1).collect()
}

fn chains(to: &str, by: &str) -> Vec<String> {
    let (family, name) = if to.contains(':') { ("ip6", "fd99__1") } else { ("ip", to) };
    ["first", "last"]
        .into_iter()
        .zip(["prerouting", "input"])
        .flat_map(|(place, hook)| {
            [
                format!("chain {place}-to-{name}-by-{by} {{"),
                format!("type filter hook {hook} priority -450; policy accept;"),
                format!("iifname != \"{by}\" iifname != \"lo\" {family} daddr {to} drop"),
            ]
        })
        .collect()
}

#[test]
fn the_chains_of_nftables_are_put_in_once_and_go_with_their_address() {
    in_namespace(|| {
        let head = vec!["table inet hushwire {".to_owned()];
        for _ in 0..3 {
            assert!(attach(&request("hush63")).unwrap().guard.nftables);
            let (v4, v6) = (chains("10.99.0.1", "hush63"), chains("fd99::1", "hush63"));
            assert_eq!(table(), [head.clone(), v4, v6].concat());
        }
        guard("hush64", &["10.88.0.1"], &[]);
        guard("hush63", &["10.99.0.9"], &[]);
        let expected = [chains("10.88.0.1", "hush64"), chains("10.99.0.9", "hush63")];
        assert_eq!(table(), [head.clone(), expected.concat()].concat());
        // The same address by another name, and an address that is a peer's now.
        guard("hush65", &["10.99.0.9"], &["10.88.0.0/24"]);
        assert_eq!(table(), [head, chains("10.99.0.9", "hush65")].concat());
    });
}

/// All that a hushwire leaves outside of its interface.
fn outside() -> (Vec<String>, Vec<String>, Vec<(String, u64)>) {
    (rules(), table(), unreachable())
}

/// The first one was cut off by the guard of a second one that could not start.
#[test]
fn one_that_is_refused_takes_nothing_from_one_that_runs() {
    in_namespace(|| {
        let first = attach(&request("hush67")).unwrap();
        let before = outside();
        // The same file once more, for another interface.
        match attach(&request("hush68")).unwrap_err() {
            AttachError::AddressTaken { address, by, .. } => {
                assert_eq!((address.to_string(), by.as_str()), ("10.99.0.1".into(), "hush67"));
            }
            other => panic!("{other}"),
        }
        assert_eq!(outside(), before);
        // With a peer of the first one's as its own address.
        let mut peer = request("hush68");
        peer.addresses = vec!["10.98.7.7/32".parse().unwrap()];
        let error = attach(&peer).unwrap_err();
        assert!(matches!(error, AttachError::RouteTaken { .. }), "{error}");
        assert_eq!(outside(), before);
        // One that is reloaded.
        peer.routes = vec!["10.97.0.0/16".parse().unwrap()];
        peer.addresses = vec!["10.96.0.1/32".parse().unwrap()];
        let second = attach(&peer).unwrap();
        let before = outside();
        let address = AttachRequest { addresses: request("hush68").addresses, ..peer.clone() };
        let error = reconfigure(second.place, &peer, &address).unwrap_err();
        assert!(matches!(error, AttachError::AddressTaken { .. }), "{error}");
        assert_eq!(outside(), before);
        drop(first);
        eventually("the first one is gone", || !exists("hush67"));
        reconfigure(second.place, &peer, &address).unwrap();
        assert_eq!(rules()[..3], three("10.99.0.1", "hush68"));
    });
}

/// Peers that came by a reload have no route of their own, but that of the network of our address.
#[test]
fn one_that_is_refused_closes_no_prefix_that_leads_into_another_tunnel() {
    in_namespace(|| {
        make_link("under0");
        ip("address add 10.1.0.1/8 dev under0");
        ip("link set under0 up");
        let mut first = request("hush67");
        first.addresses = vec!["10.99.0.1/24".parse().unwrap()];
        let _first = attach(&first).unwrap();
        let mut second = request("hush68");
        second.addresses = vec!["10.96.0.1/32".parse().unwrap()];
        let routes = ["10.99.0.2/32", "10.99.0.9/32", "10.95.0.1/32"];
        second.routes = routes.map(|text| text.parse().unwrap()).to_vec();
        let error = attach(&second).unwrap_err();
        assert!(matches!(error, AttachError::RouteTaken { .. }), "{error}");
        eventually("the half-made interface is gone", || !exists("hush68"));
        assert!(ip("route get 10.99.0.9").contains("dev hush67"));
        // Nothing in clear by the underlay.
        assert!(unreachable().iter().any(|(prefix, _)| prefix == "10.95.0.1"));
        second.routes.remove(0);
        let _second = attach(&second).unwrap();
        assert!(unreachable().iter().any(|(prefix, _)| prefix == "10.99.0.9"));
    });
}

/// Two on one machine from one list of peers: each has the other's address among its peers' prefixes.
#[test]
fn the_guard_of_another_ones_address_is_no_left_over() {
    in_namespace(|| {
        guard("hush69", &["10.99.0.3"], &[]);
        let _first = attach(&request("hush67")).unwrap();
        let mut second = request("hush68");
        second.addresses = vec!["10.96.0.1/32".parse().unwrap()];
        second.routes = vec!["10.99.0.0/28".parse().unwrap(), "fd99::/64".parse().unwrap()];
        let _second = attach(&second).unwrap();
        let mut expected = three("10.99.0.1", "hush67").to_vec();
        expected.extend(three("10.96.0.1", "hush68"));
        expected.push("lookup local".into());
        assert_eq!(rules_v4()[..7], expected);
        assert!(rules().contains(&three("fd99::1", "hush67")[0]));
        let chains = [
            chains("10.96.0.1", "hush68"),
            chains("10.99.0.1", "hush67"),
            chains("fd99::1", "hush67"),
        ];
        let mut found = table();
        let mut expected = [vec!["table inet hushwire {".to_owned()], chains.concat()].concat();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    });
}

/// Where somebody wants to have the address before hushwire runs.
#[test]
fn an_address_on_lo_or_on_an_interface_that_is_down_is_in_nobodys_way() {
    in_namespace(|| {
        ip("address add 10.99.0.1/32 dev lo");
        make_link("under0");
        ip("address add 10.99.0.1/32 dev under0");
        let attachment = attach(&request("hush67")).unwrap();
        drop(attachment);
        ip("link set under0 up");
        let error = attach(&request("hush67")).unwrap_err().to_string();
        assert!(error.contains("under0 has the address 10.99.0.1 already"), "{error}");
    });
}

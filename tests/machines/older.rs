//! Kernels that lack something: hushwire runs, and says what it does without.
//!
//! The kernel here answers one system call as an older one would, for the process that perl starts and for
//! its children: a filter of seccomp(2) in front of hushwire's own.

use hushwire::sys::sandbox::Landlock;

use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::process::need;
use crate::support::tunnel::{GOSSIP_ONLY, HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

/// The line of `hushwire status`.
const SHOWN: &str = "landlock    not in force (this kernel has none)\n";

/// `perl -e REFUSE PRCTL NUMBER ERROR PROGRAM ARGUMENT...` runs a program to which a system call is refused:
/// no new privileges (38), then a filter (`PR_SET_SECCOMP` 22, mode 2) of four instructions: load the number; if
/// it is that one, go on, else skip one; the error; pass.
const REFUSE: &str = r#"
    my ($prctl, $number, $error) = (shift, shift, shift);
    my @program = ([0x20, 0, 0, 0], [0x15, 0, 1, $number], [0x06, 0, 0, 0x50000 | $error],
        [0x06, 0, 0, 0x7fff0000]);
    my $program = join '', map { pack 'SCCL', @$_ } @program;
    my $filter = pack 'S x![P] P', scalar @program, $program;
    syscall($prctl + 0, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
    syscall($prctl + 0, 22, 2, $filter) == 0 or die "seccomp: $!";
    exec @ARGV or die "exec: $!";
"#;

/// What stands before a program to which Landlock is refused with this error.
fn without_landlock(error: libc::c_int) -> Vec<String> {
    let numbers = [libc::SYS_prctl, libc::SYS_landlock_create_ruleset, error.into()];
    let words = ["perl", "-e", REFUSE].map(str::to_owned);
    words.into_iter().chain(numbers.map(|number| number.to_string())).collect()
}

#[test]
fn without_landlock_hushwire_carries_packets_and_its_status_says_so() {
    need("perl");
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let file = shared_file(GOSSIP_ONLY, &identities);
    let mut peer = Tunnel::start(lab.machine(2), &identities[1], &file);
    peer.wait_until_attached();
    let answers = [
        ("built without", libc::ENOSYS),
        ("switched off at boot", libc::EOPNOTSUPP),
        ("hidden by a container engine", libc::EPERM),
    ];
    for (why, error) in answers {
        let before = without_landlock(error);
        let before: Vec<_> = before.iter().map(String::as_str).collect();
        let mut tunnel = Tunnel::start_through(lab.machine(1), &identities[0], &file, &before);
        tunnel.wait_until_attached();
        let rights = tunnel.status().rights.process;
        assert_eq!(rights.landlock, Landlock::NotInForce, "{why}");
        assert!(rights.capabilities.is_empty() && rights.seccomp, "{why}: {rights:?}");
        let shown = String::from_utf8(tunnel.hushwire("status", &[]).stdout).expect("text");
        assert!(shown.contains(SHOWN), "{why}: {shown}");
        lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
        tunnel.terminate();
    }
}

#[test]
fn without_landlock_a_bare_device_is_made_as_well() {
    need("perl");
    let machine = Machine::new("machine");
    let before = without_landlock(libc::ENOSYS);
    let words = before.iter().map(String::as_str).chain([HUSHWIRE, "-f", "wg0"]);
    let words: Vec<_> = words.collect();
    let _device = machine.start(words[0], &words[1..]);
    let (shown, _) = wait_for("the device", seconds(5), || {
        let shown = machine.attempt(HUSHWIRE, &["status", "--interface", "wg0"]);
        shown.status.success().then(|| String::from_utf8_lossy(&shown.stdout).into_owned())
    });
    assert!(shown.contains(SHOWN), "{shown}");
}

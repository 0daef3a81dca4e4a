//! A network namespace for one test, and `ip` to look into it.

#![allow(unsafe_code, reason = "std has no unshare, capset or ioctl")]

use std::env;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// Set in the process that runs one test alone.
const ALONE: &str = "HUSHWIRE_TEST_ALONE";

/// Runs a test in a process of its own, in a network namespace of its own.
///
/// A process of its own, because a child that another test starts has a copy of all that is open here
/// until it executes its program: a TUN or a port that was closed would still be in use.
#[expect(clippy::disallowed_methods, reason = "how a process hears that it is alone")]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the test itself printed")]
pub(crate) fn in_namespace(test: impl FnOnce() + Send) {
    if env::var_os(ALONE).is_some() {
        return in_new_namespace(test);
    }
    let thread = thread::current();
    let test = thread.name().expect("the harness names its threads after their tests");
    let program = env::current_exe().expect("a test program has a path");
    let output = Command::new(program)
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(ALONE, "")
        .output()
        .expect("cannot start this test's own process");
    let printed = String::from_utf8_lossy(&output.stdout);
    print!("{printed}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "failed in its own process, as printed above");
    assert!(printed.contains(" 1 passed;"), "its own process did not find the test {test}");
}

/// Goes on in a thread that has a network namespace to itself, with `lo` up.
pub(crate) fn in_new_namespace(test: impl FnOnce() + Send) {
    let result = thread::scope(|scope| {
        let enter_and_test = || {
            // SAFETY: takes no pointer, and changes the calling thread alone.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            let error = std::io::Error::last_os_error();
            assert_eq!(result, 0, "a network namespace needs root (or a user namespace): {error}");
            ip("link set lo up");
            test();
        };
        scope.spawn(enter_and_test).join()
    });
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// Runs `ip` in the thread's namespace, and gives what it prints.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("these tests need the program `ip` (iproute2): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes an interface that leads nowhere: a pair of veths with both ends here, the named one still down.
/// (A dummy would do, but not every kernel has that driver.)
pub(crate) fn make_link(name: &str) {
    ip(&format!("link add {name} type veth peer name {name}-far"));
    ip(&format!("link set {name}-far up"));
}

/// Runs `ip -j`: a list of objects.
pub(crate) fn ip_json(arguments: &str) -> Vec<Value> {
    let text = ip(&format!("-j {arguments}"));
    // `ip -j` prints nothing at all for some empty lists.
    if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).unwrap() }
}

/// Whether an interface of this name is in the thread's namespace.
pub(crate) fn exists(interface: &str) -> bool {
    ip_json("link show").iter().any(|link| link["ifname"] == interface)
}

/// The addresses of an interface as `address/length`, sorted.
pub(crate) fn addresses(interface: &str) -> Vec<String> {
    let links = ip_json(&format!("address show dev {interface}"));
    let infos = links[0]["addr_info"].as_array().unwrap();
    let text = |info: &Value| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]);
    let mut found: Vec<String> = infos.iter().map(text).collect();
    found.sort();
    found
}

/// The unicast routes through an interface, both families, sorted; without those that the kernel made.
pub(crate) fn routes(interface: &str) -> Vec<String> {
    let shown = |family: &str| ip_json(&format!("{family} route show dev {interface}"));
    let mut found: Vec<String> = [shown("-4"), shown("-6")]
        .concat()
        .iter()
        .filter(|route| route["protocol"] != "kernel")
        .map(|route| route["dst"].as_str().unwrap().to_owned())
        .collect();
    found.sort();
    found
}

/// The unreachable routes with their metrics, both families, sorted.
pub(crate) fn unreachable() -> Vec<(String, u64)> {
    let shown = |family: &str| ip_json(&format!("{family} route show type unreachable"));
    let mut found: Vec<(String, u64)> = [shown("-4"), shown("-6")]
        .concat()
        .iter()
        .map(|route| {
            (route["dst"].as_str().unwrap().to_owned(), route["metric"].as_u64().unwrap_or(0))
        })
        .collect();
    found.sort();
    found
}

/// Waits up to five seconds for a condition.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 5 s: {what}");
}

/// Opens a TUN or TAP with any flags, as another program would.
pub(crate) fn open_tun(name: &str, flags: i32) -> OwnedFd {
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: `ifreq` is plain C data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "TUNSETIFF {name}: {}", std::io::Error::last_os_error());
    file.into()
}

/// Takes all capabilities from the calling thread.
pub(crate) fn drop_capabilities() {
    // _LINUX_CAPABILITY_VERSION_3, this thread; then three empty sets of two words each.
    let header: [u32; 2] = [0x2008_0522, 0];
    let sets = [0u32; 6];
    // SAFETY: capset reads a header of two words and the sets of six, and changes the calling thread alone.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0, "capset: {}", std::io::Error::last_os_error());
}

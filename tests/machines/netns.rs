//! The interface in another network namespace than hushwire: by name, by path, by process; what is there
//! is followed, what is gone is let go.
//!
//! ```text
//!   machine1                          machine2
//!   +-----------------------------+   +-----------------+
//!   |  namespace am               |   |                 |
//!   |    hush0 10.99.0.1 <-- hushwire --- hushwire, hush0 10.99.0.2
//!   |    inside ---- outside      |   |                 |
//!   +-----------------------------+   +-----------------+
//! ```
//!
//! A pair of veths (inside, outside) shows when a namespace is gone for good: one end takes the other along.

use std::process::Output;

use nix::sys::signal::Signal;

use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::process::Process;
use crate::support::tunnel::{HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

/// Two tunnels, the first with this `[interface]`.
fn pair<'lab>(lab: &'lab Lab, head: &str) -> (Tunnel<'lab>, Tunnel<'lab>) {
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let first = shared_file(&format!("[interface]\n{head}"), &identities);
    let first = Tunnel::start(lab.machine(1), &identities[0], &first);
    let file = shared_file("", &identities);
    let mut second = Tunnel::start(lab.machine(2), &identities[1], &file);
    second.wait_until_attached();
    (first, second)
}

fn add(machine: &Machine, name: &str) {
    machine.ip(&format!("netns add {name}"));
    machine.ip(&format!("link add out-{name} type veth peer name in-{name} netns {name}"));
}

fn is_gone(machine: &Machine, name: &str) {
    wait_for(&format!("the end of namespace {name}"), seconds(5), || {
        (!machine.has_interface(&format!("out-{name}"))).then_some(())
    });
}

/// Sends a ping from inside a namespace to the other machine.
fn ping(machine: &Machine, name: &str) {
    let other = overlay(2, Family::V4);
    machine.run("ip", &["netns", "exec", name, "ping", "-c", "1", "-W", "5", &other]);
}

fn index(machine: &Machine, name: &str) -> String {
    let shown = machine.ip(&format!("-n {name} -o link show hush0"));
    shown.split(':').next().unwrap().to_owned()
}

#[track_caller]
fn wait_for_detail(tunnel: &Tunnel<'_>, detail: &str) {
    wait_for(&format!("status to say: {detail}"), seconds(5), || {
        (tunnel.try_status()?.interface.detail == detail).then_some(())
    });
}

#[test]
fn a_named_namespace_is_waited_for_followed_and_let_go() {
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    let (mut tunnel, second) = pair(&lab, "netns = \"name:am\"");
    wait_for_detail(
        &tunnel,
        "detached: network namespace /run/netns/am: there is no such file; make it with `ip netns add`, \
         or correct netns",
    );
    let text = String::from_utf8_lossy(&tunnel.hushwire("status", &[]).stdout).into_owned();
    assert!(text.contains("not up      detached: network namespace /run/netns/am"), "{text}");
    assert!(text.contains("namespace   name:am"), "{text}");

    add(machine, "am");
    tunnel.wait_until_attached();
    ping(machine, "am");
    assert!(!machine.has_interface("hush0"), "the interface is outside");
    assert_eq!(machine.ip("route show type unreachable"), "", "routes are outside");
    let age = second.peer("machine1").handshake_age_seconds.expect("a session");

    // Nothing keeps it alive: not hushwire, not its keeper.
    machine.ip("netns del am");
    is_gone(machine, "am");
    add(machine, "am");
    tunnel.wait_until_attached();
    ping(machine, "am");

    // Another namespace at the same path.
    add(machine, "other");
    machine.run("mount", &["--bind", "/run/netns/other", "/run/netns/am"]);
    wait_for("the interface to follow", seconds(5), || {
        machine
            .attempt("ip", &["-n", "other", "link", "show", "hush0"])
            .status
            .success()
            .then_some(())
    });
    tunnel.wait_until_attached();
    ping(machine, "other");
    let later = second.peer("machine1").handshake_age_seconds.expect("a session");
    assert!(later > age, "there was a new handshake");

    // Back to the machine itself by a reload, and the namespace is free.
    machine.run("umount", &["/run/netns/am"]);
    tunnel.wait_until_attached();
    let file = std::fs::read_to_string(tunnel.config_path()).expect("the file is there");
    tunnel.write_config(&file.replace("netns = \"name:am\"", ""));
    tunnel.reload();
    wait_for("the interface on the machine", seconds(5), || {
        machine.has_interface("hush0").then_some(())
    });
    tunnel.wait_until_attached();
    machine.run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
    machine.ip("netns del am");
    machine.ip("netns del other");
    is_gone(machine, "am");
    is_gone(machine, "other");
}

#[test]
fn a_process_is_followed_to_its_end() {
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    let mut owner: Process = machine.start("unshare", &["--net", "sleep", "1000"]);
    let (pid, ours) = (owner.id(), format!("/proc/{}/ns/net", machine.pid()));
    let link = |path: &str| std::fs::read_link(path).expect("a process has a namespace");
    let theirs = format!("/proc/{pid}/ns/net");
    // On its way there it is in that of the test, and then in the machine's.
    let before = [link("/proc/thread-self/ns/net"), link(&ours)];
    wait_for("a namespace of its own", seconds(5), || {
        (!before.contains(&link(&theirs))).then_some(())
    });
    let (mut tunnel, _second) = pair(&lab, &format!("netns = \"pid:{pid}\""));
    tunnel.wait_until_attached();
    let net = format!("--net={theirs}");
    machine.run("nsenter", &[&net, "ping", "-c", "1", "-W", "5", &overlay(2, Family::V4)]);
    owner.signal(Signal::SIGKILL);
    owner.kill();
    let ended = "name another one in netns and reload";
    wait_for_detail(&tunnel, &format!("detached: process {pid} has ended; {ended}"));

    // Started again, there is nothing to wait for.
    tunnel.terminate();
    let output = tunnel.hushwire("up", &[]);
    assert_refused(&output, &format!("hushwire: process {pid}: there is no such process;"));
}

/// An address that another interface has is refused, and tried again a second later.
#[test]
fn what_was_in_the_way_is_tried_again_also_while_somebody_asks() {
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    add(machine, "am");
    machine.ip("link set out-am up");
    machine.ip("-n am link set in-am up");
    machine.ip("-n am addr add 10.99.0.1/24 dev in-am");
    let (tunnel, _second) = pair(&lab, "netns = \"name:am\"");
    wait_for("the first attempt to be over", seconds(5), || {
        tunnel.try_status().filter(|status| !status.interface.detail.is_empty())
    });
    let config = tunnel.config_path().display().to_string();
    let mut waiting =
        machine.start(HUSHWIRE, &["wait", "--timeout", "15", "--config", config.as_str()]);
    machine.ip("-n am addr del 10.99.0.1/24 dev in-am");
    let (ended, time) = wait_for("hushwire wait to end", seconds(20), || waiting.ended());
    assert!(ended.success(), "{ended}:\n{}", waiting.log());
    println!("hushwire wait has seen it {time:.1?} after nothing was in the way");
}

/// Runs `hushwire reload`, and says how it ended and what it said.
fn reload(tunnel: &Tunnel<'_>) -> (bool, String) {
    let output = tunnel.hushwire("reload", &[]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_reload_that_the_interface_could_not_follow_fails_and_the_next_one_mends_it() {
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    add(machine, "am");
    machine.ip("-n am link set in-am up");
    let identities = Identity::all(4, Family::V4, &[Family::V4]);
    let head = "[interface]\nnetns = \"name:am\"";
    let two = shared_file(head, &identities[..2]);
    let mut tunnel = Tunnel::start(machine, &identities[0], &two);
    let second = shared_file("", &identities);
    let mut second = Tunnel::start(lab.machine(2), &identities[1], &second);
    tunnel.wait_until_attached();
    second.wait_until_attached();

    machine.ip("-n am route add 10.99.0.3/32 dev in-am");
    tunnel.write_config(&shared_file(head, &identities));
    let (done, said) = reload(&tunnel);
    assert!(!done && said.contains("10.99.0.3/32") && said.contains("reload again"), "{said}");
    assert!(!reload(&tunnel).0, "it is still in the way");
    machine.ip("-n am route del 10.99.0.3/32 dev in-am");
    let (done, said) = reload(&tunnel);
    assert!(done, "{said}");
    let routes = || machine.ip("-n am -4 route show dev hush0");
    for number in 2..=4 {
        assert!(routes().contains(&overlay(number, Family::V4)), "{}", routes());
    }

    // Set down, it is brought back once a packet comes for it.
    machine.ip("-n am link set hush0 down");
    let other = overlay(1, Family::V4);
    wait_for("an answer through it", seconds(10), || {
        let ping = ["-c", "1", "-W", "1", &other];
        lab.machine(2).attempt("ping", &ping).status.success().then_some(())
    });
    // Nothing differs in the file, but in the namespace.
    machine.ip("-n am link set hush0 down");
    machine.ip("-n am link set hush0 up");
    assert_eq!(routes().trim(), "");
    let (done, said) = reload(&tunnel);
    assert!(done, "{said}");
    ping(machine, "am");
}

/// It ended with exit code 1 and one line; more would be log lines.
#[track_caller]
fn assert_refused(output: &Output, beginning: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<_> = text.lines().filter(|line| line.starts_with("hushwire: ")).collect();
    assert_eq!((output.status.code(), errors.len()), (Some(1), 1), "{text}");
    assert!(errors[0].starts_with(beginning), "{text}");
    println!("{}", errors[0]);
}

#[test]
fn a_killed_hushwire_finds_its_interface_in_the_namespace_again() {
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    add(machine, "am");
    let (mut tunnel, _second) = pair(&lab, "netns = \"name:am\"");
    tunnel.wait_until_attached();
    ping(machine, "am");
    let before = index(machine, "am");
    tunnel.kill();
    tunnel.restart();
    tunnel.wait_until_attached();
    assert_eq!(index(machine, "am"), before, "another interface");
    ping(machine, "am");

    // One in a namespace that was replaced meanwhile is not for us, and does not keep it alive.
    tunnel.kill();
    machine.ip("netns del am");
    add(machine, "new");
    let file = std::fs::read_to_string(tunnel.config_path()).expect("the file is there");
    tunnel.write_config(&file.replace("name:am", "name:new"));
    tunnel.restart();
    tunnel.wait_until_attached();
    ping(machine, "new");
    is_gone(machine, "am");
}

#[test]
fn what_is_in_the_way_is_said_in_one_line_with_its_cure() {
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    add(machine, "am");
    let (mut tunnel, _second) = pair(&lab, "netns = \"name:am\"");
    tunnel.wait_until_attached();
    tunnel.terminate();
    let file = std::fs::read_to_string(tunnel.config_path()).expect("the file is there");
    let config = tunnel.config_path().display().to_string();
    let up = [HUSHWIRE, "up", "--config", &config];

    for (capability, cure) in [
        ("net_admin", "interface hush0: make the TUN: "),
        ("sys_admin", "interface hush0: network namespace /run/netns/am: Operation not permitted"),
    ] {
        let without = format!("--bounding-set=-{capability}");
        let output = machine.attempt("setpriv", &[&[without.as_str()], &up[..]].concat());
        assert_refused(&output, &format!("hushwire: {cure}"));
    }

    tunnel.write_config(&file.replace("name:am", "/etc/hosts"));
    let not_one =
        "hushwire: interface hush0: /etc/hosts is not a network namespace; name the file of one";
    assert_refused(&tunnel.hushwire("up", &[]), not_one);

    tunnel.write_config(&file);
    machine.run("mount", &["-t", "tmpfs", "nothing", "/dev/net"]);
    assert_refused(
        &tunnel.hushwire("up", &[]),
        "hushwire: interface hush0: cannot open /dev/net/tun: ",
    );
}

#[test]
fn an_engine_that_cannot_be_asked_is_named_and_asked_again() {
    const SOCKET: &str = "/run/engine.sock";
    let lab = Lab::new(2);
    let machine = lab.machine(1);
    let head = format!("netns = \"docker:am\"\n[docker]\nsocket = \"{SOCKET}\"");
    let (mut tunnel, _second) = pair(&lab, &head);
    let says = |what: &str| format!("detached: container engine {SOCKET}: {what}");
    wait_for_detail(
        &tunnel,
        &says(
            "No such file or directory (os error 2); start the engine, or name its socket in [docker] \
             (podman: /run/podman/podman.sock)",
        ),
    );
    machine.run("touch", &[SOCKET]);
    let nobody = "nobody listens there: start the engine, or name its socket in [docker]";
    wait_for_detail(&tunnel, &says(&format!("Connection refused (os error 111); {nobody}")));

    // Something that listens, and is no engine.
    let script = format!(
        "use IO::Socket::UNIX; unlink '{SOCKET}'; \
         $l = IO::Socket::UNIX->new(Local => '{SOCKET}', Listen => 9) or die; \
         while ($s = $l->accept) {{ syswrite $s, \"220 mail\\r\\n\"; close $s }}"
    );
    let _listener = machine.start("perl", &["-e", &script]);
    wait_for("another error", seconds(5), || {
        let detail = tunnel.try_status()?.interface.detail;
        detail.contains("stopped to answer").then(|| println!("{detail}"))
    });

    // Root without the right to overlook a mode is like anybody else.
    tunnel.terminate();
    machine.run("chmod", &["000", SOCKET]);
    let config = tunnel.config_path().display().to_string();
    let arguments =
        ["--bounding-set=-dac_override,-dac_read_search", HUSHWIRE, "up", "--config", &config];
    let denied = machine.start("setpriv", &arguments);
    wait_for("the refusal in the log", seconds(5), || {
        let cure = "run hushwire as root, or in the group that owns this socket";
        denied.log().contains(cure).then_some(())
    });
}

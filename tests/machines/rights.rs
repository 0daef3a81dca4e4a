//! What is left to a running hushwire, as the kernel says and as one who has taken over a part of it would find.
//!
//! The second is tried in the real program: a debugger stops one of its threads and has it make system calls,
//! which the kernel judges as that thread's own.

use std::fs;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::support::lab::{Family, Lab, overlay};
use crate::support::tunnel::{Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

const NONE: &str = "0000000000000000";
/// `CAP_NET_ADMIN`, `CAP_SYS_PTRACE` and `CAP_SYS_ADMIN`.
const ATTACHING: &str = "0000000000281000";

/// The threads of a process, by name.
fn threads(pid: u32) -> Vec<(Pid, String)> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .expect("it runs")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let id = path.file_name().and_then(|name| name.to_str()).expect("a number");
            let name = fs::read_to_string(path.join("comm")).expect("it runs");
            (Pid::from_raw(id.parse().expect("a number")), name.trim().to_owned())
        })
        .collect()
}

fn field(id: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

#[track_caller]
fn has(id: Pid, capabilities: &str) {
    for (set, expected) in [
        ("CapInh", NONE),
        ("CapPrm", capabilities),
        ("CapEff", capabilities),
        ("CapBnd", NONE),
        ("CapAmb", NONE),
    ] {
        assert_eq!(field(id, set), expected, "{set} of {id}");
    }
    assert_eq!((field(id, "NoNewPrivs"), field(id, "Seccomp")), ("1".into(), "2".into()), "{id}");
}

fn child(tunnel: &mut Tunnel<'_>) -> Pid {
    let id = tunnel.process().id();
    let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("it runs");
    Pid::from_raw(text.trim().parse().expect("one child"))
}

#[test]
fn no_process_or_thread_has_a_capability_once_the_interface_is_attached() {
    let lab = Lab::new(1);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let mut tunnel = Tunnel::start(lab.machine(1), &identities[0], &shared_file("", &identities));
    tunnel.wait_until_attached();
    for (id, name) in threads(tunnel.process().id()) {
        has(id, NONE);
        let filters = if name == "packets" { "2" } else { "1" };
        assert_eq!(field(id, "Seccomp_filters"), filters, "{name}");
    }
    let helper = child(&mut tunnel);
    has(helper, NONE);
    assert_eq!(field(helper, "Name"), "hushwire-keeper");
    let rights = tunnel.status().rights;
    assert!(rights.process.capabilities.is_empty() && rights.process.bounding.is_empty());
    assert!(rights.process.no_new_privileges && rights.process.no_core_dump);
    assert_eq!(rights.helper.map(|helper| helper.capabilities), Some(Vec::new()));
    let id = tunnel.process().id();
    let limits = fs::read_to_string(format!("/proc/{id}/limits")).expect("it runs");
    let cores = limits.lines().find(|line| line.starts_with("Max core file size"));
    let numbers = cores.expect("such a line").split_whitespace().filter(|word| *word == "0");
    assert_eq!(numbers.count(), 2, "{limits}");
}

#[test]
fn in_another_namespace_the_helper_keeps_what_attaching_takes_and_hushwire_ends_with_it() {
    let lab = Lab::new(1);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let head = format!("[interface]\nnetns = \"/proc/{}/ns/net\"", lab.switch.pid());
    let mut tunnel =
        Tunnel::start(lab.machine(1), &identities[0], &shared_file(&head, &identities));
    tunnel.wait_until_attached();
    assert!(lab.switch.has_interface("hush0"));
    for (id, _) in threads(tunnel.process().id()) {
        has(id, NONE);
    }
    let helper = child(&mut tunnel);
    has(helper, ATTACHING);
    assert_eq!(field(helper, "Name"), "hushwire-helper");
    // The interface can be changed then.
    let changed = format!("{head}\nmtu = 1300");
    tunnel.write_config(&shared_file(&changed, &identities));
    tunnel.reload();
    wait_for("the other MTU", seconds(5), || {
        lab.switch.ip("addr show dev hush0").contains("mtu 1300").then_some(())
    });
    kill(helper, Signal::SIGKILL).expect("it runs");
    let (ended, _) = wait_for("hushwire to end", seconds(5), || tunnel.process().ended());
    assert_eq!(ended.code(), Some(1));
    assert!(tunnel.process().log().contains("the helper process was killed"));
    wait_for("the interface to go", seconds(3), || {
        (!lab.switch.has_interface("hush0")).then_some(())
    });
    tunnel.restart();
    tunnel.wait_until_attached();
}

#[test]
fn killed_together_hushwire_and_its_keeper_leave_nothing_in_the_way() {
    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    let keeper = child(&mut tunnels[0]);
    kill(keeper, Signal::SIGKILL).expect("it runs");
    tunnels[0].kill();
    wait_for("the interface to go", seconds(3), || {
        (!lab.machine(1).has_interface("hush0")).then_some(())
    });
    tunnels[0].restart();
    tunnels[0].wait_until_attached();
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
}

/// A thread that makes the system calls it is told to.
#[cfg(target_arch = "x86_64")]
struct Puppet {
    id: Pid,
    saved: libc::user_regs_struct,
}

#[cfg(target_arch = "x86_64")]
impl Puppet {
    /// Stops a thread that waits in a system call, so that the instruction behind it is one.
    fn seize(id: Pid) -> Self {
        ptrace::attach(id).expect("a tracer with rights");
        waitpid(id, Some(WaitPidFlag::__WALL)).expect("it stops");
        Self { id, saved: ptrace::getregs(id).expect("it is stopped") }
    }

    /// Makes one call, with a text for each argument that is none; says what the kernel answers.
    fn call(&self, number: libc::c_long, arguments: &[Argument<'_>]) -> i64 {
        let mut place = (self.saved.rsp - 4096) & !7;
        let mut values = [0u64; 6];
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = match argument {
                Argument::Number(number) => *number as u64,
                Argument::Text(text) => {
                    let start = place;
                    let mut bytes = text.as_bytes().to_vec();
                    bytes.resize((text.len() + 8) & !7, 0);
                    for word in bytes.chunks_exact(8) {
                        let word = i64::from_ne_bytes(word.try_into().expect("eight"));
                        ptrace::write(self.id, place as ptrace::AddressType, word)
                            .expect("its stack");
                        place += 8;
                    }
                    start
                }
            };
        }
        let mut registers = self.saved;
        // Two bytes back is the `syscall` in which it waits. Without a call to start anew.
        registers.rip -= 2;
        registers.orig_rax = u64::MAX;
        registers.rax = number as u64;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] =
            values;
        ptrace::setregs(self.id, registers).expect("it is stopped");
        ptrace::step(self.id, None).expect("it is stopped");
        waitpid(self.id, Some(WaitPidFlag::__WALL)).expect("it stops again");
        ptrace::getregs(self.id).expect("it is stopped").rax as i64
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = ptrace::setregs(self.id, self.saved);
        let _ = ptrace::detach(self.id, None);
    }
}

#[cfg(target_arch = "x86_64")]
enum Argument<'a> {
    Number(i64),
    Text(&'a str),
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_is_not_listed_is_refused_to_the_packet_loop_and_to_the_rest_of_the_real_program() {
    use Argument::{Number, Text};

    let lab = Lab::new(2);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let mut tunnels = Tunnel::start_all(&lab, &identities);
    let landlock = tunnels[0].status().rights.process.landlock;
    let process = tunnels[0].process().id();
    let packets = threads(process).into_iter().find(|(_, name)| name == "packets");
    let targets = [Pid::from_raw(process as i32), packets.expect("the packet loop").0];
    let number = |value: libc::c_int| Number(value.into());
    let socket = |family, kind, protocol| [number(family), number(kind), number(protocol)];
    let file = [number(libc::AT_FDCWD), Text("/etc/passwd"), Number(0)];
    let program = [Text("/bin/true"), Number(0), Number(0)];
    // By name; and whether it is refused to the main thread, too.
    let tried: [(&str, libc::c_long, &[Argument<'_>], bool); 19] = [
        ("open a file", libc::SYS_openat, &file, format!("{landlock:?}") == "InForce"),
        ("UNIX socket", libc::SYS_socket, &socket(libc::AF_UNIX, libc::SOCK_STREAM, 0), false),
        ("TCP socket", libc::SYS_socket, &socket(libc::AF_INET, libc::SOCK_STREAM, 0), false),
        ("raw socket", libc::SYS_socket, &socket(libc::AF_INET, libc::SOCK_RAW, 1), true),
        ("packet socket", libc::SYS_socket, &socket(libc::AF_PACKET, libc::SOCK_RAW, 0), true),
        ("netfilter", libc::SYS_socket, &socket(libc::AF_NETLINK, libc::SOCK_RAW, 12), true),
        ("vsock", libc::SYS_socket, &socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0), true),
        ("network namespace", libc::SYS_unshare, &[number(libc::CLONE_NEWNET)], true),
        ("user namespace", libc::SYS_unshare, &[number(libc::CLONE_NEWUSER)], true),
        ("enter a namespace", libc::SYS_setns, &[Number(0), Number(0)], true),
        ("new process", libc::SYS_clone, &[number(libc::SIGCHLD)], true),
        ("fork", libc::SYS_fork, &[], true),
        ("run a program", libc::SYS_execve, &program, true),
        ("ptrace", libc::SYS_ptrace, &[Number(0)], true),
        ("read another's memory", libc::SYS_process_vm_readv, &[Number(1)], true),
        ("mount", libc::SYS_mount, &[Text("x"), Text("/mnt"), Text("tmpfs")], true),
        ("bpf", libc::SYS_bpf, &[Number(0)], true),
        ("io_uring", libc::SYS_io_uring_setup, &[Number(1)], true),
        ("signal process 1", libc::SYS_kill, &[Number(1), Number(0)], true),
    ];
    println!("{:24} {:>12} {:>12}", "tried", "main", "packets");
    let mut wrong = Vec::new();
    for (name, call, arguments, both) in &tried {
        let answers = targets.map(|target| {
            let puppet = Puppet::seize(target);
            let answer = puppet.call(*call, arguments);
            let makes_a_descriptor = [libc::SYS_openat, libc::SYS_socket].contains(call);
            if makes_a_descriptor && answer >= 0 {
                puppet.call(libc::SYS_close, &[Number(answer)]);
            }
            answer
        });
        let told = answers.map(|answer| match answer {
            0.. => "allowed".to_owned(),
            // What Landlock says of files, and the filter of everything.
            error if error == -i64::from(libc::EACCES) => "refused".to_owned(),
            error if error == -i64::from(libc::EPERM) => "refused".to_owned(),
            error => format!("error {}", -error),
        });
        println!("{name:24} {:>12} {:>12}", told[0], told[1]);
        let refused = told.map(|told| told == "refused");
        if !refused[1] || refused[0] != *both {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "not as it should be: {wrong:?}");
    // It has not noticed.
    lab.machine(1).run("ping", &["-c", "1", "-W", "5", &overlay(2, Family::V4)]);
    assert!(tunnels[0].status().interface.attached);
}

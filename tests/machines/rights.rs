//! What is left to a running hushwire, as the kernel says and as one who has taken over a part of it would find.
//!
//! What the kernel says (`/proc`) is compared with the tables of the manual, in every way to run. The second is
//! tried in the real program: a debugger stops one of its threads and has it make system calls, which the
//! kernel judges as that thread's own.

use std::fs;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::bare::Device;
use crate::support::lab::{Family, Lab, overlay};
use crate::support::machine::Machine;
use crate::support::tunnel::{HUSHWIRE, Identity, Tunnel, shared_file};
use crate::support::{seconds, wait_for};

const MANUAL: &str = include_str!("../../config/man/hushwire.8");
/// Sections of the manual that have a table.
const OWN_NAMESPACE: &str = "The interface in the network namespace of hushwire";
const ANOTHER_NAMESPACE: &str = "The interface in another network namespace";
const BARE: &str = "A bare device";

/// A line of a table of the manual.
#[derive(Debug)]
struct Row {
    process: String,
    thread: String,
    capabilities: u64,
    /// How many lists of system calls.
    lists: u64,
}

impl Row {
    fn is_about(&self, process: &str, thread: &str) -> bool {
        let of_thread = match self.thread.as_str() {
            "all" => true,
            "others" => thread != "packets",
            name => name == thread,
        };
        self.process == process && of_thread
    }
}

/// The table of a section, as the source of the page has it.
fn manual(section: &str) -> Vec<Row> {
    let (_, text) = MANUAL.split_once(&format!("\n.SS {section}\n")).expect("such a section");
    let (_, table) = text.split_once(".TS\n").expect("a table");
    let (table, _) = table.split_once("\n.TE\n").expect("its end");
    let lines = table.lines().skip_while(|line| !line.starts_with("process;")).skip(1);
    let rows = lines.map(|line| {
        let line = line.replace("\\-", "-");
        let cells: Vec<_> = line.split(';').collect();
        let &[process, thread, capabilities, lists] = cells.as_slice() else {
            panic!("not four cells: {line}")
        };
        let capabilities = match capabilities {
            "none" => 0,
            some => some.split(' ').fold(0, |set, name| set | bit(name)),
        };
        let lists = lists.parse().expect("a number");
        Row { process: process.to_owned(), thread: thread.to_owned(), capabilities, lists }
    });
    rows.collect()
}

/// By number, linux/capability.h.
fn bit(capability: &str) -> u64 {
    1 << match capability {
        "net_bind_service" => 10,
        "net_admin" => 12,
        "sys_ptrace" => 19,
        "sys_admin" => 21,
        other => panic!("which number has {other}?"),
    }
}

/// The threads of a process, by name.
fn threads(pid: u32) -> Vec<(Pid, String)> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .expect("it runs")
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let id = path.file_name().and_then(|name| name.to_str()).expect("a number");
            let name = fs::read_to_string(path.join("comm")).ok()?;
            Some((Pid::from_raw(id.parse().expect("a number")), name.trim().to_owned()))
        })
        .collect()
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    text.split_whitespace().map(|id| id.parse().expect("a number")).collect()
}

/// What the kernel says of a process or thread; none if that has ended.
struct Status(String);

impl Status {
    fn of(id: &str) -> Option<Self> {
        fs::read_to_string(format!("/proc/{id}/status")).ok().map(Self)
    }

    fn field(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}")).trim()
    }

    fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(self.field(name), 16).expect("a set of capabilities")
    }

    fn filters(&self) -> u64 {
        self.field("Seccomp_filters").parse().expect("a number")
    }
}

/// Holds every thread of a hushwire and of its children to a table of the manual; prints what they have.
/// `bounding` is what was given without `CAP_SETPCAP`.
#[track_caller]
fn is_as_in_the_manual(section: &str, main: u32, bounding: u64) {
    let rows = manual(section);
    let given = Status::of("self").expect("this process").filters();
    let mut seen = vec![false; rows.len()];
    println!("{section}, bounding set {bounding:x}");
    for process in [main].into_iter().chain(children(main)) {
        let name = Status::of(&process.to_string()).expect("it runs").field("Name").to_owned();
        for (id, thread) in threads(process) {
            // One that had a name to resolve may have ended.
            let Some(status) = Status::of(&id.to_string()) else { continue };
            let row = rows.iter().position(|row| row.is_about(&name, &thread));
            let row = row.unwrap_or_else(|| panic!("the manual has no {thread} of {name}"));
            seen[row] = true;
            let row = &rows[row];
            let sets =
                ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| status.set(set));
            let filters = status.filters() - given;
            println!("  {name:16} {thread:16} {sets:x?}, {filters} lists");
            assert_eq!(sets, [0, row.capabilities, row.capabilities, bounding, 0], "{row:?}");
            assert_eq!(filters, row.lists, "{row:?}");
            assert_eq!(
                (status.field("NoNewPrivs"), status.field("Seccomp")),
                ("1", "2"),
                "{row:?}"
            );
        }
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("it runs");
        let cores = limits.lines().find(|line| line.starts_with("Max core file size"));
        let numbers = cores.expect("such a line").split_whitespace().filter(|word| *word == "0");
        assert_eq!(numbers.count(), 2, "{limits}");
    }
    assert!(seen.iter().all(|&seen| seen), "in the manual alone: {rows:?}, {seen:?}");
}

fn child(tunnel: &mut Tunnel<'_>) -> Pid {
    match children(tunnel.process().id()).as_slice() {
        &[id] => Pid::from_raw(id.try_into().expect("a pid is small")),
        other => panic!("not one child: {other:?}"),
    }
}

#[test]
fn every_process_and_thread_has_what_the_manual_says() {
    let lab = Lab::new(1);
    let mut identities = Identity::all(2, Family::V4, &[Family::V4]);
    // A name takes a thread more, which resolves it.
    identities[1].endpoint = Some("localhost:51821".into());
    let file = shared_file("", &identities);
    let mut tunnel = Tunnel::start(lab.machine(1), &identities[0], &file);
    tunnel.wait_until_attached();
    is_as_in_the_manual(OWN_NAMESPACE, tunnel.process().id(), 0);
    let rights = tunnel.status().rights;
    assert!(rights.process.capabilities.is_empty() && rights.process.bounding.is_empty());
    assert!(rights.process.no_new_privileges && rights.process.no_core_dump);
    assert_eq!(rights.helper.map(|helper| helper.capabilities), Some(Vec::new()));
    tunnel.terminate();

    // As in a container that was given this and nothing else.
    let given = ["setpriv", "--bounding-set=-all,+net_admin"];
    let mut tunnel = Tunnel::start_through(lab.machine(1), &identities[0], &file, &given);
    tunnel.wait_until_attached();
    is_as_in_the_manual(OWN_NAMESPACE, tunnel.process().id(), bit("net_admin"));
    assert_eq!(tunnel.status().rights.process.bounding, ["CAP_NET_ADMIN"]);
    tunnel.terminate();

    let head = format!("[interface]\nnetns = \"/proc/{}/ns/net\"", lab.switch.pid());
    let file = shared_file(&head, &identities);
    let mut tunnel = Tunnel::start(lab.machine(1), &identities[0], &file);
    tunnel.wait_until_attached();
    is_as_in_the_manual(ANOTHER_NAMESPACE, tunnel.process().id(), 0);
    tunnel.terminate();

    // What `container.conf` gives.
    let attaching = ["net_admin", "sys_ptrace", "sys_admin"];
    let given = ["setpriv", &format!("--bounding-set=-all,+{}", attaching.join(",+"))];
    let mut tunnel = Tunnel::start_through(lab.machine(1), &identities[0], &file, &given);
    tunnel.wait_until_attached();
    let bounding = attaching.into_iter().fold(0, |set, name| set | bit(name));
    is_as_in_the_manual(ANOTHER_NAMESPACE, tunnel.process().id(), bounding);
    tunnel.terminate();

    let device = Device::start(lab.machine(1));
    is_as_in_the_manual(BARE, device.id(), 0);
}

/// `wg` spoke of an input/output error.
#[test]
fn what_takes_a_right_that_was_given_up_is_refused_as_the_kernel_would() {
    let lab = Lab::new(1);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let file = shared_file("", &identities);
    let mut tunnel = Tunnel::start(lab.machine(1), &identities[0], &file);
    tunnel.wait_until_attached();
    for set in [["listen-port", "53"], ["fwmark", "7"]] {
        let output = lab.machine(1).attempt("wg", &["set", "hush0", set[0], set[1]]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("Operation not permitted"), "{said}");
    }
    lab.machine(1).run("wg", &["set", "hush0", "listen-port", "4242"]);
    tunnel.terminate();
}

#[test]
fn in_another_namespace_the_helper_can_change_the_interface_and_hushwire_ends_with_it() {
    let lab = Lab::new(1);
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let head = format!("[interface]\nnetns = \"/proc/{}/ns/net\"", lab.switch.pid());
    let mut tunnel =
        Tunnel::start(lab.machine(1), &identities[0], &shared_file(&head, &identities));
    tunnel.wait_until_attached();
    assert!(lab.switch.has_interface("hush0"));
    let helper = child(&mut tunnel);
    // The interface can be changed.
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

#[test]
fn too_few_descriptors_are_called_so_and_not_a_missing_right() {
    let machine = Machine::new("machine");
    let identities = Identity::all(2, Family::V4, &[Family::V4]);
    let directory = Tunnel::write_files(&identities[0], &shared_file("", &identities));
    let config = directory.path().join("hushwire.toml").display().to_string();
    let script = format!("ulimit -n 25; exec {HUSHWIRE} up --config {config}");
    let output = machine.attempt("bash", &["-c", &script]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot give up files") && said.contains("ulimit -n"), "{said}");
    assert!(!said.contains("seccomp"), "{said}");
}

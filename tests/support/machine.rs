//! A machine: a network namespace and a mount namespace, held open by one child process.
//!
//! `/run` is a fresh tmpfs in each machine, so that every machine can have its own `hush0` and its own
//! `/var/run/wireguard/hush0.sock`. No namespace has a name: the holder reads a pipe from the test, and
//! when the test ends, however it ends, the holder ends and the kernel takes everything away.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::process::{Process, finish, need, succeed};

/// What the holder does: `cat` ends when the pipe from the test closes.
const HOLD: &str = "mount -t tmpfs machine /run && ip link set lo up && echo held && exec cat";

/// A namespace pair of one machine.
pub(crate) struct Machine {
    /// For messages only.
    pub(crate) name: String,
    holder: Child,
    network: File,
}

impl Machine {
    /// Makes a machine that has nothing but a loopback interface.
    pub(crate) fn new(name: &str) -> Self {
        for program in ["unshare", "nsenter", "setpriv", "timeout", "ip"] {
            need(program);
        }
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOLD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot start unshare");
        let mut line = String::new();
        let output = holder.stdout.as_mut().expect("stdout is a pipe");
        let _ = BufReader::new(output).read_line(&mut line);
        assert_eq!(
            line, "held\n",
            "cannot make namespaces: these tests need root, or `unshare --user --map-root-user --net \
             --mount` around them (scripts/test.sh does that)"
        );
        let network = File::open(format!("/proc/{}/ns/net", holder.id())).expect("no such holder");
        Self { name: name.to_owned(), holder, network }
    }

    /// The holder's pid: what `ip link … netns PID` takes.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that will run in this machine, in directory `/`, and die with the calling thread.
    pub(crate) fn command(&self, program: &str) -> Command {
        need(program);
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid()));
        command.args(["--net", "--mount", "--", "setpriv", "--pdeathsig", "KILL", "--", program]);
        command
    }

    /// Runs a command here for at most 20 s and returns what it printed; panics unless it succeeds.
    #[track_caller]
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        need(program);
        let mut command = self.command("timeout");
        succeed(command.args(["--kill-after=1", "20", program]).args(arguments))
    }

    /// Runs a command here for at most 20 s and returns how it ended.
    #[track_caller]
    pub(crate) fn attempt(&self, program: &str, arguments: &[&str]) -> Output {
        need(program);
        let mut command = self.command("timeout");
        finish(command.args(["--kill-after=1", "20", program]).args(arguments))
    }

    /// Runs `ip` here, the arguments parted by spaces.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run("ip", &arguments.split(' ').collect::<Vec<_>>())
    }

    /// Starts a daemon here.
    pub(crate) fn start(&self, program: &str, arguments: &[&str]) -> Process {
        let label = format!("{} on {}", program.rsplit('/').next().unwrap_or(program), self.name);
        Process::start(&label, self.command(program).args(arguments))
    }

    /// Sets a kernel parameter of this machine's network, such as `net/ipv4/ip_nonlocal_bind`.
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        self.run("sh", &["-c", &format!("echo {value} > /proc/sys/{key}")]);
    }

    /// Runs a function on a thread inside this machine's network namespace. Sockets that it makes
    /// stay there and can be used from anywhere.
    pub(crate) fn inside<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.network, CloneFlags::CLONE_NEWNET)
                    .expect("cannot enter the machine's network namespace");
                function()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Binds a UDP socket here.
    pub(crate) fn udp(&self, address: &str) -> io::Result<UdpSocket> {
        self.inside(|| UdpSocket::bind(address))
    }

    /// Listens for TCP connections here.
    pub(crate) fn listen(&self, address: &str) -> io::Result<TcpListener> {
        self.inside(|| TcpListener::bind(address))
    }

    /// Connects by TCP from here.
    pub(crate) fn connect(&self, address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.inside(|| TcpStream::connect_timeout(&address, limit))
    }

    /// Whether an interface of this name is here.
    pub(crate) fn has_interface(&self, name: &str) -> bool {
        self.attempt("ip", &["link", "show", name]).status.success()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["addr", "route", "-6 route"] {
                let mut arguments = vec!["-brief"];
                arguments.extend(what.split(' '));
                let output = self.attempt("ip", &arguments);
                let text = String::from_utf8_lossy(&output.stdout);
                eprintln!("--- {}: ip {what}\n{text}", self.name);
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

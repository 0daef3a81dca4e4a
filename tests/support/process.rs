//! Child processes of a test: short commands under a deadline, and daemons that die with their test.
//!
//! A daemon writes to a log file; when the test fails, the end of each log is printed. Nothing is ever
//! ended by name: each process is killed by its own pid, by its `Drop` and, if the test process itself
//! is killed, by the kernel (`PR_SET_PDEATHSIG`, set by `setpriv`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Scratch, wait_for};

/// Programs of Debian that the tests start, and the packages that bring them.
const PACKAGES: &[(&str, &str)] = &[
    ("docker", "docker.io"),
    ("docker-compose", "docker-compose"),
    ("dockerd", "docker.io"),
    ("ethtool", "ethtool"),
    ("gnuplot", "gnuplot-nox"),
    ("ip", "iproute2"),
    ("ldd", "libc-bin"),
    ("iperf3", "iperf3"),
    ("iptables", "iptables"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("perl", "perl-base"),
    ("ping", "iputils-ping"),
    ("podman", "podman"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("setpriv", "util-linux"),
    ("ss", "iproute2"),
    ("strace", "strace"),
    ("tar", "tar"),
    ("tcpdump", "tcpdump"),
    ("timeout", "coreutils"),
    ("unshare", "util-linux"),
    ("wg", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
];

/// Panics, naming the Debian package, if a program is not there: never a silent skip.
pub(crate) fn need(program: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = Path::new(program).is_file()
        || std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !found {
        assert!(
            !program.ends_with("/boringtun-cli"),
            "{program} is not there: run scripts/test.sh, which installs it from crates.io"
        );
        let package = PACKAGES.iter().find(|(name, _)| *name == program);
        let package = package.map_or(program, |(_, package)| package);
        panic!(
            "`{program}` is not installed: run `apt-get install {package}` (scripts/test.sh does)"
        );
    }
}

/// What a finished command said; panics with all of it unless the command succeeded.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = finish(command);
    assert!(
        output.status.success(),
        "{command:?}\nended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a finished command said and how it ended.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Output {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?}\ncannot be started: {error}"),
    }
}

/// A daemon that a test started.
pub(crate) struct Process {
    label: String,
    child: Child,
    log: PathBuf,
    /// Keeps the log's directory.
    _scratch: Option<Scratch>,
}

impl Process {
    /// Starts a command whose output goes to a log file of its own.
    pub(crate) fn start(label: &str, command: &mut Command) -> Self {
        let scratch = Scratch::new("log");
        let log = scratch.path().join("log");
        let file = File::create(&log).expect("cannot make a log file");
        let copy = file.try_clone().expect("cannot share a log file");
        command.stdin(Stdio::null()).stdout(copy).stderr(file);
        let mut process = Self::spawn(label, command, log);
        process._scratch = Some(scratch);
        process
    }

    /// Starts a command with the streams that it has, and that writes this log itself.
    pub(crate) fn spawn(label: &str, command: &mut Command, log: PathBuf) -> Self {
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}\ncannot be started: {error}"));
        Self { label: label.to_owned(), child, log, _scratch: None }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it has written so far.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("cannot wait for a child")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.id().try_into().expect("a pid is small"));
        kill(pid, signal)
            .unwrap_or_else(|error| panic!("cannot send {signal:?} to {}: {error}", self.label));
    }

    /// Whether SIGSTOP has reached all of its threads.
    pub(crate) fn is_stopped(&self) -> bool {
        let mut stats = self.threads("stat");
        stats.all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    }

    /// Kills it as `kill -9` does and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits; returns how it ended and how long that took.
    #[track_caller]
    pub(crate) fn terminate(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal(Signal::SIGTERM);
        let (status, _) = wait_for(&format!("the end of {}", self.label), limit, || self.ended());
        (status, start.elapsed())
    }

    /// Resident memory in bytes (`VmRSS`).
    pub(crate) fn resident(&self) -> u64 {
        self.memory("status", "VmRSS:")
    }

    /// The same with its share of what it shares with others (`Pss`).
    pub(crate) fn proportional(&self) -> u64 {
        self.memory("smaps_rollup", "Pss:")
    }

    fn memory(&self, file: &str, field: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.id());
        let text = std::fs::read_to_string(path).expect("the process is gone");
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        let kilobytes = kilobytes.and_then(|count| count.parse::<u64>().ok());
        1024 * kilobytes.unwrap_or_else(|| panic!("no {field} in {file}"))
    }

    /// Processor time used so far by all of its threads.
    pub(crate) fn processor_time(&self) -> Duration {
        let nanoseconds = self.threads("schedstat").map(|text| -> u64 {
            text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number")
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// What a file says of each of its threads.
    fn threads(&self, file: &str) -> impl Iterator<Item = String> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        threads.expect("the process is gone").map(move |thread| {
            let path = thread.expect("cannot read /proc").path().join(file);
            std::fs::read_to_string(path).expect("the thread is gone")
        })
    }

    /// How many file descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let directory = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        directory.expect("the process is gone").count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            // Alertmanager's answer to a question that a test asks every 5 ms.
            let lines: Vec<_> =
                log.lines().filter(|line| !line.contains("Failed to find silence")).collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n  ");
            eprintln!("--- {} (pid {}), end of its log:\n  {tail}", self.label, self.id());
        }
        self.kill();
    }
}

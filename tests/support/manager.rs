//! A service manager as hushwire sees systemd: it hears what a service says, keeps its descriptors, and
//! passes them to the next start. What it does with them is written in sd_notify(3) and sd_listen_fds(3).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hushwire::sys::rights;

use super::machine::Machine;
use super::process::Process;
use super::tunnel::HUSHWIRE;
use super::{Scratch, millis};

/// The shell passes on what it was given as standard streams; no other child ever has these descriptors.
const START: &str = "LISTEN_PID=$$ LISTEN_FDS=$2 LISTEN_FDNAMES=$3
export LISTEN_PID LISTEN_FDS LISTEN_FDNAMES
case $2 in 0) unset LISTEN_PID LISTEN_FDS LISTEN_FDNAMES ;; esac
exec \"$0\" up --config \"$1\" 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>>\"$4\"";

/// The manager of one service.
pub(crate) struct Manager {
    socket: UnixDatagram,
    directory: Scratch,
    /// What it keeps, by name, in the order in which it came.
    pub(crate) store: BTreeMap<String, Vec<OwnedFd>>,
    /// All that was said.
    pub(crate) said: Vec<String>,
    /// Sets `$WATCHDOG_USEC`.
    pub(crate) watchdog: Option<Duration>,
    /// Sets `$CREDENTIALS_DIRECTORY`.
    pub(crate) credentials: Option<PathBuf>,
}

impl Manager {
    /// Makes one that nobody speaks to yet.
    pub(crate) fn new() -> Self {
        let directory = Scratch::new("manager");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("cannot bind");
        let (store, said) = (BTreeMap::new(), Vec::new());
        Self { socket, directory, store, said, watchdog: None, credentials: None }
    }

    /// Starts `hushwire up` in a machine with what is kept; at most three descriptors.
    pub(crate) fn start(&self, machine: &Machine, config: &str) -> Process {
        let kept = self.store.iter().flat_map(|(name, fds)| fds.iter().map(move |fd| (name, fd)));
        let (names, fds): (Vec<_>, Vec<_>) = kept.map(|(name, fd)| (name.as_str(), fd)).unzip();
        assert!(fds.len() <= 3, "more than the shell can pass: {names:?}");
        let mut streams = fds.iter().map(|fd| Stdio::from(fd.try_clone().expect("a copy")));
        let mut stream = || streams.next().unwrap_or_else(Stdio::null);
        let mut command = machine.command("sh");
        let (count, log) = (fds.len().to_string(), self.directory.path().join("log"));
        command.args(["-c", START, HUSHWIRE, config, &count, &names.join(":")]).arg(&log);
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify")).env("FDSTORE", "8");
        if let Some(watchdog) = self.watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        if let Some(directory) = &self.credentials {
            command.env("CREDENTIALS_DIRECTORY", directory);
        }
        command.stdin(stream()).stdout(stream()).stderr(stream());
        Process::spawn(&format!("hushwire on {}", machine.name), &mut command, log)
    }

    /// The log of all starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Hears for so long; returns what was said meanwhile.
    pub(crate) fn hear(&mut self, time: Duration) -> Vec<String> {
        let (start, before) = (Instant::now(), self.said.len());
        while let Some(left) = time.checked_sub(start.elapsed()) {
            self.hear_one(left.max(millis(1)));
        }
        self.said[before..].to_vec()
    }

    /// Hears until something is said that begins so; returns all of that message.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, beginning: &str, limit: Duration) -> String {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.hear_one(millis(50)) {
                let last = &self.said[self.said.len() - 1];
                if last.starts_with(beginning) {
                    return last.clone();
                }
            }
        }
        panic!("{beginning} was not said in {limit:?}: {:#?}\n{}", self.said, self.log());
    }

    fn hear_one(&mut self, patience: Duration) -> bool {
        self.socket.set_read_timeout(Some(patience)).expect("a time");
        let mut bytes = [0; 4096];
        let Ok((length, fd)) = rights::receive(self.socket.as_fd(), &mut bytes) else {
            return false;
        };
        let message = String::from_utf8(bytes[..length].to_vec()).expect("text");
        let field = |name: &str| {
            let lines = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            lines.map(str::to_owned)
        };
        if field("FDSTOREREMOVE").is_some() {
            self.store.remove(&field("FDNAME").expect("a name"));
        }
        if field("FDSTORE").is_some() {
            let fd = fd.expect("a descriptor to be kept");
            self.store.entry(field("FDNAME").expect("a name")).or_default().push(fd);
        }
        self.said.push(message);
        true
    }
}

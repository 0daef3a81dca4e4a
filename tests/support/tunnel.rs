//! hushwire in a machine, and the one file that all machines share.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use hushwire::status::{PeerStatus, Status};
use hushwire::wireguard::PrivateKey;
use nix::sys::signal::Signal;

use super::lab::{Family, overlay, underlay, with_port};
use super::machine::Machine;
use super::process::Process;
use super::{Scratch, millis, random_bytes, seconds, wait_for};

/// The program under test. To a package of its own cargo names no program: that is the bench, which wants
/// the optimised one.
pub(crate) const HUSHWIRE: &str = match option_env!("CARGO_BIN_EXE_hushwire") {
    Some(program) => program,
    None => concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/hushwire"),
};

/// The port of every tunnel, unless a test says otherwise.
pub(crate) const PORT: u16 = 51820;

/// One machine as the shared file has it, with its private key beside it.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) private_key: PrivateKey,
    pub(crate) endpoint: Option<String>,
    pub(crate) allowed_ips: Vec<String>,
    /// Further lines of its `[[peer]]` block.
    pub(crate) extra: String,
}

impl Identity {
    /// The identity of a machine of the lab, with an overlay address of each of the families.
    pub(crate) fn new(number: usize, endpoint: Family, families: &[Family]) -> Self {
        let endpoint = with_port(&underlay(number, endpoint), PORT);
        let prefix = |family: &Family| match family {
            Family::V4 => format!("{}/32", overlay(number, Family::V4)),
            Family::V6 => format!("{}/128", overlay(number, Family::V6)),
        };
        Self {
            name: format!("machine{number}"),
            private_key: PrivateKey::from_random(random_bytes()),
            endpoint: Some(endpoint),
            allowed_ips: families.iter().map(prefix).collect(),
            extra: String::new(),
        }
    }

    /// Identities of machines 1 to `count`.
    pub(crate) fn all(count: usize, endpoint: Family, families: &[Family]) -> Vec<Self> {
        (1..=count).map(|number| Self::new(number, endpoint, families)).collect()
    }

    /// Its public key in base64.
    pub(crate) fn public_key(&self) -> String {
        self.private_key.public_key().to_string()
    }
}

/// The text of `hushwire.toml`: `head` (the `[interface]` section, if there is one), then the peers.
pub(crate) fn shared_file(head: &str, identities: &[Identity]) -> String {
    let mut text = format!("{head}\n");
    for identity in identities {
        let _ = writeln!(text, "[[peer]]");
        let _ = writeln!(text, "name = \"{}\"", identity.name);
        let _ = writeln!(text, "public_key = \"{}\"", identity.public_key());
        if let Some(endpoint) = &identity.endpoint {
            let _ = writeln!(text, "endpoint = \"{endpoint}\"");
        }
        let _ = writeln!(text, "allowed_ips = {:?}", identity.allowed_ips);
        let _ = writeln!(text, "{}", identity.extra);
    }
    text
}

/// What `hushwire init` writes above the blocks.
pub(crate) const GOSSIP_ONLY: &str = "[filter]\nallow = [\"tcp/9094\", \"udp/9094\", \"icmp\"]\n";

/// `hushwire up` in a machine.
pub(crate) struct Tunnel<'lab> {
    machine: &'lab Machine,
    process: Process,
    directory: Scratch,
}

impl<'lab> Tunnel<'lab> {
    /// Writes the files and starts the program; does not wait for it.
    pub(crate) fn start(machine: &'lab Machine, identity: &Identity, file: &str) -> Self {
        Self::start_with(machine, identity, file, &[])
    }

    /// Only writes the files: key and configuration in a directory of its own.
    pub(crate) fn write_files(identity: &Identity, file: &str) -> Scratch {
        let directory = Scratch::new("hushwire");
        write_secret(&directory, "private.key", &identity.private_key.to_base64());
        std::fs::write(directory.path().join("hushwire.toml"), file).expect("cannot write a file");
        directory
    }

    /// The same with further secret files, by name and text, beside the configuration.
    pub(crate) fn start_with(
        machine: &'lab Machine,
        identity: &Identity,
        file: &str,
        secrets: &[(&str, &str)],
    ) -> Self {
        let directory = Self::write_files(identity, file);
        for (name, text) in secrets {
            write_secret(&directory, name, text);
        }
        let process = up(machine, &directory);
        Self { machine, process, directory }
    }

    /// The same with a log that tells everything.
    pub(crate) fn start_talkative(
        machine: &'lab Machine,
        identity: &Identity,
        file: &str,
        secrets: &[(&str, &str)],
    ) -> Self {
        let directory = Self::write_files(identity, file);
        for (name, text) in secrets {
            write_secret(&directory, name, text);
        }
        let config = directory.path().join("hushwire.toml").display().to_string();
        let process = machine.start(HUSHWIRE, &["up", "--log-level", "trace", "--config", &config]);
        Self { machine, process, directory }
    }

    /// The same through another program, with its arguments; [`restart`](Self::restart) goes without it.
    pub(crate) fn start_through(
        machine: &'lab Machine,
        identity: &Identity,
        file: &str,
        before: &[&str],
    ) -> Self {
        let directory = Self::write_files(identity, file);
        let config = directory.path().join("hushwire.toml").display().to_string();
        let ours = [HUSHWIRE, "up", "--config", &config];
        let (program, arguments) = before.split_first().expect("a program");
        let process = machine.start(program, &[arguments, &ours].concat());
        Self { machine, process, directory }
    }

    /// Writes a file beside the configuration that only its owner may read.
    pub(crate) fn write_secret(&self, name: &str, text: &str) {
        write_secret(&self.directory, name, text);
    }

    /// Starts one tunnel for each identity, on machines 1, 2, …, and waits until all are attached. They
    /// have the filter that `hushwire init` writes.
    #[track_caller]
    pub(crate) fn start_all(lab: &'lab super::lab::Lab, identities: &[Identity]) -> Vec<Self> {
        Self::start_all_with(lab, GOSSIP_ONLY, identities)
    }

    /// The same with another head of the file.
    #[track_caller]
    pub(crate) fn start_all_with(
        lab: &'lab super::lab::Lab,
        head: &str,
        identities: &[Identity],
    ) -> Vec<Self> {
        let file = shared_file(head, identities);
        let mut tunnels: Vec<_> = (1..)
            .zip(identities)
            .map(|(number, identity)| Self::start(lab.machine(number), identity, &file))
            .collect();
        tunnels.iter_mut().for_each(Self::wait_until_attached);
        tunnels
    }

    /// Waits until the overlay interface is there, addressed and up.
    #[track_caller]
    pub(crate) fn wait_until_attached(&mut self) {
        let what = format!("hushwire on {} to be attached", self.machine.name);
        wait_for(&what, seconds(5), || {
            assert!(self.process.ended().is_none(), "hushwire ended:\n{}", self.process.log());
            self.try_status().filter(|status| status.interface.attached)
        });
    }

    /// Runs a subcommand of hushwire in this machine with this tunnel's `--config`.
    #[track_caller]
    pub(crate) fn hushwire(&self, subcommand: &str, arguments: &[&str]) -> Output {
        let config = self.config_path().display().to_string();
        let mut all = vec![subcommand, "--config", &config];
        all.extend_from_slice(arguments);
        self.machine.attempt(HUSHWIRE, &all)
    }

    /// The flags for Alertmanager, as `hushwire alertmanager-flags` prints them.
    #[track_caller]
    pub(crate) fn alertmanager_flags(&self) -> Vec<String> {
        let output = self.hushwire("alertmanager-flags", &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// What `hushwire status --json` says.
    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        let output = self.hushwire("status", &["--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("status --json is no Status")
    }

    /// One peer of `hushwire status --json`.
    #[track_caller]
    pub(crate) fn peer(&self, name: &str) -> PeerStatus {
        let peers = self.status().peers;
        let found = peers.into_iter().find(|peer| peer.name.as_deref() == Some(name));
        found.unwrap_or_else(|| panic!("status shows no peer {name}"))
    }

    /// The same, if there is one that answers.
    pub(crate) fn try_status(&self) -> Option<Status> {
        serde_json::from_slice(&self.hushwire("status", &["--json"]).stdout).ok()
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same files.
    pub(crate) fn restart(&mut self) {
        self.process = up(self.machine, &self.directory);
    }

    /// Writes another configuration file over the old one; takes effect on [`reload`](Self::reload).
    pub(crate) fn write_config(&self, file: &str) {
        std::fs::write(self.config_path(), file).expect("cannot write a file");
    }

    /// Sends SIGHUP.
    pub(crate) fn reload(&self) {
        self.process.signal(Signal::SIGHUP);
    }

    /// Asks it to end and waits; returns how long that took.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> Duration {
        let (status, time) = self.process.terminate(seconds(5));
        assert!(status.success(), "hushwire ended with {status}:\n{}", self.process.log());
        time
    }

    /// Its process.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.path().join("hushwire.toml")
    }
}

impl Drop for Tunnel<'_> {
    /// Asks it to end first: killed, as the process is by its own `drop`, it would leave its keeper.
    fn drop(&mut self) {
        let start = Instant::now();
        if self.process.ended().is_none() {
            self.process.signal(Signal::SIGTERM);
            while self.process.ended().is_none() && start.elapsed() < seconds(1) {
                std::thread::sleep(millis(2));
            }
        }
    }
}

fn up(machine: &Machine, directory: &Scratch) -> Process {
    let config = directory.path().join("hushwire.toml").display().to_string();
    machine.start(HUSHWIRE, &["up", "--config", &config])
}

fn write_secret(directory: &Scratch, name: &str, text: &str) {
    let path = directory.path().join(name);
    std::fs::write(&path, format!("{text}\n")).expect("cannot write a file");
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, owner_only).expect("cannot change a file's mode");
}

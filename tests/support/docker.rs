//! A container engine of one machine: Debian's dockerd with everything of its own, and images of local files.
//!
//! ```text
//!   machine (network and mount namespace, /run is its own)
//!   +------------------------------------------------------------------+
//!   |  eth0 (if the lab gave it one)        docker0 172.17.0.1/16      |
//!   |  dockerd: /run/docker.sock               |                       |
//!   |                                  containers 172.17.0.2 ...       |
//!   +------------------------------------------------------------------+
//! ```
//!
//! A shell keeps the engine and reads a pipe from the test. When that closes, however the test ends, the
//! shell asks the engine to end, which stops the containers, and kills by pid what is left of them. Layers
//! are in a [`Scratch`]; iptables rules, bridges and sockets go with the machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::machine::Machine;
use super::process::{need, succeed};
use super::{Scratch, seconds, wait_for};

/// Where the engine listens, in its machine.
pub(crate) const SOCKET: &str = "/run/docker.sock";

/// The image that [`Docker::alertmanager_image`] makes.
pub(crate) const ALERTMANAGER: &str = "alertmanager";

/// What runs an engine: `$1` is its directory, the rest are its own options. It obeys the words start, stop
/// (as a service manager does) and kill (as `kill -9` does), and answers each when it is done. `/etc/docker`
/// is the machine's own, so that no plugin or setting of the computer has a say; cgroups are mounted where
/// nobody has. What is left at the end is known by the engine's directory or by its cgroup.
const ENGINE: &str = r#"
directory=$1; shift
group=${directory##*/}
mkdir -p /etc/docker && mount -t tmpfs docker /etc/docker
if ! grep -q ' /sys/fs/cgroup' /proc/mounts; then mount -t cgroup2 docker /sys/fs/cgroup; fi
daemon=
end() { if [ "$daemon" ]; then kill "-$1" $daemon; wait $daemon; daemon=; fi; }
while read -r word; do
  case $word in
    start)
      dockerd --host unix:///run/docker.sock --data-root "$directory/data" \
        --exec-root "$directory/exec" --pidfile "$directory/pid" --cgroup-parent "/$group" \
        --shutdown-timeout 5 "$@" </dev/null >>"$directory/log" 2>&1 &
      daemon=$!;;
    stop) end TERM;;
    # A dead containerd that nobody has waited for yet counts as one that runs.
    kill) end KILL; rm -f "$directory/exec/containerd/containerd.pid";;
  esac
  echo "$word"
done
end TERM
exec 2>/dev/null
kill -KILL $(cat /dev/null $(find /sys/fs/cgroup -path "*/$group/*" -name cgroup.procs))
for process in /proc/[0-9]*; do
  if [ "${process#/proc/}" != $$ ] && tr '\0' ' ' <"$process/cmdline" | grep -qF "$directory/exec"
  then kill -KILL "${process#/proc/}"; fi
done
find /sys/fs/cgroup -depth -type d \( -path "*/$group" -o -path "*/$group/*" \) -exec rmdir {} +
true
"#;

/// An engine in a machine.
pub(crate) struct Docker<'lab> {
    machine: &'lab Machine,
    shell: Child,
    /// The engine ends when this is closed.
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Removed after the engine has ended: fields drop in this order.
    scratch: Scratch,
}

impl<'lab> Docker<'lab> {
    /// Starts an engine and waits until it answers.
    #[track_caller]
    pub(crate) fn start(machine: &'lab Machine) -> Self {
        Self::start_with(machine, &[])
    }

    /// The same with further options of dockerd, such as `--live-restore`.
    #[track_caller]
    pub(crate) fn start_with(machine: &'lab Machine, options: &[&str]) -> Self {
        let mut this = Self::prepare(machine, options);
        this.start_engine();
        this
    }

    /// Has everything ready for [`Docker::start_engine`].
    #[track_caller]
    pub(crate) fn prepare(machine: &'lab Machine, options: &[&str]) -> Self {
        for program in ["dockerd", "docker", "iptables", "tar", "ldd"] {
            need(program);
        }
        assert!(is_root(), "a container engine needs root, and not that of a user namespace");
        let scratch = Scratch::new("docker");
        // No `setpriv --pdeathsig` here: the shell must outlive a test that is killed.
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", machine.pid()));
        command.args(["--net", "--mount", "--", "sh", "-c", ENGINE, "docker"]);
        command.arg(scratch.path()).args(options);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut shell = spawned.expect("cannot start nsenter");
        let words = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().expect("stdout is a pipe"));
        Self { machine, shell, words, answers, scratch }
    }

    /// Starts the engine (again) and waits until it answers.
    #[track_caller]
    pub(crate) fn start_engine(&mut self) {
        self.tell("start");
        let what = format!("the engine on {} to answer", self.machine.name);
        wait_for(&what, seconds(30), || self.attempt(&["version"]).status.success().then_some(()));
    }

    /// Ends the engine as a service manager does, and waits. Its containers are stopped, unless it was
    /// started with `--live-restore`.
    pub(crate) fn stop_engine(&mut self) {
        self.tell("stop");
    }

    /// Kills the engine; its containers go on.
    pub(crate) fn kill_engine(&mut self) {
        self.tell("kill");
    }

    fn tell(&mut self, word: &str) {
        let words = self.words.as_mut().expect("open until the drop");
        writeln!(words, "{word}").expect("the engine's shell is gone");
        let mut answer = String::new();
        let _ = self.answers.read_line(&mut answer);
        assert_eq!(answer.trim(), word, "the engine's shell ended:\n{}", self.log());
    }

    /// The engine's machine.
    pub(crate) fn machine(&self) -> &'lab Machine {
        self.machine
    }

    /// Runs `docker`; panics unless it succeeds; returns what it printed, trimmed.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        self.machine.run("docker", &Self::arguments(arguments)).trim().to_owned()
    }

    /// Runs `docker` and returns how it ended.
    #[track_caller]
    pub(crate) fn attempt(&self, arguments: &[&str]) -> Output {
        self.machine.attempt("docker", &Self::arguments(arguments))
    }

    fn arguments<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--host", "unix:///run/docker.sock"], arguments].concat()
    }

    /// Makes an image of local files, each with the place that it gets; programs bring their libraries.
    /// `changes` are lines of a Dockerfile, such as `ENTRYPOINT ["/bin/alertmanager"]`.
    #[track_caller]
    pub(crate) fn image(&self, name: &str, files: &[(&Path, &str)], changes: &[&str]) {
        let scratch = Scratch::new("image");
        let root = scratch.path().join("root");
        for (from, to) in files {
            copy(from, &root.join(to.trim_start_matches('/')));
            for library in libraries(from) {
                let inside = library.to_str().expect("a path of ASCII").trim_start_matches('/');
                copy(&library, &root.join(inside));
            }
        }
        let tar = scratch.path().join("image.tar");
        let (tar, root) = (tar.display().to_string(), root.display().to_string());
        succeed(Command::new("tar").args([
            "-C",
            &root,
            "--owner=0",
            "--group=0",
            "-cf",
            &tar,
            ".",
        ]));
        let mut arguments = vec!["import"];
        arguments.extend(changes.iter().flat_map(|&change| ["--change", change]));
        arguments.extend([tar.as_str(), name]);
        self.cli(&arguments);
    }

    /// Makes the image [`ALERTMANAGER`]: Debian's, with the layout and the defaults of the official one.
    #[track_caller]
    pub(crate) fn alertmanager_image(&self) {
        need("prometheus-alertmanager");
        let scratch = Scratch::new("alertmanager");
        let file = scratch.path().join("alertmanager.yml");
        fs::write(&file, super::alertmanager::CONFIGURATION).expect("cannot write a file");
        let templates = "/usr/share/prometheus/alertmanager";
        let mut files = vec![
            (PathBuf::from("/usr/bin/prometheus-alertmanager"), "/bin/alertmanager".to_owned()),
            (file, "/etc/alertmanager/alertmanager.yml".to_owned()),
        ];
        for template in ["default.tmpl", "email.tmpl"] {
            let path = format!("{templates}/{template}");
            files.push((PathBuf::from(&path), path));
        }
        let files: Vec<_> = files.iter().map(|(from, to)| (from.as_path(), to.as_str())).collect();
        let changes = [
            "ENTRYPOINT [\"/bin/alertmanager\"]",
            "CMD [\"--config.file=/etc/alertmanager/alertmanager.yml\"]",
            "WORKDIR /alertmanager",
            "EXPOSE 9093",
        ];
        self.image(ALERTMANAGER, &files, &changes);
    }

    /// Runs an Alertmanager in a container, in the background: options of `docker run`, then flags.
    #[track_caller]
    pub(crate) fn run_alertmanager(&self, name: &str, options: &[&str], flags: &[String]) {
        let mut arguments = vec!["run", "--detach", "--name", name];
        arguments.extend_from_slice(options);
        arguments.extend([ALERTMANAGER, "--config.file=/etc/alertmanager/alertmanager.yml"]);
        arguments.extend(["--storage.path=/alertmanager/data", "--log.level=debug"]);
        arguments.extend(flags.iter().map(String::as_str));
        self.cli(&arguments);
    }

    /// A field of `docker inspect`, as a Go template such as `{{.State.Pid}}`.
    #[track_caller]
    pub(crate) fn inspect(&self, container: &str, template: &str) -> String {
        self.cli(&["inspect", "--format", template, container])
    }

    /// The pid of a container's first process; none when it does not run.
    #[track_caller]
    pub(crate) fn pid(&self, container: &str) -> Option<u32> {
        let pid = self.inspect(container, "{{.State.Pid}}").parse().expect("a number");
        (pid != 0).then_some(pid)
    }

    /// Where a container's port can be reached from the machine, by the default bridge.
    #[track_caller]
    pub(crate) fn address(&self, container: &str, port: u16) -> SocketAddr {
        let address = self.inspect(container, "{{.NetworkSettings.IPAddress}}");
        SocketAddr::new(address.parse().expect("the container has no address"), port)
    }

    /// What a container has printed.
    pub(crate) fn logs(&self, container: &str) -> String {
        let output = self.attempt(&["logs", container]);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Runs a program of the machine inside a container's network namespace.
    #[track_caller]
    pub(crate) fn inside(&self, container: &str, program: &str, arguments: &[&str]) -> String {
        let pid = self.pid(container).unwrap_or_else(|| panic!("{container} does not run"));
        let net = format!("--net=/proc/{pid}/ns/net");
        self.machine.run("nsenter", &[&[net.as_str(), program], arguments].concat())
    }

    /// Begins to listen to the engine's events.
    #[track_caller]
    pub(crate) fn events(&self) -> Events {
        let mut command = self.machine.command("docker");
        command.args(Self::arguments(&["events", "--format", "{{json .}}"]));
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut listener = spawned.expect("cannot start docker");
        let output = BufReader::new(listener.stdout.take().expect("stdout is a pipe"));
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        // It prints nothing when it has begun: an event of our own shows it.
        let events = Events { listener, events };
        let probe = format!("probe-{}", fastrand::u64(..));
        let what = "events to be heard";
        wait_for(what, seconds(10), || {
            self.attempt(&["volume", "create", &probe]);
            self.attempt(&["volume", "rm", &probe]);
            let heard = events.next(Duration::from_millis(100), |event| {
                event["Type"] == "volume" && event["Actor"]["ID"] == probe.as_str()
            });
            heard.map(|_| ())
        });
        events
    }

    /// What the engine has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
            eprintln!("--- dockerd on {}, end of its log:\n  {tail}", self.machine.name);
            let names = self.attempt(&["ps", "--all", "--format", "{{.Names}}"]).stdout;
            for name in String::from_utf8_lossy(&names).lines() {
                let log = self.logs(name);
                let lines: Vec<_> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
                eprintln!("--- container {name}, end of its log:\n  {tail}");
            }
        }
        drop(self.words.take());
        let _ = self.shell.wait();
    }
}

/// The engine's events from now on.
pub(crate) struct Events {
    listener: Child,
    events: Receiver<Value>,
}

impl Events {
    /// Waits for an event; those before it are forgotten. None after `limit`.
    pub(crate) fn next(&self, limit: Duration, is: impl Fn(&Value) -> bool) -> Option<Value> {
        let until = Instant::now() + limit;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) if is(&event) => return Some(event),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits until a container has started; returns when that was, on the engine's clock, in nanoseconds
    /// since 1970.
    #[track_caller]
    pub(crate) fn started(&self, container: &str) -> u128 {
        let event = self.next(seconds(30), |event| {
            event["Type"] == "container"
                && event["Action"] == "start"
                && event["Actor"]["Attributes"]["name"] == container
        });
        let event = event.unwrap_or_else(|| panic!("no event tells that {container} started"));
        event["timeNano"].as_u64().expect("an event has its time").into()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

/// Whether an engine can run here: it wants root, and not only in a user namespace.
pub(crate) fn is_root() -> bool {
    let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    nix::unistd::Uid::effective().is_root()
        && users.split_whitespace().nth(2).is_some_and(|count| count != "1")
}

/// The libraries of a program, with its loader; none for a static one or for another file.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("cannot start ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).filter(|path| path.is_file() && path != program).collect()
}

fn copy(from: &Path, to: &Path) {
    let directory = to.parent().expect("a file is in a directory");
    fs::create_dir_all(directory).expect("cannot make a directory");
    fs::copy(from, to).unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
    // Readable for whoever a container runs as.
    let mode = fs::metadata(from).expect("it was copied").permissions().mode() | 0o444;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).expect("cannot change a mode");
}

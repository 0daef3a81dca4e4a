//! `hushwire status` and `hushwire wait` against a control socket that answers.
//!
//! The socket is the real one, with a made-up status behind it, in the real directory: the right to
//! write to /var/run/wireguard is needed, as for `hushwire up`. Interfaces are named by our pid.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hushwire::status::{InterfaceStatus, PeerStatus, Status};
use hushwire::uapi::{Call, Listener, Reply, Request};
use hushwire::wireguard::SessionState;
use tokio::sync::{mpsc, oneshot};

/// Answers `status=1` with what it holds, until dropped.
struct Daemon {
    interface: String,
    status: Arc<Mutex<Status>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(suffix: &str, status: Status) -> Self {
        let interface = format!("hwr{}{suffix}", std::process::id());
        let (ready, bound) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let status = Arc::new(Mutex::new(status));
        let (answer, name) = (status.clone(), interface.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = Listener::bind(&name).unwrap();
                ready.send(()).unwrap();
                let (sender, mut calls) = mpsc::channel(1);
                let answers = async {
                    while let Some(Call { request, reply }) = calls.recv().await {
                        assert_eq!(request, Request::Status);
                        let status = answer.lock().unwrap().clone();
                        let _ = reply.send(Reply::Status(Box::new(status)));
                    }
                };
                tokio::select! {
                    () = listener.serve(sender) => {}
                    () = answers => {}
                    _ = stopped => {}
                }
            });
        });
        bound.recv().expect("the socket is there: this test needs root");
        Self { interface, status, stop: Some(stop), thread: Some(thread) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hushwire"));
        command.args(arguments).args(["--interface", &self.interface]);
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A child that ends with the test, also when that panics.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn status(peers: &[(&str, SessionState)]) -> Status {
    let key = "gDYXBOEU38eQg+73lTqpIVBCMShxac9JTzwXN4xhvG8=";
    let peer = |&(name, session): &(&str, SessionState)| PeerStatus {
        name: Some(name.into()),
        public_key: key.into(),
        configured_endpoint: Some("machine2.example.org:51820".into()),
        endpoint: "192.0.2.2:51820".parse().ok(),
        allowed_ips: vec!["10.99.0.2/32".parse().unwrap()],
        allow: None,
        session,
        handshake_age_seconds: Some(12.0),
        last_heard_seconds: Some(0.2),
        unanswered_initiations: 4,
        rx_bytes: 1,
        tx_bytes: 2,
        rx_packets: 1,
        tx_packets: 2,
        gossip_resent: 0,
        drops: Default::default(),
    };
    Status {
        version: "0.1.0".into(),
        pid: 1,
        uptime_seconds: 3.0,
        interface: InterfaceStatus {
            name: "hush0".into(),
            machine: Some("machine1".into()),
            public_key: key.into(),
            address: vec!["10.99.0.1/32".parse().unwrap()],
            listen_port: 51820,
            mtu: 1440,
            filter: None,
            netns: None,
            attached: true,
            detail: String::new(),
            guard: Default::default(),
        },
        rights: Default::default(),
        peers: peers.iter().map(peer).collect(),
        drops: Default::default(),
    }
}

#[test]
fn status_prints_text_and_json() {
    let given = status(&[("machine2", SessionState::Established)]);
    let daemon = Daemon::start("s", given.clone());
    let (code, out, err) = daemon.run(&["status"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.starts_with("hush0  machine1  10.99.0.1/32  mtu 1440  port 51820  up 3.0 s\n"),
        "{out}"
    );
    assert!(out.contains("\nmachine2  10.99.0.2/32  session established\n"), "{out}");
    let (code, out, err) = daemon.run(&["status", "--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(serde_json::from_str::<Status>(&out).unwrap(), given);
}

#[test]
fn status_watch_shows_what_changes_and_ends_with_its_reader() {
    let daemon = Daemon::start("w", status(&[("machine2", SessionState::Handshaking)]));
    let mut child = Running(
        daemon.command(&["status", "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut session = || {
        let line = lines.next().unwrap().unwrap();
        serde_json::from_str::<Status>(&line).unwrap().peers[0].session
    };
    assert_eq!(session(), SessionState::Handshaking);
    *daemon.status.lock().unwrap() = status(&[("machine2", SessionState::Established)]);
    assert!((0..5).any(|_| session() == SessionState::Established));
    drop(lines);
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

/// With JSON the first missed answer was the end, though a restart is what is watched.
#[test]
fn status_watch_goes_on_in_json_too_when_an_answer_is_missed() {
    let given = status(&[("machine2", SessionState::Established)]);
    let daemon = Daemon::start("j", given.clone());
    let mut command = daemon.command(&["status", "--watch", "--json"]);
    let mut child = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut remarks = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let mut shown = || {
        let line = lines.next().expect("it goes on").unwrap();
        serde_json::from_str::<Status>(&line).unwrap()
    };
    assert_eq!(shown(), given);
    drop(daemon);
    let remark = remarks.next().expect("it says so").unwrap();
    assert!(remark.starts_with("hushwire: no hushwire runs for interface"), "{remark}");
    let mut later = given;
    later.uptime_seconds = 0.5;
    let _daemon = Daemon::start("j", later.clone());
    assert!((0..5).any(|_| shown() == later));
    assert_eq!(child.0.try_wait().unwrap(), None);
}

#[test]
fn wait_ends_as_soon_as_enough_peers_have_a_session() {
    let waiting =
        [("machine2", SessionState::Established), ("machine3", SessionState::Handshaking)];
    let daemon = Daemon::start("e", status(&waiting));
    for peers in ["0", "1"] {
        let (code, out, err) = daemon.run(&["wait", "--peers", peers]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert_eq!(out, format!("{} is up; 1 of 2 peers have a session\n", daemon.interface));
    }
    let mut child = Running(daemon.command(&["wait", "--peers", "2"]).spawn().unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(child.0.try_wait().unwrap(), None, "waits");
    *daemon.status.lock().unwrap() =
        status(&waiting.map(|(name, _)| (name, SessionState::Established)));
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn wait_with_a_patience_waits_for_hushwire_to_be_started_too() {
    let missing = std::env::temp_dir().join("hushwire-no-such-file.toml");
    let interface = format!("hww{}", std::process::id() % 1_000_000);
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_hushwire"))
        .args(["wait", "--timeout", "1", "--interface", &interface, "--config"])
        .arg(missing)
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(waiting.try_wait().unwrap(), None, "waits");
    assert_eq!(waiting.wait().unwrap().code(), Some(1));
}

/// Another file than the one that was meant counted for none: `wait` found some hush0 that was up.
#[test]
fn a_file_that_is_named_and_cannot_be_read_is_an_error() {
    let scratch = std::env::temp_dir().join(format!("hushwire-named-{}.toml", std::process::id()));
    let file = scratch.to_str().unwrap();
    std::fs::write(&scratch, "[interface]\nname = office\n").unwrap();
    for (command, file, expected) in [
        ("status", "/nonexistent/office.toml", "/nonexistent/office.toml: cannot be read: "),
        ("wait", "/nonexistent/office.toml", "/nonexistent/office.toml: cannot be read: "),
        ("wait", file, &format!("{file}:2:8: this is no TOML")),
    ] {
        let mut hushwire = Command::new(env!("CARGO_BIN_EXE_hushwire"));
        let output = hushwire.args([command, "--config", file]).output().unwrap();
        let (out, err) = (output.stdout, String::from_utf8(output.stderr).unwrap());
        assert_eq!((output.status.code(), out.as_slice()), (Some(2), &b""[..]), "{err}");
        assert!(err.starts_with(expected), "{err}");
    }
    std::fs::remove_file(&scratch).unwrap();
    // Whoever names the interface needs no file.
    let daemon = Daemon::start("c", status(&[]));
    let (code, ..) = daemon.run(&["wait", "--config", "/nonexistent/office.toml"]);
    assert_eq!(code, Some(0));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long it takes is what is tested")]
fn wait_says_what_is_missing_when_its_time_is_over() {
    let mut given = status(&[("machine2", SessionState::Handshaking)]);
    given.interface.attached = false;
    given.interface.detail = "waits for the namespace".into();
    let daemon = Daemon::start("m", given);
    let started = Instant::now();
    let (code, out, err) = daemon.run(&["wait", "--peers", "1", "--timeout", "0.5"]);
    let took = started.elapsed();
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_eq!(
        err,
        format!(
            "hushwire: {} is not ready after 0.5 s: the interface is not up: waits for the \
             namespace; 0 of 1 peers have a session; machine2 handshaking, 4 initiations unanswered\n",
            daemon.interface
        )
    );
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(5), "{took:?}");
}

/// A daemon that did not answer was given 2 s at each look, whatever was left: 4.5 s for half a second.
#[test]
#[allow(clippy::disallowed_methods, reason = "how long it takes is what is tested")]
fn wait_gives_a_daemon_that_does_not_answer_no_more_than_the_time_that_is_left() {
    let interface = format!("hwr{}q", std::process::id());
    let socket = format!("/var/run/wireguard/{interface}.sock");
    // It has a queue, and nobody takes from it.
    let _silent = UnixListener::bind(&socket).expect("this test needs root");
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_hushwire"))
        .args(["wait", "--timeout", "0.5", "--interface", &interface])
        .output()
        .unwrap();
    let took = started.elapsed();
    std::fs::remove_file(&socket).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("but did not answer within 0."), "{err}");
    assert!(took >= Duration::from_millis(500) && took < Duration::from_millis(1500), "{took:?}");
}

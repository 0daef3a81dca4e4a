//! The control socket as clients see it: its file, its conversations, and the real `wg` on it.
//!
//! A fake daemon holds a snapshot and answers each call. All but the last test make their socket in a
//! directory of their own; `wg` looks nowhere but in the real one, so its interface is named by our pid.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::reply::tests::{peer, snapshot};
use super::*;
use crate::config::HandedKey;
use crate::status::{InterfaceStatus, Status};
use crate::sys::flock::Lock;
use crate::sys::guard::Guard;
use crate::wireguard::{AllowedIpChange, Change, KEY_LEN, PresharedKey, PublicKey, Snapshot};

/// A directory that is removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("hushwire-uapi-{name}-{}", std::process::id()));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A daemon in a thread: answers from a snapshot, and keeps what it was told to change.
struct Daemon {
    changes: Arc<Mutex<Vec<Vec<Change>>>>,
    path: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(directory: &Path, interface: &str, snapshot: Snapshot) -> Self {
        let (ready, bound) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let (seen, directory, interface) =
            (changes.clone(), directory.to_owned(), interface.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = Listener::bind_in(&directory, &interface).unwrap();
                ready.send(listener.name().unwrap().path().to_owned()).unwrap();
                let (sender, mut calls) = mpsc::channel::<Call>(1);
                let answer = async {
                    while let Some(Call { request, reply }) = calls.recv().await {
                        let _ = reply.send(match request {
                            Request::Get => {
                                Reply::Get(render_get(&snapshot, 51820, 0, &|_| UNIX_EPOCH))
                            }
                            Request::Status => Reply::Status(Box::new(status())),
                            Request::Reload(reload) => Reply::Reload(outcome(&reload)),
                            // What a real daemon says when another process has the port.
                            Request::Set(changes) if changes.contains(&Change::ListenPort(9)) => {
                                Reply::Refused(Errno::PortInUse)
                            }
                            Request::Set(changes) => {
                                seen.lock().unwrap().push(changes);
                                Reply::Done
                            }
                        });
                    }
                };
                tokio::select! {
                    () = listener.serve(sender) => {}
                    () = answer => {}
                    _ = stopped => {}
                }
            });
        });
        let path = bound.recv().expect("the listener binds");
        Self { changes, path, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
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

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 1,
        uptime_seconds: 0.5,
        interface: InterfaceStatus {
            name: "hush0".into(),
            machine: None,
            public_key: PublicKey::from_bytes([1; KEY_LEN]).to_string(),
            address: vec!["10.99.0.1/32".parse().unwrap()],
            listen_port: 51820,
            mtu: 1440,
            filter: None,
            netns: None,
            attached: true,
            detail: String::new(),
            guard: Guard { policy_rules: true, nftables: true },
        },
        rights: Default::default(),
        peers: vec![],
        drops: Default::default(),
    }
}

/// Tells how many keys came; one without is refused.
fn outcome(reload: &Reload) -> ReloadOutcome {
    match reload.keys.len() {
        0 => ReloadOutcome::Refused("no key\nat all".to_owned()),
        count => ReloadOutcome::Done { changed: vec![count.to_string()], warnings: vec![] },
    }
}

/// Reads up to and with the empty line.
fn answer(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\n\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "cut short: {text:?}");
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn ask(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

#[test]
fn only_the_owner_can_open_it_and_nothing_is_left_of_it() {
    let scratch = Scratch::new("modes");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    assert_eq!(std::fs::metadata(&scratch.0).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::metadata(&daemon.path).unwrap().mode() & 0o7777, 0o600);
    let names = || std::fs::read_dir(&scratch.0).unwrap().count();
    assert_eq!(names(), 1, "the temporary name is gone");
    drop(daemon);
    assert_eq!(names(), 0);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let scratch = Scratch::new("open");
    std::fs::create_dir(&scratch.0).unwrap();
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o770)).unwrap();
    let error = bind(&scratch).unwrap_err();
    assert!(matches!(error, BindError::OpenDirectory(_)), "{error}");
}

fn bind(scratch: &Scratch) -> Result<Listener, BindError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    Listener::bind_in(&scratch.0, "hush0")
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let scratch = Scratch::new("stale");
    std::fs::create_dir(&scratch.0).unwrap();
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = socket_path(&scratch.0, "hush0");
    stop(UnixListener::bind(&path).unwrap());
    let stale = std::fs::metadata(&path).unwrap().ino();
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    let ours = std::fs::metadata(&path).unwrap().ino();
    assert_ne!(stale, ours);
    let error = bind(&scratch).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "another process serves {}; stop that one first, or give this one another interface name",
            path.display()
        )
    );
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), ours);
    assert_eq!(ask(&mut daemon.connect(), "set=1\n\n"), "errno=0\n\n");
}

/// Both found nobody: the second one's socket covered that of the first, and went when the second one ended.
#[test]
fn of_two_that_start_at_the_same_moment_the_second_finds_the_first() {
    let scratch = Scratch::new("moment");
    std::fs::create_dir(&scratch.0).unwrap();
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = socket_path(&scratch.0, "hush0");
    // The first one has looked, and its socket is not there yet.
    let lock = Lock::take(&scratch.0, Duration::ZERO).unwrap().expect("nobody else has it");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| bind(&scratch).map(drop));
        let directory = scratch.0.canonicalize().unwrap();
        let holders = || {
            let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == directory)).count()
        };
        while holders() < 2 && !second.is_finished() {
            std::thread::yield_now();
        }
        let _first = UnixListener::bind(&path).expect("the second one has put nothing there");
        drop(lock);
        let error = second.join().unwrap().unwrap_err();
        assert!(matches!(error, BindError::InUse(_)), "{error}");
    });
    assert!(path.exists(), "that of the first");
}

#[test]
fn a_file_that_is_no_socket_is_not_touched() {
    let scratch = Scratch::new("file");
    std::fs::create_dir(&scratch.0).unwrap();
    let path = socket_path(&scratch.0, "hush0");
    std::fs::write(&path, "precious").unwrap();
    let error = bind(&scratch).unwrap_err();
    assert!(matches!(error, BindError::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// The name may be somebody else's by the time we end: `wg` removes what seems stale to it, and then
/// another process may bind.
#[test]
fn a_socket_that_took_our_place_is_not_removed() {
    let scratch = Scratch::new("inode");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    let path = daemon.path.clone();
    // Renamed, not removed: a file system may give the next socket the inode that was freed.
    std::fs::rename(&path, scratch.0.join("moved")).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(daemon);
    assert!(path.exists());
}

#[test]
fn several_requests_on_one_connection_are_answered_in_sequence() {
    let scratch = Scratch::new("sequence");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    let mut stream = daemon.connect();
    let get = ask(&mut stream, "get=1\n\n");
    assert!(get.starts_with("private_key=abab"), "{get}");
    assert!(get.ends_with("\nlisten_port=51820\nerrno=0\n\n"), "{get}");
    assert_eq!(ask(&mut stream, "set=1\nfwmark=x\nfwmark=1\n\n"), "errno=-22\n\n");
    assert_eq!(ask(&mut stream, "what=1\n\n"), "errno=-71\n\n");
    assert_eq!(ask(&mut stream, "\n"), "errno=-71\n\n");
    assert_eq!(ask(&mut stream, "set=1\nlisten_port=9\n\n"), "errno=-98\n\n");
    // Two at once, and the second one in pieces.
    assert_eq!(ask(&mut stream, "set=1\nfwmark=7\n\nset=1\nfwm"), "errno=0\n\n");
    assert_eq!(ask(&mut stream, "ark=8\n\n"), "errno=0\n\n");
    let seen = daemon.changes.lock().unwrap().clone();
    assert_eq!(seen, [[Change::Fwmark(7)], [Change::Fwmark(8)]], "nothing of the bad ones");
}

#[test]
fn a_request_without_its_end_is_not_applied() {
    let scratch = Scratch::new("cut");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    for cut in ["set=1\nfwmark=7\n", "set=1\nfwmark=7", "s"] {
        let mut stream = daemon.connect();
        stream.write_all(cut.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(answer(&mut stream), "errno=-71\n\n", "{cut:?}");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "hangs up");
    }
    assert!(daemon.changes.lock().unwrap().is_empty());
}

#[test]
fn an_overlong_line_fails_its_request_only() {
    let scratch = Scratch::new("long");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    for length in [8_191, 8_192, 8_193, 40_000] {
        let mut stream = daemon.connect();
        let request = format!("set=1\nfwmark={}\n\n", "0".repeat(length - "fwmark=".len()));
        assert_eq!(
            ask(&mut stream, &request),
            if length < 8_192 { "errno=0\n\n" } else { "errno=-22\n\n" }
        );
        assert_eq!(ask(&mut stream, "set=1\n\n"), "errno=0\n\n");
    }
}

#[test]
fn clients_that_are_idle_or_in_the_middle_hold_up_nobody() {
    let scratch = Scratch::new("idle");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    let mut waiting: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    for stream in waiting.iter_mut().skip(150) {
        stream.write_all(b"set=1\nfwmark=1\n").unwrap();
    }
    assert_eq!(ask(&mut daemon.connect(), "set=1\nfwmark=7\n\n"), "errno=0\n\n");
    assert_eq!(fetch_status_in(&scratch.0, "hush0").unwrap(), status());
    assert_eq!(*daemon.changes.lock().unwrap(), [[Change::Fwmark(7)]]);
}

#[test]
fn one_client_too_many_takes_the_place_of_the_oldest() {
    let scratch = Scratch::new("oldest");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    let mut clients: Vec<_> = (0..64).map(|_| daemon.connect()).collect();
    // The last one is answered once all are accepted.
    for client in [63, 0] {
        assert_eq!(ask(&mut clients[client], "set=1\n\n"), "errno=0\n\n", "{client}");
    }
    assert_eq!(ask(&mut daemon.connect(), "set=1\n\n"), "errno=0\n\n");
    assert_eq!(clients[0].read(&mut [0]).unwrap(), 0, "hangs up");
    for client in &mut clients[1..] {
        assert_eq!(ask(client, "set=1\n\n"), "errno=0\n\n");
    }
}

#[test]
fn a_set_and_a_get_of_130_560_allowed_ips_go_through_the_socket() {
    let mut large = peer(1);
    for n in 0..65_280_u32 {
        let v4 = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n);
        large.allowed_ips.extend(
            [v4.into(), v4.to_ipv6_compatible().into()]
                .map(|a: std::net::IpAddr| ipnet::IpNet::from(a)),
        );
    }
    let scratch = Scratch::new("large");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![large.clone()]));
    let mut request = format!("set=1\npublic_key={}\n", large.public_key.to_hex());
    request.extend(large.allowed_ips.iter().map(|prefix| format!("allowed_ip={prefix}\n")));
    let mut stream = daemon.connect();
    assert_eq!(ask(&mut stream, &(request + "\n")), "errno=0\n\n");
    let changes = daemon.changes.lock().unwrap().pop().unwrap();
    let [Change::Peer(change)] = changes.as_slice() else { panic!("one peer") };
    assert!(
        change
            .allowed_ips
            .iter()
            .copied()
            .eq(large.allowed_ips.into_iter().map(AllowedIpChange::Add))
    );

    stream.write_all(b"get=1\n\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("\nallowed_ip=").count(), 130_560);
    assert!(text.ends_with("\nerrno=0\n\n"));
}

#[test]
fn mutated_requests_always_get_an_answer() {
    let scratch = Scratch::new("fuzz");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![peer(1)]));
    let key = "01".repeat(32);
    let good = format!("set=1\nprivate_key={key}\npublic_key={key}\nallowed_ip=10.0.0.0/8\n\n");
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..300 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..random.usize(1..5) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut stream = daemon.connect();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("errno=") && text.ends_with("\n\n"), "{bytes:?}: {text:?}");
    }
}

#[test]
fn a_reload_has_an_outcome_or_an_errno() {
    let scratch = Scratch::new("reload");
    let daemon = Daemon::start(&scratch.0, "hush0", snapshot(vec![]));
    let mut reload = Reload { config: Some("/a.toml".to_owned()), ..Reload::default() };
    let refused = ReloadOutcome::Refused("no key\nat all".to_owned());
    assert_eq!(request_reload_in(&scratch.0, "hush0", &reload).unwrap(), refused);
    let key = HandedKey::Preshared(PresharedKey::from_bytes([1; KEY_LEN]));
    reload.keys.insert("a".into(), key.clone());
    let done = ReloadOutcome::Done { changed: vec!["1".to_owned()], warnings: vec![] };
    assert_eq!(request_reload_in(&scratch.0, "hush0", &reload).unwrap(), done);
    // More than the socket's buffers hold at once.
    for number in 0..4095 {
        reload.keys.insert(format!("{number:0>80}").into(), key.clone());
    }
    let done = ReloadOutcome::Done { changed: vec!["4096".to_owned()], warnings: vec![] };
    assert_eq!(request_reload_in(&scratch.0, "hush0", &reload).unwrap(), done);
    let mut stream = daemon.connect();
    for bad in ["reload=2\n\n", "reload\n\n", "reload=1\nnonsense\n\n"] {
        assert_eq!(ask(&mut stream, bad), "errno=-71\n\n", "{bad:?}");
    }
    assert_eq!(ask(&mut stream, "reload=1\nprivate_key_file=a\n\n"), "errno=-22\n\n");
    assert_eq!(ask(&mut stream, "set=1\n\n"), "errno=0\n\n");
    let mut cut = daemon.connect();
    cut.write_all(b"reload=1\nconfig=a\n").unwrap();
    cut.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(&mut cut), "errno=-71\n\n");
}

#[test]
fn the_client_says_who_is_not_there() {
    let scratch = Scratch::new("client");
    let path = socket_path(&scratch.0, "hush0");
    let text = || fetch_status_in(&scratch.0, "hush0").unwrap_err().to_string();
    let nobody = format!(
        "no hushwire runs for interface hush0: nobody listens on {}; start it with `hushwire up`, \
         or name another interface with --interface",
        path.display()
    );
    assert_eq!(text(), nobody);
    std::fs::create_dir(&scratch.0).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    // Another WireGuard: it hangs up on an operation that it does not know.
    let accepting = std::thread::spawn(move || {
        drop(other.accept());
        stop(other);
    });
    assert!(text().contains("does not answer as hushwire"), "another WireGuard");
    accepting.join().unwrap();
    assert_eq!(text(), nobody, "stale");
}

/// Such as that of a daemon which ended while it wrote.
#[test]
fn an_answer_without_its_errno_is_none_of_hushwires() {
    let scratch = Scratch::new("errno");
    std::fs::create_dir(&scratch.0).unwrap();
    let listener = UnixListener::bind(socket_path(&scratch.0, "hush0")).unwrap();
    let json = serde_json::to_string(&status()).unwrap();
    let answers = ["", "errno=0\n"].map(|end| format!("status={json}\n{end}\n"));
    let accepting = std::thread::spawn(move || {
        for text in answers {
            let (mut stream, _) = listener.accept().unwrap();
            answer(&mut stream);
            stream.write_all(text.as_bytes()).unwrap();
        }
    });
    let error = fetch_status_in(&scratch.0, "hush0").unwrap_err();
    assert!(matches!(error, ClientError::NotHushwire(_)), "{error}");
    assert_eq!(fetch_status_in(&scratch.0, "hush0").unwrap(), status());
    accepting.join().unwrap();
}

/// Leaves nobody listening, though a child that another test has just started may have a copy.
fn stop(listener: UnixListener) {
    UnixStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both).unwrap();
}

/// Runs `wg` and gives back whether it went well, with what it printed on both outputs.
fn wg(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("wg")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("wg is there: apt-get install wireguard-tools");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), text)
}

/// Needs the right to write to /var/run/wireguard, as `hushwire up` does.
#[test]
fn the_real_wg_shows_and_sets() {
    let interface = format!("hwu{}", std::process::id());
    let mut first = peer(1);
    first.preshared_key = Some(PresharedKey::from_bytes([3; KEY_LEN]));
    first.endpoint = Some("[2001:db8::2]:51820".parse().unwrap());
    first.allowed_ips = vec!["10.99.0.2/32".parse().unwrap(), "fd00::/64".parse().unwrap()];
    first.persistent_keepalive = 25;
    first.rx_bytes = 1024;
    let public_key = first.public_key.to_string();
    let daemon =
        Daemon::start(Path::new(SOCKET_DIRECTORY), &interface, snapshot(vec![first, peer(2)]));

    let (_, interfaces) = wg(&["show", "interfaces"], "");
    assert!(interfaces.split_whitespace().any(|name| name == interface), "{interfaces}");
    let (good, shown) = wg(&["show", &interface], "");
    assert!(good, "{shown}");
    for line in [
        "listening port: 51820",
        "preshared key: (hidden)",
        "endpoint: [2001:db8::2]:51820",
        "allowed ips: 10.99.0.2/32, fd00::/64",
        "transfer: 1.00 KiB received, 0 B sent",
        "persistent keepalive: every 25 seconds",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert_eq!(shown.matches("endpoint:").count(), 1, "{shown}");

    let (good, conf) = wg(&["showconf", &interface], "");
    assert!(good && conf.contains("AllowedIPs = 10.99.0.2/32, fd00::/64"), "{conf}");
    let conf_file = Scratch::new("conf");
    std::fs::write(&conf_file.0, &conf).unwrap();
    let (good, text) = wg(&["setconf", &interface, conf_file.0.to_str().unwrap()], "");
    std::fs::remove_file(&conf_file.0).unwrap();
    assert!(good, "{text}");
    let changes = daemon.changes.lock().unwrap().pop().unwrap();
    assert!(changes.contains(&Change::RemoveAllPeers), "{changes:?}");
    assert!(changes.contains(&Change::ListenPort(51820)), "{changes:?}");
    let set = changes.iter().find_map(|change| match change {
        Change::Peer(peer) if peer.public_key.to_string() == public_key => Some(peer.clone()),
        _ => None,
    });
    let set = set.expect("the peer is set again");
    assert_eq!(set.preshared_key, Some(Some(PresharedKey::from_bytes([3; KEY_LEN]))));
    assert_eq!(set.endpoints, Some(vec!["[2001:db8::2]:51820".parse().unwrap()]));
    assert_eq!(set.allowed_ips.len(), 2);
    assert!(set.replace_allowed_ips);

    let arguments = ["set", &interface, "peer", &public_key, "allowed-ips", "10.1.0.0/16"];
    assert_eq!(wg(&arguments, ""), (true, String::new()));
    let changes = daemon.changes.lock().unwrap().pop().unwrap();
    let [Change::Peer(change)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(change.allowed_ips, [AllowedIpChange::Add("10.1.0.0/16".parse().unwrap())]);
    let arguments = ["set", &interface, "peer", &public_key, "endpoint", "[fe80::1%lo]:1"];
    assert_eq!(wg(&arguments, ""), (true, String::new()));
    let (good, text) = wg(&["set", &interface, "peer", &public_key, "remove"], "");
    assert!(good, "{text}");
    let changes = daemon.changes.lock().unwrap().pop().unwrap();
    assert_eq!(changes, [Change::RemovePeer(PublicKey::from_bytes([1; KEY_LEN]))]);

    let refused = wg(&["set", &interface, "listen-port", "9"], "");
    assert_eq!(refused, (false, "Unable to modify interface: Address already in use\n".into()));
}

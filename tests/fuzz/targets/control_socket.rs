//! Control-socket text: any bytes, in two pieces cut anywhere, through a real socket.
//!
//! What must hold: the answers do not depend on the cut and are those of the parser for the same lines;
//! whatever is applied leaves a device that can be rendered; and what was rendered, set in a new device,
//! is rendered the same.
#![no_main]

use std::cell::RefCell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hushwire::uapi::{Call, Errno, Listener, Parser, Reply, Request, parse_request, render_get};
use hushwire::wireguard::{Change, Device};
use hushwire_fuzz::{Directory, Script};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

/// Bytes of a line and its line feed: longer ones are refused.
const LINE_LIMIT: usize = 8 << 10;
/// Stands for every time of this clock, so that answers can be compared.
const WALL: SystemTime = UNIX_EPOCH;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let cut = usize::from(script.word());
    let text = script.bytes(usize::MAX);
    let (first, second) = text.split_at(cut % (text.len() + 1));

    let mut expected = Daemon::new();
    let answers = answers(text, &mut expected);
    let mut daemon = Daemon::new();
    let conversation = SERVER.with_borrow_mut(|server| server.talk(first, second, &mut daemon));
    assert_eq!(conversation, answers);
    assert_eq!(daemon.render(), expected.render());
    set_again(&daemon);
});

/// What a device and its sockets make of requests.
struct Daemon {
    device: Device,
    now: Instant,
    listen_port: u16,
    fwmark: u32,
}

impl Daemon {
    #[expect(clippy::disallowed_methods, reason = "a target is its own loop and owns the clock")]
    fn new() -> Self {
        Self { device: Device::new(1), now: Instant::now(), listen_port: 0, fwmark: 0 }
    }

    fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Get => Reply::Get(self.render().into()),
            Request::Status | Request::Reload(_) => Reply::Refused(Errno::Io),
            Request::Set(changes) => {
                for change in &changes {
                    match *change {
                        Change::ListenPort(port) => self.listen_port = port,
                        Change::Fwmark(fwmark) => self.fwmark = fwmark,
                        _ => {}
                    }
                }
                self.device.apply(self.now, changes);
                self.device.handle_timeout(self.now);
                while self.device.poll_transmit().is_some() {}
                Reply::Done
            }
        }
    }

    fn render(&self) -> String {
        let snapshot = self.device.snapshot(self.now);
        render_get(&snapshot, self.listen_port, self.fwmark, &|_| WALL).to_string()
    }
}

/// The answers to a whole text, by the parser alone.
fn answers(text: &[u8], daemon: &mut Daemon) -> String {
    let mut parser = Parser::new(zone_index);
    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    let tail = lines.pop().unwrap_or_default();
    let mut said = String::new();
    for line in lines {
        if line.len() >= LINE_LIMIT {
            parser.fail(Errno::Invalid);
        } else if let Some(request) = parser.line(line) {
            said += &said_to(request, daemon);
        }
    }
    if !tail.is_empty() || parser.is_in_request() {
        said += &said_to(Err(Errno::Protocol), daemon);
    }
    said
}

fn said_to(request: Result<Request, Errno>, daemon: &mut Daemon) -> String {
    match request.map_or_else(Reply::Refused, |request| daemon.answer(request)) {
        Reply::Done => "errno=0\n\n".to_owned(),
        Reply::Get(text) => format!("{}errno=0\n\n", *text),
        Reply::Refused(errno) => format!("errno={}\n\n", errno.code()),
        Reply::Status(_) | Reply::Reload(_) => unreachable!("this daemon has neither"),
    }
}

/// Sets what a `get` has rendered in a new device, as `wg showconf` and `wg setconf` do.
fn set_again(daemon: &Daemon) {
    let rendered = daemon.render();
    let told = ["last_handshake_time_", "tx_bytes=", "rx_bytes="];
    let settings = rendered.lines().filter(|line| !told.iter().any(|key| line.starts_with(key)));
    let text: String =
        ["set=1"].into_iter().chain(settings).map(|line| format!("{line}\n")).collect();
    let request = parse_request(&(text + "\n"), zone_index);
    let mut copy = Daemon::new();
    let Ok(request @ Request::Set(_)) = request else { panic!("refused: {request:?}") };
    copy.answer(request);
    // A handshake that was begun counts bytes.
    let plain = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("tx_bytes="));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(plain(&copy.render()), plain(&rendered));
}

/// As sysfs tells it, where there is a loopback interface alone.
fn zone_index(name: &str) -> Option<u32> {
    (name == "lo").then_some(1)
}

thread_local! {
    static SERVER: RefCell<Server> = RefCell::new(Server::new());
}

/// A control socket that is served between the steps of its client, all on one thread.
struct Server {
    runtime: Runtime,
    calls: mpsc::Receiver<Call>,
    directory: Directory,
}

impl Server {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let directory = Directory::new("control");
        let (sender, calls) = mpsc::channel(1);
        runtime.block_on(async {
            let listener = Listener::bind_in(directory.path(), "hush0").expect("a socket");
            tokio::spawn(listener.serve(sender));
        });
        Self { runtime, calls, directory }
    }

    /// Sends both pieces, the second once the first was read, and returns what was answered.
    fn talk(&mut self, first: &[u8], second: &[u8], daemon: &mut Daemon) -> String {
        let Self { runtime, calls, directory } = self;
        let path = directory.path().join("hush0.sock");
        runtime.block_on(async {
            let stream = UnixStream::connect(&path).await.expect("the socket is served");
            let (mut answers, mut requests) = stream.into_split();
            let client = async {
                for piece in [first, second] {
                    // An error means that the server has hung up: its answers say why.
                    let _ = requests.write_all(piece).await;
                    for _ in 0..4 {
                        tokio::task::yield_now().await;
                    }
                }
                let _ = requests.shutdown().await;
                std::future::pending::<()>().await;
            };
            let mut said = String::new();
            {
                let reader = answers.read_to_string(&mut said);
                tokio::pin!(client, reader);
                loop {
                    tokio::select! {
                        biased;
                        call = calls.recv() => {
                            let Call { request, reply } = call.expect("the server runs");
                            let _ = reply.send(daemon.answer(request));
                        }
                        result = &mut reader => {
                            result.expect("answers are text");
                            break;
                        }
                        () = &mut client => {}
                    }
                }
            }
            said
        })
    }
}

//! The control socket's file, and the conversations on it.
//!
//! Each request becomes a [`Call`] to the daemon. A client that says nothing, stops in the middle or
//! never reads its answer holds up nobody: it has a task of its own, a deadline, and a place that is
//! taken from it when too many wait. Only the owner may connect (directory 0700, socket 0600).

use std::collections::VecDeque;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::{Errno, Parser, Reply, Request, SOCKET_DIRECTORY, socket_path};
use crate::sys::flock::Lock;
use crate::sys::netlink::Netlink;

/// A request takes no longer than this to come in, and a client is silent no longer between two.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// A client takes its answer within this time.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of one request: 65,280 allowed IPs of each family are 3 MB, or 7 MB at their longest.
const REQUEST_LIMIT: usize = 64 << 20;
/// Bytes of one line: the longest valid one has 79.
const LINE_LIMIT: usize = 8 << 10;
/// Clients at one time; one more takes the place of the oldest.
const CLIENT_LIMIT: usize = 64;
/// Clients that wait for `accept`.
const BACKLOG: u32 = 128;
/// How long another process may look at a name and take it, which is a matter of microseconds. One that was
/// stopped in the middle, or a user who may open the directory, is not to keep us from starting.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked for.
    pub request: Request,
    /// Takes the answer. Dropped without one, the client reads `EIO`.
    pub reply: oneshot::Sender<Reply>,
}

/// The control socket of one interface; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    /// None for an adopted socket without a file of its own. Dropped before the socket: see [`SocketFile`].
    file: Option<SocketFile>,
    listener: UnixListener,
}

/// Says why there is no control socket.
#[derive(Debug)]
pub enum BindError {
    /// Another process answers on it.
    InUse(PathBuf),
    /// Something that is no socket has the name.
    NotASocket(PathBuf),
    /// Group or others may write to the directory, and so put a socket of their own in our place.
    OpenDirectory(PathBuf),
    /// The system refused a step.
    System {
        /// The step.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BindError::InUse(path) => write!(
                f,
                "another process serves {}; stop that one first, or give this one another \
                 interface name",
                path.display()
            ),
            BindError::NotASocket(path) => write!(
                f,
                "{} is there and is no socket; move it away, the control socket goes there",
                path.display()
            ),
            BindError::OpenDirectory(path) => write!(
                f,
                "group or others may write to {}; only the owner may: chmod go-w {0}",
                path.display()
            ),
            BindError::System { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())?;
                match error.kind() {
                    io::ErrorKind::PermissionDenied => f.write_str("; run this as root"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for BindError {}

impl Listener {
    /// Makes the control socket of an interface where `wg` looks for it. Runs inside a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`], among them that another process serves the interface. A socket file that nobody
    /// listens on is replaced.
    pub fn bind(interface: &str) -> Result<Self, BindError> {
        Self::bind_in(Path::new(SOCKET_DIRECTORY), interface)
    }

    /// Makes the control socket in another directory than that of `wg`.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind_in(directory: &Path, interface: &str) -> Result<Self, BindError> {
        let (listener, file) = listen_unless_served(&socket_path(directory, interface))?;
        Ok(Self { file: Some(file), listener })
    }

    /// Adopts a socket that somebody else has opened, and its file. Runs inside a tokio runtime.
    ///
    /// # Errors
    /// When the runtime cannot wait on it.
    pub fn adopt(socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let named = address.as_pathname().map(Path::to_owned);
        let file = named.and_then(|path| SocketFile::take(path).ok());
        Ok(Self { file, listener: UnixListener::from_std(socket)? })
    }

    /// Its file, if it has one.
    pub fn name(&self) -> Option<&SocketName> {
        self.file.as_ref().map(|file| &file.0)
    }

    /// Serves clients until the receiver of the calls is dropped.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        // Dropped with this future, and the conversations with it.
        let mut conversations = JoinSet::new();
        let mut clients: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = calls.closed() => return,
            };
            while conversations.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    clients.retain(|client| !client.is_finished());
                    if clients.len() >= CLIENT_LIMIT
                        && let Some(oldest) = clients.pop_front()
                    {
                        oldest.abort();
                    }
                    clients.push_back(conversations.spawn(converse(stream, calls.clone())));
                }
                Err(error) => {
                    // Out of descriptors, most likely: they come back, a busy loop would not help.
                    tracing::warn!(%error, "control socket: cannot accept a client");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn system<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> BindError + use<'a> {
    move |error| BindError::System { doing, path: path.to_owned(), error }
}

fn private_directory(directory: &Path) -> Result<(), BindError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(directory) {
        Err(error) => Err(system("make the directory", directory)(error)),
        Ok(()) => {
            let found = std::fs::metadata(directory).map_err(system("look at", directory))?;
            if found.mode() & 0o022 != 0 {
                return Err(BindError::OpenDirectory(directory.to_owned()));
            }
            Ok(())
        }
    }
}

/// Dials what has the name. That nobody is found stays true for as long as [`lock`] is held.
fn refuse_if_served(path: &Path) -> Result<(), BindError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(system("dial", path)(error)),
    }
}

/// Listens on a socket of this path and mode 0600 in the directory of the control sockets; what has the
/// path, which must not be served, is replaced. The caller has the control socket that goes with it, so that
/// nobody else does the same. Runs inside a tokio runtime.
///
/// # Errors
/// [`BindError`].
pub fn listen_privately(
    path: &Path,
) -> Result<(std::os::unix::net::UnixListener, SocketFile), BindError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    private_directory(directory)?;
    let (listener, file) = put_in_place(directory, path.to_owned())?;
    Ok((listener.into_std().map_err(system("listen on", path))?, file))
}

/// Listens on a socket of this path and mode 0600 in a directory that others may not write to; a file that
/// nobody listens on is replaced. Runs inside a tokio runtime.
///
/// # Errors
/// [`BindError`], among them that another process listens there.
pub fn listen_unless_served(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    private_directory(directory)?;
    let _lock = lock(directory);
    refuse_if_served(path)?;
    put_in_place(directory, path.to_owned())
}

/// Keeps every other hushwire from putting a socket in place, so that of two which start at the same moment
/// the second one finds the first. Other programs that have sockets there do not ask for it. Without it we
/// are no worse off than they are.
fn lock(directory: &Path) -> Option<Lock> {
    let error = match Lock::take(directory, LOCK_PATIENCE) {
        Ok(Some(lock)) => return Some(lock),
        Ok(None) => io::ErrorKind::ResourceBusy.into(),
        Err(error) => error,
    };
    tracing::warn!(%error, "cannot lock {}; going on without", directory.display());
    None
}

/// Binds under a name that `wg` does not look at, gives the mode while nobody can connect yet (that takes
/// `listen`), then renames over whatever is stale: at no time can others connect, and the process's
/// umask, which all threads share, is left alone.
fn put_in_place(directory: &Path, path: PathBuf) -> Result<(UnixListener, SocketFile), BindError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let listener = listen_with_mode(&temporary).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })?;
    let file = SocketFile::take(temporary)?.rename(path)?;
    Ok((listener, file))
}

fn listen_with_mode(path: &Path) -> Result<UnixListener, BindError> {
    // Left by a process that had our id and was killed between its bind and its rename.
    let _ = std::fs::remove_file(path);
    let socket = UnixSocket::new_stream().map_err(system("open a socket for", path))?;
    socket.bind(path).map_err(system("bind", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(system("restrict", path))?;
    socket.listen(BACKLOG).map_err(system("listen on", path))
}

/// A file in the directory, known by its inode: the name alone may be somebody else's by now.
#[derive(Clone, Debug)]
pub struct SocketName {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketName {
    /// Where it was put.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still there.
    pub fn is_there(&self) -> bool {
        inode(&self.path).is_ok_and(|found| found == self.inode)
    }
}

/// Our file: it goes when this is dropped. That is to be while its socket still listens: whoever dials
/// between the look at the file and its removal finds it in use, and puts none in its place that would be
/// removed.
#[derive(Debug)]
pub struct SocketFile(SocketName);

impl SocketFile {
    fn take(path: PathBuf) -> Result<Self, BindError> {
        let inode = inode(&path).map_err(system("look at", &path))?;
        Ok(Self(SocketName { path, inode }))
    }

    fn rename(mut self, path: PathBuf) -> Result<Self, BindError> {
        std::fs::rename(&self.0.path, &path).map_err(system("put in place", &path))?;
        self.0.path = path;
        Ok(self)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.0.is_there() {
            let _ = std::fs::remove_file(&self.0.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Answers one client's requests, one after the other.
async fn converse(mut stream: UnixStream, calls: mpsc::Sender<Call>) {
    let mut incoming = Incoming::new();
    loop {
        let request = match timeout(REQUEST_DEADLINE, incoming.request(&mut stream)).await {
            Ok(Some(request)) => request,
            Err(_) if incoming.parser.is_in_request() => {
                incoming.ended = true;
                Err(Errno::Protocol)
            }
            Ok(None) | Err(_) => return,
        };
        let reply = match request {
            Ok(request) => ask(&calls, request).await,
            Err(errno) => Reply::Refused(errno),
        };
        if let Reply::Refused(errno) = reply {
            tracing::debug!(?errno, "control socket: request refused");
        }
        let (body, end) = reply.into_text();
        let send = async {
            stream.write_all(body.as_bytes()).await?;
            stream.write_all(end.as_bytes()).await
        };
        match timeout(REPLY_DEADLINE, send).await {
            Ok(Ok(())) if !incoming.ended => {}
            _ => return,
        }
    }
}

async fn ask(calls: &mpsc::Sender<Call>, request: Request) -> Reply {
    let (reply, answer) = oneshot::channel();
    if calls.send(Call { request, reply }).await.is_err() {
        return Reply::Refused(Errno::Io);
    }
    answer.await.unwrap_or(Reply::Refused(Errno::Io))
}

/// What a client has sent, cut into lines. One buffer of fixed size, wiped at the end, since lines may
/// hold keys.
struct Incoming {
    parser: Parser,
    buffer: Zeroizing<Vec<u8>>,
    /// Bytes of the buffer that are filled.
    filled: usize,
    /// Bytes of the request so far.
    size: usize,
    /// Within a line that is longer than the buffer.
    overlong: bool,
    /// The client's end of the conversation is over.
    ended: bool,
}

impl Incoming {
    fn new() -> Self {
        Self {
            parser: Parser::new(zone_index),
            buffer: Zeroizing::new(vec![0; LINE_LIMIT]),
            filled: 0,
            size: 0,
            overlong: false,
            ended: false,
        }
    }

    /// Reads the next request; `None` when the client has ended, without a request begun.
    async fn request(&mut self, stream: &mut UnixStream) -> Option<Result<Request, Errno>> {
        loop {
            if let Some(request) = self.parse_lines() {
                self.size = 0;
                return Some(request);
            }
            if self.size > REQUEST_LIMIT {
                self.ended = true;
                return Some(Err(Errno::Invalid));
            }
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            match stream.read(room).await {
                Ok(0) | Err(_) if self.ended => return None,
                Ok(0) | Err(_) => {
                    self.ended = true;
                    let cut_short = self.parser.is_in_request() || self.filled > 0;
                    return cut_short.then_some(Err(Errno::Protocol));
                }
                Ok(count) => {
                    self.filled += count;
                    self.size += count;
                }
            }
        }
    }

    /// Hands whole lines to the parser until one ends a request; what is left moves to the front.
    fn parse_lines(&mut self) -> Option<Result<Request, Errno>> {
        let mut rest = self.buffer.get(..self.filled).unwrap_or_default();
        let mut request = None;
        while request.is_none()
            && let Some(end) = rest.iter().position(|&byte| byte == b'\n')
            && let Some((line, [_, after @ ..])) = rest.split_at_checked(end)
        {
            if !std::mem::take(&mut self.overlong) {
                request = self.parser.line(line);
            }
            rest = after;
        }
        if request.is_none() && rest.len() == LINE_LIMIT {
            self.parser.fail(Errno::Invalid);
            self.overlong = true;
            rest = &[];
        }
        let left = rest.len();
        self.buffer.copy_within(self.filled - left..self.filled, 0);
        self.filled = left;
        request
    }
}

/// The index of a network interface in our namespace. The kernel is asked: Landlock leaves us no file of sysfs.
fn zone_index(name: &str) -> Option<u32> {
    Netlink::open().ok()?.link(name).ok()?.map(|link| link.index)
}

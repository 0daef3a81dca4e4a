//! The packet loop: one thread owns the TUN, the UDP sockets and the [`Device`]. It decides nothing.
//!
//! 1. Wait for a descriptor or for the device's next deadline.
//! 2. Take the time, once.
//! 3. Let the device do what is due.
//! 4. Hand it what the underlay brought, a batch for each family; send on what comes out.
//! 5. Hand it what the overlay sends, a batch; send on what comes out.
//! 6. Take commands of the control plane, between two batches.
//!
//! One packet's error never stops a batch, and no lock is taken for a packet. The control plane talks
//! to the loop through [`Handle`] and hears of it through [`Notice`]s.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::{debug, trace};

use crate::sys::poll::{self, Waker};
use crate::sys::tun::Tun;
use crate::sys::udp::{Family, ReceiveBatch, Received, Sent, Udp};
use crate::wireguard::{Change, Device, Event, Snapshot};

/// Packets taken from one descriptor before the others have their turn: a millisecond of work.
const BATCH: usize = 64;
/// Datagrams taken with one system call.
const RECEIVE_BATCH: usize = 32;
/// The largest datagram or packet that there is, with room for padding behind it.
const BUFFER: usize = 65_536 + 16;
/// How long a full socket buffer may hold up the loop before the datagram is dropped.
const SEND_PATIENCE: Duration = Duration::from_millis(10);

/// What the loop tells the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Something happened to a peer.
    Peer(Event),
    /// The TUN was deleted by somebody; the loop goes on without one.
    TunGone,
}

/// The device with what the loop knows of its socket.
#[derive(Clone, Debug)]
pub struct View {
    /// The device.
    pub device: Snapshot,
    /// UDP port on the underlay.
    pub listen_port: u16,
    /// `SO_MARK` of underlay packets; 0 is none.
    pub fwmark: u32,
}

/// The loop has ended: nothing can be asked of it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packet loop has ended")
    }
}

impl std::error::Error for Ended {}

enum Command {
    Apply(Vec<Change>, oneshot::Sender<io::Result<()>>),
    View(oneshot::Sender<View>),
    Attach(Tun),
    Listen(bool, oneshot::Sender<io::Result<()>>),
    Stop,
}

/// The control plane's side of a running loop. Dropping it ends the loop.
#[derive(Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Applies changes between two batches: all of them, or none.
    ///
    /// # Errors
    /// When the socket refuses the listen port or the mark; nothing was applied then. An ended loop is
    /// an error of kind `BrokenPipe`.
    pub async fn apply(&self, changes: Vec<Change>) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Apply(changes, reply));
        answer.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::BrokenPipe, Ended)))
    }

    /// The device at this moment.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn view(&self) -> Result<View, Ended> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::View(reply));
        answer.await.map_err(|_| Ended)
    }

    /// Reads from and writes to this TUN from now on; the one before is closed.
    pub fn attach(&self, tun: Tun) {
        self.command(Command::Attach(tun));
    }

    /// Opens the underlay sockets, or closes them: as the interface of a bare device goes up and down. The
    /// port is kept while they are closed, and may be changed.
    ///
    /// # Errors
    /// When the port cannot be had; the sockets stay closed then. An ended loop is an error of kind
    /// `BrokenPipe`.
    pub async fn listen(&self, open: bool) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Listen(open, reply));
        answer.await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::BrokenPipe, Ended)))
    }

    fn command(&self, command: Command) {
        // A loop that has ended drops the command, and its sender hears of that by the reply.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the loop on a thread of its own. What the device has ready is sent first.
///
/// # Errors
/// When no thread or descriptor is to be had.
pub fn start(
    device: Device,
    udp: Udp,
    fwmark: u32,
    tun: Option<Tun>,
    notices: UnboundedSender<Notice>,
) -> io::Result<Handle> {
    let (sender, commands) = mpsc::channel();
    let waker = Arc::new(Waker::new()?);
    let mut plane = Dataplane {
        device,
        listening: !udp.is_closed(),
        udp,
        tun,
        commands,
        waker: waker.clone(),
        notices,
        buffer: vec![0; BUFFER],
        received: ReceiveBatch::new(RECEIVE_BATCH, BUFFER),
        fwmark,
    };
    let thread = std::thread::Builder::new().name("packets".into()).spawn(move || plane.run())?;
    Ok(Handle { commands: sender, waker, thread: Some(thread) })
}

struct Dataplane {
    device: Device,
    udp: Udp,
    /// Whether the sockets are wanted open; they may be closed all the same, when the port is taken.
    listening: bool,
    tun: Option<Tun>,
    commands: mpsc::Receiver<Command>,
    waker: Arc<Waker>,
    notices: UnboundedSender<Notice>,
    buffer: Vec<u8>,
    received: ReceiveBatch,
    fwmark: u32,
}

impl Dataplane {
    #[expect(clippy::disallowed_methods, reason = "this is the loop: it takes the time for all")]
    fn run(&mut self) {
        let mut now = Instant::now();
        self.drain(now);
        loop {
            let timeout = self.device.next_timeout().map(|at| at.saturating_duration_since(now));
            let fds = [
                Some(self.waker.as_fd()),
                self.udp.fd(Family::V4),
                self.udp.fd(Family::V6),
                self.tun.as_ref().map(|tun| tun.as_fd()),
            ];
            let ready = poll::readable(fds, timeout);
            now = Instant::now();
            let Ok([command, v4, v6, overlay]) = ready else {
                // ppoll has no error that a correct call can meet; should one come, do not spin.
                std::thread::sleep(SEND_PATIENCE);
                continue;
            };
            self.device.handle_timeout(now);
            self.drain(now);
            for (ready, family) in [(v4, Family::V4), (v6, Family::V6)] {
                if ready {
                    self.receive(now, family);
                    self.drain(now);
                }
            }
            if overlay {
                self.read(now);
                self.drain(now);
            }
            if command && !self.take_commands(now) {
                return;
            }
        }
    }

    /// Takes a batch from the underlay.
    fn receive(&mut self, now: Instant, family: Family) {
        let mut taken = 0;
        while taken < BATCH {
            match self.udp.recv(family, &mut self.received) {
                Ok(count) => {
                    for Received { from, ecn, datagram } in self.received.datagrams() {
                        self.device.handle_udp(now, from, ecn, datagram);
                    }
                    taken += count;
                    if count < RECEIVE_BATCH {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return debug!(%error, ?family, "receive failed"),
            }
        }
    }

    /// Takes a batch from the overlay.
    fn read(&mut self, now: Instant) {
        for _ in 0..BATCH {
            let Some(tun) = &self.tun else { return };
            match tun.recv(&mut self.buffer) {
                Ok(len) => self.device.handle_tun(now, &mut self.buffer, len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The interface is deleted: nothing will ever come from this descriptor again.
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                    self.tun = None;
                    return self.notify(Notice::TunGone);
                }
                Err(error) => return trace!(%error, "TUN read failed"),
            }
        }
    }

    /// Sends on everything that the device has ready.
    fn drain(&mut self, now: Instant) {
        while let Some(transmit) = self.device.poll_transmit() {
            let (peer, len) = (transmit.peer, transmit.datagram.len());
            match send(&self.udp, &transmit) {
                Ok(Sent::AsAsked) => {}
                Ok(Sent::WithoutSource) => self.device.source_gone(peer),
                Err(error) => {
                    trace!(%error, to = %transmit.to.address, "send failed");
                    self.device.transmit_failed(now, peer, len);
                }
            }
        }
        while let Some(packet) = self.device.poll_packet() {
            let written = self.tun.as_ref().is_some_and(|tun| tun.send(packet).is_ok());
            if !written {
                self.device.packet_failed();
            }
        }
        while let Some(event) = self.device.poll_event() {
            self.notify(Notice::Peer(event));
        }
    }

    /// Does what the control plane wants; false when it wants the end.
    fn take_commands(&mut self, now: Instant) -> bool {
        self.waker.reset();
        loop {
            match self.commands.try_recv() {
                Ok(Command::Apply(changes, reply)) => {
                    let _ = reply.send(self.apply(now, changes));
                }
                Ok(Command::View(reply)) => {
                    let _ = reply.send(View {
                        device: self.device.snapshot(now),
                        listen_port: self.udp.port(),
                        fwmark: self.fwmark,
                    });
                }
                Ok(Command::Attach(tun)) => self.tun = Some(tun),
                Ok(Command::Listen(open, reply)) => {
                    let _ = reply.send(self.listen(now, open));
                }
                Err(mpsc::TryRecvError::Empty) => return true,
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// The socket's part first: it is the one that can fail.
    fn apply(&mut self, now: Instant, changes: Vec<Change>) -> io::Result<()> {
        let (mut port, mut fwmark) = (None, self.fwmark);
        for change in &changes {
            match change {
                Change::ListenPort(wanted) => port = Some(*wanted),
                Change::Fwmark(wanted) => fwmark = *wanted,
                _ => {}
            }
        }
        match port {
            Some(port) if !self.listening => {
                if port != 0 {
                    // Who sets a port that is taken hears of it now: nobody sees an error later.
                    Udp::bind(port, fwmark)?;
                }
                self.udp = Udp::closed(port);
            }
            Some(port) if port != self.udp.port() || self.udp.is_closed() => {
                self.udp = Udp::bind(port, fwmark)?;
            }
            _ if fwmark != self.fwmark => self.udp.set_fwmark(fwmark)?,
            _ => {}
        }
        self.fwmark = fwmark;
        self.device.apply(now, changes);
        // Port 0 was the kernel's to choose.
        self.device.apply(now, vec![Change::ListenPort(self.udp.port())]);
        self.drain(now);
        Ok(())
    }

    fn listen(&mut self, now: Instant, open: bool) -> io::Result<()> {
        self.listening = open;
        if !open {
            self.udp = Udp::closed(self.udp.port());
            self.device.set_underlay(now, false);
        } else if self.udp.is_closed() {
            self.udp = Udp::bind(self.udp.port(), self.fwmark)?;
            self.device.apply(now, vec![Change::ListenPort(self.udp.port())]);
            self.device.set_underlay(now, true);
            self.device.handle_timeout(now);
            self.drain(now);
        }
        Ok(())
    }

    fn notify(&self, notice: Notice) {
        // Without a control plane there is nobody to tell; the Stop command is on its way.
        let _ = self.notices.send(notice);
    }
}

/// Sends a datagram; a full socket buffer is waited for, but not for long.
fn send(udp: &Udp, transmit: &crate::wireguard::Transmit<'_>) -> io::Result<Sent> {
    loop {
        match udp.send(&transmit.to, transmit.ecn, transmit.datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let family = Family::of(&transmit.to.address);
                let Some(fd) = udp.fd(family) else { return Err(error) };
                if !poll::writable(fd, SEND_PATIENCE)? {
                    return Err(error);
                }
            }
            result => return result,
        }
    }
}

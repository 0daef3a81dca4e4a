//! The packet loop: one thread owns the TUN, the UDP sockets and the [`Device`]. It decides nothing.
//!
//! 1. Wait for a descriptor or for the device's next deadline; awake, where an answer always comes soon
//!    (exchange.rs).
//! 2. Take the time, once.
//! 3. Let the device do what is due.
//! 4. Hand it what the underlay brought, a batch for each socket; send on what comes out.
//! 5. Hand it what the overlay sends, a batch: what is small at once, what is large by turns (backlog.rs);
//!    send on what comes out. An answer of the kernel's to what it was just given is such, too (answers.rs).
//! 6. Take commands of the control plane, between two batches.
//!
//! A batch is what waits, and nothing is ever waited for to make it larger: see pace.rs. One packet's
//! error never stops a batch, and no lock is taken for a packet. The control plane talks to the loop through
//! [`Handle`] and hears of it through [`Notice`]s.
//!
//! One thread, not one for each direction: a probe that only seals, opens and copies carried 0.98 times as much
//! TCP with two of them on two cores, for 1.06 times the processor time, and a lone ping took 163 us, not 67.
//! Most of what comes in is answered, and the answer would wait for another thread to wake up.
//!
//! What is rare on this way is `#[cold]`, here and in the device: it stands apart, so that a lone packet meets
//! less code that it finds in no cache.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::{debug, trace, warn};

use crate::offload::{Offload, VnetHeader};
use crate::sys::epoll::Ready;
use crate::sys::pages::Pages;
use crate::sys::poll::Waker;
use crate::sys::sandbox;
use crate::sys::scheduling;
use crate::sys::tun::{self, Tun};
use crate::sys::udp::{Family, ReceiveBatch, Udp};
use crate::wireguard::{Change, Device, Event, Snapshot};

mod answers;
mod backlog;
mod codel;
mod exchange;
mod frequency;
mod pace;
mod ports;

use answers::Answers;
use backlog::{Backlog, Waiting};
use exchange::Exchange;
use frequency::Frequency;
use pace::Pace;
use ports::{CONTROL_PLANE, OVERLAY, Ports};

/// Packets taken from one descriptor before the others have their turn, and bytes that are sealed or opened
/// then: less than 100 µs of work. With three times as much a ping beside a TCP stream took 1.2 ms, not 0.8.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;
/// What the device holds is sent on when it has come to so much, before more is taken.
const DRAIN_BYTES: usize = 16 * 1024;
/// How often one system call receives something, each time up to 64 KiB of joined datagrams.
const RECEIVE_BATCH: usize = 4;
/// When the last one has brought more bytes than datagrams that come one by one have, it is only so often:
/// what is small has to wait for less, and fewer places come to be filled.
const RECEIVE_JOINED: usize = 2;
const RECEIVE_SINGLE_BYTES: usize = RECEIVE_BATCH * 2048;
/// The largest datagram or packet that there is, with room for a header before and padding behind it.
const BUFFER: usize = tun::HEADROOM + 65_536 + 16;
/// Should waiting fail, it is tried again after this time.
const WAIT_FAILED: Duration = Duration::from_millis(10);

/// What the loop tells the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Something happened to a peer.
    Peer(Event),
    /// The TUN was deleted by somebody; the loop goes on without one.
    TunGone,
    /// The TUN is down, and a packet was dropped by that. Told once a second at most.
    TunDown,
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
    Underlay(oneshot::Sender<(u16, Vec<(Family, OwnedFd)>)>),
    Beat(oneshot::Sender<()>),
    Attach(Tun),
    Detach,
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

    /// The port of the underlay, and copies of its sockets' descriptors.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn underlay(&self) -> Result<(u16, Vec<(Family, OwnedFd)>), Ended> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Underlay(reply));
        answer.await.map_err(|_| Ended)
    }

    /// A way to feel the loop's pulse beside this handle.
    pub fn pulse(&self) -> Pulse {
        Pulse { commands: self.commands.clone(), waker: self.waker.clone() }
    }

    /// Reads from and writes to this TUN from now on; the one before is closed.
    pub fn attach(&self, tun: Tun) {
        self.command(Command::Attach(tun));
    }

    /// Closes the TUN. The sessions stay; what peers send meanwhile is dropped.
    pub fn detach(&self) {
        self.command(Command::Detach);
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

/// Tells whether the loop still turns.
#[derive(Debug)]
pub struct Pulse {
    commands: mpsc::Sender<Command>,
    waker: Arc<Waker>,
}

impl Pulse {
    /// Waits until the loop has gone round once more: it has looked at every descriptor and at its timers.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn beat(&self) -> Result<(), Ended> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Beat(reply));
        self.waker.wake();
        answer.await.map_err(|_| Ended)
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
        ports: Ports::new(udp, tun, &waker, notices)?,
        commands,
        waker: waker.clone(),
        buffer: Pages::new(BUFFER),
        backlog: Backlog::default(),
        received: ReceiveBatch::new(RECEIVE_BATCH, BUFFER),
        are_joined: false,
        pace: Pace::new(),
        exchange: Exchange::default(),
        frequency: Some(Frequency::default()),
        answers: Answers::default(),
        fwmark,
    };
    plane.device.set_offload(plane.ports.tun().map_or(Offload::None, Tun::offload));
    let (tell, confined) = mpsc::channel();
    let thread = std::thread::Builder::new().name("packets".into()).spawn(move || {
        let result = sandbox::confine_packet_loop();
        let is_confined = result.is_ok();
        let _ = tell.send(result);
        if is_confined {
            plane.run();
        }
    })?;
    confined.recv().map_err(io::Error::other)?.map_err(io::Error::other)?;
    Ok(Handle { commands: sender, waker, thread: Some(thread) })
}

struct Dataplane {
    device: Device,
    ports: Ports,
    /// Whether the sockets are wanted open; they may be closed all the same, when the port is taken.
    listening: bool,
    commands: mpsc::Receiver<Command>,
    waker: Arc<Waker>,
    buffer: Pages,
    backlog: Backlog,
    received: ReceiveBatch,
    /// The last receive has brought joined datagrams.
    are_joined: bool,
    pace: Pace,
    exchange: Exchange,
    /// None where short slices are refused.
    frequency: Option<Frequency>,
    answers: Answers,
    fwmark: u32,
}

impl Dataplane {
    #[expect(clippy::disallowed_methods, reason = "this is the loop: it takes the time for all")]
    fn run(&mut self) {
        let mut now = Instant::now();
        self.ports.drain(&mut self.device, now);
        loop {
            let ready = self.wait(now);
            let before = std::mem::replace(&mut now, Instant::now());
            let Ok(ready) = ready else {
                // The wait has no error that a correct call can meet; should one come, do not spin.
                std::thread::sleep(WAIT_FAILED);
                continue;
            };
            let from_overlay = ready.contains(OVERLAY);
            let from_underlay = ready.contains_below(OVERLAY);
            let pause = now.saturating_duration_since(before);
            self.exchange.woke(pause, from_overlay, from_underlay, self.pace.bytes());
            self.pace.woke(pause);
            self.take_slices(pause);
            self.backlog.shrink(now);
            if self.device.next_timeout().is_some_and(|at| at <= now) {
                self.device.handle_timeout(now);
                self.ports.drain(&mut self.device, now);
            }
            self.answers.woke(now, from_overlay);
            for number in ready {
                match number {
                    CONTROL_PLANE if self.take_commands(now) => {}
                    CONTROL_PLANE => return,
                    OVERLAY => {
                        self.read(now);
                    }
                    socket => self.receive(now, socket as usize),
                }
            }
            // The overlay comes after the sockets: if it had a turn, that was after the write.
            let is_unread = self.ports.take_has_written() && !from_overlay;
            if is_unread && self.answers.are_expected(now) && !self.read(now) {
                self.answers.found_none();
            }
            self.work_off(now);
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, now: Instant) -> io::Result<Ready> {
        if let Some(time) = self.exchange.stays_awake()
            && self.backlog.is_empty()
            && let Some(ready) = self.stay_awake(now + time)
        {
            return ready;
        }
        self.ports.wait(self.timeout(now))
    }

    /// Looks again and again, for a moment, until there is something to do.
    #[cold]
    #[expect(clippy::disallowed_methods, reason = "the time of the wakeup is long past")]
    fn stay_awake(&self, until: Instant) -> Option<io::Result<Ready>> {
        while Instant::now() < until {
            std::thread::yield_now();
            match self.ports.wait(Some(Duration::ZERO)) {
                Ok(ready) if ready.is_empty() => {}
                result => return Some(result),
            }
        }
        None
    }

    /// Has the scheduler let the loop run sooner while packets come often. A refusal is told once.
    fn take_slices(&mut self, pause: Duration) {
        let change = self.frequency.as_mut().and_then(|frequency| frequency.woke(pause));
        if let Some(short) = change
            && let Err(error) = scheduling::take_slices(short)
        {
            warn!(%error, "the packet loop runs when the scheduler likes: slower beside other work");
            self.frequency = None;
        }
    }

    /// For how long to wait.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.backlog.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = [self.device.next_timeout(), self.backlog.shrinks_at()];
        next.into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    /// Takes a batch from a socket of the underlay, and sends on what comes out: a piece at a time, so that
    /// packets that came one by one are joined, too.
    fn receive(&mut self, now: Instant, socket: usize) {
        let (mut left, mut bytes, mut drained) = (self.pace.quota(), 0, 0);
        while left > 0 && bytes < BATCH_BYTES {
            let most = left.min(if self.are_joined { RECEIVE_JOINED } else { RECEIVE_BATCH });
            match self.ports.udp().recv(socket, &mut self.received, most) {
                // The kernel had no more.
                Ok(count) if count < most => left = 0,
                Ok(count) => left -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    debug!(%error, socket, "receive failed");
                    break;
                }
            }
            let before = bytes;
            for received in self.received.received() {
                for datagram in received.datagrams() {
                    self.device.handle_udp(now, received.from, received.ecn, datagram);
                }
                bytes += received.len();
                if bytes - drained >= DRAIN_BYTES {
                    self.ports.drain(&mut self.device, now);
                    drained = bytes;
                }
            }
            self.are_joined = bytes - before > RECEIVE_SINGLE_BYTES;
        }
        self.ports.drain(&mut self.device, now);
        self.pace.worked(bytes);
    }

    /// Takes a batch from the overlay; false when nothing was there. What is small is sent on, what is large
    /// waits in the backlog. While something waits there, all that has come is taken, as many packets as a
    /// batch may have: something small may stand behind what is large.
    fn read(&mut self, now: Instant) -> bool {
        let (quota, mut taken) = (self.pace.quota(), 0);
        while taken < quota || (taken < BATCH && !self.backlog.is_empty()) {
            let Some(tun) = self.ports.tun() else { break };
            match tun.recv(&mut self.buffer) {
                Ok((header, len)) => {
                    taken += 1;
                    self.take(now, header, len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The interface is deleted: nothing will ever come from this descriptor again.
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                    self.tun_gone();
                    break;
                }
                Err(error) => {
                    trace!(%error, "TUN read failed");
                    break;
                }
            }
        }
        self.ports.drain(&mut self.device, now);
        taken > 0
    }

    /// There is no TUN any more, and the control plane is told.
    #[cold]
    fn tun_gone(&mut self) {
        // Only to wait for one can fail.
        let _ = self.ports.set_tun(None);
        self.ports.notify(Notice::TunGone);
    }

    /// Takes the packet in the buffer.
    fn take(&mut self, now: Instant, header: VnetHeader, len: usize) {
        let packet = self.buffer.get_mut(tun::HEADROOM..).unwrap_or_default();
        if !self.backlog.holds(now, &header, packet.get(..len).unwrap_or_default()) {
            self.pace.worked(len);
            return self.device.handle_tun(now, &header, packet, len);
        }
        let buffer = std::mem::replace(&mut self.buffer, self.backlog.buffer());
        if let Err(buffer) = self.backlog.push(now, header, buffer, len) {
            self.backlog.done(buffer);
            self.device.backlog_full();
        }
    }

    /// Sends on some of what waits in the backlog.
    fn work_off(&mut self, now: Instant) {
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(waiting) = self.backlog.pop(now)
        {
            let Waiting { header, mut buffer, len, is_congested, .. } = waiting;
            bytes += len;
            let packet = buffer.get_mut(tun::HEADROOM..).unwrap_or_default();
            if is_congested {
                self.device.handle_tun_congested(now, &header, packet, len);
            } else {
                self.device.handle_tun(now, &header, packet, len);
            }
            self.ports.drain(&mut self.device, now);
            self.backlog.done(buffer);
        }
        self.pace.worked(bytes);
    }

    /// Does what the control plane wants; false when it wants the end.
    #[cold]
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
                        listen_port: self.ports.udp().port(),
                        fwmark: self.fwmark,
                    });
                }
                Ok(Command::Underlay(reply)) => {
                    let _ = reply.send((self.ports.udp().port(), self.ports.underlay()));
                }
                // Whoever asks hears that a round was made.
                Ok(Command::Beat(reply)) => drop(reply.send(())),
                Ok(Command::Attach(tun)) => {
                    let offload = tun.offload();
                    match self.ports.set_tun(Some(tun)) {
                        Ok(()) => self.device.set_offload(offload),
                        Err(error) => {
                            warn!(%error, "the overlay cannot be waited for");
                            self.tun_gone();
                        }
                    }
                }
                Ok(Command::Detach) => {
                    self.device.set_offload(Offload::None);
                    let _ = self.ports.set_tun(None);
                }
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
                self.ports.set_udp(Udp::closed(port))?;
            }
            Some(port) if port != self.ports.udp().port() || self.ports.udp().is_closed() => {
                self.ports.set_udp(Udp::bind(port, fwmark)?)?;
            }
            _ if fwmark != self.fwmark => self.ports.udp().set_fwmark(fwmark)?,
            _ => {}
        }
        self.fwmark = fwmark;
        self.device.apply(now, changes);
        // Port 0 was the kernel's to choose, and one that was taken when the interface went up may be had now.
        self.device.apply(now, vec![Change::ListenPort(self.ports.udp().port())]);
        self.device.set_underlay(now, !self.ports.udp().is_closed());
        self.ports.drain(&mut self.device, now);
        Ok(())
    }

    fn listen(&mut self, now: Instant, open: bool) -> io::Result<()> {
        self.listening = open;
        if !open {
            self.ports.set_udp(Udp::closed(self.ports.udp().port()))?;
            self.device.set_underlay(now, false);
        } else if self.ports.udp().is_closed() {
            self.ports.set_udp(Udp::bind(self.ports.udp().port(), self.fwmark)?)?;
            self.device.apply(now, vec![Change::ListenPort(self.ports.udp().port())]);
            self.device.set_underlay(now, true);
            self.device.handle_timeout(now);
            self.ports.drain(&mut self.device, now);
        }
        Ok(())
    }
}

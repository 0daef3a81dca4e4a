//! The life of `hushwire NAME`: a device that others configure by its control socket and by `ip`.
//!
//! It makes the TUN and the socket, carries packets while the interface is up, follows its MTU, and ends
//! when the interface is deleted, when the socket's file is removed, or by a signal. It never addresses,
//! routes or brings up the interface. Called by `commands::device`.

use std::io;
use std::os::fd::RawFd;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::clock::Clock;
use super::error::Error;
use super::follow::{Follower, Seen};
use super::{Signals, block_on, control, keeper, new_device, report, rights};
use crate::dataplane::{self, Handle, Notice, View};
use crate::status::RightsStatus;
use crate::sys::inherit;
use crate::sys::inotify::FileWatch;
use crate::sys::interface::Sight;
use crate::sys::sandbox::Confinement;
use crate::sys::udp::Udp;
use crate::sys::{attach, tun::Tun};
use crate::uapi::{Call, Listener, SocketName};
use crate::wireguard::{Change, Event};

/// What every WireGuard interface starts with: a path of 1500 bytes over IPv6 carries it.
const MTU: u16 = 1420;

/// What to make, and what somebody else has made already.
#[derive(Clone, Debug)]
pub struct Bare {
    /// Name of the interface; that of an adopted TUN comes first.
    pub name: String,
    /// Descriptor of a TUN to adopt (`WG_TUN_FD`). Its MTU stays as it is.
    pub tun: Option<RawFd>,
    /// Descriptor of a listening control socket to adopt (`WG_UAPI_FD`).
    pub control: Option<RawFd>,
}

/// Runs a device until it is deleted, or SIGTERM or SIGINT. Calls `ready` once it can be configured.
///
/// # Errors
/// [`Error`] when it cannot start, or not go on.
pub fn run_bare(bare: &Bare, ready: impl FnOnce()) -> Result<(), Error> {
    // Before anything of ours is opened: it would get numbers that are meant for others.
    let tun = adopt("WG_TUN_FD", bare.tun, |fd| inherit::take(fd).and_then(Tun::from_fd))?;
    let socket =
        adopt("WG_UAPI_FD", bare.control, |fd| inherit::take(fd).and_then(inherit::listener))?;
    let name = tun.as_ref().map_or(bare.name.as_str(), Tun::name).to_owned();
    block_on(async {
        // Before the socket and the interface are made, which a signal is to leave nothing of.
        let signals = Signals::hear()?;
        let listener = match socket {
            Some(socket) => {
                Listener::adopt(socket).map_err(|error| Error::Adopt("WG_UAPI_FD", error))?
            }
            None => control::bind(&name).await?,
        };
        let tun = match tun {
            Some(tun) => tun,
            None => {
                // It would be in use for as long as the keeper of a killed `hushwire up` waits.
                drop(keeper::take(&name).await);
                attach::make_bare(&name, MTU).map_err(|error| Error::Attach(error.into()))?
            }
        };
        // No thread runs yet, and nobody was listened to.
        let rights = rights::bare(listener.name().map(SocketName::path))?;
        let (device, inputs) = BareDevice::start(name, listener, tun, rights, signals)?;
        ready();
        device.run(inputs).await
    })
}

fn adopt<T>(
    variable: &'static str,
    number: Option<RawFd>,
    how: impl FnOnce(RawFd) -> io::Result<T>,
) -> Result<Option<T>, Error> {
    number.map(how).transpose().map_err(|error| Error::Adopt(variable, error))
}

struct Inputs {
    notices: mpsc::UnboundedReceiver<Notice>,
    calls: mpsc::Receiver<Call>,
    socket: SocketWatch,
    signals: Signals,
}

struct BareDevice {
    name: String,
    plane: Handle,
    follower: Follower,
    rights: Confinement,
    clock: Clock,
    /// What the packet loop was told of the interface last.
    up: bool,
    mtu: u16,
}

impl BareDevice {
    fn start(
        name: String,
        listener: Listener,
        tun: Tun,
        rights: Confinement,
        signals: Signals,
    ) -> Result<(Self, Inputs), Error> {
        let clock = Clock::start();
        let follower = Follower::new(&tun).map_err(|error| Error::Start("netlink", error))?;
        let socket = SocketWatch::new(&listener).map_err(|error| Error::Start("inotify", error))?;
        let (notify, notices) = mpsc::unbounded_channel();
        // The port is bound when the interface goes up, as the kernel and wireguard-go do it: until
        // then another process may have it, and `wg show` shows none.
        let plane = dataplane::start(new_device()?.bare(), Udp::closed(0), 0, Some(tun), notify)
            .map_err(|error| Error::Start("the packet loop", error))?;
        let (call, calls) = mpsc::channel(16);
        tokio::spawn(listener.serve(call));
        info!(interface = name, "device made");
        let device = Self { name, plane, follower, rights, clock, up: false, mtu: 0 };
        Ok((device, Inputs { notices, calls, socket, signals }))
    }

    async fn run(mut self, mut inputs: Inputs) -> Result<(), Error> {
        let mut seen = self.follower.look();
        let why = loop {
            match seen {
                Seen::Gone => break "the interface was deleted",
                Seen::Changed(sight) => self.shape(&sight).await,
                // Nobody can say whether it is up: listening when it is not does no harm.
                Seen::Same if self.follower.sight().is_none() => self.listen(true).await,
                Seen::Same => {}
            }
            seen = Seen::Same;
            tokio::select! {
                _ = inputs.signals.terminate.recv() => break "SIGTERM",
                _ = inputs.signals.interrupt.recv() => break "SIGINT",
                _ = inputs.signals.hangup.recv() => break "SIGHUP",
                () = inputs.socket.removed() => break "the control socket was removed",
                () = self.follower.changed() => seen = self.follower.look(),
                Some(call) = inputs.calls.recv() => self.answer(call).await,
                notice = inputs.notices.recv() => match notice {
                    Some(Notice::TunGone) => seen = Seen::Gone,
                    Some(Notice::Peer(Event::Established { peer, endpoint })) => {
                        info!(%peer, %endpoint, "peer up");
                    }
                    // Who owns the interface sets it up and down.
                    Some(Notice::TunDown) => {}
                    // It has no filter.
                    Some(Notice::Peer(Event::Unanswered { .. } | Event::Filtered { .. })) => {}
                    None => return Err(Error::PacketLoop),
                },
            }
        };
        info!(interface = self.name, why, "device ended");
        Ok(())
    }

    async fn answer(&self, call: Call) {
        let status = |view: &View| {
            let now = Clock::now();
            let uptime = now.saturating_duration_since(self.clock.started);
            let rights = RightsStatus { process: self.rights.clone(), helper: None };
            report::bare(&self.name, self.follower.glance().as_ref(), rights, view, uptime, now)
        };
        let reply = control::answer(call.request, &self.plane, &self.clock, status).await;
        // A client that did not wait for its answer does not want it.
        let _ = call.reply.send(reply);
    }

    /// Tells the packet loop what the interface has become.
    async fn shape(&mut self, sight: &Sight) {
        let mtu = sight.mtu.try_into().unwrap_or(u16::MAX);
        if mtu != self.mtu && self.plane.apply(vec![Change::Mtu(mtu)]).await.is_ok() {
            info!(interface = sight.name, mtu, "MTU");
            self.mtu = mtu;
        }
        // What goes up elsewhere is seen up to a second later: too late for its first packets.
        self.listen(sight.up || !sight.here).await;
    }

    async fn listen(&mut self, up: bool) {
        if up == self.up {
            return;
        }
        self.up = up;
        match self.plane.listen(up).await {
            Ok(()) => info!(interface = self.name, "{}", if up { "up" } else { "down" }),
            // As wireguard-go: the interface stays up, and nothing passes until another port is set.
            Err(error) => error!(%error, interface = self.name, "up, but without its port"),
        }
    }
}

/// Tells when the control socket's file is gone, which ends the device.
struct SocketWatch {
    /// None for an adopted socket that has no file: nobody can remove it.
    file: Option<(SocketName, AsyncFd<FileWatch>)>,
}

impl SocketWatch {
    fn new(listener: &Listener) -> io::Result<Self> {
        let Some(name) = listener.name() else { return Ok(Self { file: None }) };
        let news = FileWatch::new(name.path())?.into_async()?;
        Ok(Self { file: Some((name.clone(), news)) })
    }

    /// Waits until the file is gone. Nothing is lost when this is dropped.
    async fn removed(&self) {
        let Some((name, news)) = &self.file else { return std::future::pending().await };
        // First look, then wait: it may be gone before there was a watch.
        while name.is_there() {
            match news.readable().await {
                Ok(mut ready) => {
                    news.get_ref().drain();
                    ready.clear_ready();
                }
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

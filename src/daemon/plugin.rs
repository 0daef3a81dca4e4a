//! The network driver's part of the daemon: the interface comes and goes with the engine's containers.
//!
//! ```text
//!  Join ──> Here: the TUN is made on the machine ── the engine moves it ──> Arriving: what the engine does
//!  not know is put beside ── it has its address, routes, is up ──> Inside ── Leave ──> Nowhere
//! ```
//!
//! Socket, keys and sessions are not touched by any of it. What is answered is decided in `plugin::Driver`;
//! here it is done. A container that ran before this process is asked of the engine (see [`Holder`]).

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::attached::Attached;
use super::{Daemon, Error};
use crate::config::Config;
use crate::engine::{Attendant, Engine};
use crate::plugin::{
    Answer, Call, DRIVER, Driver, EndpointId, Holder, SOCKET, SandboxKey, Server, Step,
    name_in_container,
};
use crate::sys::attach::sandbox::Finished;
use crate::sys::attach::{AttachError, AttachRequest};
use crate::sys::guard::Guard;
use crate::sys::helper::{Attacher, Refused};
use crate::sys::interface::TunWatch;
use crate::sys::netlink::{LinkEvent, LinkMonitor};
use crate::sys::tun::Tun;

/// How long the engine takes, at most, from its question to the move: starting a process is between.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Until another look at what the engine has done of its work; it takes some milliseconds.
const LOOK: Duration = Duration::from_millis(20);
/// Until another attempt to make an interface that somebody deleted.
const RETRY: Duration = Duration::from_secs(1);

/// What `status` says between two containers.
const NOBODY: &str = "detached: no container is on a network of hushwire";

/// The driver, and where the interface is.
pub(super) struct Plugin {
    driver: Driver,
    calls: mpsc::Receiver<Call>,
    /// What the engine tells of containers that ran before this process; closed once it has.
    found: mpsc::Receiver<Vec<Attendant>>,
    place: Place,
}

enum Place {
    /// There is no interface.
    Nowhere,
    /// It waits on the machine for the engine to move it.
    Here(Departure),
    /// It is in a container, where the engine is at work on it.
    Arriving(TunWatch),
    /// It is in a container and complete.
    Inside(TunWatch, Finished),
    /// It was deleted, and its container may still run; tried again at this time.
    Lost(Instant),
}

/// What is to be done.
pub(super) enum Event {
    /// The engine asks something.
    Asked(Call),
    /// The engine has told which containers are on networks of ours.
    Found(Vec<Attendant>),
    /// The interface has left for a container.
    Departed,
    /// The engine did not move it.
    Stayed,
    /// Time to look at it, or for it.
    Look,
}

impl Plugin {
    /// Makes the socket, where the engine looks for it. Takes the right to make its directory.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub(super) fn bind(config: &Config) -> Result<Option<Server>, Error> {
        let bind = || Server::bind(Path::new(SOCKET)).map_err(Error::Driver);
        config.docker.plugin.then(bind).transpose()
    }

    /// Begins to serve the engine, with the interface that a predecessor left in a container, if it did.
    pub(super) fn start(
        server: Server,
        attacher: &Attacher,
        kept: Option<OwnedFd>,
        request: &AttachRequest,
        engine: Engine,
    ) -> (Option<Tun>, Self) {
        let (call, calls) = mpsc::channel(16);
        tokio::spawn(server.serve(call));
        let (tell, found) = mpsc::channel(1);
        tokio::spawn(ask(engine, tell));
        let (tun, place) = match kept.map(|tun| take_over(attacher, tun, request)) {
            Some(Ok((tun, watch, finished))) => (Some(tun), Place::Inside(watch, finished)),
            Some(Err(error)) => {
                debug!("{error}");
                (None, Place::Nowhere)
            }
            None => (None, Place::Nowhere),
        };
        (tun, Self { driver: Driver::default(), calls, found, place })
    }

    /// Whether the interface is in a container, and what guards it there.
    pub(super) fn attached(&self) -> (Attached, Guard) {
        match &self.place {
            Place::Inside(_, finished) => (Attached::Yes { place: finished.place }, finished.guard),
            _ => (Attached::Away { detail: NOBODY.into() }, Guard::default()),
        }
    }

    /// Waits for what is to be done next; for ever without a driver. Nothing is lost when this is dropped.
    pub(super) async fn next(this: &mut Option<Self>) -> Event {
        let Some(Self { calls, found, place, .. }) = this else {
            return std::future::pending().await;
        };
        let moved = async {
            match place {
                Place::Nowhere | Place::Inside(..) => std::future::pending().await,
                Place::Here(departure) => departure.wait().await,
                Place::Arriving(_) => {
                    sleep(LOOK).await;
                    Event::Look
                }
                Place::Lost(again) => {
                    sleep_until(*again).await;
                    Event::Look
                }
            }
        };
        tokio::select! {
            Some(call) = calls.recv() => Event::Asked(call),
            Some(found) = found.recv() => Event::Found(found),
            event = moved => event,
        }
    }

    fn is_occupied(&self) -> bool {
        !matches!(self.place, Place::Nowhere)
    }
}

impl Daemon {
    /// Does what is to be done next.
    pub(super) async fn plugin_event(&mut self, event: Event) {
        match event {
            Event::Asked(call) => self.asked(call).await,
            Event::Found(attendants) => self.found(attendants).await,
            Event::Departed => self.departed().await,
            Event::Stayed => {
                warn!("the engine did not take the interface into a container");
                self.take_away(NOBODY);
            }
            Event::Look => self.look().await,
        }
    }

    async fn asked(&mut self, Call { request, reply }: Call) {
        let Some(plugin) = &mut self.plugin else { return };
        let occupied = plugin.is_occupied();
        let answer = match plugin.driver.handle(request, &self.request, occupied) {
            Err(why) => Err(why),
            Ok(Step::Answer(answer)) => Ok(answer),
            Ok(Step::Detach(answer)) => {
                self.take_away(NOBODY);
                info!(
                    interface = self.config.interface.name,
                    "overlay interface detached: its container stopped"
                );
                Ok(answer)
            }
            Ok(Step::Attach(answer)) => self.join(answer).await,
        };
        // An engine that did not wait for its answer does not want it.
        let _ = reply.send(answer);
    }

    /// Takes up a container that ran before this process: its interface is there, or is made again. What the
    /// engine has asked since then is newer.
    async fn found(&mut self, attendants: Vec<Attendant>) {
        let Some(plugin) = &mut self.plugin else { return };
        if plugin.driver.holder().is_some() {
            return;
        }
        let Some(Attendant { network, endpoint, container, sandbox }) =
            attendants.into_iter().next()
        else {
            if plugin.is_occupied() {
                self.take_away(NOBODY);
            }
            return;
        };
        info!(container, "on a network of hushwire since before its start");
        plugin.driver.take_up(Holder {
            endpoint: EndpointId(endpoint),
            network,
            sandbox: Some(SandboxKey(sandbox)),
            addresses: Vec::new(),
            routes: BTreeSet::new(),
        });
        if !plugin.is_occupied() {
            self.attach_in_container().await;
        }
    }

    /// Makes the interface for the engine to move.
    async fn join(&mut self, answer: Answer) -> Result<Answer, String> {
        // One of a container whose end was not told has the same name.
        self.take_away_interface();
        let (attacher, request) = (self.attacher()?, self.request.clone());
        let made = blocking(move || {
            let (tun, index) = attacher.prepare(&request)?;
            let watch = watch(&tun)?;
            Ok((tun, index, watch))
        })
        .await;
        let departing = made.and_then(|(tun, index, watch)| {
            let departure = Departure::watch(watch, index).map_err(|error| error.to_string())?;
            self.service.keep_tun(&tun);
            self.keeping.hold(&tun);
            self.plane.attach(tun);
            Ok(departure)
        });
        let Some(plugin) = &mut self.plugin else { return Ok(answer) };
        match departing {
            Ok(departure) => {
                plugin.place = Place::Here(departure);
                self.attached =
                    Attached::Away { detail: "detached: its container is being started".into() };
                Ok(answer)
            }
            Err(error) => {
                plugin.driver.release();
                warn!("{error}");
                Err(error)
            }
        }
    }

    /// The engine has moved the interface, and works on it: what it does not know is put beside.
    async fn departed(&mut self) {
        let request = self.request_in_container();
        let Ok(attacher) = self.attacher() else { return };
        let Some(plugin) = &mut self.plugin else { return };
        let Place::Here(departure) = std::mem::replace(&mut plugin.place, Place::Nowhere) else {
            return;
        };
        let (watch, request) = (departure.watch, request);
        let closed = blocking(move || {
            let closed = attacher.close(&watch, &request);
            Ok((watch, closed))
        })
        .await;
        match closed {
            Ok((watch, closed)) => {
                plugin.place = Place::Arriving(watch);
                match closed {
                    Ok(guard) => {
                        self.guard = guard;
                        debug!(%guard, "the container's network namespace is closed");
                    }
                    Err(error) => warn!("{error}; it is tried again"),
                }
            }
            Err(error) => warn!("{error}"),
        }
    }

    /// Looks whether the engine has done its part, or whether a container can have its interface back.
    async fn look(&mut self) {
        let Ok(attacher) = self.attacher() else { return };
        let Some(plugin) = &mut self.plugin else { return };
        match std::mem::replace(&mut plugin.place, Place::Nowhere) {
            Place::Arriving(watch) => {
                let request = self.request.clone();
                let told = plugin.driver.holder().map(Holder::told).unwrap_or_default();
                let looked = blocking(move || {
                    let finished = attacher.finish(&watch, &request, &told);
                    Ok((watch, finished))
                })
                .await;
                match looked {
                    Ok((watch, Ok(None))) => plugin.place = Place::Arriving(watch),
                    Ok((watch, Ok(Some(finished)))) => self.arrived(watch, finished),
                    // The start failed, and the engine has not said so yet; or somebody deleted it.
                    Ok((watch, Err(error))) => {
                        debug!("{error}");
                        plugin.place = Place::Arriving(watch);
                    }
                    Err(error) => warn!("{error}"),
                }
            }
            Place::Lost(_) => self.attach_in_container().await,
            other => plugin.place = other,
        }
    }

    fn arrived(&mut self, watch: TunWatch, finished: Finished) {
        let Finished { place, request, .. } = &finished;
        info!(
            interface = request.name,
            address = %super::overlay::join(&request.addresses),
            "overlay interface attached in its container"
        );
        self.attached = Attached::Yes { place: *place };
        self.guard = finished.guard;
        if let Some(plugin) = &mut self.plugin {
            plugin.place = Place::Inside(watch, finished);
        }
    }

    /// The packet loop has found the interface deleted.
    pub(super) async fn plugin_tun_gone(&mut self) {
        let Some(plugin) = &mut self.plugin else { return };
        warn!(interface = self.config.interface.name, "overlay interface deleted");
        plugin.place = Place::Lost(Instant::now() + RETRY);
        self.attach_in_container().await;
    }

    /// Makes the interface in the container that should have it, if its network namespace is still there.
    async fn attach_in_container(&mut self) {
        let request = self.request_in_container();
        let Ok(attacher) = self.attacher() else { return };
        let Some(plugin) = &mut self.plugin else { return };
        let holder = plugin.driver.holder();
        let Some(place) = holder.and_then(|holder| holder.sandbox.clone()) else {
            return self.take_away(NOBODY);
        };
        let place = PathBuf::from(place.0);
        let made = blocking(move || {
            Ok(attacher.attach_in(&place, &request).and_then(|(tun, finished)| {
                let watch = watch(&tun)?;
                Ok((tun, watch, finished))
            }))
        });
        match made.await {
            Ok(Ok((tun, watch, finished))) => {
                self.service.keep_tun(&tun);
                self.keeping.hold(&tun);
                self.plane.attach(tun);
                self.arrived(watch, finished);
            }
            // The container has ended, and its engine did not say so.
            Ok(Err(error)) if error.is_gone() => self.take_away(NOBODY),
            Ok(Err(error)) => self.not_attached(error.to_string()),
            Err(error) => self.not_attached(error),
        }
    }

    fn not_attached(&mut self, error: String) {
        self.attached = Attached::failed(&self.attached, error);
        if let Some(plugin) = &mut self.plugin {
            plugin.place = Place::Lost(Instant::now() + RETRY);
        }
    }

    /// Brings the interface in a container to the present request.
    ///
    /// # Errors
    /// Why it is not as requested; what it is stays known.
    pub(super) async fn plugin_reshape(&mut self) -> Result<(), String> {
        let attacher = self.attacher()?;
        let Some(plugin) = &mut self.plugin else { return Ok(()) };
        let (watch, was) = match std::mem::replace(&mut plugin.place, Place::Nowhere) {
            Place::Inside(watch, was) => (watch, was),
            // It gets the present request when it arrives, or is made again.
            elsewhere => {
                plugin.place = elsewhere;
                return Ok(());
            }
        };
        let request = self.request.clone();
        let shaped = blocking(move || {
            let shaped = attacher.reshape(&watch, &was, &request);
            Ok((watch, was, shaped))
        })
        .await;
        let (watch, was, shaped) = shaped?;
        let shaped = shaped.map_err(|error| error.to_string());
        let (is, result) = shaped.map_or_else(|error| (was, Err(error)), |is| (is, Ok(())));
        self.guard = is.guard;
        plugin.place = Place::Inside(watch, is);
        result
    }

    /// The way to the helper: with a network driver it has rights for as long as it lives.
    fn attacher(&self) -> Result<Attacher, String> {
        let attacher = self.rights.attacher().cloned();
        attacher.ok_or_else(|| "the rights of the helper process have ended".to_owned())
    }

    /// The request with the name that the engine gives the interface.
    fn request_in_container(&self) -> AttachRequest {
        AttachRequest { name: name_in_container(&self.request.name), ..self.request.clone() }
    }

    /// Nobody has the interface, and there is none.
    fn take_away(&mut self, detail: &str) {
        self.take_away_interface();
        self.attached = Attached::Away { detail: detail.into() };
        self.guard = Guard::default();
        if let Some(plugin) = &mut self.plugin {
            plugin.driver.release();
        }
    }

    fn take_away_interface(&mut self) {
        if let Some(plugin) = &mut self.plugin {
            plugin.place = Place::Nowhere;
        }
        self.service.forget_tun();
        self.keeping.let_go();
        self.plane.detach();
    }
}

/// Asks an engine until it tells which containers are on networks of ours. It serves its driver before it
/// answers others, so that nothing may wait for this.
async fn ask(engine: Engine, tell: mpsc::Sender<Vec<Attendant>>) {
    loop {
        match engine.on_networks_of(DRIVER).await {
            Ok(found) => return drop(tell.send(found).await),
            Err(error) => debug!("{error}"),
        }
        sleep(RETRY).await;
    }
}

/// Takes over what a keeper held, if it is in a container.
fn take_over(
    attacher: &Attacher,
    tun: OwnedFd,
    request: &AttachRequest,
) -> Result<(Tun, TunWatch, Finished), Refused> {
    let (tun, finished) = attacher.adopt_there(tun, request)?;
    let watch = watch(&tun)?;
    info!(
        interface = finished.request.name,
        "overlay interface taken over from the hushwire before"
    );
    Ok((tun, watch, finished))
}

fn watch(tun: &Tun) -> Result<TunWatch, Refused> {
    let interface = || tun.name().to_owned();
    TunWatch::new(tun).map_err(|error| AttachError::Tun { interface: interface(), error }.into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Watches for the moment in which an interface leaves our network namespace.
struct Departure {
    watch: TunWatch,
    index: u32,
    monitor: AsyncFd<LinkMonitor>,
    until: Instant,
}

impl Departure {
    /// Begins to watch: before the engine hears of the interface.
    fn watch(watch: TunWatch, index: u32) -> std::io::Result<Self> {
        let monitor = LinkMonitor::open()?.into_async()?;
        Ok(Self { watch, index, monitor, until: Instant::now() + START_PATIENCE })
    }

    async fn wait(&mut self) -> Event {
        tokio::select! {
            () = left(&mut self.monitor, self.index, &self.watch) => Event::Departed,
            () = sleep_until(self.until) => Event::Stayed,
        }
    }
}

async fn left(monitor: &mut AsyncFd<LinkMonitor>, index: u32, watch: &TunWatch) {
    loop {
        let Ok(mut ready) = monitor.readable_mut().await else {
            return std::future::pending().await;
        };
        match ready.get_inner_mut().next_event() {
            Ok(Some(LinkEvent::Link(link))) if link.index == index && link.deleted => return,
            Ok(Some(LinkEvent::Resync)) if !watch.is_here().unwrap_or(true) => return,
            Ok(Some(_)) => {}
            Ok(None) => ready.clear_ready(),
            Err(error) => {
                warn!(%error, "no more news about interfaces");
                return std::future::pending().await;
            }
        }
    }
}

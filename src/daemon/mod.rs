//! The life of `hushwire up`, and in bare.rs that of `hushwire NAME`: open the sockets, attach the
//! interface, run, leave nothing behind.
//!
//! A tokio runtime of one thread waits here for signals, for the control socket, for names to be
//! resolved and for what the packet loop tells, and answers with [`Change`]s. It never touches a
//! packet: `dataplane` runs on a thread of its own and goes on whatever happens here. Called by
//! `commands::up`.

mod attached;
mod bare;
mod carrier;
mod clock;
mod control;
mod error;
mod follow;
mod guarding;
mod keeper;
mod lowered;
mod names;
mod overlay;
mod plugin;
mod reload;
mod report;
mod rights;
mod service;
mod stranded;
mod target;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

pub use bare::{Bare, run_bare};
pub use error::Error;
pub use service::{Service, ServiceEnvironment};

use crate::config::{self, Config, Environment, HandedKeys, Mtu};
use crate::dataplane::{self, Handle, Notice, View};
use crate::engine::Engine;
use crate::sys::attach::AttachRequest;
use crate::sys::guard::Guard;
use crate::sys::helper::{Attacher, Helper};
use crate::sys::locked;
use crate::sys::memory;
use crate::sys::netns::Namespace;
use crate::sys::sandbox::Files;
use crate::sys::udp::{Paths, Udp};
use crate::uapi::{Call, Reload, Reply, Request};
use crate::wireguard::{Change, Device, Event, PeerChange, PublicKey, Way};
use attached::Attached;
use carrier::Carrier;
use clock::Clock;
use control::{PREDECESSOR_PATIENCE, PREDECESSOR_POLL};
use guarding::Guarding;
use keeper::Keeping;
use lowered::Lowered;
use names::{Names, Resolved};
use plugin::Plugin;
use rights::Rights;
use stranded::Ways;
use target::Target;

/// For how long the start waits for the addresses of names, which say what the MTU is to be.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// Initiations without an answer that make a peer count as down: 3 s after it was asked first.
const UNANSWERED_IS_DOWN: u32 = 3;

/// Runs the tunnel until SIGTERM or SIGINT. The helper ends with it. `key_files` are those of the configuration.
///
/// # Errors
/// [`Error`] when the tunnel cannot start, or not go on.
pub fn run(
    config: Config,
    key_files: &[PathBuf],
    environment: Environment,
    helper: (Helper, Attacher),
    service: Service,
) -> Result<(), Error> {
    block_on(async {
        let files = rights::files(&config, key_files, &environment);
        let (daemon, inputs) = Daemon::start(config, environment, &files, helper, service).await?;
        daemon.run(inputs).await
    })
}

/// After this time the start is over, with what other tools configure at once.
const SETTLED: Duration = Duration::from_secs(1);

fn block_on(life: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Start("the runtime", error))?;
    runtime.spawn(async {
        tokio::time::sleep(SETTLED).await;
        if let Err(error) = memory::release_code() {
            debug!(%error, "the code of the start stays resident");
        }
    });
    let result = runtime.block_on(life);
    // A name that is being resolved holds a thread that cannot be interrupted: do not wait for it.
    runtime.shutdown_background();
    result
}

/// Everything that the control plane waits for.
struct Inputs {
    notices: mpsc::UnboundedReceiver<Notice>,
    calls: mpsc::Receiver<Call>,
    resolved: mpsc::UnboundedReceiver<Resolved>,
    carrier: Carrier,
    ways: Ways,
    lowered: Lowered,
    guarding: Guarding,
    signals: Signals,
}

struct Daemon {
    config: Config,
    environment: Environment,
    /// Keys that were handed over for files that this process does not see anew.
    known: HandedKeys,
    plane: Handle,
    names: Names,
    attached: Attached,
    guard: Guard,
    /// Where the interface is to be.
    target: Target,
    /// What the interface is to be.
    request: AttachRequest,
    /// What it was last brought to.
    shaped: AttachRequest,
    paths: Paths,
    rights: Rights,
    /// Dropped after `plane`: the TUN's last descriptor is the keeper's, which is waited for.
    keeping: Keeping,
    service: Service,
    /// Peers that had a session since they did not answer, or since the start.
    answering: BTreeSet<PublicKey>,
    /// The file has errors since it was loaded.
    refused: bool,
    /// The control socket has set something since the file was applied.
    strayed: bool,
    /// The interface is in a container, or nowhere, if there is one.
    plugin: Option<Plugin>,
    clock: Clock,
}

impl Daemon {
    async fn start(
        config: Config,
        environment: Environment,
        files: &Files,
        (helper, attacher): (Helper, Attacher),
        mut service: Service,
    ) -> Result<(Self, Inputs), Error> {
        let clock = Clock::start();
        let signals = Signals::hear()?;
        // The control socket first: it tells another daemon of this interface apart from a left-over.
        let listener = control::bind(&config.interface.name).await?;
        let udp = underlay(&mut service, &config).await?;
        let paths = Paths::open(config.interface.fwmark);
        let driver = Plugin::bind(&config)?;
        let mut guarding = Guarding::watch(&config);
        // From here on the helper alone has rights: no thread runs yet, and no byte of a peer's was read.
        let mut rights = Rights::give_up(files, attacher.clone(), Some(helper.id()))?;

        let (resolve, mut resolved) = mpsc::unbounded_channel();
        let mut names = Names::new(resolve);
        names.follow(&config);
        if overlay::depends_on_names(&config) {
            names.await_answers(&mut resolved, FIRST_ANSWERS).await;
        }
        let mtu = overlay::mtu(&config, &paths, &names.endpoints(&config));
        let mut target = Target::follow(&config, Some(attacher.clone()));
        let mut request = overlay::request(&config, mtu, Namespace::Own);
        let kept = match service.kept_tun() {
            Some(tun) => Some(tun),
            None => keeper::inherit(&config.interface.name, &config.path).await,
        };
        let is_wanted = !service.keeps_descriptors();
        let keeping = Keeping::start(helper, &config, is_wanted);
        let mut keeping = keeping.map_err(|error| Error::Start("the helper process", error))?;
        let (start, plugin) = if let Some(driver) = driver {
            let engine = Engine::new(config.docker.socket.clone());
            let (tun, plugin) = Plugin::start(driver, &attacher, kept, &request, engine);
            let (attached, guard) = plugin.attached();
            ((tun, attached, guard), Some(plugin))
        } else {
            let state = target.first().await;
            (attached::at_start(&attacher, &state, &mut request, kept, &service)?, None)
        };
        let (tun, attached, guard) = start;
        guarding.put_in(guard);
        service.forget_the_rest();
        match &tun {
            Some(tun) => {
                service.keep_tun(tun);
                keeping.hold(tun);
            }
            None => service.forget_tun(),
        }
        if !rights::follows(&config) {
            rights.end()?;
            keeping.rights_ended();
        }

        // The loop starts last, with everything in place: what peers sent meanwhile waits in the
        // socket, and the handshakes that it starts find the interface there.
        let mut device = new_device()?;
        let mut changes = vec![Change::Mtu(mtu)];
        changes.extend(config::changes(&config));
        changes.extend(names.changes(&config));
        device.apply(Clock::now(), changes);
        let (notify, notices) = mpsc::unbounded_channel();
        let fwmark = config.interface.fwmark;
        let plane = dataplane::start(device, udp, fwmark, tun, notify)
            .map_err(|error| Error::Start("the packet loop", error))?;

        let (call, calls) = mpsc::channel(16);
        tokio::spawn(listener.serve(call));

        service.feed_watchdog(plane.pulse());
        let mut daemon = Self {
            config,
            environment,
            known: HandedKeys::default(),
            plane,
            names,
            attached,
            guard,
            target,
            shaped: request.clone(),
            request,
            paths,
            rights,
            keeping,
            service,
            plugin,
            answering: BTreeSet::new(),
            refused: false,
            strayed: false,
            clock,
        };
        daemon.keep_underlay().await;
        daemon.service.ready(report::line(&daemon));
        if let Some(error) = locked::refusal() {
            warn!(%error, "keys may be swapped out: the limit on locked memory (ulimit -l) is too low");
        }
        let interface = &daemon.config.interface;
        info!(
            interface = interface.name,
            address = %overlay::join(&interface.address),
            mtu,
            listen_port = interface.listen_port,
            peers = daemon.config.peers.len(),
            "{}",
            match (&daemon.plugin, &daemon.attached) {
                (Some(_), _) => "network driver ready",
                (None, Attached::Yes { .. }) => "overlay up",
                (None, _) => "waits for the place of the overlay interface",
            }
        );
        let (carrier, ways) = (Carrier::watch(), Ways::watch());
        let lowered = Lowered::watch(daemon.beyond_reach());
        Ok((daemon, Inputs { notices, calls, resolved, carrier, ways, lowered, guarding, signals }))
    }

    async fn run(mut self, mut inputs: Inputs) -> Result<(), Error> {
        loop {
            self.service.status(report::line(&self));
            tokio::select! {
                _ = inputs.signals.terminate.recv() => break,
                _ = inputs.signals.interrupt.recv() => break,
                _ = inputs.signals.hangup.recv() => {
                    self.reload(Reload::default()).await;
                }
                Some(call) = inputs.calls.recv() => self.answer(call).await,
                Some(resolved) = inputs.resolved.recv() => self.resolved(resolved).await,
                notice = inputs.notices.recv() => match notice {
                    Some(Notice::Peer(event)) => self.peer_event(event),
                    Some(Notice::TunGone) if self.plugin.is_some() => self.plugin_tun_gone().await,
                    Some(Notice::TunGone) => {
                        warn!(interface = self.config.interface.name, "overlay interface deleted");
                        self.service.forget_tun();
                        if self.rights.attacher().is_none() {
                            return Err(Error::InterfaceGone(self.config.interface.name));
                        }
                        self.attach_again().await;
                    }
                    Some(Notice::TunDown) => self.tun_down().await,
                    // The loop ends before we tell it to only by a bug; stay up without packets never.
                    None => return Err(Error::PacketLoop),
                },
                interface = inputs.ways.end() => return Err(Error::Stranded(interface)),
                () = inputs.lowered.down() => {
                    return Err(Error::InterfaceDown(self.config.interface.name));
                }
                guard = inputs.guarding.changed() => self.guard_changed(guard)?,
                () = inputs.carrier.back() => {
                    // A loop that has ended is noticed by its notices.
                    let _ = self.plane.apply(vec![Change::CarrierBack]).await;
                }
                () = self.keeping.ended() => {
                    if self.rights.attacher().is_some() {
                        return Err(Error::HelperGone);
                    }
                    self.keeping.give_up();
                }
                event = Plugin::next(&mut self.plugin) => self.plugin_event(event).await,
                state = self.target.changed(), if self.plugin.is_none() => self.follow(state).await,
                () = self.attached.due(), if self.plugin.is_none() => {
                    self.attach_again().await;
                }
            }
        }
        self.service.stopping();
        info!(interface = self.config.interface.name, "overlay down");
        Ok(())
    }

    /// Does what a client asks for.
    async fn answer(&mut self, Call { request, reply }: Call) {
        let answer = match request {
            Request::Reload(reload) => Reply::Reload(self.reload(reload).await),
            request => {
                let set = match &request {
                    Request::Set(changes) => control::in_words(changes, |key| self.label(key)),
                    _ => None,
                };
                let status = |view: &View| report::status(self, view, Clock::now());
                let answer = control::answer(request, &self.plane, &self.clock, status).await;
                if let Some(set) = set.filter(|_| matches!(answer, Reply::Done)) {
                    warn!(
                        set,
                        "changed by the control socket; a reload brings back what the file says"
                    );
                    self.strayed = true;
                    self.keep_underlay().await;
                }
                answer
            }
        };
        // A client that did not wait for its answer does not want it.
        let _ = reply.send(answer);
    }

    /// Has the underlay sockets kept for the next start, if they are others than those that are.
    async fn keep_underlay(&mut self) {
        if self.service.keeps_descriptors()
            && let Ok((port, sockets)) = self.plane.underlay().await
        {
            self.service.keep_underlay(port, &sockets);
        }
    }

    /// Takes the addresses of a peer whose endpoint is a name.
    async fn resolved(&mut self, resolved: Resolved) {
        let peer = self.label(&resolved.peer);
        let Some(addresses) = self.names.take(resolved) else { return };
        info!(peer, addresses = %overlay::join(&addresses.endpoints), "endpoint resolved");
        let mut change = PeerChange::new(addresses.peer);
        change.update_only = true;
        change.endpoints = Some(addresses.endpoints);
        let mtu = self.mtu(&self.config);
        if self.plane.apply(vec![Change::Peer(change), Change::Mtu(mtu)]).await.is_ok() {
            // The log says why not.
            let _ = self.reshape(mtu).await;
        }
    }

    fn peer_event(&mut self, event: Event) {
        match event {
            Event::Established { peer, endpoint } => {
                self.answering.insert(peer);
                info!(peer = self.label(&peer), %endpoint, "peer up");
            }
            Event::Unanswered { peer, initiations } => {
                if initiations == UNANSWERED_IS_DOWN {
                    self.answering.remove(&peer);
                    info!(peer = self.label(&peer), "peer does not answer");
                }
                self.names.stale(&self.config, &peer);
            }
            Event::Filtered { peer, way, packets, what } => {
                let peer = self.label(&peer);
                let last = what.map_or_else(|| "unreadable".to_owned(), |what| what.to_string());
                match way {
                    Way::In => warn!(peer, packets, last, "filter refused what the peer sent"),
                    Way::Out => warn!(peer, packets, last, "filter refused what the peer was sent"),
                }
            }
        }
    }

    /// The MTU that a configuration asks for; without the right to change it, the one that there is stays
    /// where a path has another one by now.
    fn mtu(&self, config: &Config) -> u16 {
        if config.interface.mtu == Mtu::Auto && self.rights.attacher().is_none() {
            return self.request.mtu;
        }
        overlay::mtu(config, &self.paths, &self.names.endpoints(config))
    }

    /// What a peer is called in log lines: its name, else its public key.
    fn label(&self, key: &PublicKey) -> String {
        let peer = self.config.peers.iter().find(|peer| peer.public_key == *key);
        peer.and_then(|peer| peer.name.clone()).unwrap_or_else(|| key.to_string())
    }
}

/// The sockets that the service manager kept, else new ones.
async fn underlay(service: &mut Service, config: &Config) -> Result<Udp, Error> {
    let (port, fwmark) = (config.interface.listen_port, config.interface.fwmark);
    let kept = service.kept_underlay();
    if !kept.is_empty() {
        match Udp::adopt(kept, port, fwmark) {
            Ok(udp) => {
                info!(port, "underlay sockets taken over from the hushwire before");
                return Ok(udp);
            }
            Err(error) => {
                warn!(%error, "underlay sockets of the hushwire before do not fit; made anew");
            }
        }
        service.forget_underlay();
    }
    bind_underlay(port, fwmark).await
}

async fn bind_underlay(port: u16, fwmark: u32) -> Result<Udp, Error> {
    let until = Clock::now() + PREDECESSOR_PATIENCE;
    loop {
        match Udp::bind(port, fwmark) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Clock::now() < until => {
                tokio::time::sleep(PREDECESSOR_POLL).await;
            }
            result => return result.map_err(Error::Underlay),
        }
    }
}

/// The signals that a life is told by. They end the process until they are heard.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn hear() -> Result<Self, Error> {
        let hear = |kind| signal(kind).map_err(|error| Error::Start("signal handling", error));
        Ok(Self {
            terminate: hear(SignalKind::terminate())?,
            interrupt: hear(SignalKind::interrupt())?,
            hangup: hear(SignalKind::hangup())?,
        })
    }
}

fn new_device() -> Result<Device, Error> {
    let seed = getrandom::u64().map_err(io::Error::other);
    seed.map(Device::new).map_err(|error| Error::Start("the random generator", error))
}

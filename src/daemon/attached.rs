//! The overlay interface over the life of the daemon: made at the start, made again, left and found.
//!
//! What is attached has three other holders of its descriptor: the packet loop, the keeper and the service
//! manager. Here all three are told, so that nothing of ours keeps the namespace of a container alive that
//! has gone. Sessions, sockets and keys are not touched by any of this.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::error::Error;
use super::service::Service;
use super::target::State;
use super::{Daemon, overlay};
use crate::sys::attach::sandbox::Finished;
use crate::sys::attach::{AttachRequest, Attachment, Place};
use crate::sys::guard::Guard;
use crate::sys::helper::Attacher;
use crate::sys::netns::Namespace;
use crate::sys::tun::Tun;

/// Until the interface is made anew when that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Whether the overlay interface is there.
pub(super) enum Attached {
    /// It is.
    Yes { place: Place },
    /// It could not be made, and is tried again at this time.
    Failed { detail: String, again: Instant },
    /// The place where it is to be is not there.
    Away { detail: String },
}

impl Attached {
    pub(super) fn is_attached(&self) -> bool {
        matches!(self, Attached::Yes { .. })
    }

    /// Why it is not there; empty if it is.
    pub(super) fn detail(&self) -> &str {
        match self {
            Attached::Yes { .. } => "",
            Attached::Failed { detail, .. } | Attached::Away { detail } => detail,
        }
    }

    fn away(why: &str) -> Self {
        Attached::Away { detail: format!("detached: {why}") }
    }

    /// Says it once in the log, however often it is tried again.
    pub(super) fn failed(before: &Attached, detail: String) -> Self {
        if before.detail() != detail {
            warn!("{detail}");
        }
        Attached::Failed { detail, again: Instant::now() + RETRY }
    }

    /// Waits until it is to be tried again, however often the wait is begun anew; for ever if it is not.
    pub(super) async fn due(&self) {
        match self {
            Attached::Failed { again, .. } => sleep_until(*again).await,
            _ => std::future::pending().await,
        }
    }
}

/// Attaches at the start, with what the process before has left, if the place is there; the request gets to
/// know it. What was left is taken over where it is while nobody says which place that should be: a container
/// does not end because its engine is away.
///
/// # Errors
///
/// What will be the same however long one waits; in our own namespace, everything.
pub(super) fn at_start(
    attacher: &Attacher,
    state: &State,
    request: &mut AttachRequest,
    kept: Option<OwnedFd>,
    service: &Service,
) -> Result<(Option<Tun>, Attached, Guard), Error> {
    let nothing = |attached| Ok((None, attached, Guard::default()));
    match state {
        State::Here { namespace, .. } => request.namespace = namespace.clone(),
        State::Away { why, lasting: true } => return Err(Error::Target(why.clone())),
        State::Away { why, lasting: false } => {
            warn!("detached: {why}");
            return nothing(Attached::away(why));
        }
        State::Unknown(why) => {
            let found = kept.and_then(|tun| attacher.adopt_there(tun, request).ok());
            let Some((tun, Finished { place, guard, .. })) = found else {
                warn!("detached: {why}");
                return nothing(Attached::away(why));
            };
            warn!("overlay interface taken over where the hushwire before had it: {why}");
            return Ok((Some(tun), Attached::Yes { place }, guard));
        }
    }
    let attachment = match kept.and_then(|tun| adopt(attacher, tun, request)) {
        Some(attachment) => Ok(attachment),
        None => {
            // One that is kept in vain would have the name.
            service.forget_tun();
            attacher.attach(request)
        }
    };
    match attachment {
        Ok(Attachment { tun, place, guard }) => Ok((Some(tun), Attached::Yes { place }, guard)),
        Err(error) if error.is_lasting() || request.namespace == Namespace::Own => {
            Err(Error::Attach(error))
        }
        Err(error) => nothing(Attached::failed(&Attached::away(""), error.to_string())),
    }
}

/// Takes over what a keeper held, if it fits.
fn adopt(attacher: &Attacher, tun: OwnedFd, request: &AttachRequest) -> Option<Attachment> {
    match attacher.adopt(tun, request) {
        Ok(attachment) => {
            info!(
                interface = request.name,
                "overlay interface taken over from the hushwire before"
            );
            Some(attachment)
        }
        Err(error) => {
            warn!("{error}; it is made anew");
            None
        }
    }
}

impl Daemon {
    /// Goes where the target is, or waits for it.
    pub(super) async fn follow(&mut self, state: State) {
        match state {
            // What we are in stays as it is.
            State::Unknown(_) if self.attached.is_attached() => {}
            State::Here { namespace, id } => {
                if matches!(self.attached, Attached::Yes { place } if place.namespace == id) {
                    self.request.namespace = namespace;
                    return;
                }
                self.detach();
                self.request.namespace = namespace;
                self.attach_again().await;
            }
            State::Away { why, .. } | State::Unknown(why) => {
                self.detach();
                let attached = Attached::away(&why);
                if self.attached.detail() != attached.detail() {
                    warn!("{}", attached.detail());
                }
                self.attached = attached;
            }
        }
    }

    /// Lets go of the interface, everywhere.
    pub(super) fn detach(&mut self) {
        if self.attached.is_attached() {
            self.plane.detach();
            self.keeping.let_go();
            self.service.forget_tun();
            self.attached = Attached::away("it is looked for");
        }
    }

    /// Makes the interface anew, after somebody deleted it or the place has changed.
    pub(super) async fn attach_again(&mut self) {
        let Some(attacher) = self.rights.attacher().cloned() else { return };
        let request = self.request.clone();
        // On a thread of its own: a busy interface may take seconds.
        let result = tokio::task::spawn_blocking(move || attacher.attach(&request)).await;
        self.attached = match result {
            Ok(Ok(attachment)) => {
                self.service.keep_tun(&attachment.tun);
                self.keeping.hold(&attachment.tun);
                self.plane.attach(attachment.tun);
                self.guard = attachment.guard;
                self.shaped = self.request.clone();
                let place = self.request.namespace.to_string();
                info!(interface = self.request.name, place, "overlay interface attached");
                Attached::Yes { place: attachment.place }
            }
            Ok(Err(error)) => Attached::failed(&self.attached, error.to_string()),
            Err(error) => Attached::failed(&self.attached, error.to_string()),
        };
    }

    /// Brings an interface back that somebody has set down, where there is a helper to do it.
    pub(super) async fn tun_down(&mut self) {
        if self.rights.attacher().is_some() && self.attached.is_attached() {
            let interface = &self.config.interface.name;
            warn!(interface, "overlay interface set down by somebody; it is brought back");
            // The log says why not.
            let _ = self.reshape(self.request.mtu).await;
        }
    }

    /// The index of the interface where nobody has the right to bring it back.
    pub(super) fn beyond_reach(&self) -> Option<u32> {
        match self.attached {
            Attached::Yes { place } if self.rights.attacher().is_none() => Some(place.index),
            _ => None,
        }
    }

    /// Brings the interface to what the configuration says now, also where somebody else has changed it.
    /// Without the right to do so it is what is within reach, and stays.
    ///
    /// # Errors
    /// Why it is not as configured; the next call tries it again.
    pub(super) async fn reshape(&mut self, mtu: u16) -> Result<(), String> {
        let Some(attacher) = self.rights.attacher().cloned() else { return Ok(()) };
        self.request = overlay::request(&self.config, mtu, self.request.namespace.clone());
        let shaped = if self.plugin.is_some() {
            self.plugin_reshape().await
        } else if let Attached::Yes { place } = self.attached {
            let shaped = attacher.reconfigure(place, &self.shaped, &self.request);
            shaped.map_err(|error| error.to_string()).map(|guard| {
                self.guard = guard;
                self.shaped = self.request.clone();
            })
        } else {
            Ok(())
        };
        shaped.inspect_err(|error| warn!(%error, "overlay interface not changed as configured"))
    }
}

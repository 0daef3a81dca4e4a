//! Asking the helper to attach an interface: one request, one answer, both plain data of a bounded length.
//!
//! A TUN goes with the message, to the helper when it is to be adopted and back when it is attached. Both
//! ends are here, so that they agree; what is done for a request is the work of `attach`. No byte of a peer's
//! or of the control socket's is in a request: names, addresses, routes, an MTU, a namespace.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::container::{self, Fulfilled, Wish};
use crate::sys::attach::{self, AttachError, AttachRequest, Attachment, Place};
use crate::sys::guard::Guard;
use crate::sys::netns::{self, Namespace, NamespaceError};
use crate::sys::rights;
use crate::sys::tun::Tun;

/// A message is no longer: a socket takes 208 KiB by default (net.core.wmem_default), which are some
/// thousand prefixes.
const LONGEST: usize = 192 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Attach(AttachRequest),
    /// With the TUN.
    Adopt(AttachRequest),
    Reconfigure(Place, AttachRequest, AttachRequest),
    Identify(Namespace),
    InContainer(Wish),
    /// Nothing more needs rights.
    EndRights,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// With the TUN.
    Attached(Place, Guard),
    Reconfigured(Guard),
    Namespace(netns::Id),
    InContainer(Fulfilled),
    RightsEnded,
    Refused(Refused),
}

/// Why the helper did not do what it was asked for. Its text is that of the error there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    text: String,
    lasting: bool,
    gone: bool,
}

impl Refused {
    pub(super) fn new(error: &impl fmt::Display) -> Self {
        Self { text: error.to_string(), lasting: false, gone: false }
    }

    /// Whether it will be the same, however long one waits: it wants an operator.
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// Whether there is no network namespace at the path any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }
}

impl From<AttachError> for Refused {
    fn from(error: AttachError) -> Self {
        let gone = matches!(&error, AttachError::Namespace { error, .. } if is_gone(error));
        Self { text: error.to_string(), lasting: error.is_lasting(), gone }
    }
}

impl From<&NamespaceError> for Refused {
    fn from(error: &NamespaceError) -> Self {
        Self { text: error.to_string(), lasting: error.is_lasting(), gone: is_gone(error) }
    }
}

fn is_gone(error: &NamespaceError) -> bool {
    matches!(error, NamespaceError::Missing(_) | NamespaceError::NotANamespace(_))
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

/// The way to the helper for as long as that has rights. All clones are the same one; a request waits for the
/// one before.
#[derive(Clone, Debug)]
pub struct Attacher(Arc<Mutex<OwnedFd>>);

impl Attacher {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// Has an interface attached, as [`attach::attach`] says. It blocks, for up to three seconds.
    ///
    /// # Errors
    ///
    /// [`Refused`], also when the helper was killed.
    pub fn attach(&self, request: &AttachRequest) -> Result<Attachment, Refused> {
        attached(self.ask(&Request::Attach(request.clone()), None)?)
    }

    /// Has an interface adopted that another process has attached, as [`attach::adopt`] says.
    ///
    /// # Errors
    ///
    /// [`Refused`]; the descriptor is closed then.
    pub fn adopt(&self, tun: OwnedFd, request: &AttachRequest) -> Result<Attachment, Refused> {
        let asked = self.ask(&Request::Adopt(request.clone()), Some(tun.as_fd()));
        drop(tun);
        attached(asked?)
    }

    /// Has an attached interface changed, as [`attach::reconfigure`] says.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn reconfigure(
        &self,
        place: Place,
        old: &AttachRequest,
        new: &AttachRequest,
    ) -> Result<Guard, Refused> {
        match self.ask(&Request::Reconfigure(place, old.clone(), new.clone()), None)? {
            (Answer::Reconfigured(guard), _) => Ok(guard),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks which namespace this is at the moment, as [`netns::identify`] says.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn identify(&self, namespace: &Namespace) -> Result<netns::Id, Refused> {
        match self.ask(&Request::Identify(namespace.clone()), None)? {
            (Answer::Namespace(id), _) => Ok(id),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the rights of the helper, for ever. From now on every request is refused.
    ///
    /// # Errors
    ///
    /// [`Refused`] when they could not be given up.
    pub fn end_rights(&self) -> Result<(), Refused> {
        match self.ask(&Request::EndRights, None)? {
            (Answer::RightsEnded, _) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) fn ask(
        &self,
        request: &Request,
        tun: Option<BorrowedFd<'_>>,
    ) -> Result<(Answer, Option<OwnedFd>), Refused> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let message = serde_json::to_vec(request).map_err(|error| Refused::new(&error))?;
        if message.len() > LONGEST {
            let length = message.len();
            return Err(Refused::new(&format_args!(
                "addresses and allowed IPs make a request of {length} bytes, and {LONGEST} are allowed: \
                 join neighbouring prefixes"
            )));
        }
        // A helper that could not give up its rights has said so, and ended: its word is still there.
        let sent = rights::send(socket.as_fd(), &message, tun);
        let mut room = vec![0; LONGEST];
        match rights::receive(socket.as_fd(), &mut room) {
            Ok((0, _)) | Err(_) => {
                let why = sent.err().map(|error| format!(": {error}")).unwrap_or_default();
                Err(Refused::new(&format_args!(
                    "the helper process was killed{why}; restart hushwire"
                )))
            }
            Ok((length, tun)) => {
                match serde_json::from_slice(room.get(..length).unwrap_or_default()) {
                    Ok(Answer::Refused(refused)) => Err(refused),
                    Ok(answer) => Ok((answer, tun)),
                    Err(error) => Err(Refused::new(&error)),
                }
            }
        }
    }
}

fn attached((answer, tun): (Answer, Option<OwnedFd>)) -> Result<Attachment, Refused> {
    match (answer, tun) {
        (Answer::Attached(place, guard), Some(tun)) => {
            let tun = Tun::from_claimed(tun).map_err(|error| Refused::new(&error))?;
            Ok(Attachment { tun, place, guard })
        }
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(answer: &impl fmt::Debug) -> Refused {
    Refused::new(&format_args!(
        "the helper process answers with what was not asked for: {answer:?}"
    ))
}

/// What became of the rights of a helper.
pub(super) enum Served {
    /// It has them still.
    HasRights,
    /// Nothing more needs them: give them up, then [`confirm`].
    Finished,
}

/// Does what the next message asks for.
pub(super) fn serve(socket: BorrowedFd<'_>) -> Served {
    let mut room = vec![0; LONGEST + 1];
    let (length, tun) = match rights::receive(socket, &mut room) {
        // Its hushwire is dead.
        Ok((0, _)) | Err(_) => return Served::Finished,
        Ok(received) => received,
    };
    let request = match room.get(..length).map(serde_json::from_slice::<Request>) {
        Some(Ok(request)) if length <= LONGEST => request,
        _ => {
            say(socket, &Answer::Refused(Refused::new(&"a request that cannot be read")), None);
            return Served::HasRights;
        }
    };
    let done =
        match request {
            Request::EndRights => return Served::Finished,
            Request::Attach(request) => attach::attach(&request).map(attachment),
            Request::Adopt(request) => match tun {
                Some(tun) => attach::adopt(tun, &request).map(attachment),
                None => Ok((Answer::Refused(Refused::new(&"no TUN came to be adopted")), None)),
            },
            Request::Reconfigure(place, old, new) => attach::reconfigure(place, &old, &new)
                .map(|guard| (Answer::Reconfigured(guard), None)),
            Request::InContainer(wish) => Ok(container::fulfil(wish, tun)
                .unwrap_or_else(|refused| (Answer::Refused(refused), None))),
            Request::Identify(namespace) => Ok(match netns::identify(&namespace) {
                Ok(id) => (Answer::Namespace(id), None),
                Err(error) => (Answer::Refused(Refused::from(&error)), None),
            }),
        };
    let (answer, tun) = done.unwrap_or_else(|error| (Answer::Refused(error.into()), None));
    say(socket, &answer, tun.as_ref());
    Served::HasRights
}

/// Says that the rights have ended, or why they did not.
pub(super) fn confirm<E: fmt::Display>(socket: BorrowedFd<'_>, ended: Result<(), E>) {
    let answer = match ended {
        Ok(()) => Answer::RightsEnded,
        Err(error) => Answer::Refused(Refused::new(&error)),
    };
    say(socket, &answer, None);
}

fn attachment(Attachment { tun, place, guard }: Attachment) -> (Answer, Option<Tun>) {
    (Answer::Attached(place, guard), Some(tun))
}

fn say(socket: BorrowedFd<'_>, answer: &Answer, tun: Option<&Tun>) {
    // Who is dead does not want to know.
    let _ = serde_json::to_vec(answer)
        .map_err(io::Error::from)
        .and_then(|message| rights::send(socket, &message, tun.map(AsFd::as_fd)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::helper::pair;

    #[test]
    fn what_cannot_be_read_is_refused_and_a_namespace_that_may_come_is_told_apart() {
        let (ours, theirs) = pair().unwrap();
        let server = std::thread::spawn(move || {
            while matches!(serve(theirs.as_fd()), Served::HasRights) {}
            confirm(theirs.as_fd(), Ok::<_, io::Error>(()));
        });
        for nonsense in [&b"nonsense"[..], b"{}", b"\0", br#"{"Attach":{"name":"x"}}"#] {
            rights::send(ours.as_fd(), nonsense, None).unwrap();
            let mut room = [0; 256];
            let (length, fd) = rights::receive(ours.as_fd(), &mut room).unwrap();
            let said = String::from_utf8_lossy(&room[..length]).into_owned();
            assert!(said.contains("cannot be read") && fd.is_none(), "{said}");
        }
        let attacher = Attacher::new(ours);
        let missing = attacher.identify(&Namespace::File("/nowhere".into())).unwrap_err();
        assert!(!missing.is_lasting() && missing.to_string().contains("/nowhere"), "{missing}");
        assert_eq!(
            attacher.identify(&Namespace::Own).unwrap(),
            netns::identify(&Namespace::Own).unwrap()
        );
        let routes = (0..20_000u32).map(|n| format!("10.{}.{}.0/24", n / 256 % 256, n % 256));
        let request = AttachRequest {
            namespace: Namespace::Own,
            name: "x".into(),
            addresses: Vec::new(),
            routes: routes.map(|route| route.parse().unwrap()).collect(),
            mtu: 1440,
        };
        let error = attacher.attach(&request).unwrap_err().to_string();
        assert!(error.contains("196608 are allowed"), "{error}");
        attacher.end_rights().unwrap();
        server.join().unwrap();
        let error = attacher.identify(&Namespace::Own).unwrap_err().to_string();
        assert!(error.contains("restart hushwire"), "{error}");
    }
}

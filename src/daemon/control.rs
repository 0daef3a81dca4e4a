//! The control socket's side of a daemon, the same for `up` and for a bare device.
//!
//! It makes the socket, and turns a request into what the packet loop does and a reply. It knows neither
//! configuration nor interface: what `status` says beside the device is the caller's.

use std::io;
use std::time::Duration;

use tracing::debug;

use super::clock::Clock;
use super::error::Error;
use crate::dataplane::{Handle, View};
use crate::status::Status;
use crate::uapi::{BindError, Errno, Listener, ReloadOutcome, Reply, Request, render_get};
use crate::wireguard::{Change, PublicKey};

/// How long a predecessor that was just killed may take to let go of its socket and port.
pub(super) const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(2);
/// How often that is looked at.
pub(super) const PREDECESSOR_POLL: Duration = Duration::from_millis(5);

/// A log line names as many peers of one request; of more it has the number.
const NAMED_PEERS: usize = 4;

/// Makes the control socket of an interface. It tells another daemon of this interface apart from what a
/// dead one left.
pub(super) async fn bind(interface: &str) -> Result<Listener, Error> {
    let until = Clock::now() + PREDECESSOR_PATIENCE;
    loop {
        match Listener::bind(interface) {
            Err(BindError::InUse(_)) if Clock::now() < until => {
                tokio::time::sleep(PREDECESSOR_POLL).await;
            }
            result => return result.map_err(Error::Control),
        }
    }
}

/// Does what a client asks for.
pub(super) async fn answer(
    request: Request,
    plane: &Handle,
    clock: &Clock,
    status: impl FnOnce(&View) -> Status,
) -> Reply {
    match request {
        Request::Set(changes) => match plane.apply(changes).await {
            Ok(()) => Reply::Done,
            Err(error) => refused(&error),
        },
        Request::Get => match plane.view().await {
            Ok(view) => {
                Reply::Get(render_get(&view.device, view.listen_port, view.fwmark, &clock.wall()))
            }
            Err(ended) => refused(&io::Error::other(ended)),
        },
        Request::Status => match plane.view().await {
            Ok(view) => Reply::Status(Box::new(status(&view))),
            Err(ended) => refused(&io::Error::other(ended)),
        },
        // `up` answers this itself.
        Request::Reload(_) => Reply::Reload(ReloadOutcome::Refused(
            "reload refused, nothing was changed: a bare device has no configuration; change it with `wg`, or \
             run `hushwire up`"
                .to_owned(),
        )),
    }
}

/// What a client has set, without a value; nothing if that was nothing. `label` names a peer.
pub(super) fn in_words(changes: &[Change], label: impl Fn(&PublicKey) -> String) -> Option<String> {
    let (mut words, mut peers) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            Change::PrivateKey(_) => words.push("private key".to_owned()),
            Change::ListenPort(_) => words.push("listen port".to_owned()),
            Change::Fwmark(_) => words.push("fwmark".to_owned()),
            Change::RemoveAllPeers => words.push("all peers removed".to_owned()),
            Change::RemovePeer(key) => peers.push((key, "removed")),
            Change::Peer(change) => peers.push((&change.public_key, "set")),
            // Not for a client to say.
            Change::Mtu(_) | Change::Gossip(_) | Change::Filter(_) | Change::CarrierBack => {}
        }
    }
    if peers.len() > NAMED_PEERS {
        words.push(format!("{} peers set or removed", peers.len()));
    } else {
        words.extend(peers.iter().map(|(key, how)| format!("peer {} {how}", label(key))));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

fn refused(error: &io::Error) -> Reply {
    debug!(%error, "request on the control socket refused");
    Reply::Refused(match error.kind() {
        io::ErrorKind::AddrInUse => Errno::PortInUse,
        // A mark, or a port below 1024, once `up` has given its rights away.
        io::ErrorKind::PermissionDenied => Errno::NotPermitted,
        _ => Errno::Io,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::{KEY_LEN, PeerChange, PrivateKey};

    #[test]
    fn a_right_that_is_missing_is_called_so_as_the_kernel_does() {
        let errno = |error: io::Error| match refused(&error) {
            Reply::Refused(errno) => errno,
            other => panic!("{other:?}"),
        };
        // Of SO_MARK, and of bind(2) as it comes from `sys::udp`.
        assert_eq!(errno(io::Error::from_raw_os_error(libc::EPERM)), Errno::NotPermitted);
        let port = io::Error::new(io::ErrorKind::PermissionDenied, "UDP port 53 on IPv4");
        assert_eq!(errno(port), Errno::NotPermitted);
        assert_eq!(errno(io::Error::from_raw_os_error(libc::EADDRINUSE)), Errno::PortInUse);
        assert_eq!(errno(io::Error::from_raw_os_error(libc::EBADF)), Errno::Io);
    }

    #[test]
    fn what_a_client_has_set_is_told_in_words() {
        let key = |number| PrivateKey::from_random([number; KEY_LEN]).public_key();
        let label = |given: &PublicKey| if *given == key(1) { "machine1" } else { "other" }.into();
        let words = |changes: &[Change]| in_words(changes, label);
        assert_eq!(words(&[]), None);
        let peers = [Change::RemovePeer(key(1)), Change::Peer(PeerChange::new(key(2)))];
        assert_eq!(words(&peers).as_deref(), Some("peer machine1 removed, peer other set"));
        let device = [
            Change::PrivateKey(None),
            Change::ListenPort(0),
            Change::Fwmark(0),
            Change::RemoveAllPeers,
        ];
        let expected = "private key, listen port, fwmark, all peers removed";
        assert_eq!(words(&device).as_deref(), Some(expected));
        let many = [peers.clone(), peers.clone(), peers].concat();
        assert_eq!(words(&many).as_deref(), Some("6 peers set or removed"));
    }
}

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

/// How long a predecessor that was just killed may take to let go of its socket and port.
pub(super) const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(2);
/// How often that is looked at.
pub(super) const PREDECESSOR_POLL: Duration = Duration::from_millis(5);

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

fn refused(error: &io::Error) -> Reply {
    debug!(%error, "request on the control socket refused");
    Reply::Refused(match error.kind() {
        io::ErrorKind::AddrInUse => Errno::PortInUse,
        _ => Errno::Io,
    })
}

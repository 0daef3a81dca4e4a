//! Which rights `up` has, when it gives them up, and what cannot be done without them.
//!
//! This process gives up all of its own before it has a thread, a name to resolve or a byte from a peer. What
//! takes rights is asked of the helper, which loses them after the first attach where there is no namespace to
//! follow: [`within_reach`] says what a reload can still change then. Called by the daemon of `up`.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::error::Error;
use super::keeper::Keeping;
use crate::config::{Config, Environment, Mtu, Netns};
use crate::plugin::SOCKET;
use crate::status::{HelperStatus, RightsStatus};
use crate::sys::attach::AttachRequest;
use crate::sys::helper::Attacher;
use crate::sys::sandbox::{self, Capabilities, Confinement, Files};
use crate::uapi::SOCKET_DIRECTORY;

/// What `up` and its helper may do.
pub(super) struct Rights {
    confinement: Confinement,
    /// To the helper, for as long as that has rights.
    attacher: Option<Attacher>,
    /// Those that it has then.
    helper: Vec<String>,
}

impl Rights {
    /// Gives up the rights of this process. Comes before its first thread.
    ///
    /// # Errors
    /// When one cannot be given up.
    pub(super) fn give_up(
        files: &Files,
        attacher: Attacher,
        helper: Option<u32>,
    ) -> Result<Self, Error> {
        let helper_rights = sandbox::permitted(Capabilities::ATTACHING).map_err(Error::Sandbox)?;
        sandbox::drop_rights(Capabilities::NONE).map_err(Error::Sandbox)?;
        let confinement = sandbox::confine(files, helper).map_err(Error::Sandbox)?;
        Ok(Self { confinement, attacher: Some(attacher), helper: helper_rights.names() })
    }

    /// The way to the helper; none once its rights have ended.
    pub(super) fn attacher(&self) -> Option<&Attacher> {
        self.attacher.as_ref()
    }

    /// Ends those of the helper, for ever.
    ///
    /// # Errors
    /// When they cannot be given up.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        match self.attacher.take() {
            Some(attacher) => attacher.end_rights().map_err(Error::Attach),
            None => Ok(()),
        }
    }

    /// What `hushwire status` shows of it.
    pub(super) fn status(&self, keeping: &Keeping) -> RightsStatus {
        let helper = keeping.helper().map(|pid| match &self.attacher {
            Some(_) => HelperStatus { pid, capabilities: self.helper.clone() },
            None => HelperStatus { pid, capabilities: Vec::new() },
        });
        RightsStatus { process: self.confinement.clone(), helper }
    }
}

/// What is read again on a reload, what names are resolved with, and where sockets are made.
pub(super) fn files(config: &Config, key_files: &[PathBuf], environment: &Environment) -> Files {
    let plugin = Path::new(SOCKET).parent().filter(|_| config.docker.plugin);
    Files {
        read: [&config.path].into_iter().chain(key_files).cloned().collect(),
        directories: environment.credentials_directory.iter().cloned().collect(),
        sockets: [Path::new(SOCKET_DIRECTORY)]
            .into_iter()
            .chain(plugin)
            .map(Path::to_owned)
            .collect(),
        resolver: true,
    }
}

/// Gives up what a bare device does not need. It keeps what its users ask of it at any time: a mark and the
/// forced buffers of new sockets, a port below 1024, a look at the interface where it was moved to.
///
/// # Errors
/// When something cannot be given up.
pub(super) fn bare(socket: Option<&Path>) -> Result<Confinement, Error> {
    const KEPT: Capabilities =
        Capabilities::NET_ADMIN.and(Capabilities::NET_BIND_SERVICE).and(Capabilities::SYS_ADMIN);
    // One that was handed over may be elsewhere; whoever ends last takes its file away.
    let elsewhere = socket.and_then(Path::parent);
    let sockets = [Path::new(SOCKET_DIRECTORY)].into_iter().chain(elsewhere);
    let sockets = sockets.map(Path::to_owned).collect();
    let files = Files { sockets, read: vec!["/proc/self/maps".into()], ..Files::default() };
    sandbox::drop_rights(KEPT).and_then(|()| sandbox::confine_bare(&files)).map_err(Error::Sandbox)
}

/// Whether the interface goes where containers come and go.
pub(super) fn follows(config: &Config) -> bool {
    config.docker.plugin || config.interface.netns != Netns::Own
}

/// Says what of a reload takes a right that this process has not: with or without a helper that attaches,
/// a mark; without, the interface as well. A smaller or larger `auto` MTU is no reason: it stays what it is.
pub(super) fn within_reach(
    (old, new): (&Config, &Config),
    (present, wanted): (&AttachRequest, &AttachRequest),
    attaches: bool,
) -> Result<(), String> {
    let (was, is) = (&old.interface, &new.interface);
    if was.fwmark != is.fwmark {
        return Err(format!("fwmark ({} to {})", was.fwmark, is.fwmark));
    }
    if is.fwmark != 0 && was.listen_port != is.listen_port {
        return Err(format!(
            "listen_port ({} to {}) of sockets with a fwmark",
            was.listen_port, is.listen_port
        ));
    }
    if attaches {
        return Ok(());
    }
    if was.netns != is.netns {
        return Err("netns".to_owned());
    }
    if present.addresses != wanted.addresses {
        return Err(format!(
            "address ({} to {})",
            super::overlay::join(&present.addresses),
            super::overlay::join(&wanted.addresses)
        ));
    }
    if matches!(is.mtu, Mtu::Fixed(_)) && present.mtu != wanted.mtu {
        return Err(format!("mtu ({} to {})", present.mtu, wanted.mtu));
    }
    let covered = |prefix: &IpNet| {
        let networks = present.addresses.iter().chain(&present.routes);
        networks.map(IpNet::trunc).any(|network| network.contains(prefix))
    };
    match wanted.routes.iter().find(|prefix| !covered(prefix)) {
        Some(prefix) => Err(format!("allowed_ips ({prefix} has no route into the overlay)")),
        None => Ok(()),
    }
}

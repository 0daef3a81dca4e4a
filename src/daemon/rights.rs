//! Which rights `up` has, when it gives them up, and what cannot be done without them.
//!
//! This process gives up all of its own before it has a thread, a name to resolve or a byte from a peer. What
//! takes rights is asked of the helper, which loses them after the first attach where there is no namespace to
//! follow: [`out_of_reach`] says what a reload cannot change then. Called by the daemon of `up`.

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

/// Everything of a reload that takes a right which this process has not: with or without a helper that
/// attaches, a mark; without, the interface as well. A smaller or larger `auto` MTU is nothing: it stays what it is.
pub(super) fn out_of_reach(
    (old, new): (&Config, &Config),
    (present, wanted): (&AttachRequest, &AttachRequest),
    attaches: bool,
) -> Vec<String> {
    let (was, is) = (&old.interface, &new.interface);
    let mut beyond = Vec::new();
    if was.fwmark != is.fwmark {
        beyond.push(format!("fwmark ({} to {})", was.fwmark, is.fwmark));
    }
    if is.fwmark != 0 && was.listen_port != is.listen_port {
        let ports = format!("listen_port ({} to {})", was.listen_port, is.listen_port);
        beyond.push(format!("{ports} of sockets with a fwmark"));
    }
    if attaches {
        return beyond;
    }
    if was.netns != is.netns {
        beyond.push(format!("netns ({} to {})", was.netns, is.netns));
    }
    if present.addresses != wanted.addresses {
        beyond.push(format!(
            "address ({} to {})",
            super::overlay::join(&present.addresses),
            super::overlay::join(&wanted.addresses)
        ));
    }
    if matches!(is.mtu, Mtu::Fixed(_)) && present.mtu != wanted.mtu {
        beyond.push(format!("mtu ({} to {})", present.mtu, wanted.mtu));
    }
    let covered = |prefix: &IpNet| {
        let networks = present.addresses.iter().chain(&present.routes);
        networks.map(IpNet::trunc).any(|network| network.contains(prefix))
    };
    let uncovered: Vec<_> =
        wanted.routes.iter().copied().filter(|prefix| !covered(prefix)).collect();
    if !uncovered.is_empty() {
        let has = if uncovered.len() == 1 { "has" } else { "have" };
        let uncovered = super::overlay::join(&uncovered);
        beyond.push(format!("allowed_ips ({uncovered} {has} no route into the overlay)"));
    }
    beyond
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Docker, Gossip, Interface};
    use crate::sys::netns::Namespace;
    use crate::wireguard::{KEY_LEN, PrivateKey};

    fn config() -> Config {
        Config {
            path: "hushwire.toml".into(),
            interface: Interface {
                name: "hush0".to_owned(),
                private_key: PrivateKey::from_random([1; KEY_LEN]),
                listed: true,
                machine: None,
                address: vec!["10.99.0.1/32".parse().unwrap()],
                listen_port: 51820,
                mtu: Mtu::Auto,
                fwmark: 0,
                netns: Netns::Own,
            },
            peers: Vec::new(),
            gossip: Gossip { port: 9094, resend: Duration::ZERO },
            filter: None,
            docker: Docker::default(),
        }
    }

    /// A refused reload named one reason, and after a restart for that the next.
    #[test]
    fn everything_that_takes_a_right_is_told_at_once() {
        let (old, mut new) = (config(), config());
        new.interface.fwmark = 5;
        new.interface.listen_port = 4242;
        new.interface.netns = Netns::Name("am".to_owned());
        new.interface.address = vec!["10.99.0.9/32".parse().unwrap()];
        new.interface.mtu = Mtu::Fixed(1300);
        let request = |config: &Config, mtu, routes: &[&str]| AttachRequest {
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            ..super::super::overlay::request(config, mtu, Namespace::Own)
        };
        let present = request(&old, 1440, &["10.99.0.2/32"]);
        let wanted = request(&new, 1300, &["10.99.0.2/32", "10.99.0.3/32", "10.99.0.4/32"]);
        let marks = ["fwmark (0 to 5)", "listen_port (51820 to 4242) of sockets with a fwmark"];
        let told = |attaches| out_of_reach((&old, &new), (&present, &wanted), attaches);
        assert_eq!(told(true), marks);
        let others = [
            "netns (its own to name:am)",
            "address (10.99.0.1/32 to 10.99.0.9/32)",
            "mtu (1440 to 1300)",
            "allowed_ips (10.99.0.3/32 10.99.0.4/32 have no route into the overlay)",
        ];
        assert_eq!(told(false), [&marks[..], &others].concat());
        assert_eq!(out_of_reach((&old, &old), (&present, &present), false), [""; 0]);
    }
}

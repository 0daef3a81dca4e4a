//! A reload of `up`: by SIGHUP, or because `hushwire reload` asks for it and brings keys.
//!
//! The file is loaded as a whole, what takes a restart or a right is refused, and the difference is applied; or
//! all of the file, if the control socket has set something since. With any error everything stays as it was. The
//! service manager hears of the begin and of the end, the client of the outcome, and the log of both. Called by
//! the daemon's loop.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ipnet::IpNet;
use tracing::{error, info, warn};

use super::target::{State, Target};
use super::{Daemon, overlay, report, rights};
use crate::config::{self, Again, Config, Interface, Peer};
use crate::dataplane::{Ended, View};
use crate::uapi::{Reload, ReloadOutcome};
use crate::wireguard::{Change, KEY_LEN, PeerSnapshot, PrivateKey};

impl Daemon {
    /// Loads the file again and applies the difference, with the keys that a client brings.
    pub(super) async fn reload(&mut self, reload: Reload) -> ReloadOutcome {
        self.service.reloading();
        let outcome = match self.load_and_apply(reload).await {
            Ok((changed, warnings)) => ReloadOutcome::Done { changed, warnings },
            Err(why) => {
                error!("{why}");
                ReloadOutcome::Refused(why)
            }
        };
        self.refused = matches!(outcome, ReloadOutcome::Refused(_));
        self.keep_underlay().await;
        self.service.ready(report::line(self));
        outcome
    }

    /// What differs, and what the operator should know; or why nothing was changed.
    async fn load_and_apply(
        &mut self,
        reload: Reload,
    ) -> Result<(Vec<String>, Vec<String>), String> {
        let refused = |why: &str| format!("reload refused, nothing was changed:{why}");
        let path = &self.config.path;
        if let Some(other) = reload.config.filter(|other| !is_same_file(path, Path::new(other))) {
            let ours = path.display();
            return Err(refused(&format!(
                " this hushwire runs by {ours}, and {other} is another file; name that one with --config"
            )));
        }
        let Again { config: new, known, lacking } =
            config::load_again(path, &self.environment, &reload.keys, &self.known)
                .map_err(|errors| refused(&format!("\n{errors}")))?;
        let attaches = self.rights.attacher().is_some();
        let mtu = self.mtu(&new);
        let wanted = overlay::request(&new, mtu, self.request.namespace.clone());
        let compared = ((&self.config, &new), (&self.request, &wanted));
        let beyond = rights::out_of_reach(compared.0, compared.1, attaches);
        let why = match beyond.as_slice() {
            [] => "",
            _ => "; it has given up the right to do that while it runs",
        };
        let all = [config::restart_needed(&self.config, &new), beyond].concat();
        if !all.is_empty() {
            return Err(refused(&format!(" restart hushwire to change {}{why}", all.join(", "))));
        }
        let running = self.running().await.map_err(|ended| refused(&format!(" {ended}")))?;
        let mut changes = match &running {
            Some(running) => {
                let present = running.peers.iter().map(|peer| peer.public_key);
                let mut all = config::changes_over(&new, present);
                all.extend(self.names.changes(&new));
                all
            }
            None => config::diff(&self.config, &new),
        };
        if mtu != self.request.mtu {
            changes.push(Change::Mtu(mtu));
        }
        let count = changes.len();
        self.plane.apply(changes).await.map_err(|error| refused(&format!(" {error}")))?;
        let mut differences = config::differences(running.as_ref().unwrap_or(&self.config), &new);
        if running.is_some() {
            differences.insert(0, "whole file (`wg` had set something else)".to_owned());
        }
        self.strayed = false;
        let shaped = self.take(new, mtu, attaches).await;
        self.known = known;
        let (peers, whole) = (self.config.peers.len(), running.is_some());
        info!(changes = count, peers, whole, "configuration reloaded");
        shaped.map_err(|why| {
            format!("reloaded, but the interface is not as configured; set this right and reload again: {why}")
        })?;
        let warnings: Vec<_> = lacking.iter().map(|file| lacking_credential(file)).collect();
        for warning in &warnings {
            warn!("{warning}");
        }
        Ok((differences, warnings))
    }

    /// The configuration as the control socket has left it; none if that has set nothing.
    async fn running(&self) -> Result<Option<Config>, Ended> {
        if !self.strayed {
            return Ok(None);
        }
        let view = self.plane.view().await?;
        Ok(Some(as_it_runs(&self.config, &view)))
    }

    /// Follows what the packet loop has taken; why the interface could not, if so.
    async fn take(&mut self, new: Config, mtu: u16, attaches: bool) -> Result<(), String> {
        let elsewhere = new.interface.netns != self.config.interface.netns
            || new.docker.socket != self.config.docker.socket;
        self.config = new;
        let peers = &self.config.peers;
        self.answering.retain(|key| peers.iter().any(|peer| peer.public_key == *key));
        self.keeping.reload(&self.config, attaches);
        let shaped = self.reshape(mtu).await;
        if elsewhere && self.plugin.is_none() {
            self.target = Target::follow(&self.config, self.rights.attacher().cloned());
            let state = self.target.first().await;
            if matches!(state, State::Unknown(_)) {
                // Where it is now is what nobody wants any more.
                self.detach();
            }
            self.follow(state).await;
        }
        self.names.follow(&self.config);
        shaped
    }
}

/// A configuration with what can be seen to have been set. Of an endpoint that cannot be told: a peer roams.
fn as_it_runs(config: &Config, view: &View) -> Config {
    let peer = |seen: &PeerSnapshot| {
        let listed = config.peers.iter().find(|peer| peer.public_key == seen.public_key);
        // The order means nothing, and a reload before this one may have changed it.
        let nets = |nets: &[IpNet]| nets.iter().copied().collect::<BTreeSet<_>>();
        let allowed_ips = listed.map(|peer| &peer.allowed_ips);
        let allowed_ips = allowed_ips.filter(|listed| nets(listed) == nets(&seen.allowed_ips));
        Peer {
            // One that the file does not give any more stays.
            name: seen.name.as_ref().and(listed.and_then(|peer| peer.name.clone())),
            public_key: seen.public_key,
            preshared_key: seen.preshared_key.clone(),
            endpoint: listed.and_then(|peer| peer.endpoint.clone()),
            allowed_ips: allowed_ips.unwrap_or(&seen.allowed_ips).clone(),
            persistent_keepalive: NonZeroU16::new(seen.persistent_keepalive),
            allow: seen.allow.clone(),
        }
    };
    // WireGuard takes a key that is all zero for none.
    let none = || PrivateKey::from_bytes([0; KEY_LEN]);
    let interface = Interface {
        private_key: view.device.private_key.clone().unwrap_or_else(none),
        listen_port: view.listen_port,
        fwmark: view.fwmark,
        ..config.interface.clone()
    };
    Config { interface, peers: view.device.peers.iter().map(peer).collect(), ..config.clone() }
}

/// Whether both paths lead to one file, as this process sees them.
fn is_same_file(ours: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    ours == other || identity(ours).is_some_and(|ours| identity(other) == Some(ours))
}

/// Without its credential the service would end at its next start, and stay down.
fn lacking_credential(file: &Path) -> String {
    let (file, name) = (file.display(), file.file_name().unwrap_or_default().display());
    format!(
        "{file} was handed over, but this service may not read it, and its next start would fail: give it \
         `LoadCredential={name}:(path of the file)` by `systemctl edit`, and \"{name}\" in the configuration"
    )
}

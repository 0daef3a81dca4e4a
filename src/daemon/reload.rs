//! A reload of `up`: by SIGHUP, or because `hushwire reload` asks for it and brings keys.
//!
//! The file is loaded as a whole, what takes a restart or a right is refused, and the difference is applied. With
//! any error everything stays as it was. The service manager hears of the begin and of the end, the client of
//! the outcome, and the log of both. Called by the daemon's loop.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing::{error, info, warn};

use super::target::Target;
use super::{Daemon, overlay, report, rights};
use crate::config::{self, Again, Config};
use crate::uapi::{Reload, ReloadOutcome};
use crate::wireguard::Change;

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
        let restart =
            |what: String, why: &str| refused(&format!(" restart hushwire to change {what}{why}"));
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
        if let Some(what) = config::restart_needed(&self.config, &new) {
            return Err(restart(what, ""));
        }
        let attaches = self.rights.attacher().is_some();
        let mtu = self.mtu(&new);
        let wanted = overlay::request(&new, mtu, self.request.namespace.clone());
        let compared = ((&self.config, &new), (&self.request, &wanted));
        if let Err(what) = rights::within_reach(compared.0, compared.1, attaches) {
            return Err(restart(what, "; it has given up the right to do that while it runs"));
        }
        let mut changes = config::diff(&self.config, &new);
        if mtu != self.request.mtu {
            changes.push(Change::Mtu(mtu));
        }
        let count = changes.len();
        self.plane.apply(changes).await.map_err(|error| refused(&format!(" {error}")))?;
        let differences = config::differences(&self.config, &new);
        self.take(new, mtu, attaches).await;
        self.known = known;
        info!(changes = count, peers = self.config.peers.len(), "configuration reloaded");
        let warnings: Vec<_> = lacking.iter().map(|file| lacking_credential(file)).collect();
        for warning in &warnings {
            warn!("{warning}");
        }
        Ok((differences, warnings))
    }

    /// Follows what the packet loop has taken.
    async fn take(&mut self, new: Config, mtu: u16, attaches: bool) {
        let elsewhere = new.interface.netns != self.config.interface.netns
            || new.docker.socket != self.config.docker.socket;
        self.config = new;
        let peers = &self.config.peers;
        self.answering.retain(|key| peers.iter().any(|peer| peer.public_key == *key));
        self.keeping.reload(&self.config, attaches);
        self.reshape(mtu).await;
        if elsewhere && self.plugin.is_none() {
            self.target = Target::follow(&self.config, self.rights.attacher().cloned());
            let state = self.target.first().await;
            self.follow(state).await;
        }
        self.names.follow(&self.config);
    }
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

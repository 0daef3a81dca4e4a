//! Endpoints that are names: resolved off the packet path, again only when a peer does not answer.
//!
//! The last good answer is kept while a name server is away. Every address that a name has is handed
//! to the device, which tries them in turn.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::config::{Config, Host, PeerEndpoint};
use crate::wireguard::{Change, PeerChange, PublicKey};

/// First pause after a name that could not be resolved; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The addresses of one peer's name.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) peer: PublicKey,
    /// Never empty, the best one first (RFC 6724, as the system's resolver sorts them).
    pub(super) endpoints: Vec<SocketAddr>,
}

/// The names in use and what is known of them.
pub(super) struct Names {
    answers: UnboundedSender<Resolved>,
    known: HashMap<PublicKey, Name>,
}

struct Name {
    endpoint: PeerEndpoint,
    addresses: Vec<SocketAddr>,
    task: AbortHandle,
}

impl Drop for Name {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Names {
    pub(super) fn new(answers: UnboundedSender<Resolved>) -> Self {
        Self { answers, known: HashMap::new() }
    }

    /// Starts on names that are new in the configuration, forgets those that are gone.
    pub(super) fn follow(&mut self, config: &Config) {
        self.known.retain(|key, name| named(config, key) == Some(&name.endpoint));
        for peer in &config.peers {
            if let Some(endpoint) = named(config, &peer.public_key)
                && !self.known.contains_key(&peer.public_key)
            {
                let task = self.resolve(peer.public_key, endpoint);
                let (endpoint, addresses) = (endpoint.clone(), Vec::new());
                self.known.insert(peer.public_key, Name { endpoint, addresses, task });
            }
        }
    }

    /// Called when a peer did not answer an initiation: its name may have another address by now.
    pub(super) fn stale(&mut self, config: &Config, peer: &PublicKey) {
        let configured = config.peers.iter().find(|known| known.public_key == *peer);
        let Some(endpoint) = configured.and_then(|peer| peer.endpoint.as_ref()) else { return };
        if self.known.get(peer).is_some_and(|name| name.task.is_finished()) {
            let task = self.resolve(*peer, endpoint);
            if let Some(name) = self.known.get_mut(peer) {
                name.task = task;
            }
        }
    }

    /// Takes an answer; returns it if it is news.
    pub(super) fn take(&mut self, resolved: Resolved) -> Option<Resolved> {
        let name = self.known.get_mut(&resolved.peer)?;
        if name.addresses == resolved.endpoints {
            return None;
        }
        name.addresses.clone_from(&resolved.endpoints);
        Some(resolved)
    }

    /// Waits until every name has an answer, or the time is over.
    pub(super) async fn await_answers(
        &mut self,
        answers: &mut UnboundedReceiver<Resolved>,
        limit: Duration,
    ) {
        let all = async {
            while self.known.values().any(|name| name.addresses.is_empty()) {
                let Some(resolved) = answers.recv().await else { return };
                self.take(resolved);
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            info!(
                "not all endpoints are resolved yet; the overlay starts, with the MTU of those that are"
            );
        }
    }

    /// What the answers so far say to a device that has the peers of this configuration.
    pub(super) fn changes(&self, config: &Config) -> Vec<Change> {
        let answered = self.known.iter().filter(|(peer, name)| {
            !name.addresses.is_empty() && named(config, peer) == Some(&name.endpoint)
        });
        let change = |(peer, name): (&PublicKey, &Name)| {
            let mut change = PeerChange::new(*peer);
            change.update_only = true;
            change.endpoints = Some(name.addresses.clone());
            Change::Peer(change)
        };
        answered.map(change).collect()
    }

    /// Every endpoint known: those given as addresses and those resolved.
    pub(super) fn endpoints(&self, config: &Config) -> Vec<SocketAddr> {
        let mut all = super::overlay::literal_endpoints(config);
        let listed = |key: &PublicKey| config.peers.iter().any(|peer| peer.public_key == *key);
        let named = self.known.iter().filter(|(key, _)| listed(key));
        all.extend(named.flat_map(|(_, name)| name.addresses.iter().copied()));
        all
    }

    fn resolve(&self, peer: PublicKey, endpoint: &PeerEndpoint) -> AbortHandle {
        let Host::Name(host) = endpoint.host.clone() else {
            // An address needs no answer: a task that is finished already.
            return tokio::spawn(async {}).abort_handle();
        };
        let (port, answers) = (endpoint.port, self.answers.clone());
        let task = async move {
            let mut pause = FIRST_PAUSE;
            loop {
                match lookup(&host, port).await {
                    Ok(endpoints) => {
                        // Fails only when the daemon is on its way out.
                        let _ = answers.send(Resolved { peer, endpoints });
                        return;
                    }
                    Err(error) if pause == FIRST_PAUSE => {
                        warn!(name = host, %error, "endpoint not resolved, trying again");
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        tokio::spawn(task).abort_handle()
    }
}

/// The endpoint of a peer, if the configuration says it by a name.
fn named<'c>(config: &'c Config, key: &PublicKey) -> Option<&'c PeerEndpoint> {
    let peer = config.peers.iter().find(|peer| peer.public_key == *key)?;
    peer.endpoint.as_ref().filter(|endpoint| matches!(endpoint.host, Host::Name(_)))
}

/// Every address of a name; at least one.
async fn lookup(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in tokio::net::lookup_host((host, port)).await? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

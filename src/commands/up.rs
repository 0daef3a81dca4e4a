//! `hushwire up` and `hushwire docker-plugin`: takes what a service manager kept, else forks the keeper;
//! loads the configuration and hands over to the daemon.

use super::{Environment, Failure};
use crate::cli::Up;
use crate::daemon::Service;
use crate::sys::keeper::Keeper;
use crate::{config, daemon};

/// `docker_plugin` switches the network driver on, whatever the configuration says.
pub(super) fn run(
    arguments: &Up,
    environment: &Environment,
    docker_plugin: bool,
) -> Result<(), Failure> {
    // First of all: before anything is opened that would get the numbers of what is handed over.
    let service = Service::take(&environment.service);
    let keeper = if service.keeps_descriptors() { None } else { fork_keeper() };
    let environment = config::Environment { docker_plugin, ..environment.config.clone() };
    let config = config::load(&arguments.file.config, &environment)?;
    daemon::run(config, environment, keeper, service).map_err(Failure::failed)
}

/// Comes before anything is read: neither the configuration nor a key is in its memory.
fn fork_keeper() -> Option<Keeper> {
    Keeper::fork()
        .inspect_err(|error| {
            tracing::warn!(%error, "no keeper: what is sent while hushwire is away will be lost");
        })
        .ok()
}

//! `hushwire up` and `hushwire docker-plugin`: takes what a service manager kept, forks the helper, loads the
//! configuration and hands over to the daemon.

use super::{Environment, Failure};
use crate::cli::Up;
use crate::daemon::Service;
use crate::sys::helper::Helper;
use crate::{config, daemon};

/// `docker_plugin` switches the network driver on, whatever the configuration says.
pub(super) fn run(
    arguments: &Up,
    environment: &Environment,
    docker_plugin: bool,
) -> Result<(), Failure> {
    // First of all: before anything is opened that would get the numbers of what is handed over.
    let service = Service::take(&environment.service);
    // Before anything is read: neither the configuration nor a key is in its memory.
    let helper = Helper::fork().map_err(|error| {
        Failure::failed(format_args!("the helper process cannot be started: {error}"))
    })?;
    let environment = config::Environment { docker_plugin, ..environment.config.clone() };
    let (config, key_files) = config::load_with_files(arguments.file.path(), &environment)?;
    daemon::run(config, &key_files, environment, helper, service).map_err(Failure::failed)
}

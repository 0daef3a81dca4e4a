//! `hushwire up`: forks the keeper, loads the configuration and hands over to the daemon.

use super::{Environment, Failure};
use crate::cli::Up;
use crate::sys::keeper::Keeper;
use crate::{config, daemon};

pub(super) fn run(arguments: &Up, environment: &Environment) -> Result<(), Failure> {
    // First of all: what is read from now on, keys too, is not in its memory.
    let keeper = Keeper::fork()
        .inspect_err(|error| {
            tracing::warn!(%error, "no keeper: what is sent while hushwire is away will be lost");
        })
        .ok();
    let config = config::load(&arguments.file.config, &environment.config)?;
    daemon::run(config, environment.config.clone(), keeper).map_err(Failure::failed)
}

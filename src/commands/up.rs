//! `hushwire up`: loads the configuration and hands over to the daemon.

use super::{Environment, Failure};
use crate::cli::Up;
use crate::{config, daemon};

pub(super) fn run(arguments: &Up, environment: &Environment) -> Result<(), Failure> {
    let config = config::load(&arguments.file.config, &environment.config)?;
    daemon::run(config, environment.config.clone()).map_err(Failure::failed)
}

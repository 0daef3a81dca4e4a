//! One file a subcommand; here is what they share.
//!
//! A command takes its arguments, writes its result to `out` and its remarks to standard error, and
//! returns why it failed. It never exits the process: main.rs, the only caller, does.

mod alertmanager_flags;
mod check;
mod device;
mod init;
mod keyfile;
mod keys;
mod reload;
mod status;
mod up;
mod wait;

use std::io::{self, Write};

use crate::cli::{Command, Running};
use crate::config;
use crate::daemon::ServiceEnvironment;

pub use device::{DeviceEnvironment, run as run_device};

/// What is taken from the environment. Read once, in main.rs.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// What the configuration's loader needs of it.
    pub config: config::Environment,
    /// What a bare device is told by it.
    pub device: DeviceEnvironment,
    /// What a service manager says by it to `up`.
    pub service: ServiceEnvironment,
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// It could not be done; exit code 1.
    Failed(String),
    /// The configuration has errors; exit code 2.
    Configuration(String),
    /// Whoever read our output went away; no failure of ours, and nobody to tell.
    OutputClosed,
}

impl Failure {
    fn failed(error: impl std::fmt::Display) -> Self {
        Failure::Failed(format!("hushwire: {error}"))
    }
}

impl From<config::Errors> for Failure {
    fn from(errors: config::Errors) -> Self {
        Failure::Configuration(errors.to_string())
    }
}

impl From<io::Error> for Failure {
    /// Commands use `?` for writing their output, and for nothing else.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::OutputClosed
        } else {
            Failure::failed(format_args!("cannot write to standard output: {error}"))
        }
    }
}

/// Runs one subcommand to its end.
///
/// # Errors
/// [`Failure`]: what to print, and which exit code.
pub fn run(
    command: Command,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match command {
        Command::Up(arguments) => up::run(&arguments, environment, false),
        Command::DockerPlugin(arguments) => up::run(&arguments, environment, true),
        Command::Check(arguments) => check::run(&arguments, environment, out),
        Command::Reload(arguments) => reload::run(&arguments, environment, out),
        Command::Status(arguments) => status::run(&arguments, out),
        Command::Wait(arguments) => wait::run(&arguments, out),
        Command::Init(arguments) => init::run(&arguments, out),
        Command::AlertmanagerFlags(arguments) => {
            alertmanager_flags::run(&arguments, environment, out)
        }
        Command::Genkey(to) => keys::genkey(to.out.as_deref(), out),
        Command::Pubkey => keys::pubkey(out),
        Command::Genpsk(to) => keys::genpsk(to.out.as_deref(), out),
    }
}

/// Says something on standard error. If that is closed, there is nobody to tell.
fn remark(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The interface of the hushwire that is meant: the one given, else the one that the configuration
/// names, else hush0. A file that is where it is looked for unasked need not be there.
fn interface(running: &Running) -> Result<String, Failure> {
    let configured = || config::interface_name(running.file.path());
    Ok(match (&running.interface, &running.file.config) {
        (Some(name), _) => name.clone(),
        (None, Some(_)) => configured()?,
        (None, None) => configured().unwrap_or_else(|_| config::DEFAULT_NAME.to_owned()),
    })
}

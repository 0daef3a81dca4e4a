//! `hushwire NAME`: a bare device, in the background once it can be configured.
//!
//! What wireguard-go takes from the environment is taken here, too, so that what starts the one starts the
//! other. The device itself lives in the daemon.

use std::os::fd::RawFd;

use super::{Environment, Failure};
use crate::daemon::{self, Bare};
use crate::sys::background::{self, Fork};

/// What the environment tells a bare device, by the names of wireguard-go.
#[derive(Clone, Debug, Default)]
pub struct DeviceEnvironment {
    /// `WG_TUN_FD`: a TUN to adopt.
    pub tun: Option<String>,
    /// `WG_UAPI_FD`: a listening control socket to adopt.
    pub control: Option<String>,
    /// `WG_PROCESS_FOREGROUND` is 1: stay in the foreground.
    pub foreground: bool,
    /// `WG_QUICK_USERSPACE_IMPLEMENTATION` is set: `wg-quick` started us.
    pub by_wg_quick: bool,
    /// `LOG_LEVEL` asks for a log: output stays open in the background.
    pub keep_output: bool,
}

impl DeviceEnvironment {
    /// Whether any of it is about a bare device.
    pub fn is_given(&self) -> bool {
        self.tun.is_some() || self.control.is_some() || self.foreground || self.by_wg_quick
    }
}

/// Runs a bare device; in the background unless told otherwise, and then returns once it is ready.
///
/// # Errors
/// [`Failure`], also that of the process in the background.
pub fn run(name: &str, foreground: bool, environment: &Environment) -> Result<(), Failure> {
    let environment = &environment.device;
    let bare = Bare {
        name: name.to_owned(),
        tun: descriptor("WG_TUN_FD", environment.tun.as_deref())?,
        control: descriptor("WG_UAPI_FD", environment.control.as_deref())?,
    };
    if foreground || environment.foreground {
        return daemon::run_bare(&bare, || {}).map_err(Failure::failed);
    }
    match background::fork() {
        Ok(Fork::Starter(starter)) => starter.wait().map_err(Failure::failed),
        Ok(Fork::Daemon(mut process)) => {
            let ended = daemon::run_bare(&bare, || process.ready(environment.keep_output));
            match ended {
                Err(error) if process.failed(&error.to_string()) => Ok(()),
                ended => ended.map_err(Failure::failed),
            }
        }
        Err(error) => {
            Err(Failure::failed(format_args!("cannot go to the background: {error}; try -f")))
        }
    }
}

fn descriptor(variable: &str, value: Option<&str>) -> Result<Option<RawFd>, Failure> {
    let number = |value: &str| {
        value.parse().map_err(|_| {
            let given = format_args!("{variable} is \"{value}\"");
            Failure::failed(format_args!("{given}; it takes the number of an open descriptor"))
        })
    };
    value.map(number).transpose()
}

//! Why a daemon cannot start or go on: what was tried, what the system said, what to do.

use std::fmt;
use std::io;

use crate::sys::guard::Guard;
use crate::sys::helper::Refused;
use crate::sys::sandbox::SandboxError;
use crate::uapi::BindError;

/// Says why the tunnel cannot start, or not go on.
#[derive(Debug)]
pub enum Error {
    /// The control socket cannot be made.
    Control(BindError),
    /// The underlay port cannot be opened; the error names the port and the cure.
    Underlay(io::Error),
    /// The network driver's socket cannot be made.
    Driver(BindError),
    /// The overlay interface cannot be made.
    Attach(Refused),
    /// The place where the interface is to be will never be there.
    Target(String),
    /// A right cannot be given up.
    Sandbox(SandboxError),
    /// The overlay interface of this name is gone, and so is the right to make it anew.
    InterfaceGone(String),
    /// Somebody set the overlay interface of this name down, and the right to put back its routes is given up.
    InterfaceDown(String),
    /// Somebody took some of the guard away, and so is the right to put it in again; this is left.
    GuardGone(Guard),
    /// The process that has the rights to follow a container was killed.
    HelperGone,
    /// A descriptor that the environment names by this variable is not what it should be.
    Adopt(&'static str, io::Error),
    /// Something that every program needs was refused.
    Start(&'static str, io::Error),
    /// The network namespace is left without this interface, its last: its container has ended.
    Stranded(String),
    /// The packet loop ended by itself.
    PacketLoop,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Control(error) => error.fmt(f),
            Error::Driver(BindError::InUse(path)) => write!(
                f,
                "another hushwire serves {}; a machine has one network driver: stop that one, or take \
                 `plugin = true` out of [docker]",
                path.display()
            ),
            Error::Driver(error) => write!(f, "network driver: {error}"),
            Error::Attach(error) => error.fmt(f),
            Error::Sandbox(error) => error.fmt(f),
            Error::InterfaceGone(name) => write!(
                f,
                "interface {name}: deleted by somebody; hushwire has given up the right to make it anew, so \
                 that it ends and its supervisor has to start it again (systemd: Restart=on-failure; \
                 Docker: --restart unless-stopped)"
            ),
            Error::InterfaceDown(name) => write!(
                f,
                "interface {name}: set down by somebody, which takes its routes away for good; hushwire has \
                 given up the right to put them back, so that it ends and its supervisor has to start it \
                 again (systemd: Restart=on-failure; Docker: --restart unless-stopped)"
            ),
            Error::GuardGone(left) => write!(
                f,
                "the guard of the overlay's addresses was taken away by somebody (`ip rule flush`, `nft flush \
                 ruleset`, a firewall that was loaded); what is left: {left}; start hushwire again, which puts it in"
            ),
            Error::HelperGone => f.write_str(
                "the helper process was killed, and with it the right to follow the container; hushwire \
                 ends, and its supervisor has to start it again",
            ),
            Error::Underlay(error) => error.fmt(f),
            Error::Target(why) => f.write_str(why),
            Error::Adopt(variable, error) => write!(f, "{variable}: {error}"),
            Error::Start(what, error) => write!(f, "{what} cannot be started: {error}"),
            Error::Stranded(interface) => write!(
                f,
                "{interface}, the last interface of this network namespace, was taken away: the container \
                 that it belongs to has ended; start hushwire again, in the new one (a restart policy does)"
            ),
            Error::PacketLoop => f.write_str(
                "the packet loop ended by itself, which is a bug: please report the lines above",
            ),
        }
    }
}

impl std::error::Error for Error {}

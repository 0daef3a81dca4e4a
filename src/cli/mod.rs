//! The command line: what `hushwire --help` shows, as types.
//!
//! Values are parsed here, by the rules of the configuration, so that a command never sees a bad one.
//! Help is written for somebody who has never seen the program and fits 80 columns. Read by main.rs.

mod mistaken;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::config::{Complaint, PeerEndpoint, values};

/// Where the configuration is looked for.
pub const DEFAULT_CONFIG: &str = "/etc/hushwire/hushwire.toml";

/// Private overlay addresses for Prometheus Alertmanager
///
/// hushwire gives every Alertmanager a private address, and carries its cluster
/// gossip between machines encrypted and authenticated, by WireGuard. Alertmanager
/// itself stays as it is: it listens on its overlay address.
#[derive(Debug, Parser)]
#[command(name = "hushwire", version, max_term_width = 80, after_long_help = OVERVIEW)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Instead of a command: make this interface, for `wg` and `wg-quick`
    ///
    /// A bare device, as `wireguard-go NAME` makes it: without key, address and
    /// peers, which `wg` and `ip` give it. It goes to the background, and ends when
    /// the interface is deleted.
    #[arg(value_name = "NAME", value_parser = values::interface_name)]
    pub name: Option<String>,
    /// With NAME: stay in the foreground
    #[arg(short, long, requires = "name")]
    pub foreground: bool,
}

impl Arguments {
    /// Reads the command line. `device` says that the environment speaks to a bare device, so that an
    /// interface is meant, whatever it is called.
    ///
    /// # Errors
    /// What is to be printed: a usage error, or the help that was asked for.
    pub fn read(device: bool) -> Result<Self, clap::Error> {
        Self::try_parse()?.checked(device)
    }

    /// Refuses what clap cannot see: an address that stands twice, and an interface for a command that is
    /// none of ours.
    fn checked(self, device: bool) -> Result<Self, clap::Error> {
        if let Some(Command::Init(init)) = &self.command {
            init.refuse_address_twice()?;
        }
        let Some(name) = &self.name else { return Ok(self) };
        let advice = if self.foreground || device { None } else { mistaken::advice(name) };
        let message = match advice {
            // After an option clap takes a command for a name.
            _ if mistaken::is_command(name) => {
                format!("'{name}' is a command, and no name for an interface")
            }
            Some(advice) => format!(
                "there is no command '{name}'; {advice}\n\n  An interface of this name: hushwire \
                 --foreground {name}"
            ),
            None => return Ok(self),
        };
        Err(Self::command().error(ErrorKind::InvalidSubcommand, message))
    }
}

const OVERVIEW: &str = "\
Start here, on each machine:
  hushwire init --name machine1 --address 10.99.0.1 \\
    --endpoint machine1.example.org:51820
  # collect the blocks that it prints in /etc/hushwire/hushwire.toml,
  # the same file on every machine; then
  hushwire check
  hushwire up
  alertmanager $(hushwire alertmanager-flags) ...

Or, with the tools of WireGuard, an interface without a configuration of ours:
  hushwire wg0
  WG_QUICK_USERSPACE_IMPLEMENTATION=hushwire wg-quick up ./wg0.conf

Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  wrong arguments, or a configuration with errors; nothing was done

`hushwire COMMAND --help` tells more, with an example.";

/// One subcommand, as it was typed.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the tunnel, in the foreground
    ///
    /// Makes the overlay interface, listens on the UDP port, and keeps sessions with
    /// all peers until SIGTERM or SIGINT. Needs root, or CAP_NET_ADMIN and
    /// /dev/net/tun. `reload` (or SIGHUP) reads the configuration again: only what
    /// differs is changed, and a file with errors changes nothing. It logs to
    /// standard error.
    #[command(
        verbatim_doc_comment,
        after_long_help = "\
Example:
  hushwire up --config ./hushwire.toml --log-level debug

Exit codes:
  0  ended by a signal
  1  the tunnel could not be made or kept
  2  the configuration has errors; nothing was touched"
    )]
    Up(Up),

    /// Run the tunnel as a network driver of the container engine
    ///
    /// Like `up` with `plugin = true` in `[docker]`: a container on a network of
    /// hushwire has this machine's overlay address, and the interface is up before its
    /// first process runs, on every start. One container at a time can have it. Keys,
    /// sessions and the UDP port stay here, on the machine; between two containers the
    /// interface is gone, and `status` says so.
    #[command(
        verbatim_doc_comment,
        after_long_help = "\
Example:
  hushwire docker-plugin &
  docker network create -d hushwire --ipam-driver hushwire gossip
  docker run --network gossip prom/alertmanager \\
    $(hushwire alertmanager-flags) --config.file=...

Exit codes:
  0  ended by a signal
  1  the tunnel could not be made or kept
  2  the configuration has errors; nothing was touched"
    )]
    DockerPlugin(Up),

    /// Validate the configuration; changes nothing
    ///
    /// Prints what this machine would do, or every error of the file at once, each
    /// with its place. Needs no root, only the right to read the key files.
    #[command(
        verbatim_doc_comment,
        after_long_help = "\
Example, before a restart:
  hushwire check && systemctl restart hushwire

Exit codes:
  0  the configuration is good
  2  it has errors"
    )]
    Check(ConfigFile),

    /// Have the running hushwire read its configuration and keys again
    ///
    /// Checks the configuration as `check` does, hands the keys of its key files over
    /// by the control socket, and says how it ended. Only what differs is changed, and
    /// peers that stay the same keep their sessions. What `wg` has set since is undone.
    /// For root or the owner only, as the control socket is.
    #[command(
        verbatim_doc_comment,
        after_long_help = "\
Example, after a new key and new blocks:
  hushwire reload

Exit codes:
  0  done; what differed is printed
  1  refused, or no hushwire runs for that interface; nothing was changed
  2  the configuration has errors; the running hushwire was not asked"
    )]
    Reload(Running),

    /// Show peers, sessions, traffic and dropped packets
    ///
    /// Asks the running hushwire by its control socket; for root or its owner only.
    #[command(
        verbatim_doc_comment,
        after_long_help = "\
Examples:
  hushwire status
  hushwire status --json | jq -r '.peers[] | [.name, .session] | @tsv'

Exit codes:
  0  shown
  1  no hushwire runs for that interface, or it does not answer
  2  the file that --config names has no name of an interface to read"
    )]
    Status(Status),

    /// Wait until the overlay is ready: for start scripts and health checks
    ///
    /// Ends as soon as the interface is there, addressed and up, and as many peers as
    /// asked for have a session. Says what is missing if that takes too long.
    #[command(
        verbatim_doc_comment,
        after_long_help = "\
Example, as a start gate:
  hushwire wait --timeout 10 && exec alertmanager ...

Exit codes:
  0  ready
  1  not ready in time, or no hushwire runs for that interface
  2  the file that --config names has no name of an interface to read"
    )]
    Wait(Wait),

    /// Make this machine's key, and print its `[[peer]]` block
    ///
    /// Writes private.key beside the configuration file (mode 0600) and prints the
    /// block of this machine, which is no secret, below the `[filter]` that keeps
    /// peers to gossip. Put the blocks of all machines, and `[filter]` once, into one
    /// configuration file, the same on every machine. A key that is there already is
    /// never overwritten.
    #[command(
        verbatim_doc_comment,
        after_long_help = "\
Examples, the first for machine1, the second for all others:
  hushwire init --name machine1 --address 10.99.0.1 \\
    --endpoint machine1.example.org:51820 > machines.toml
  hushwire init --name machine2 --address 10.99.0.2 \\
    --endpoint machine2.example.org:51820 --block-only >> machines.toml

Exit codes:
  0  the key is written and the block is printed
  1  there is a key already, or key or block cannot be written; nothing was
     changed
  2  wrong arguments; nothing was changed"
    )]
    Init(Init),

    /// Print the Alertmanager flags for this machine
    ///
    /// One line: the overlay address to listen on, and those of all peers, with the
    /// port of `[gossip] port`. A peer's address is the first of its allowed_ips that
    /// is a single address, of the same family as our own if it has one.
    #[command(
        verbatim_doc_comment,
        after_long_help = "\
Example:
  alertmanager $(hushwire alertmanager-flags) --config.file=...

Exit codes:
  0  printed
  1  there is nothing to print for --peer-name
  2  the configuration has errors"
    )]
    AlertmanagerFlags(AlertmanagerFlags),

    /// Print a new private key, as `wg genkey` does
    #[command(after_long_help = "\
Example:
  hushwire genkey --out private.key

Exit codes:
  0  printed
  1  it could not be made or written")]
    Genkey(KeyOutput),

    /// Read a private key, print its public key, as `wg pubkey` does
    #[command(after_long_help = "\
Example:
  hushwire pubkey < private.key

Exit codes:
  0  printed
  1  what was read is no key")]
    Pubkey,

    /// Print a new preshared key, as `wg genpsk` does
    #[command(after_long_help = "\
Example:
  hushwire genpsk --out cluster.psk

Exit codes:
  0  printed
  1  it could not be made or written")]
    Genpsk(KeyOutput),
}

/// Where a new key goes.
#[derive(Debug, Args)]
pub struct KeyOutput {
    /// Write it to this new file, mode 0600, instead of printing it
    ///
    /// A file that is there is never overwritten.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file [default: /etc/hushwire/hushwire.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Which configuration.
    #[command(flatten)]
    pub file: ConfigFile,
    /// How much to log [default: $LOG_LEVEL, else info]
    ///
    /// verbose is debug, as wireguard-go names it.
    #[arg(long, value_name = "LEVEL", ignore_case = true)]
    pub log_level: Option<LogLevel>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Silent,
    /// What made it stop.
    Error,
    /// Odd, but it goes on.
    Warn,
    /// Peers and the overlay, up or down.
    Info,
    /// Why something was not done.
    #[value(alias = "verbose")]
    Debug,
    /// Single packets.
    Trace,
}

/// Which running hushwire.
#[derive(Debug, Args)]
pub struct Running {
    /// The interface of the running hushwire [default: as configured, else hush0]
    #[arg(long, value_name = "NAME", value_parser = values::interface_name)]
    pub interface: Option<String>,
    /// Which configuration.
    #[command(flatten)]
    pub file: ConfigFile,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
    /// Show it again each second, until interrupted; with --json, one line each
    #[arg(long)]
    pub watch: bool,
    /// Which running hushwire.
    #[command(flatten)]
    pub running: Running,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// How many peers must have a session
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = count, allow_negative_numbers = true)]
    pub peers: usize,
    /// Give up after so many seconds (30 if not given); 0.5 is half a second. Given, it
    /// is waited for hushwire to be started as well; else its absence fails at once
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub timeout: Option<Duration>,
    /// Which running hushwire.
    #[command(flatten)]
    pub running: Running,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Name of this machine, for people and for Alertmanager
    #[arg(long, value_name = "NAME", value_parser = values::machine_name)]
    pub name: String,
    /// Its overlay address: one that no other machine has; may be repeated
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = single_address)]
    pub address: Vec<IpNet>,
    /// Where peers reach it, HOST:PORT; none if it is behind NAT
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint)]
    pub endpoint: Option<String>,
    /// Leave `[filter]` out: the file has it already
    #[arg(long)]
    pub block_only: bool,
    /// Which configuration: the key goes beside it.
    #[command(flatten)]
    pub file: ConfigFile,
}

impl Init {
    /// `check` would refuse the block.
    fn refuse_address_twice(&self) -> Result<(), clap::Error> {
        let addresses = self.address.iter().enumerate();
        let mut twice =
            addresses.filter(|(n, one)| self.address.iter().take(*n).any(|a| a == *one));
        twice.next().map_or(Ok(()), |(_, one)| {
            let message = format!(
                "invalid value '{}' for '--address <ADDRESS>': it stands twice\n\n\
                 For more information, try '--help'.\n",
                one.addr()
            );
            Err(clap::Error::raw(ErrorKind::ValueValidation, message))
        })
    }
}

/// Arguments of `alertmanager-flags`.
#[derive(Debug, Args)]
pub struct AlertmanagerFlags {
    /// Add --cluster.peer-name: for Alertmanager 0.30 and later only
    ///
    /// Older ones, such as Debian 12's 0.25, exit on a flag that they do not know.
    #[arg(long)]
    pub peer_name: bool,
    /// Print each flag on a line of its own
    #[arg(long)]
    pub one_per_line: bool,
    /// Which configuration.
    #[command(flatten)]
    pub file: ConfigFile,
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "give a number of peers, such as 0 or 2".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "give a number of seconds, such as 30 or 0.5".to_owned())
}

fn single_address(text: &str) -> Result<IpNet, Complaint> {
    let net = values::overlay_address(text)?;
    if net.prefix_len() == net.max_prefix_len() {
        return Ok(net);
    }
    let problem = format!("{net} has a network around the address of this machine");
    Err(Complaint::new(problem).hint(format!("write \"{}\"", net.addr())))
}

/// Checks an endpoint by the rules of the configuration and keeps it as it was typed.
fn endpoint(text: &str) -> Result<String, Complaint> {
    text.parse::<PeerEndpoint>().map(|_| text.to_owned())
}

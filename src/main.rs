//! Arguments become a command, a command becomes an exit code.
//!
//! The only room that reads the environment and sets up the log. Errors are one message on standard
//! error, never a backtrace; a reader that went away (`hushwire status | head`) is no error.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use hushwire::cli::{Arguments, Command, LogLevel};
use hushwire::commands::{self, DeviceEnvironment, Environment, Failure};
use hushwire::daemon::ServiceEnvironment;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let environment = environment();
    let arguments = match Arguments::read(environment.device.is_given()) {
        Ok(arguments) => arguments,
        // Help and version come here too; they go to standard output and are no failure.
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            return ExitCode::from(2);
        }
        Err(shown) => {
            return exit(shown.print().and_then(|()| io::stdout().flush()).map_err(Failure::from));
        }
    };
    match &arguments.command {
        Some(Command::Up(up) | Command::DockerPlugin(up)) => start_log(up.log_level),
        // In the background nobody reads a log that was not asked for.
        None if environment.device.keep_output || arguments.foreground => start_log(None),
        None if environment.device.foreground => start_log(None),
        None => {}
        Some(_) => {}
    }
    let ended = match (arguments.command, arguments.name) {
        (Some(command), _) => {
            let mut out = io::stdout().lock();
            commands::run(command, &environment, &mut out).and_then(|()| Ok(out.flush()?))
        }
        (None, Some(name)) => commands::run_device(&name, arguments.foreground, &environment),
        // Without any argument the help was printed above.
        (None, None) => Ok(()),
    };
    exit(ended)
}

fn exit(ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => complain(&message, 1),
        Err(Failure::Configuration(message)) => complain(&message, 2),
    }
}

/// The message as it is: those of a configuration begin with their file, as those of a compiler do.
fn complain(message: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(code)
}

fn environment() -> Environment {
    Environment {
        config: hushwire::config::Environment {
            credentials_directory: variable("CREDENTIALS_DIRECTORY").map(Into::into),
            ..Default::default()
        },
        device: DeviceEnvironment {
            tun: text("WG_TUN_FD"),
            control: text("WG_UAPI_FD"),
            foreground: text("WG_PROCESS_FOREGROUND").as_deref() == Some("1"),
            by_wg_quick: variable("WG_QUICK_USERSPACE_IMPLEMENTATION").is_some(),
            keep_output: text("LOG_LEVEL").is_some_and(|level| level != "silent"),
        },
        service: ServiceEnvironment {
            notify_socket: variable("NOTIFY_SOCKET"),
            watchdog_usec: text("WATCHDOG_USEC"),
            watchdog_pid: text("WATCHDOG_PID"),
            listen_fds: text("LISTEN_FDS"),
            listen_pid: text("LISTEN_PID"),
            listen_fdnames: text("LISTEN_FDNAMES"),
            fdstore: text("FDSTORE"),
        },
    }
}

fn text(name: &str) -> Option<String> {
    variable(name).map(|value| value.to_string_lossy().into_owned())
}

/// What the variable says, if it says anything.
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn start_log(argument: Option<LogLevel>) {
    let given = text("LOG_LEVEL");
    let known = given.as_deref().and_then(|value| LogLevel::from_str(value, true).ok());
    let level = match argument.or(known).unwrap_or(LogLevel::Info) {
        LogLevel::Silent => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .with_target(false)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && variable("NO_COLOR").is_none());
    // boringtun says of each packet what our own lines say of each peer.
    let filter = Targets::new().with_default(level).with_target("boringtun", LevelFilter::OFF);
    // The journal has a time for each line already.
    if variable("JOURNAL_STREAM").is_some() {
        tracing_subscriber::registry().with(lines.without_time()).with(filter).init();
    } else {
        tracing_subscriber::registry().with(lines).with(filter).init();
    }
    if argument.is_none()
        && known.is_none()
        && let Some(given) = given
    {
        // A platform may set this variable for programs with other levels: no reason not to run.
        tracing::warn!(
            given,
            allowed = "silent, error, warn, info, debug, trace",
            "LOG_LEVEL is none that hushwire knows; logging at info"
        );
    }
}

//! `hushwire reload`: checks the configuration, has the running hushwire read it again, and says how it ended.
//!
//! The keys that the key files hold go along: a hushwire under systemd may not read them, and has copies from
//! its start alone.

use std::io::Write;
use std::path::Path;

use super::{Environment, Failure, remark};
use crate::cli::Running;
use crate::config;
use crate::uapi::{ClientError, Reload, ReloadOutcome, request_reload};

pub(super) fn run(
    arguments: &Running,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let (config, keys) = config::load_with_keys(arguments.file.path(), &environment.config)?;
    let interface = arguments.interface.as_ref().unwrap_or(&config.interface.name);
    let reload = Reload { config: Some(absolute(&config.path)?), keys };
    match request_reload(interface, &reload) {
        Ok(ReloadOutcome::Done { changed, warnings }) => {
            warnings.iter().for_each(|warning| remark(format_args!("hushwire: {warning}")));
            let what = match changed.as_slice() {
                [] => "nothing differs".to_owned(),
                changed => changed.join(", "),
            };
            Ok(writeln!(out, "{interface} reloaded: {what}")?)
        }
        Ok(ReloadOutcome::Refused(why)) => Err(Failure::failed(why)),
        Err(error @ ClientError::NotRunning { .. }) => Err(Failure::failed(format_args!(
            "{error}; a hushwire whose name was changed in the file takes a restart"
        ))),
        Err(error) => Err(Failure::failed(error)),
    }
}

/// The path as the daemon, which has a working directory of its own, can look at it.
fn absolute(path: &Path) -> Result<String, Failure> {
    let absolute = std::path::absolute(path).ok();
    absolute.and_then(|path| path.into_os_string().into_string().ok()).ok_or_else(|| {
        let path = path.display();
        Failure::failed(format_args!("{path}: a path that is no text cannot be handed over"))
    })
}

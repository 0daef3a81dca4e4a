//! `hushwire init`: this machine's private key, its `[[peer]]` block, and the `[filter]` above all blocks.
//!
//! All or nothing: a key is left behind only if the whole of it is on the disk and its block was
//! printed. A key that is there already is this machine's identity and is never touched.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::keyfile::{KeyFile, NotWritten};
use super::keys::new_private_key;
use super::{Failure, remark};
use crate::cli::{DEFAULT_CONFIG, Init};
use crate::wireguard::PublicKey;
use crate::wrap;

pub(super) fn run(arguments: &Init, out: &mut dyn Write) -> Result<(), Failure> {
    let config = arguments.file.path();
    // A bare file name has the empty path for its parent.
    let directory =
        config.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_for_all(directory).map_err(|error| {
        Failure::failed(format_args!(
            "cannot make the directory {}: {error}; run this as root, or name another place with \
             --config",
            directory.display()
        ))
    })?;
    let key = new_private_key()?;
    let path = directory.join("private.key");
    let file =
        KeyFile::write(&path, &key.to_base64()).map_err(|error| not_written(&path, error))?;
    let filter = if arguments.block_only || has_filter(config) { "" } else { FILTER };
    let text = format!("{filter}{}", block(arguments, &key.public_key()));
    // A reader that went away is an error here: without its block the key is of no use.
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        Failure::failed(format_args!(
            "cannot write to standard output: {error}; no key was written"
        ))
    })?;
    remark(next_steps(&path, config).trim_end());
    file.keep();
    Ok(())
}

/// Makes a directory and those above it where they are not there, all with mode 0755 whatever the umask: the
/// unit reads the configuration in it as a user of its own.
fn make_for_all(directory: &Path) -> io::Result<()> {
    // A relative path has the empty one above all others.
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    directory.parent().map_or(Ok(()), make_for_all)?;
    match std::fs::create_dir(directory) {
        Ok(()) => std::fs::set_permissions(directory, Permissions::from_mode(0o755)),
        // Somebody else made it meanwhile.
        Err(_) if directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// What to do with the block, for the configuration that the key stands beside.
fn next_steps(key: &Path, config: &Path) -> String {
    let standard = config == Path::new(DEFAULT_CONFIG);
    let (key, config) = (key.display(), config.display());
    let option = if standard { String::new() } else { format!(" --config {config}") };
    let wrote =
        format!("Wrote {key}: the identity of this machine. Keep it here, and keep it secret.");
    let file = format!(
        "put the blocks of all machines, and [filter] once, into one file, the same on each machine: \
         {config}"
    );
    format!(
        "\n{}Next:\n\
         \x20 1. run `hushwire init` on the other machines\n\
         {}\
         \x20 3. hushwire check{option}\n\
         \x20 4. hushwire up{option}\n",
        wrap::words(String::new(), 0, &wrote),
        wrap::words("  2. ".to_owned(), 5, &file),
    )
}

/// Stands once in the file for all machines.
const FILTER: &str = "\
# Once for all machines: what they may reach on each other.
[filter]
allow = [\"tcp/9094\", \"udp/9094\", \"icmp\"]

";

/// Whether the file is there and has the section: then the block is all that is to be added to it.
fn has_filter(config: &Path) -> bool {
    std::fs::read_to_string(config)
        .is_ok_and(|text| text.lines().any(|line| line.trim_start().starts_with("[filter]")))
}

/// TOML. No value needs escaping: the rules of the configuration, by which they were parsed, leave no
/// character that would.
fn block(arguments: &Init, public_key: &PublicKey) -> String {
    let allowed_ips: Vec<_> =
        arguments.address.iter().map(|prefix| format!("\"{prefix}\"")).collect();
    let endpoint = arguments
        .endpoint
        .as_ref()
        .map_or_else(String::new, |endpoint| format!("endpoint = \"{endpoint}\"\n"));
    format!(
        "[[peer]]\n\
         name = \"{}\"\n\
         public_key = \"{public_key}\"\n\
         {endpoint}\
         allowed_ips = [{}]\n",
        arguments.name,
        allowed_ips.join(", "),
    )
}

fn not_written(path: &Path, error: NotWritten) -> Failure {
    let path = path.display();
    match error {
        NotWritten::Exists => Failure::failed(format_args!(
            "{path} is there already: it is the identity of this machine, and peers know it by \
             that.\nTo see its public key:  hushwire pubkey < {path}\n\
             For a new identity, move that file away first and run this again."
        )),
        NotWritten::Failed(error) => Failure::failed(format_args!(
            "cannot write {path}: {error}; run this as root, or name another place with --config"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_steps_fit_80_columns() {
        let steps = next_steps(Path::new("/etc/hushwire/private.key"), Path::new(DEFAULT_CONFIG));
        assert_eq!(
            steps,
            "
Wrote /etc/hushwire/private.key: the identity of this machine. Keep it here, and
keep it secret.
Next:
  1. run `hushwire init` on the other machines
  2. put the blocks of all machines, and [filter] once, into one file, the same
     on each machine: /etc/hushwire/hushwire.toml
  3. hushwire check
  4. hushwire up
"
        );
    }

    /// They said to check and run the file in /etc.
    #[test]
    fn next_steps_name_the_file_that_init_was_told() {
        let steps = next_steps(Path::new("ci/private.key"), Path::new("ci/hushwire.toml"));
        let (_, commands) = steps.split_once("\n  3. ").unwrap();
        assert_eq!(
            commands,
            "hushwire check --config ci/hushwire.toml\n  4. hushwire up --config ci/hushwire.toml\n"
        );
    }
}

//! `hushwire init`: this machine's private key, its `[[peer]]` block, and the `[filter]` above all blocks.
//!
//! All or nothing: a key is left behind only if the whole of it is on the disk and its block was
//! printed. A key that is there already is this machine's identity and is never touched.

use std::io::Write;
use std::path::Path;

use super::keyfile::{KeyFile, NotWritten};
use super::keys::new_private_key;
use super::{Failure, remark};
use crate::cli::Init;
use crate::wireguard::PublicKey;

pub(super) fn run(arguments: &Init, out: &mut dyn Write) -> Result<(), Failure> {
    let config = &arguments.file.config;
    // A bare file name has the empty path for its parent.
    let directory =
        config.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(|error| {
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
    remark(format_args!(
        "\nWrote {}: the identity of this machine. Keep it here, and keep it secret.\n\
         Next:\n\
         \x20 1. run `hushwire init` on the other machines\n\
         \x20 2. put the blocks of all machines, and [filter] once, into one file, the same on each\n\
         \x20    machine: {}\n\
         \x20 3. hushwire check\n\
         \x20 4. hushwire up",
        path.display(),
        config.display(),
    ));
    file.keep();
    Ok(())
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

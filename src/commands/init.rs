//! `hushwire init`: this machine's private key, its `[[peer]]` block, and the `[filter]` above all blocks.
//!
//! All or nothing: a key is left behind only if the whole of it is on the disk and its block was
//! printed. A key that is there already is this machine's identity and is never touched.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::keys::new_private_key;
use super::{Failure, remark};
use crate::cli::Init;
use crate::wireguard::{KEY_BASE64_LEN, PrivateKey, PublicKey};

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
    let file = KeyFile::write(directory.join("private.key"), &key)?;
    if !arguments.block_only && !has_filter(config) {
        out.write_all(FILTER.as_bytes())?;
    }
    out.write_all(block(arguments, &key.public_key()).as_bytes())?;
    out.flush()?;
    remark(format_args!(
        "\nWrote {}: the identity of this machine. Keep it here, and keep it secret.\n\
         Next:\n\
         \x20 1. run `hushwire init` on the other machines\n\
         \x20 2. put the blocks of all machines, and [filter] once, into one file, the same on each\n\
         \x20    machine: {}\n\
         \x20 3. hushwire check\n\
         \x20 4. hushwire up",
        file.path.display(),
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

/// A key file that is removed again unless it is to be kept.
struct KeyFile {
    path: PathBuf,
    keep: bool,
}

impl KeyFile {
    fn write(path: PathBuf, key: &PrivateKey) -> Result<Self, Failure> {
        // `create_new` neither overwrites nor follows a link; the mode is there before the first byte.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Failure::failed(format_args!(
                    "{0} is there already: it is the identity of this machine, and peers know it by \
                     that.\nTo see its public key:  hushwire pubkey < {0}\n\
                     For a new identity, move that file away first and run this again.",
                    path.display()
                )));
            }
            Err(error) => return Err(cannot_write(&path, &error)),
        };
        let written = Self { path, keep: false };
        written.fill(file, key).map_err(|error| cannot_write(&written.path, &error))?;
        Ok(written)
    }

    fn fill(&self, mut file: File, key: &PrivateKey) -> io::Result<()> {
        let mut line = Zeroizing::new(String::with_capacity(KEY_BASE64_LEN + 1));
        line.push_str(&key.to_base64());
        line.push('\n');
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        // The name of the file is on the disk only when its directory is.
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format_args!(
        "cannot write {}: {error}; run this as root, or name another place with --config",
        path.display()
    ))
}

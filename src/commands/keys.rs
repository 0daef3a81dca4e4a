//! `hushwire genkey`, `pubkey` and `genpsk`: the same input, output and exit codes as those of `wg`.
//!
//! One difference: a key that could not be written is a failure here, and `wg` does not notice. Texts
//! of secret keys are wiped, and read and written past the buffers of std, which are not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::keyfile::{KeyFile, NotWritten};
use super::{Failure, remark};
use crate::wireguard::{KEY_BASE64_LEN, KEY_LEN, PresharedKey, PrivateKey, PublicKey};

pub(super) fn genkey(file: Option<&Path>, out: &mut dyn Write) -> Result<(), Failure> {
    give(&new_private_key()?.to_base64(), file, out)
}

pub(super) fn genpsk(file: Option<&Path>, out: &mut dyn Write) -> Result<(), Failure> {
    give(&PresharedKey::from_bytes(*random()?).to_base64(), file, out)
}

/// Writes a key to a new file, or prints it.
fn give(key: &str, file: Option<&Path>, out: &mut dyn Write) -> Result<(), Failure> {
    match file {
        Some(path) => KeyFile::write(path, key).map(KeyFile::keep).map_err(|error| match error {
            NotWritten::Exists => Failure::failed(format_args!(
                "{} is there already, and is not overwritten; name another file, or move it away",
                path.display()
            )),
            NotWritten::Failed(error) => {
                Failure::failed(format_args!("cannot write {}: {error}", path.display()))
            }
        }),
        None => {
            warn_if_others_may_read();
            print_key(key, out)
        }
    }
}

pub(super) fn pubkey(out: &mut dyn Write) -> Result<(), Failure> {
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(Failure::failed)?;
    Ok(writeln!(out, "{}", read_public_key(File::from(input))?)?)
}

/// Makes a private key from the kernel's randomness.
pub(super) fn new_private_key() -> Result<PrivateKey, Failure> {
    Ok(PrivateKey::from_random(*random()?))
}

fn random() -> Result<Zeroizing<[u8; KEY_LEN]>, Failure> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(bytes.as_mut())
        .map_err(|error| Failure::failed(format_args!("no randomness to be had: {error}")))?;
    Ok(bytes)
}

fn print_key(key: &str, out: &mut dyn Write) -> Result<(), Failure> {
    // Standard output passes on a whole line that finds its buffer empty, without keeping a copy.
    let mut line = Zeroizing::new(String::with_capacity(KEY_BASE64_LEN + 1));
    line.push_str(key);
    line.push('\n');
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

fn warn_if_others_may_read() {
    let output = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    if let Ok(found) = output.and_then(|file| file.metadata())
        && found.is_file()
        && found.permissions().mode() & 0o007 != 0
    {
        remark(
            "Warning: writing to world accessible file.\n\
             Consider setting the umask to 077 and trying again.",
        );
    }
}

/// Reads 44 characters of base64; only white space (and NUL, says `wg`) may follow.
fn read_public_key(mut input: impl Read) -> Result<PublicKey, Failure> {
    let no_key = || Failure::failed("Key is not the correct length or format");
    let mut text = Zeroizing::new([0; KEY_BASE64_LEN]);
    input.read_exact(text.as_mut()).map_err(|_| no_key())?;
    let mut rest = Zeroizing::new([0; 256]);
    loop {
        match input.read(rest.as_mut()) {
            Ok(0) => break,
            // The six of `isspace`: `is_ascii_whitespace` leaves out the vertical tab.
            Ok(count)
                if rest.iter().take(count).all(|byte| b"\0\t\n\x0b\x0c\r ".contains(byte)) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) => return Err(Failure::failed("Trailing characters found after key")),
            Err(_) => return Err(no_key()),
        }
    }
    let text = std::str::from_utf8(text.as_ref()).map_err(|_| no_key())?;
    Ok(text.parse::<PrivateKey>().map_err(|_| no_key())?.public_key())
}

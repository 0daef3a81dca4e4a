//! What the fuzz targets share: reading an input as a script, the stations of the in-memory wire, and a
//! directory for the targets that need files.
//!
//! A target never fails by itself: each says at its head what must hold, and asserts it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use blake2::digest::consts::U16;
use blake2::digest::{Digest, Mac};
use blake2::{Blake2s256, Blake2sMac};
use hushwire::wireguard::{DropReason, Drops, PublicKey, Snapshot};

#[path = "../../support/crafted.rs"]
pub mod crafted;
#[path = "../../support/stack.rs"]
pub mod stack;
#[path = "../../support/wire.rs"]
#[expect(clippy::new_without_default, reason = "written for tests, not as a library")]
pub mod wire;

/// An input, read from its beginning. At its end come zeros: every input is a whole script.
pub struct Script<'i>(&'i [u8]);

impl<'i> Script<'i> {
    /// Starts at the first byte.
    pub fn new(input: &'i [u8]) -> Self {
        Self(input)
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next bytes, fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'i [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// Writes a valid mac1 into a handshake message (section 5.4.4 of the paper), as anybody can who knows
/// the public key of its receiver. Other messages stay as they are.
pub fn sign(message: &mut [u8], receiver: &PublicKey) {
    let at = match (message.first(), message.len()) {
        (Some(1), 148) => 116,
        (Some(2), 92) => 60,
        _ => return,
    };
    let key =
        Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.as_bytes()).finalize();
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).expect("32 bytes are a key");
    Mac::update(&mut mac, &message[..at]);
    message[at..at + 16].copy_from_slice(&mac.finalize().into_bytes());
}

/// Drops for some reasons, blamed on a peer or on nobody.
pub fn drops(snapshot: &Snapshot, which: impl Fn(DropReason) -> bool) -> u64 {
    let all = snapshot.peers.iter().map(|peer| &peer.drops).chain([&snapshot.drops]);
    let counts = all.flat_map(Drops::iter).filter(|(reason, _)| which(*reason));
    counts.map(|(_, count)| count).sum()
}

/// A directory of one run, removed when the run ends without a finding.
pub struct Directory(PathBuf);

impl Directory {
    /// Makes it.
    pub fn new(target: &str) -> Self {
        let name = format!("hushwire-fuzz-{target}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("the directory for temporary files can be written to");
        fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("it is ours");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that only its owner can read.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("the file can be written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

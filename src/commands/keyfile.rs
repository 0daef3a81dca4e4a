//! A new file with a key: made with its mode, whole on the disk or not there at all, never over another one.
//!
//! Called by `init`, `genkey` and `genpsk`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::wireguard::KEY_BASE64_LEN;

/// A key file that is removed again unless it is to be kept.
pub(super) struct KeyFile {
    path: PathBuf,
    keep: bool,
}

/// Why there is no key file; nothing was left behind.
pub(super) enum NotWritten {
    /// Something is there, and was not touched.
    Exists,
    Failed(io::Error),
}

impl KeyFile {
    /// Writes a key, in base64, to a file that is not there yet.
    pub(super) fn write(path: &Path, key: &str) -> Result<Self, NotWritten> {
        // `create_new` neither overwrites nor follows a link; the mode is there before the first byte.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => NotWritten::Exists,
            _ => NotWritten::Failed(error),
        })?;
        let written = Self { path: path.to_owned(), keep: false };
        written.fill(file, key).map_err(NotWritten::Failed)?;
        Ok(written)
    }

    fn fill(&self, mut file: File, key: &str) -> io::Result<()> {
        let mut line = Zeroizing::new(String::with_capacity(KEY_BASE64_LEN + 1));
        line.push_str(key);
        line.push('\n');
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        // The name of the file is on the disk only when its directory is. A bare file name has the empty
        // path for its parent.
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Leaves it there.
    pub(super) fn keep(mut self) {
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

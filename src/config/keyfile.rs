//! Files that hold one key: where to look for them, who may read them, and the text inside.
//!
//! What is read is wiped after use and never stands in an error. Called by `load`; the tests of the
//! loader hand in keys without files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use zeroize::Zeroizing;

use super::Environment;
use super::error::Complaint;

/// More than a key and a line ending need: a file of this size holds something else. In bytes.
const SIZE_MAX: usize = 256;
/// What `stat` says beside the permissions: the type of the file and setuid.
const PERMISSIONS: u32 = 0o777;
/// Whoever else may read, write or execute.
const GROUP_AND_OTHERS: u32 = 0o077;

/// Whose secret a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The key of this machine.
    Private,
    /// A key that two machines share.
    Preshared,
}

/// Reads the text of a key file, without the white space at its end. A relative path is looked for in
/// the credentials directory, then beside the configuration file.
pub(super) fn read(
    file: &Path,
    kind: Kind,
    configuration: &Path,
    environment: &Environment,
) -> Result<Zeroizing<String>, Complaint> {
    read_at(locate(file, configuration, environment), kind)
}

/// The same, but beside the configuration file first: a credential is as old as the start of its service.
pub(super) fn read_newest(
    file: &Path,
    kind: Kind,
    configuration: &Path,
    environment: &Environment,
) -> Result<Zeroizing<String>, Complaint> {
    let path = beside(file, configuration);
    let is_there = file.is_relative() && path.exists();
    let place = if is_there { (path, false) } else { locate(file, configuration, environment) };
    read_at(place, kind)
}

fn read_at(
    (path, is_credential): (PathBuf, bool),
    kind: Kind,
) -> Result<Zeroizing<String>, Complaint> {
    let unreadable = |error: &io::Error| unreadable(&path, kind, error);
    // Opening a FIFO would wait for its writer.
    let metadata = fs::metadata(&path).map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(Complaint::new(format!("{} is not a regular file", path.display())));
    }
    let opened = File::open(&path).map_err(|error| unreadable(&error))?;
    // Asked of the open file: another one may stand at the path by now.
    let mode = opened.metadata().map_err(|error| unreadable(&error))?.permissions().mode();
    // systemd guards the directory of credentials itself, and some versions make the files in it 0440,
    // owned by root, with an ACL for the service that shows as the group's mode.
    if mode & GROUP_AND_OTHERS != 0 && !is_credential {
        let problem = format!("{} has mode {:04o}", path.display(), mode & PERMISSIONS);
        return Err(Complaint::new(format!("{problem}: others can read or write the key"))
            .allowed("a file that only its owner can use, mode 0600 or 0400")
            .hint("change it with `chmod 600`; if others may have read the key, make a new one"));
    }
    let mut buffer = Zeroizing::new([0; SIZE_MAX]);
    let length = read_up_to(opened, buffer.as_mut()).map_err(|error| unreadable(&error))?;
    let text = buffer.get(..length).map(<[u8]>::trim_ascii_end).map(str::from_utf8);
    match text {
        Some(Ok(text)) if length < SIZE_MAX => Ok(Zeroizing::new(text.to_owned())),
        _ => Err(Complaint::new(format!("{} holds something else than a key", path.display()))
            .allowed("one key in base64 and nothing else")),
    }
}

/// The path, and whether it lies in the credentials directory.
pub(super) fn locate(
    file: &Path,
    configuration: &Path,
    environment: &Environment,
) -> (PathBuf, bool) {
    // Another component (`..`) could lead out of the directory that systemd guards.
    let is_plain = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
    if let Some(directory) = &environment.credentials_directory {
        // For an absolute path `join` is that path alone.
        let path = directory.join(file);
        if path.strip_prefix(directory).is_ok_and(is_plain) && (file.is_absolute() || path.exists())
        {
            return (path, true);
        }
    }
    (beside(file, configuration), false)
}

fn beside(file: &Path, configuration: &Path) -> PathBuf {
    configuration.parent().unwrap_or(Path::new("")).join(file)
}

/// What this process sees of a key file that somebody changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// What it holds now, or that it is gone.
    Anew,
    /// A copy from the start of the service.
    Credential,
    /// Nothing: it may not read it.
    Denied,
}

pub(super) fn reach(file: &Path, configuration: &Path, environment: &Environment) -> Reach {
    let (path, is_credential) = locate(file, configuration, environment);
    // Opening a FIFO would wait for its writer.
    let opens = || match fs::metadata(&path)?.is_file() {
        true => File::open(&path).map(drop),
        false => Ok(()),
    };
    match opens() {
        _ if is_credential => Reach::Credential,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Reach::Denied,
        _ => Reach::Anew,
    }
}

fn unreadable(path: &Path, kind: Kind, error: &io::Error) -> Complaint {
    if error.kind() != io::ErrorKind::NotFound {
        return Complaint::new(format!("{} cannot be read: {error}", path.display()));
    }
    let hint = match kind {
        Kind::Private => {
            "run `hushwire init` on this machine to make its key, or name another file"
        }
        Kind::Preshared => {
            "make one by `hushwire genpsk`, the same file on both machines, mode 0600"
        }
    };
    Complaint::new(format!("{} does not exist", path.display())).hint(hint)
}

/// Fills the buffer as far as the file goes. No `Vec` is used: growing, it would leave copies behind.
fn read_up_to(mut file: File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of one test, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let name = format!("hushwire-keyfile-{}-{test}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(path.join("credentials")).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn read(&self, file: impl AsRef<Path>, with_credentials: bool) -> Result<String, String> {
            let credentials_directory = with_credentials.then(|| self.0.join("credentials"));
            let environment = Environment { credentials_directory, ..Environment::default() };
            let configuration = self.0.join("hushwire.toml");
            read(file.as_ref(), Kind::Private, &configuration, &environment)
                .map(|text| text.to_string())
                .map_err(|complaint| complaint.to_string())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn relative_path_is_looked_for_among_the_credentials_first() {
        let directory = Directory::new("order");
        directory.write("key", "beside\n", 0o600);
        assert_eq!(directory.read("key", true).as_deref(), Ok("beside"));
        directory.write("credentials/key", "credential\n", 0o440);
        assert_eq!(directory.read("key", true).as_deref(), Ok("credential"));
        assert_eq!(directory.read("key", false).as_deref(), Ok("beside"));
        let absolute = directory.0.join("credentials/key");
        assert_eq!(directory.read(&absolute, true).as_deref(), Ok("credential"));
    }

    #[test]
    fn key_that_others_can_read_is_refused_unless_systemd_guards_it() {
        let directory = Directory::new("mode");
        for mode in [0o640, 0o604, 0o620, 0o610, 0o644] {
            directory.write("key", "secret", mode);
            let error = directory.read("key", true).unwrap_err();
            assert!(error.contains(&format!("mode {mode:04o}")), "{error}");
            assert!(!error.contains("secret"), "{error}");
            // Not a way around it: the path leads out of the credentials.
            assert!(directory.read("../key", true).is_err());
            let out = directory.0.join("credentials/../key");
            assert!(directory.read(out, true).is_err());
        }
        for mode in [0o600, 0o400] {
            directory.write("key", "secret", mode);
            assert_eq!(directory.read("key", true).as_deref(), Ok("secret"));
        }
        let absolute = directory.0.join("credentials/key");
        directory.write("credentials/key", "credential", 0o440);
        assert!(directory.read(absolute, false).is_err());
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let directory = Directory::new("kinds");
        assert!(directory.read("missing", false).unwrap_err().contains("hushwire init"));
        assert!(directory.read("credentials", false).unwrap_err().contains("not a regular file"));
        directory.write("key", &"x".repeat(SIZE_MAX), 0o600);
        assert!(directory.read("key", false).unwrap_err().contains("something else than a key"));
        directory.write("key", "", 0o600);
        assert_eq!(directory.read("key", false).as_deref(), Ok(""));
        fs::write(directory.0.join("key"), [0xff; 44]).unwrap();
        assert!(directory.read("key", false).unwrap_err().contains("something else than a key"));
    }
}

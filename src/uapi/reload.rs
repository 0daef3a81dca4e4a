//! The request `reload=1`, from text to [`Reload`] and back, and its outcome: pure.
//!
//! ```text
//! reload=1
//! config=/etc/hushwire/hushwire.toml
//! private_key_file=private.key
//! private_key=(64 hexadecimal digits)
//! preshared_key_file=cluster.psk
//! preshared_key=(64 hexadecimal digits)
//! ```
//!
//! A file's line is followed by that of its key. All but the first line may be left out. The answer is
//! `reload={JSON}`, a [`ReloadOutcome`] on one line. The text holds secrets: its memory is reserved ahead and
//! wiped. Called by the parser of requests and by the client.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Errno;
use crate::config::{HandedKey, HandedKeys};
use crate::wireguard::{PresharedKey, PrivateKey};

/// Keys of one request. Each takes a page of its own, and the kernel lets a process have 65,530 mappings.
const KEYS_LIMIT: usize = 4096;

const CONFIG: &str = "config";
const PRIVATE_FILE: &str = "private_key_file";
const PRIVATE: &str = "private_key";
const PRESHARED_FILE: &str = "preshared_key_file";
const PRESHARED: &str = "preshared_key";

/// What a client that asks for a reload says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reload {
    /// The file that it has checked.
    pub config: Option<String>,
    /// What the key files hold.
    pub keys: HandedKeys,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The configuration counts.
    Done {
        /// What differs from the one before.
        changed: Vec<String>,
        /// What the operator should know.
        warnings: Vec<String>,
    },
    /// Nothing was changed, and why.
    Refused(String),
}

impl Reload {
    /// The request for the control socket; none if a path has a line break.
    pub(super) fn to_text(&self) -> Option<Zeroizing<String>> {
        let files: Option<Vec<_>> =
            self.keys.iter().map(|(file, key)| Some((file.to_str()?, key))).collect();
        let files = files?;
        let config = self.config.as_deref();
        if files.iter().map(|(file, _)| *file).chain(config).any(|path| path.contains('\n')) {
            return None;
        }
        let mut text = Zeroizing::new(String::with_capacity(self.room()));
        let mut line = |key: &str, value: &str| {
            for part in [key, "=", value, "\n"] {
                text.push_str(part);
            }
        };
        line("reload", "1");
        config.into_iter().for_each(|config| line(CONFIG, config));
        for (file, key) in files {
            match key {
                HandedKey::Private(key) => {
                    line(PRIVATE_FILE, file);
                    line(PRIVATE, &key.to_hex());
                }
                HandedKey::Preshared(key) => {
                    line(PRESHARED_FILE, file);
                    line(PRESHARED, &key.to_hex());
                }
            }
        }
        text.push('\n');
        Some(text)
    }

    /// Never less than the length of the text, in bytes: beside its path, a file takes 100 of them.
    fn room(&self) -> usize {
        let files: usize = self.keys.iter().map(|(file, _)| 128 + file.as_os_str().len()).sum();
        64 + self.config.as_deref().map_or(0, str::len) + files
    }
}

/// What a `reload=1` has said so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    reload: Reload,
    /// The line that has to come next, and the file that its key is for.
    file: Option<(&'static str, String)>,
}

impl Lines {
    /// Takes a line behind the first.
    pub(super) fn key_value(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        if let Some((expected, file)) = self.file.take() {
            if key != expected {
                return Err(Errno::Invalid);
            }
            return self.insert(file, secret(key, value)?);
        }
        if value.is_empty() {
            return Err(Errno::Invalid);
        }
        match key {
            CONFIG if self.reload.config.is_none() => self.reload.config = Some(value.to_owned()),
            PRIVATE_FILE => self.file = Some((PRIVATE, value.to_owned())),
            PRESHARED_FILE => self.file = Some((PRESHARED, value.to_owned())),
            _ => return Err(Errno::Invalid),
        }
        Ok(())
    }

    fn insert(&mut self, file: String, key: HandedKey) -> Result<(), Errno> {
        let keys = &mut self.reload.keys;
        let is_taken = keys.len() < KEYS_LIMIT && keys.insert(file.into(), key);
        if is_taken { Ok(()) } else { Err(Errno::Invalid) }
    }

    /// Takes the end of the request.
    pub(super) fn finish(self) -> Result<Reload, Errno> {
        if self.file.is_none() { Ok(self.reload) } else { Err(Errno::Invalid) }
    }
}

fn secret(key: &str, value: &str) -> Result<HandedKey, Errno> {
    let key = match key {
        PRIVATE => PrivateKey::from_hex(value).map(HandedKey::Private),
        _ => PresharedKey::from_hex(value).map(HandedKey::Preshared),
    };
    key.map_err(|_| Errno::Invalid)
}

#[cfg(test)]
mod tests {
    use super::super::{Request, parse_request};
    use super::*;
    use crate::wireguard::KEY_LEN;

    const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";

    fn parse(lines: &str) -> Result<Reload, Errno> {
        match parse_request(&format!("reload=1\n{lines}\n"), |_| None)? {
            Request::Reload(reload) => Ok(reload),
            other => panic!("{other:?}"),
        }
    }

    fn private() -> HandedKey {
        HandedKey::Private(PrivateKey::from_bytes([1; KEY_LEN]))
    }

    fn preshared() -> HandedKey {
        HandedKey::Preshared(PresharedKey::from_bytes([1; KEY_LEN]))
    }

    #[test]
    fn what_the_client_writes_is_what_the_daemon_reads() {
        let mut reload = Reload::default();
        assert_eq!(reload.to_text().unwrap().as_str(), "reload=1\n\n");
        assert_eq!(parse("").unwrap(), reload);
        reload.config = Some("/etc/hushwire/a=b.toml".to_owned());
        for file in ["private.key", "/keys/a = b", "é"] {
            reload.keys.insert(file.into(), private());
            reload.keys.insert(file.into(), preshared());
        }
        let text = reload.to_text().unwrap();
        assert_eq!(parse_request(&text, |_| None), Ok(Request::Reload(reload.clone())));
        assert_eq!(text.capacity(), reload.room(), "it has moved, and left keys behind");
        for path in ["a\nb", "\n"] {
            let mut bad = reload.clone();
            bad.keys.insert(path.into(), private());
            assert_eq!(bad.to_text(), None);
            assert_eq!(Reload { config: Some(path.into()), ..Reload::default() }.to_text(), None);
        }
    }

    #[test]
    fn a_key_follows_its_file_and_nothing_stands_twice() {
        let mut keys = HandedKeys::default();
        keys.insert("a".into(), preshared());
        let lines = format!("preshared_key_file=a\npreshared_key={KEY}\n");
        assert_eq!(parse(&lines).unwrap(), Reload { config: None, keys });
        for bad in [
            "config=\n",
            "config=a\nconfig=a\n",
            "private_key_file=\n",
            "private_key_file=a\n",
            "private_key_file=a\nprivate_key=\n",
            "private_key_file=a\nconfig=a\n",
            &format!("private_key_file=a\nprivate_key={}\n", &KEY[1..]),
            &format!("private_key={KEY}\n"),
            &format!("private_key_file=a\npreshared_key={KEY}\n"),
            &format!("preshared_key_file=a\nprivate_key={KEY}\n"),
            &format!("private_key_file=a\nprivate_key_file=a\nprivate_key={KEY}\n"),
            &format!("{lines}{lines}"),
            "listen_port=1\n",
            "reload=1\n",
        ] {
            assert_eq!(parse(bad), Err(Errno::Invalid), "{bad}");
        }
        assert_eq!(parse("nonsense\n"), Err(Errno::Protocol));
    }

    #[test]
    fn the_number_of_keys_has_a_limit() {
        let lines = |count| -> String {
            (0..count).map(|n| format!("preshared_key_file={n}\npreshared_key={KEY}\n")).collect()
        };
        assert_eq!(parse(&lines(KEYS_LIMIT)).unwrap().keys.len(), KEYS_LIMIT);
        assert_eq!(parse(&lines(KEYS_LIMIT + 1)), Err(Errno::Invalid));
    }
}

//! Keys that a running hushwire is handed over, for key files that it cannot read anew itself.
//!
//! Under systemd it has copies of them from its start (`LoadCredential=`), as a user that may not read the files.
//! `hushwire reload`, run as root, reads those and hands over what they hold. A handed key comes first. Later
//! it still counts where hushwire sees nothing newer; a file that it can read is read. Called by the daemon, and
//! by `hushwire reload`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::Errors;
use super::keyfile::{self, Kind, Reach};
use super::load::load_from;
use super::{Config, Environment};
use crate::wireguard::{PresharedKey, PrivateKey};

/// What one key file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandedKey {
    /// The key of this machine.
    Private(PrivateKey),
    /// A key that two machines share.
    Preshared(PresharedKey),
}

impl HandedKey {
    /// Reads the text of a key file, if it is a key.
    pub(super) fn parse(text: &str, kind: Kind) -> Option<Self> {
        match kind {
            Kind::Private => text.parse().map(HandedKey::Private).ok(),
            Kind::Preshared => text.parse().map(HandedKey::Preshared).ok(),
        }
    }

    /// The text as it stands in a file.
    pub(super) fn text(&self) -> Zeroizing<String> {
        match self {
            HandedKey::Private(key) => key.to_base64(),
            HandedKey::Preshared(key) => key.to_base64(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            HandedKey::Private(_) => Kind::Private,
            HandedKey::Preshared(_) => Kind::Preshared,
        }
    }
}

/// Keys, each under the path of its file as the configuration has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedKeys(BTreeMap<(Kind, PathBuf), HandedKey>);

impl HandedKeys {
    /// Adds one; returns whether the file had none before.
    pub fn insert(&mut self, file: PathBuf, key: HandedKey) -> bool {
        self.0.insert((key.kind(), file), key).is_none()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each file with its key, private keys first.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &HandedKey)> {
        self.0.iter().map(|((_, file), key)| (file.as_path(), key))
    }

    pub(super) fn get(&self, file: &Path, kind: Kind) -> Option<&HandedKey> {
        self.0.get(&(kind, file.to_owned()))
    }
}

/// The same as [`load()`](super::load()) for somebody who hands the keys over, and says which they are. A key file
/// is looked for beside the configuration first.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load_with_keys(
    path: &Path,
    environment: &Environment,
) -> Result<(Config, HandedKeys), Errors> {
    let mut keys = HandedKeys::default();
    let read = |file: &Path, kind| {
        let text = keyfile::read_newest(file, kind, path, environment)?;
        // What is no key is reported by whoever asked for it.
        if let Some(key) = HandedKey::parse(&text, kind) {
            keys.insert(file.to_owned(), key);
        }
        Ok(text)
    };
    let config = load_from(path, environment, read)?;
    Ok((config, keys))
}

/// What [`load_again`] has found.
#[derive(Clone, Debug)]
pub struct Again {
    /// The configuration.
    pub config: Config,
    /// The keys that were handed over and count until they are handed over again.
    pub known: HandedKeys,
    /// Key files that a service has to be given before its next start, as they stand in the file.
    pub lacking: BTreeSet<PathBuf>,
}

/// Reads a configuration again. Keys that are `handed` over come first. Those `known` from before count where
/// this process sees nothing newer: in place of a credential, or of a file that it may not read.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load_again(
    path: &Path,
    environment: &Environment,
    handed: &HandedKeys,
    known: &HandedKeys,
) -> Result<Again, Errors> {
    let (mut kept, mut lacking) = (HandedKeys::default(), BTreeSet::new());
    let read = |file: &Path, kind| {
        let reach = keyfile::reach(file, path, environment);
        let known = known.get(file, kind).filter(|_| reach != Reach::Anew);
        let Some(key) = handed.get(file, kind).or(known) else {
            return keyfile::read(file, kind, path, environment);
        };
        if reach != Reach::Anew {
            kept.insert(file.to_owned(), key.clone());
        }
        if reach == Reach::Denied && environment.credentials_directory.is_some() {
            lacking.insert(file.to_owned());
        }
        Ok(key.text())
    };
    let config = load_from(path, environment, read)?;
    Ok(Again { config, known: kept, lacking })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::wireguard::KEY_LEN;

    #[test]
    fn a_file_may_hold_a_key_of_each_kind_and_none_is_printed() {
        let mut keys = HandedKeys::default();
        let private = HandedKey::Private(PrivateKey::from_bytes([1; KEY_LEN]));
        let preshared = HandedKey::Preshared(PresharedKey::from_bytes([2; KEY_LEN]));
        assert!(keys.insert("a".into(), preshared.clone()));
        assert!(keys.insert("a".into(), private.clone()));
        assert!(!keys.insert("a".into(), private.clone()));
        assert_eq!(keys.get(Path::new("a"), Kind::Private), Some(&private));
        assert_eq!(keys.get(Path::new("a"), Kind::Preshared), Some(&preshared));
        assert_eq!(keys.get(Path::new("b"), Kind::Private), None);
        let shown = format!("{keys:?}");
        assert!(shown.contains("(hidden)") && !shown.contains("1, 1"), "{shown}");
        for (key, kind) in [(private, Kind::Private), (preshared, Kind::Preshared)] {
            assert_eq!(HandedKey::parse(&key.text(), kind), Some(key));
        }
        assert_eq!(HandedKey::parse("no key", Kind::Private), None);
    }

    /// A configuration with its key file and a credential, removed at its end.
    struct Service(PathBuf);

    impl Service {
        fn new(test: &str) -> Self {
            let name = format!("hushwire-handed-{}-{test}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(path.join("credentials")).unwrap();
            let text = "[interface]\naddress = [\"10.99.0.1/32\"]\n";
            fs::write(path.join("hushwire.toml"), text).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, number: u8) {
            let path = self.0.join(name);
            fs::write(&path, &*key(number).text()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }

        fn config(&self) -> PathBuf {
            self.0.join("hushwire.toml")
        }

        fn environment(&self, with_credentials: bool) -> Environment {
            let credentials_directory = with_credentials.then(|| self.0.join("credentials"));
            Environment { credentials_directory, ..Environment::default() }
        }

        /// Loads it again; returns which key counts, and what is known then.
        fn again(
            &self,
            with_credentials: bool,
            handed: &HandedKeys,
            known: &HandedKeys,
        ) -> (HandedKey, HandedKeys) {
            let environment = self.environment(with_credentials);
            let again = load_again(&self.config(), &environment, handed, known).unwrap();
            assert!(again.lacking.is_empty());
            (HandedKey::Private(again.config.interface.private_key), again.known)
        }
    }

    impl Drop for Service {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(number: u8) -> HandedKey {
        HandedKey::Private(PrivateKey::from_random([number; KEY_LEN]))
    }

    fn handed(number: u8) -> HandedKeys {
        let mut keys = HandedKeys::default();
        keys.insert("private.key".into(), key(number));
        keys
    }

    #[test]
    fn a_handed_key_counts_in_place_of_a_credential_until_the_next_one() {
        let service = Service::new("credential");
        service.write("credentials/private.key", 1);
        let none = HandedKeys::default();
        assert_eq!(service.again(true, &none, &none), (key(1), none.clone()));
        // The file is none of the service's business, if it could read it or not.
        service.write("private.key", 3);
        assert_eq!(service.again(true, &handed(2), &none), (key(2), handed(2)));
        assert_eq!(service.again(true, &none, &handed(2)), (key(2), handed(2)));
        assert_eq!(service.again(true, &handed(3), &handed(2)), (key(3), handed(3)));
    }

    /// Without systemd a key that was handed over once must not outlive the file.
    #[test]
    fn a_file_that_can_be_read_is_read_at_the_next_reload() {
        let service = Service::new("file");
        service.write("private.key", 1);
        let none = HandedKeys::default();
        for with_credentials in [false, true] {
            assert_eq!(service.again(with_credentials, &handed(2), &none), (key(2), none.clone()));
            assert_eq!(service.again(with_credentials, &none, &handed(2)), (key(1), none.clone()));
        }
        fs::remove_file(service.0.join("private.key")).unwrap();
        let error = load_again(&service.config(), &Environment::default(), &none, &handed(2));
        assert!(error.unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn key_that_is_no_longer_in_the_configuration_is_forgotten() {
        let service = Service::new("forgotten");
        service.write("credentials/private.key", 1);
        let mut keys = handed(2);
        let preshared = HandedKey::Preshared(PresharedKey::from_bytes([2; KEY_LEN]));
        keys.insert("cluster.psk".into(), preshared);
        assert_eq!(service.again(true, &keys, &keys), (key(2), handed(2)));
    }

    #[test]
    fn keys_to_hand_over_are_those_beside_the_configuration() {
        let service = Service::new("newest");
        let load = |environment: &Environment| load_with_keys(&service.config(), environment);
        assert!(load(&service.environment(true)).is_err());
        service.write("credentials/private.key", 1);
        assert_eq!(load(&service.environment(true)).unwrap().1, handed(1));
        service.write("private.key", 2);
        for with_credentials in [false, true] {
            let (config, keys) = load(&service.environment(with_credentials)).unwrap();
            assert_eq!(
                (HandedKey::Private(config.interface.private_key), keys),
                (key(2), handed(2))
            );
        }
    }
}

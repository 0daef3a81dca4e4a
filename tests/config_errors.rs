//! Every `config_errors/*.toml` is loaded, and what is wrong with it is compared with the `.txt` beside it.
//!
//! The texts are the interface of people: a change of one is a change to read. To accept the new texts:
//! `UPDATE_GOLDEN=1 cargo test --test config_errors`, then look at `git diff`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hushwire::config::{Environment, load};

/// The private key whose public key is machine1's in the files.
const PRIVATE_KEY: &str = "EBEREREREREREREREREREREREREREREREREREREREVE=";
const PRESHARED_KEY: &str = "QEREREREREREREREREREREREREREREREREREREREREQ=";
/// Each file beside the configuration: name, text, mode.
const FILES: [(&str, &str, u32); 5] = [
    ("private.key", PRIVATE_KEY, 0o600),
    ("cluster.psk", PRESHARED_KEY, 0o600),
    ("open.key", PRIVATE_KEY, 0o644),
    ("short.key", "QEREREREREREREREREREREREREREREREREREREREREQ", 0o600),
    ("zero.psk", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 0o600),
];

#[test]
fn texts_of_all_errors_are_as_recorded() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_errors");
    let mut names: Vec<_> = files_of(&cases, "toml");
    names.sort();
    let mut recorded = files_of(&cases, "txt");
    recorded.sort();
    let update = updates_wanted();
    let mut different = Vec::new();
    for name in &names {
        let text = fs::read_to_string(cases.join(name).with_extension("toml")).unwrap();
        let actual = errors_of(name, &text);
        let golden = cases.join(name).with_extension("txt");
        if update {
            fs::write(&golden, actual).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != actual {
            different.push(format!("--- {}\n{actual}", golden.display()));
        }
    }
    assert!(
        different.is_empty(),
        "these texts are not as recorded; if they are better, run\n\
         UPDATE_GOLDEN=1 cargo test --test config_errors\n\n{}",
        different.join("\n")
    );
    assert!(update || recorded == names, "each .toml has one .txt: {names:?} {recorded:?}");
    assert!(names.len() >= 12, "only {} cases found", names.len());
}

#[expect(clippy::disallowed_methods, reason = "a switch for the person at the keyboard, in a test")]
fn updates_wanted() -> bool {
    std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1")
}

#[test]
fn configuration_that_is_not_there_says_how_to_name_another() {
    let error = load(Path::new("/nonexistent/hushwire.toml"), &Environment::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/hushwire.toml: cannot be read: No such file or directory (os error 2)\n  \
         hint:    name the configuration file with --config\n\
         1 error; nothing was changed"
    );
}

#[test]
fn a_device_that_has_no_end_is_no_configuration() {
    let error = load(Path::new("/dev/zero"), &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("/dev/zero: is larger than 16 MiB\n  hint:    name"), "{error}");
}

#[test]
fn text_that_is_not_utf_8_is_named_by_its_place() {
    let directory = Directory::new("utf-8");
    let path = directory.0.join("hushwire.toml");
    fs::write(&path, b"[interface]\n# gr\xfc\xdfe\n").unwrap();
    let error = load(&path, &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("hushwire.toml:2:5: this byte is not UTF-8"), "{error}");
}

#[test]
fn default_private_key_that_is_not_there_says_how_to_make_one() {
    let directory = Directory::new("no-key");
    let path = directory.0.join("hushwire.toml");
    fs::write(&path, "").unwrap();
    let error = load(&path, &Environment::default()).unwrap_err().to_string();
    let directory = directory.0.display();
    assert_eq!(
        error,
        format!(
            "{directory}/hushwire.toml: private_key_file: {directory}/private.key does not exist\n  \
             hint:    run `hushwire init` on this machine to make its key, or name another\n  \
             \x20        file\n\
             1 error; nothing was changed"
        )
    );
}

/// The errors of a configuration, with the paths as if its directory were the current one.
fn errors_of(name: &str, text: &str) -> String {
    let directory = Directory::new(name);
    for (name, text, mode) in FILES {
        let path = directory.0.join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    let path = directory.0.join("hushwire.toml");
    fs::write(&path, text).unwrap();
    let Err(errors) = load(&path, &Environment::default()) else {
        panic!("{name}.toml has no error");
    };
    let errors = errors.to_string().replace(&format!("{}/", directory.0.display()), "");
    for secret in [PRIVATE_KEY, PRESHARED_KEY] {
        assert!(!errors.contains(&secret[..40]), "{name} shows a secret:\n{errors}");
    }
    errors + "\n"
}

fn files_of(directory: &Path, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let wanted = entries.filter(|path| path.extension().is_some_and(|e| e == extension));
    wanted.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// A directory of one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let name = format!("hushwire-config-errors-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

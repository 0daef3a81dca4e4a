//! The name of the interface and nothing else of a configuration.
//!
//! `status` and `wait` ask a hushwire that runs: neither a mistake elsewhere in the file nor a key that is not
//! theirs to read may be in the way. What is no TOML has no name. Called by the commands.

use std::path::Path;

use toml::de::DeTable;

use super::error::{Errors, Report};
use super::fields::Item;
use super::load::{DEFAULT_NAME, text};
use super::{syntax, values};

/// Reads the name that a configuration file gives its interface; the default one if it gives none.
///
/// # Errors
/// The file cannot be read, it is no TOML, or the name is none for an interface.
pub fn interface_name(path: &Path) -> Result<String, Errors> {
    syntax::read(&text(path)?, path, |document, report| Some(name(document, report)))
}

/// Anything after something was reported.
fn name(document: &DeTable<'_>, report: &mut Report<'_>) -> String {
    let section = document.get("interface").map(|value| Item::new("interface", value));
    let table = section.and_then(|section| {
        let table = section.value.as_table();
        if table.is_none() {
            section.wrong_type("one section with the header [interface]", report);
        }
        table
    });
    let item = table.and_then(|table| table.get("name")).map(|value| Item::new("name", value));
    let name = item.and_then(|item| item.string(values::interface_name, report));
    name.map_or_else(|| DEFAULT_NAME.to_owned(), |name| name.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let name = format!("hushwire-name-{}-{}.toml", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let name = interface_name(&path).map_err(|errors| errors.to_string());
        std::fs::remove_file(&path).unwrap();
        name
    }

    #[test]
    fn a_name_is_read_whatever_else_is_wrong() {
        let named = "listen_prot = 1\n[interface]\nname = \"office\"\nprivate_key_file = \"/none\"";
        assert_eq!(read(named).as_deref(), Ok("office"));
        assert_eq!(read("[interface]\nmtu = true").as_deref(), Ok("hush0"));
        assert_eq!(read("").as_deref(), Ok("hush0"));
    }

    #[test]
    fn what_has_no_name_to_read_is_an_error_with_its_place() {
        for (text, place) in [
            ("[interface]\nname = office", ".toml:2:8: this is no TOML"),
            ("[interface]\nname = \"office\"\n[peer", ".toml:3:"),
            ("[interface]\nname = 1", ".toml:2:8: name: 1 is a number"),
            ("[interface]\nname = \"a/b\"", ".toml:2:8: name: "),
            ("[interface]\nname = \"a\"\nname = \"b\"", ".toml:3:1: name: stands twice"),
            ("interface = 1", ".toml:1:13: interface: 1 is a number"),
        ] {
            let errors = read(text).unwrap_err();
            assert!(errors.contains(place), "{place}: {errors}");
        }
        let errors = interface_name(Path::new("/nonexistent/office.toml")).unwrap_err().to_string();
        assert!(errors.starts_with("/nonexistent/office.toml: cannot be read: "), "{errors}");
    }
}

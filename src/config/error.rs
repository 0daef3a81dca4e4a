//! What is wrong with a configuration: collected with its places, shown all at once.
//!
//! A [`Complaint`] knows the value and the cure, a [`Report`] adds where it stands, [`Errors`] is what
//! the caller prints. Nothing here may repeat the text of a secret: every value from the file goes
//! through [`shown`]. Used by all files of this room; printed by the commands and the daemon.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use crate::wrap;

/// Longest piece of a value that an error repeats, in characters.
const SHOWN: usize = 64;

/// One thing that is wrong with a value, without its place: what was given, what is allowed, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    problem: String,
    allowed: Option<String>,
    hint: Option<String>,
}

impl Complaint {
    /// Says what is wrong, with the value that was given.
    pub fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), allowed: None, hint: None }
    }

    /// Adds what is allowed in its place.
    #[must_use]
    pub fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        for (label, text) in [("allowed:", &self.allowed), ("hint:", &self.hint)] {
            if let Some(text) = text {
                let first = format!("  {label:<8} ");
                let indent = first.len();
                write!(f, "\n{}", wrap::words(first, indent, text).trim_end())?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Complaint {}

/// Everything that is wrong with one configuration, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    file: PathBuf,
    found: Vec<Found>,
}

impl Errors {
    /// The file as a whole is wrong, not a place in it.
    pub(super) fn of_file(file: &Path, complaint: Complaint) -> Self {
        let found = vec![Found { place: None, key: None, complaint }];
        Self { file: file.to_owned(), found }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Found { place, key, complaint } in &self.found {
            write!(f, "{}:", self.file.display())?;
            if let Some(place) = place {
                write!(f, "{}:{}:", place.line, place.column)?;
            }
            if let Some(key) = key {
                write!(f, " {key}:")?;
            }
            writeln!(f, " {complaint}")?;
        }
        match self.found.len() {
            1 => f.write_str("1 error; nothing was changed"),
            count => write!(f, "{count} errors; nothing was changed"),
        }
    }
}

impl std::error::Error for Errors {}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    place: Option<Place>,
    key: Option<String>,
    complaint: Complaint,
}

/// Counted from 1; columns in characters, as editors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    line: usize,
    column: usize,
}

/// A value and the byte of the file at which it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// Collects errors while a file is read.
pub(super) struct Report<'t> {
    text: &'t str,
    found: Vec<Found>,
    /// Places at which the text is no TOML, as bytes.
    syntax: Vec<usize>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new(), syntax: Vec::new() }
    }

    /// The text is no TOML at this byte.
    pub(super) fn syntax(&mut self, at: usize, complaint: Complaint) {
        self.syntax.push(at);
        self.push(Some(at), None, complaint);
    }

    /// The value of a key is wrong.
    pub(super) fn add(&mut self, at: usize, key: &str, complaint: Complaint) {
        self.push(Some(at), Some(key), complaint);
    }

    /// Something is wrong with a key that may not stand in the file at all.
    pub(super) fn add_anywhere(&mut self, at: Option<usize>, key: &str, complaint: Complaint) {
        self.push(at, Some(key), complaint);
    }

    /// Whether the text is no TOML somewhere: things that seem to be missing may stand there.
    pub(super) fn has_syntax_errors(&self) -> bool {
        !self.syntax.is_empty()
    }

    /// Whether the text is no TOML somewhere between a table's header and the next header.
    pub(super) fn has_syntax_errors_below(&self, header: usize) -> bool {
        let rest = self.text.get(header..).unwrap_or_default();
        let end = header + rest.find("\n[").unwrap_or(rest.len());
        self.syntax.iter().any(|at| (header..end).contains(at))
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        place(self.text, at).line
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All that was found, by place; what has no place comes last.
    pub(super) fn into_errors(mut self, file: &Path) -> Errors {
        self.found.sort_by_key(|found| (found.place.is_none(), found.place));
        Errors { file: file.to_owned(), found: self.found }
    }

    fn push(&mut self, at: Option<usize>, key: Option<&str>, complaint: Complaint) {
        let place = at.map(|at| place(self.text, at));
        self.found.push(Found { place, key: key.map(escaped), complaint });
    }
}

fn place(text: &str, at: usize) -> Place {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
    }
}

/// A value from the file, in quotes, fit for a terminal; not at all if it may be a secret key.
pub(super) fn shown(text: &str) -> String {
    if may_be_key(text) {
        "(a key, not shown)".to_owned()
    } else {
        format!("\"{}\"", escaped(text))
    }
}

/// A value that stands without quotes, such as a number: the parser takes what comes for one and only
/// complains.
pub(super) fn shown_bare(text: &str) -> String {
    if may_be_key(text) { "(a key, not shown)".to_owned() } else { escaped(text) }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == SHOWN {
            out.push('…');
            break;
        }
        // Writing into a String cannot fail.
        let _ = match character {
            '"' | '\'' => write!(out, "{character}"),
            _ => write!(out, "{}", character.escape_debug()),
        };
    }
    out
}

/// Whether a text may be a key, if one with a few characters lost or doubled: 64 digits of
/// hexadecimal, or about 44 characters of base64. A path of letters and slashes alone is none. A key
/// with something before or behind it is told by the sign at its end, which paths do not have.
pub(super) fn may_be_key(text: &str) -> bool {
    let text = text.trim();
    let hex = text.len() >= 60 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let base64 = (40..=48).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        && (text.ends_with('=') || text.contains('+') || text.bytes().any(|b| b.is_ascii_digit()));
    hex || base64 || holds_key(text)
}

fn holds_key(text: &str) -> bool {
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    let digits = |piece: &str| piece.bytes().rev().take_while(is_digit).count();
    text.match_indices('=').any(|(at, _)| text.get(..at).is_some_and(|piece| digits(piece) >= 40))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_not_bytes() {
        let text = "a = 1\nname = \"hüsh\" # here";
        let at = text.find('#').unwrap();
        assert_eq!(place(text, at), Place { line: 2, column: 15 });
        assert_eq!(place(text, 0), Place { line: 1, column: 1 });
    }

    #[test]
    fn a_value_that_may_be_a_key_is_not_shown() {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        assert_eq!(shown(key), "(a key, not shown)");
        assert_eq!(shown(&key[1..]), "(a key, not shown)");
        assert_eq!(shown(&key[..43]), "(a key, not shown)");
        assert_eq!(shown(&"0f".repeat(32)), "(a key, not shown)");
        assert_eq!(shown("machine1.example.org:51820"), "\"machine1.example.org:51820\"");
        let path = "/etc/hushwire/private/keys/of/this/machine";
        assert_eq!(shown(path), format!("\"{path}\""));
    }

    /// Two lines pasted into one, or a line of another program's file, showed the key in the error.
    #[test]
    fn a_key_with_something_before_or_behind_it_is_not_shown() {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        for text in [
            format!("{key}{key}"),
            format!("{key} # machine1"),
            format!("PrivateKey = {key}"),
            format!("/etc/hushwire/{key}"),
            format!("é{}…", &key[3..]),
        ] {
            assert_eq!(shown(&text), "(a key, not shown)", "{text}");
        }
        let path = "/etc/hushwire/keys/of/this/machine/a=b";
        assert_eq!(shown(path), format!("\"{path}\""));
    }

    #[test]
    fn control_characters_of_a_value_do_not_reach_the_terminal() {
        assert_eq!(shown("a\u{1b}[31mb\n"), "\"a\\u{1b}[31mb\\n\"");
        assert_eq!(shown(&"é".repeat(100)).chars().count(), SHOWN + 3);
    }

    #[test]
    fn long_hints_are_broken_at_words() {
        let text = Complaint::new("p").hint("word ".repeat(40).trim()).to_string();
        assert!(text.lines().count() > 2);
        assert!(text.lines().all(|line| line.chars().count() <= wrap::WIDTH), "{text}");
        assert!(text.lines().skip(2).all(|line| line.starts_with("           word")), "{text}");
    }
}

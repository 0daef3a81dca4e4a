//! TOML that is read in spite of the lines that are none.
//!
//! The parser loses its way after the first such line: it stops, or takes what follows for parts of an
//! open list. So each bad line is reported, blanked and the rest parsed again, until nothing is wrong.
//! Places stay those of the original, since blanks take as many bytes. Called by `load` and `name`.

use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::error::{Complaint, Errors, Report};

/// Each round parses the whole file: a bound, so that a file that is no TOML at all costs little.
const ROUNDS_MAX: usize = 50;

/// The parser's message for the one error that is not about syntax, and after which it goes on well.
const DUPLICATE: &str = "duplicate key";

/// Parses the text of a configuration file and has `take` make something of it, which is nothing only after it
/// reported why.
///
/// # Errors
/// All that was reported, by either.
pub(super) fn read<T>(
    text: &str,
    path: &Path,
    take: impl FnOnce(&DeTable<'_>, &mut Report<'_>) -> Option<T>,
) -> Result<T, Errors> {
    let mut report = Report::new(text);
    let text = readable(text, &mut report);
    let (document, errors) = DeTable::parse_recoverable(&text);
    report_duplicates(&text, document.get_ref(), &errors, &mut report);
    match take(document.get_ref(), &mut report) {
        Some(taken) if report.is_empty() => Ok(taken),
        _ => Err(report.into_errors(path)),
    }
}

/// Reports every line that is no TOML and gives the text without them.
fn readable(text: &str, report: &mut Report<'_>) -> String {
    let mut text = text.to_owned();
    for _ in 0..ROUNDS_MAX {
        let (_, errors) = DeTable::parse_recoverable(&text);
        let errors = errors.iter().filter(|error| error.message() != DUPLICATE);
        // What is not closed comes first: it makes errors of the good lines that follow.
        let order = |error: &&toml::de::Error| (openers(error.message()).is_empty(), start(error));
        let Some(first) = errors.min_by_key(order) else { break };
        let (at, complaint, bad) = explain(&text, start(first), first.message());
        report.syntax(at, complaint);
        let blank: String =
            text[bad.clone()].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
        if text[bad.clone()] == blank {
            break;
        }
        text.replace_range(bad, &blank);
    }
    text
}

/// Reports keys and sections that stand twice.
fn report_duplicates(
    text: &str,
    document: &DeTable<'_>,
    errors: &[toml::de::Error],
    report: &mut Report<'_>,
) {
    for error in errors.iter().filter(|error| error.message() == DUPLICATE) {
        let at = start(error);
        let key = &text[error.span().unwrap_or_default()];
        let is_section = text[line(text, at)].trim_start().starts_with('[');
        let (first, hint) = if is_section {
            let header = format!("[{key}]");
            let mut lines = text[..at].lines();
            let first = lines.position(|line| line.trim_start().starts_with(&header));
            (
                first.map(|index| index + 1),
                "put the keys of both into one; only [[peer]] may stand again",
            )
        } else {
            (first_place(document, key, at).map(|at| report.line(at)), "remove one of the two")
        };
        let problem = match first {
            Some(line) => format!("stands twice, first in line {line}"),
            None => "stands twice".to_owned(),
        };
        report.add(at, key, Complaint::new(problem).hint(hint));
    }
}

fn start(error: &toml::de::Error) -> usize {
    error.span().unwrap_or_default().start
}

/// Where it is wrong, why, and which lines to read no further.
fn explain(text: &str, at: usize, message: &str) -> (usize, Complaint, Range<usize>) {
    let (problem, allowed) = match message.split_once(", expected ") {
        Some((problem, allowed)) => (problem, Some(allowed)),
        None => (message, None),
    };
    let complaint = Complaint::new(format!("this is no TOML: {problem}"));
    // The parser takes any bare word for a string, or for a word that begins like it.
    let quotes = "text stands in quotes; numbers, true and false stand without";
    let complaint = match (problem, allowed) {
        ("string values must be quoted" | "invalid boolean", _) => complaint.hint(quotes),
        ("key with no value", _) => complaint.allowed("key = value"),
        ("invalid basic string" | "invalid literal string", _) => {
            complaint.hint("end it with the quote that it began with")
        }
        (_, Some(allowed)) => complaint.allowed(allowed),
        (_, None) => complaint,
    };
    let here = line(text, at);
    if let Some(open) = opener(text, at, openers(message)) {
        let bad = line(text, open).start..next_statement(text, open);
        if bad.contains(&here.start) && here.start < at.max(1) {
            return (at, complaint, bad);
        }
        let complaint = Complaint::new("this is no TOML: opened here and not closed");
        return (open, complaint, bad);
    }
    if text[here.clone()].trim_start().starts_with('[') {
        // Without its header a section's keys would seem to belong to the one before.
        return (at, complaint, here.start..next_header(text, here.end));
    }
    (at, complaint, here)
}

/// How the value begins that may go over several lines, if the parser speaks of one.
fn openers(message: &str) -> &'static [&'static str] {
    match message {
        m if m.contains("array table") => &[],
        m if m.contains("array") => &["["],
        m if m.contains("inline table") || m.contains("key-value pairs") => &["{"],
        m if m.contains("multi-line") => &["\"\"\"", "'''"],
        _ => &[],
    }
}

/// The last place before `at` where a value begins with one of these.
fn opener(text: &str, at: usize, openers: &[&str]) -> Option<usize> {
    let mut places = text[..at].match_indices('=').map(|(equals, _)| {
        let value = &text[equals + 1..];
        equals + 1 + (value.len() - value.trim_start_matches([' ', '\t']).len())
    });
    let opens = |place: usize| openers.iter().any(|o| place < at && text[place..].starts_with(o));
    places.rfind(|&place| opens(place))
}

/// The line around a byte, without its end.
fn line(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    start..end
}

/// Where the next line begins that starts something new.
fn next_statement(text: &str, after: usize) -> usize {
    next_line(text, after, |line| is_header(line) || is_key(line))
}

fn next_header(text: &str, after: usize) -> usize {
    next_line(text, after, is_header)
}

fn next_line(text: &str, after: usize, wanted: impl Fn(&str) -> bool) -> usize {
    let newlines = text[after..].match_indices('\n').map(|(newline, _)| after + newline + 1);
    let mut starts = newlines.filter(|&start| wanted(text[line(text, start)].trim_start()));
    starts.next().unwrap_or(text.len())
}

/// Whether a line looks like `[section]` or `[[section]]`; an element of a list in a list does not.
fn is_header(line: &str) -> bool {
    line.starts_with('[')
        && line.trim_start_matches('[').starts_with(|c: char| c.is_ascii_alphabetic())
}

fn is_key(line: &str) -> bool {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_-.".contains(c));
    rest.len() < line.len() && rest.trim_start().starts_with('=')
}

/// The last place before `at` where a table has this key: that of a second `key = ` in one table.
fn first_place(table: &DeTable<'_>, key: &str, at: usize) -> Option<usize> {
    let own = table.keys().filter(|k| k.get_ref() == key).map(|k| k.span().start);
    let below = table.values().flat_map(|value| {
        match (value.get_ref().as_table(), value.get_ref().as_array()) {
            (Some(table), _) => vec![table],
            (_, Some(list)) => list.iter().filter_map(|value| value.get_ref().as_table()).collect(),
            _ => Vec::new(),
        }
    });
    let below = below.filter_map(|table| first_place(table, key, at));
    own.chain(below).filter(|&place| place < at).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that stays, without blank lines.
    fn kept(text: &str) -> Vec<String> {
        let readable = readable(text, &mut Report::new(text));
        assert_eq!(readable.len(), text.len(), "places move");
        readable
            .lines()
            .map(|line| line.trim_end().to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    }

    #[test]
    fn one_bad_line_costs_one_line() {
        for bad in [
            "x",
            "b = ",
            "b = ten",
            "b = \"",
            "b = 1 c = 2",
            "= 1",
            "b = 'x",
            "b = \"\\q\"",
            "ü = 1",
            "]",
        ] {
            assert_eq!(kept(&format!("a = 1\n{bad}\nz = 2\n")), ["a = 1", "z = 2"], "{bad}");
        }
    }

    #[test]
    fn what_is_not_closed_ends_at_the_next_key_or_section() {
        for open in [
            "b = [",
            "b = [1,",
            "b = [\n\"x\",",
            "b = [1,\n2\n3]",
            "b = [[1],\n[2",
            "b = {c = 1",
            "b = \"\"\"x",
        ] {
            assert_eq!(kept(&format!("a = 1\n{open}\nz = [2]\n")), ["a = 1", "z = [2]"], "{open}");
            assert_eq!(
                kept(&format!("a = 1\n{open}\n[z]\ny = 1")),
                ["a = 1", "[z]", "y = 1"],
                "{open}"
            );
        }
    }

    #[test]
    fn section_with_a_bad_header_is_left_out_as_a_whole() {
        let text = "[a]\nx = 1\n[[b]\nx = 2\n\n[[c]]\nx = 3\n";
        assert_eq!(kept(text), ["[a]", "x = 1", "[[c]]", "x = 3"]);
    }

    #[test]
    fn whatever_is_in_the_file_comes_to_an_end() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let pieces = [
                "[", "]", "=", "\n", "a", "\"", "'", "{", "}", ",", ".", "#", "1", " ", "\"\"\"",
                "ü", "\u{0}", "\r",
            ];
            let text: String =
                (0..random.usize(..30)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let mut report = Report::new(&text);
            let readable = readable(&text, &mut report);
            let (document, errors) = DeTable::parse_recoverable(&readable);
            report_duplicates(&readable, document.get_ref(), &errors, &mut report);
            let left = errors.iter().filter(|error| error.message() != DUPLICATE).count();
            assert!(left == 0 || !report.is_empty(), "{text:?}");
        }
    }
}

//! Reads tables of the TOML tree key by key: which keys a section knows, and what type a value has.
//!
//! Every wrong key and every wrong type goes to the [`Report`]; the caller gets `None` and goes on, so
//! that one run finds all. Nothing here knows what a key means. Used by `load` and `blocks`.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Complaint, Placed, Report, shown, shown_bare};

/// The keys of a section.
pub(super) struct Keys {
    /// As it is written in the file; empty for the top level.
    pub(super) section: &'static str,
    /// Keys that this version reads.
    pub(super) known: &'static [&'static str],
    /// Keys of the format that this version does not do yet. They are refused: to ignore a `[filter]`
    /// would leave open what it closes. Whoever builds one moves it to `known`.
    pub(super) later: &'static [&'static str],
}

/// A table of the file, perhaps one that is not there.
pub(super) struct Section<'d> {
    table: Option<&'d DeTable<'d>>,
    /// Where its header stands.
    pub(super) at: Option<usize>,
}

impl<'d> Section<'d> {
    /// Opens the top level of the file.
    pub(super) fn root(table: &'d DeTable<'d>, keys: &Keys, report: &mut Report<'_>) -> Self {
        check_keys(table, keys, report);
        Self { table: Some(table), at: None }
    }

    /// Opens the table `[key]`.
    pub(super) fn table(&self, key: &'static str, keys: &Keys, report: &mut Report<'_>) -> Self {
        let Some(item) = self.item(key) else { return Self { table: None, at: None } };
        let table = item.value.as_table();
        match table {
            Some(table) => check_keys(table, keys, report),
            None => {
                item.wrong_type(&format!("one section with the header {}", keys.section), report)
            }
        }
        Self { table, at: Some(item.at) }
    }

    /// Opens every table `[[key]]`, in the order of the file.
    pub(super) fn tables(
        &self,
        key: &'static str,
        keys: &Keys,
        report: &mut Report<'_>,
    ) -> Vec<Self> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let allowed =
            format!("sections with the header {}, two brackets on each side", keys.section);
        let Some(array) = item.value.as_array() else {
            item.wrong_type(&allowed, report);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in array.iter() {
            let element = Item::new(key, element);
            match element.value.as_table() {
                Some(table) => {
                    check_keys(table, keys, report);
                    sections.push(Self { table: Some(table), at: Some(element.at) });
                }
                None => element.wrong_type(&allowed, report),
            }
        }
        sections
    }

    /// The value of a key, if the key is there.
    pub(super) fn item(&self, key: &'static str) -> Option<Item<'d>> {
        self.table?.get(key).map(|value| Item::new(key, value))
    }

    /// Whether a key stands there that no version has; it may be meant for one that has.
    pub(super) fn has_unknown_keys(&self, keys: &Keys) -> bool {
        let mut names =
            self.table.into_iter().flat_map(|table| table.keys()).map(|key| key.get_ref());
        names.any(|name| {
            !keys.known.contains(&name.as_ref()) && !keys.later.contains(&name.as_ref())
        })
    }
}

/// A key and its value.
#[derive(Clone, Copy)]
pub(super) struct Item<'d> {
    pub(super) key: &'static str,
    pub(super) value: &'d DeValue<'d>,
    pub(super) at: usize,
}

impl<'d> Item<'d> {
    pub(super) fn new(key: &'static str, value: &'d Spanned<DeValue<'d>>) -> Self {
        Self { key, value: value.get_ref(), at: value.span().start }
    }

    /// Reads a string and makes a value of it.
    pub(super) fn string<T>(
        self,
        read: impl FnOnce(&str) -> Result<T, Complaint>,
        report: &mut Report<'_>,
    ) -> Option<Placed<T>> {
        let Some(text) = self.value.as_str() else {
            self.wrong_type("a string in quotes", report);
            return None;
        };
        match read(text) {
            Ok(value) => Some(Placed { value, at: self.at }),
            Err(complaint) => {
                report.add(self.at, self.key, complaint);
                None
            }
        }
    }

    /// Reads a list of strings and makes a value of each; what is wrong is left out.
    pub(super) fn strings<T>(
        self,
        read: impl Fn(&str) -> Result<T, Complaint>,
        report: &mut Report<'_>,
    ) -> Vec<Placed<T>> {
        let Some(array) = self.value.as_array() else {
            let allowed = format!("a list of strings, such as {} = [\"10.99.0.1/32\"]", self.key);
            self.wrong_type(&allowed, report);
            return Vec::new();
        };
        let items = array.iter().map(|value| Item::new(self.key, value));
        items.filter_map(|item| item.string(&read, report)).collect()
    }

    /// Reads a whole number, written in any of TOML's ways.
    pub(super) fn number<T: TryFrom<u32>>(
        self,
        range: RangeInclusive<u32>,
        hint: &str,
        report: &mut Report<'_>,
    ) -> Option<T> {
        let allowed = format!("{} to {}", range.start(), range.end());
        let Some(integer) = self.value.as_integer() else {
            self.wrong_type(&format!("a number without quotes, {allowed}"), report);
            return None;
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.filter(|number| range.contains(number)).map(T::try_from) {
            Some(Ok(number)) => Some(number),
            _ => {
                let given = shown_bare(&integer.to_string());
                let complaint = Complaint::new(format!("{given} is out of range"));
                report.add(self.at, self.key, complaint.allowed(allowed).hint(hint));
                None
            }
        }
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(self, report: &mut Report<'_>) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong_type("true or false, without quotes", report);
        }
        value
    }

    /// Reports that the value has another type.
    pub(super) fn wrong_type(self, allowed: &str, report: &mut Report<'_>) {
        let given = match self.value {
            DeValue::String(text) => format!("{} is a string", shown(text)),
            DeValue::Integer(number) => format!("{} is a number", shown_bare(&number.to_string())),
            DeValue::Float(number) => {
                format!("{} is not a whole number", shown_bare(&number.to_string()))
            }
            DeValue::Boolean(value) => format!("{value} is a boolean"),
            DeValue::Datetime(date) => format!("{date} is a date or a time"),
            DeValue::Array(_) => "this is a list".to_owned(),
            DeValue::Table(_) => "this is a table".to_owned(),
        };
        report.add(self.at, self.key, Complaint::new(given).allowed(allowed));
    }
}

fn check_keys(table: &DeTable<'_>, keys: &Keys, report: &mut Report<'_>) {
    for key in table.keys() {
        let (at, name) = (key.span().start, key.get_ref().as_ref());
        if keys.known.contains(&name) {
            continue;
        }
        if keys.later.contains(&name) {
            let complaint = Complaint::new("not supported by this version of hushwire");
            report.add(
                at,
                name,
                complaint.hint("remove it; it is refused because it would have no effect"),
            );
            continue;
        }
        let problem = match keys.section {
            "" => "unknown key at the top level".to_owned(),
            section => format!("unknown key in {section}"),
        };
        let complaint = Complaint::new(problem).allowed(keys.known.join(", "));
        let hint = suggestion(name, keys);
        report.add(at, name, hint.into_iter().fold(complaint, Complaint::hint));
    }
}

fn suggestion(name: &str, keys: &Keys) -> Option<String> {
    let name = plain(name);
    let file = keys.known.iter().find(|known| plain(known) == format!("{name}file"));
    if let Some(file) = file {
        let hint = "put the key into a file of its own and give the name of that as";
        return Some(format!("{hint} {file}"));
    }
    // `keepalive` for `persistent_keepalive`; a word of three letters is in too many.
    let longer = keys.known.iter().find(|known| name.len() > 3 && plain(known).contains(&name));
    if let Some(longer) = longer {
        return Some(format!("did you mean {longer}?"));
    }
    let candidates = keys.known.iter().chain(keys.later);
    let (distance, best) = candidates.map(|&key| (distance(&name, &plain(key)), key)).min()?;
    // A third of the letters: catches slips of the hand, but not every word of the same length.
    (distance <= name.len().div_ceil(3)).then(|| format!("did you mean {best}?"))
}

/// A key without what people get wrong: the `ListenPort` of wg-quick is `listen_port` here.
fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// Levenshtein's distance: how many letters to insert, delete or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys = Keys {
        section: "[interface]",
        known: &["name", "listen_port", "private_key_file"],
        later: &["netns"],
    };

    #[test]
    fn distance_counts_insertions_deletions_and_replacements() {
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "b", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn near_keys_are_suggested_and_far_ones_are_not() {
        let hint = |name| suggestion(name, &KEYS);
        assert_eq!(hint("ListenPort").as_deref(), Some("did you mean listen_port?"));
        assert_eq!(hint("listen_prot").as_deref(), Some("did you mean listen_port?"));
        assert_eq!(hint("netn").as_deref(), Some("did you mean netns?"));
        assert_eq!(hint("colour"), None);
        assert!(hint("PrivateKey").unwrap().ends_with("name of that as private_key_file"));
    }
}

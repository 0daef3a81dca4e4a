//! Lines for a terminal: items in a row, broken between items before column 80.
//!
//! What people read goes through here: `status`, `check`, `init`, and the errors of a configuration.
//! Never cuts an item: a single long name goes over the edge. Pure; called by `commands` and `config`.

use std::fmt::Display;

/// Columns of the narrowest terminal that we aim at.
pub const WIDTH: usize = 80;

/// Makes lines of items with a separator between them. The first line begins with `first`, the others
/// with `indent` blanks; each ends with a newline.
pub fn flow(first: String, indent: usize, separator: &str, items: &[impl Display]) -> String {
    let mut text = first;
    let mut column = text.chars().count();
    for (index, item) in items.iter().enumerate() {
        let item = item.to_string();
        let length = item.chars().count();
        // Room for the comma that may follow.
        let comma = separator.trim_end().len();
        if index > 0 && column + separator.len() + length + comma > WIDTH {
            text += separator.trim_end();
            text += &format!("\n{:indent$}", "");
            column = indent;
        } else if index > 0 {
            text += separator;
            column += separator.len();
        }
        text += &item;
        column += length;
    }
    text + "\n"
}

/// Makes lines of the words of a text, in the same way.
pub fn words(first: String, indent: usize, text: &str) -> String {
    flow(first, indent, " ", &text.split(' ').collect::<Vec<_>>())
}

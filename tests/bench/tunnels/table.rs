//! The table, 80 columns wide, on the terminal and in README.md.

use std::fmt::Write;
use std::path::Path;

use crate::contestant::Contestant;
use crate::growth;
use crate::measures::{self, Better};
use crate::results::Results;

/// Between these lines of README.md is what `--readme` writes.
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// Width of the first column, over the comparison and over the curves.
const LABEL: usize = 34;
const CURVE_LABEL: usize = 32;

/// Comparison and curves, as text.
pub(crate) fn of(results: &Results) -> String {
    let mut text = head(results);
    comparison(&mut text, results);
    growth_curves(&mut text, results);
    text
}

/// Puts it between the markers.
pub(crate) fn into_readme(file: &Path, results: &Results) {
    let text = std::fs::read_to_string(file).expect("cannot read README.md");
    let (before, rest) = text.split_once(BEGIN).expect("README.md has no marker to begin at");
    let (_, after) = rest.split_once(END).expect("README.md has no marker to end at");
    let text = format!("{before}{BEGIN}\n```text\n{}```\n{END}{after}", of(results));
    std::fs::write(file, text).expect("cannot write README.md");
}

fn head(results: &Results) -> String {
    let c = &results.conditions;
    let versions: Vec<_> =
        c.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "{}: {} x {}, Linux {}\n{}\nmedians of {} round{}, {} s a transfer, TCP {}\n",
        c.date,
        c.processors,
        c.processor,
        c.kernel,
        versions.join(", "),
        c.rounds,
        if c.rounds == 1 { "" } else { "s" },
        c.load_seconds,
        c.congestion_control,
    )
}

fn comparison(text: &mut String, results: &Results) {
    let metrics = measures::ALL.iter().flat_map(|measure| measure.metrics);
    let rows: Vec<_> = metrics
        .map(|metric| (metric, Contestant::ALL.map(|one| results.median(metric.name, one))))
        .filter(|(_, values)| values.iter().any(Option::is_some))
        .collect();
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "\n{:LABEL$}", "");
    for (contestant, width) in Contestant::ALL.into_iter().zip(WIDTHS) {
        let _ = write!(text, "{:>width$}", contestant.name());
    }
    let _ = writeln!(text, "{:>6}", "x");
    for (metric, values) in rows {
        let _ = write!(text, "{:LABEL$}", metric.label);
        let limit = metric.name.starts_with("recovery").then_some(results.conditions.patience_ms);
        for (value, width) in values.into_iter().zip(WIDTHS) {
            let cell = match value {
                None => "-".to_owned(),
                Some(value) if limit.is_some_and(|limit| value >= limit) => {
                    format!("> {}", number(value, metric.digits))
                }
                Some(value) => number(value, metric.digits),
            };
            let _ = write!(text, "{cell:>width$}");
        }
        let ratio = ratio(values, metric.better)
            .map_or("-".to_owned(), |ratio| number(ratio, if ratio < 10.0 { 2 } else { 0 }));
        let _ = writeln!(text, "{ratio:>6}");
    }
    text.push_str(
        "x: how many times better hushwire is than the better of the other two tunnels\n",
    );
}

/// In the order of `Contestant::ALL`.
const WIDTHS: [usize; 4] = [8, 13, 10, 9];

/// How many times better the last is than the best between the wire and it.
fn ratio([_, first, second, ours]: [Option<f64>; 4], better: Better) -> Option<f64> {
    let others = [first, second].into_iter().flatten();
    let ours = ours.filter(|&ours| ours > 0.0)?;
    Some(match better {
        Better::More => ours / others.reduce(f64::max)?,
        Better::Less => others.reduce(f64::min)? / ours,
    })
}

fn growth_curves(text: &mut String, results: &Results) {
    for curve in growth::ALL {
        let points = |metric| curve.sizes.iter().map(move |&size| results.growth(metric, size));
        let lines: Vec<_> = curve
            .lines
            .iter()
            .filter(|line| points(line.metric).any(|value| value.is_some()))
            .collect();
        if lines.is_empty() {
            continue;
        }
        let width = if curve.sizes.len() > 4 { 8 } else { 10 };
        let _ = write!(text, "\n{:CURVE_LABEL$}", format!("hushwire, {}", curve.title));
        for &size in curve.sizes {
            let _ = write!(text, "{:>width$}", number(f64::from(size), 0));
        }
        text.push('\n');
        for line in lines {
            let _ = write!(text, "{:CURVE_LABEL$}", line.label);
            for value in points(line.metric) {
                let cell = value.map_or("-".to_owned(), |value| number(value, line.digits));
                let _ = write!(text, "{cell:>width$}");
            }
            text.push('\n');
        }
    }
}

/// With commas between thousands, as prose has them.
fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

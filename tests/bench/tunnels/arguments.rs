//! The command line: what to measure and for how long. Called by main.rs alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{millis, seconds};
use crate::{growth, measures};

/// What to do.
pub(crate) struct Arguments {
    /// Names of measures and curves; all if there are none.
    only: Vec<String>,
    /// Show these samples and measure nothing.
    pub(crate) from: Option<PathBuf>,
    /// Write table and picture where README.md shows them.
    pub(crate) readme: bool,
    pub(crate) pace: Pace,
}

/// How much is done for one sample.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// How often everything is measured.
    pub(crate) rounds: usize,
    /// Of one transfer by TCP.
    pub(crate) load_seconds: u64,
    /// Of one stream of datagrams.
    pub(crate) flood: Duration,
    /// Of gossip at rest.
    pub(crate) idle: Duration,
    /// Echo requests of one kind.
    pub(crate) pings: usize,
    /// When a tunnel that was killed is given up.
    pub(crate) patience: Duration,
    /// Of a curve, all points or its two ends.
    pub(crate) whole_curves: bool,
}

const FULL: Pace = Pace {
    rounds: 3,
    load_seconds: 4,
    flood: seconds(3),
    idle: seconds(10),
    pings: 2000,
    patience: seconds(20),
    whole_curves: true,
};
const QUICK: Pace = Pace {
    rounds: 1,
    load_seconds: 1,
    flood: millis(300),
    idle: millis(1000),
    pings: 100,
    patience: millis(500),
    whole_curves: false,
};

impl Arguments {
    /// Reads the command line.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub(crate) fn read(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self { only: Vec::new(), from: None, readme: false, pace: FULL };
        let mut words = words;
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo says it to each bench.
                "--bench" => {}
                "--quick" => arguments.pace = QUICK,
                "--readme" => arguments.readme = true,
                "--rounds" => arguments.pace.rounds = number(words.next())?,
                "--from" => {
                    // Cargo has changed the directory to that of the package.
                    let file = words.next().ok_or_else(usage)?;
                    arguments.from = Some(Path::new(crate::ROOT).join(file));
                }
                name if known().any(|known| known == name) => arguments.only.push(word),
                _ => return Err(format!("{word}: not known\n{}", usage())),
            }
        }
        if arguments.readme && !arguments.only.is_empty() {
            return Err(format!("--readme takes all measures, not some\n{}", usage()));
        }
        Ok(arguments)
    }

    /// Whether a measure or curve of this name is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn number(word: Option<String>) -> Result<usize, String> {
    word.and_then(|word| word.parse().ok()).filter(|&rounds| rounds > 0).ok_or_else(usage)
}

fn known() -> impl Iterator<Item = &'static str> {
    let measures = measures::ALL.iter().map(|measure| measure.name);
    measures.chain(growth::ALL.iter().map(|curve| curve.name))
}

fn usage() -> String {
    let names: Vec<_> = known().collect();
    format!(
        "usage: scripts/bench.sh [--quick] [--rounds N] [--readme] [--from FILE] [MEASURE...]\n\
         measures: {}",
        names.join(" ")
    )
}

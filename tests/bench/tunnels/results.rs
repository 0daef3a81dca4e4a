//! Samples, as they are kept in a file, and their medians.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::arguments::Pace;
use crate::contestant::Contestant;
use crate::ground::Ground;
use crate::traffic::CONGESTION_CONTROL;

/// What one run has measured.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) conditions: Conditions,
    /// Metric, contestant, samples.
    measures: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
    /// Metric, size, samples of hushwire.
    growth: BTreeMap<String, BTreeMap<u32, Vec<f64>>>,
    /// What could not be measured.
    pub(crate) failures: Vec<String>,
}

/// Where and how it was measured.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Conditions {
    /// In UTC.
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
    pub(crate) congestion_control: String,
    pub(crate) rounds: usize,
    pub(crate) load_seconds: u64,
    /// When a killed tunnel was given up.
    pub(crate) patience_ms: f64,
    /// By contestant.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Results {
    /// None yet, and what can be said before.
    pub(crate) fn new(ground: &Ground, pace: Pace) -> Self {
        let shell = |script: &str| ground.left.run("sh", &["-c", script]).trim().to_owned();
        let version =
            |contestant: Contestant| Some((contestant.name().to_owned(), contestant.version()?));
        let conditions = Conditions {
            date: shell("date --utc +%F"),
            processor: shell("sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: shell("uname --kernel-release"),
            congestion_control: CONGESTION_CONTROL.to_owned(),
            rounds: pace.rounds,
            load_seconds: pace.load_seconds,
            patience_ms: pace.patience.as_secs_f64() * 1000.0,
            versions: Contestant::ALL.into_iter().filter_map(version).collect(),
        };
        Self { conditions, ..Self::default() }
    }

    /// Reads what [`Results::save`] has written.
    pub(crate) fn load(file: &Path) -> Self {
        let text = std::fs::read_to_string(file)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: not of this bench: {error}", file.display()))
    }

    /// Writes all samples.
    pub(crate) fn save(&self, file: &Path) {
        let text = serde_json::to_string_pretty(self).expect("it is all numbers and text");
        std::fs::write(file, text + "\n")
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    }

    /// Adds a sample of a comparison.
    pub(crate) fn add(&mut self, metric: &str, contestant: Contestant, value: f64) {
        let samples = self.measures.entry(metric.to_owned()).or_default();
        samples.entry(contestant.name().to_owned()).or_default().push(value);
    }

    /// Adds a sample of a curve.
    pub(crate) fn add_growth(&mut self, metric: &str, size: u32, value: f64) {
        let samples = self.growth.entry(metric.to_owned()).or_default();
        samples.entry(size).or_default().push(value);
    }

    /// The median of a comparison.
    pub(crate) fn median(&self, metric: &str, contestant: Contestant) -> Option<f64> {
        median(self.measures.get(metric)?.get(contestant.name())?)
    }

    /// The median at one point of a curve.
    pub(crate) fn growth(&self, metric: &str, size: u32) -> Option<f64> {
        median(self.growth.get(metric)?.get(&size)?)
    }
}

/// Of an even number, the mean of the two in the middle.
fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

//! Tunnels side by side: hushwire, Debian's wireguard-go, boringtun-cli, and the wire without a tunnel.
//!
//! ```text
//!          left                                              right
//!  +---------------------+                           +---------------------+
//!  |  generator          |                           |       sink, echo    |
//!  |    wg0 10.99.0.1/24 |                           | 10.99.0.2/24 wg0    |  overlay, MTU 1420
//!  |     |               |                           |               |     |
//!  |   tunnel            |                           |            tunnel   |
//!  |     |               |                           |               |     |
//!  |   eth0 192.0.2.1/24 |----------- veth ----------| 192.0.2.2/24 eth0   |  underlay, MTU 1500
//!  +---------------------+                           +---------------------+
//! ```
//!
//! - [`contestant`]: who takes part; all are started by name and configured by `wg` and `ip`
//! - [`ground`]: the drawing above; [`traffic`]: what is sent through it
//! - [`measures`]: what is compared; [`growth`]: curves of hushwire alone
//! - [`results`]: samples and medians; [`table`] and [`picture`]: how they are shown
//!
//! Each measure of each round goes through all contestants before the next begins, each freshly started,
//! another one first each round: what the machine does beside it hits all alike. `scripts/bench.sh` builds
//! what is needed and starts this. No figure is asserted.
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock and the environment")]

mod arguments;
mod contestant;
mod ground;
mod growth;
mod measures;
mod picture;
mod results;
#[expect(dead_code, reason = "the tests with Alertmanagers use the rest of it")]
#[path = "../../support/mod.rs"]
mod support;
mod table;
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use arguments::Arguments;
use contestant::Contestant;
use results::Results;

/// The root of the repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Where samples and picture go, below the root.
const OUTPUT: &str = "target/bench";
/// What `--readme` keeps beside this source.
const KEPT: &str = "tests/bench";

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let results = match &arguments.from {
        Some(file) => Results::load(file),
        None => measure(&arguments),
    };
    print!("{}", table::of(&results));
    let output = Path::new(ROOT).join(OUTPUT);
    show_in(&output, &results);
    println!("\nsamples and picture: {OUTPUT}/measured.json, measured.svg");
    if arguments.readme {
        show_in(&Path::new(ROOT).join(KEPT), &results);
        table::into_readme(&Path::new(ROOT).join("README.md"), &results);
        println!("README.md and {KEPT}/ have them too");
    }
    for failure in &results.failures {
        eprintln!("failed: {failure}");
    }
    if results.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show_in(directory: &Path, results: &Results) {
    std::fs::create_dir_all(directory).expect("cannot make a directory for the samples");
    results.save(&directory.join("measured.json"));
    picture::draw(&directory.join("measured.svg"), results);
}

fn measure(arguments: &Arguments) -> Results {
    let ground = ground::Ground::new();
    let mut results = Results::new(&ground, arguments.pace);
    for round in 0..arguments.pace.rounds {
        for measure in measures::ALL.iter().filter(|measure| arguments.wants(measure.name)) {
            let mut order = Contestant::ALL;
            order.rotate_left(round % Contestant::ALL.len());
            for contestant in order {
                let what = format!("round {}: {}, {}", round + 1, measure.name, contestant.name());
                eprintln!("{what}");
                let samples = attempt(&what, &mut results, || {
                    (measure.run)(&ground, contestant, &arguments.pace)
                });
                for (metric, value) in samples.into_iter().flatten() {
                    results.add(metric, contestant, value);
                }
            }
        }
        for curve in growth::ALL.iter().filter(|curve| arguments.wants(curve.name)) {
            for size in curve.sizes_for(&arguments.pace) {
                let what = format!("round {}: hushwire, {size} {}", round + 1, curve.name);
                eprintln!("{what}");
                let samples = attempt(&what, &mut results, || (curve.run)(size, &arguments.pace));
                for (metric, value) in samples.into_iter().flatten() {
                    results.add_growth(metric, size, value);
                }
            }
        }
    }
    results
}

/// One that fails, by a panic of the harness, is noted and does not stop the others.
fn attempt<T>(what: &str, results: &mut Results, run: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(run));
    if result.is_err() {
        results.failures.push(what.to_owned());
    }
    result.ok()
}

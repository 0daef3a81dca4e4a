//! The picture: bars of the comparison, curves of hushwire, drawn by gnuplot.
//!
//! It lies on white pages and on dark ones: no background, and no ink that either hides.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::contestant::Contestant;
use crate::growth;
use crate::measures::{self, Better};
use crate::results::Results;
use crate::support::process::need;

/// Panels in a row, and the size of one in pixels.
const ACROSS: usize = 3;
const WIDTH: usize = 280;
const HEIGHT: usize = 210;

/// Readable on white and on black: contrast of at least 4 to both.
const INK: &str = "#737b85";
const OURS: &str = "#2da44e";
const OTHERS: &str = "#8c96a8";

const STYLE: &str = "
set border 1 lc rgb ink lw 1
set tics nomirror textcolor rgb ink scale 0.5
set title font ',13' textcolor rgb ink offset 0,-0.3
set key off
set style fill solid 1 noborder
set boxwidth 0.6
set rmargin 2
set tmargin 4
set bmargin 2.5
";

/// The wire is left out: beside it the others could not be told apart.
const TUNNELS: [Contestant; 3] =
    [Contestant::WireguardGo, Contestant::Boringtun, Contestant::Hushwire];

/// A panel of bars: metric, title, what a value is divided by, digits after the point.
const BARS: [(&str, &str, f64, usize); 6] = [
    ("tcp_gbps", "TCP, 1 stream, Gbit/s", 1.0, 2),
    ("udp64_pps", "UDP of 64 B, thousands/s", 1e3, 0),
    ("tcp_cpu_s_per_gb", "TCP, CPU s per GB", 1.0, 1),
    ("ping_us", "ping at rest, µs", 1.0, 0),
    ("ping_load_us", "ping beside TCP, ms", 1e3, 1),
    ("idle_cpu_ms", "idle gossip, CPU ms in 10 s", 1.0, 1),
];

/// A panel with a curve of hushwire, its sizes evenly apart: metric, title, what a value is divided by.
const CURVES: [(&str, &str, f64); 3] = [
    ("peers_cpu_us", "CPU µs a lone packet, by peers", 1.0),
    ("flows_gbps", "TCP, Gbit/s, by streams", 1.0),
    ("packet_pps", "UDP, thousands/s, by packet size", 1e3),
];

/// Draws what there is; writes no file if there is nothing.
pub(crate) fn draw(file: &Path, results: &Results) {
    let bars = BARS
        .iter()
        .filter_map(|&(metric, title, unit, digits)| bars(results, metric, title, unit, digits));
    let curves =
        CURVES.iter().filter_map(|&(metric, title, unit)| curve(results, metric, title, unit));
    let panels: Vec<_> = bars.chain(curves).collect();
    if panels.is_empty() {
        return;
    }
    let rows = panels.len().div_ceil(ACROSS);
    let mut script = format!(
        "set encoding utf8\n\
         set terminal svg size {},{} fixed name 'hushwire' font 'sans-serif,11'\nset output '{}'\nink = '{INK}'\n{STYLE}\
         set multiplot layout {rows},{ACROSS}\n",
        ACROSS * WIDTH,
        rows * HEIGHT,
        file.display(),
    );
    panels.iter().for_each(|panel| script.push_str(panel));
    script.push_str("unset multiplot\n");
    gnuplot(&script);
}

fn bars(results: &Results, metric: &str, title: &str, unit: f64, digits: usize) -> Option<String> {
    let mut rows = String::new();
    for (place, contestant) in TUNNELS.into_iter().enumerate() {
        let Some(value) = results.median(metric, contestant) else { continue };
        let colour = if contestant == Contestant::Hushwire { OURS } else { OTHERS };
        let (value, colour) = (value / unit, colour.replace('#', "0x"));
        let name = contestant.name();
        let _ = writeln!(rows, "{place} {name} {value} {colour} {value:.digits$}");
    }
    let better = match measures::metric(metric)?.better {
        Better::More => "more",
        Better::Less => "less",
    };
    (!rows.is_empty()).then(|| {
        format!(
            "set title \"{title}\\n{{/*0.8 {better} is better}}\"\n\
             set lmargin 2\nunset grid\nunset ytics\n\
             set xrange [-0.7:2.7]\nset yrange [0:*]\nset offsets 0,0,graph 0.15,0\n\
             $panel <<END\n{rows}END\n\
             plot $panel using 1:3:4:xtic(2) with boxes lc rgb variable, \
             $panel using 1:3:5 with labels textcolor rgb ink offset 0,0.6\n"
        )
    })
}

fn curve(results: &Results, metric: &str, title: &str, unit: f64) -> Option<String> {
    let curve = growth::ALL.iter().find(|curve| curve.has(metric))?;
    let mut rows = String::new();
    for &size in curve.sizes {
        let Some(value) = results.growth(metric, size) else { continue };
        let _ = writeln!(rows, "{size} {}", value / unit);
    }
    let right = rows.lines().count() as f64 - 0.7;
    (!rows.is_empty()).then(|| {
        format!(
            "set title \"{title}\\n{{/*0.8 hushwire alone}}\"\n\
             set lmargin 6\nset grid ytics lc rgb ink lw 0.3\n\
             set ytics autofreq nomirror textcolor rgb ink\n\
             set xrange [-0.3:{right}]\nset yrange [0:*]\nset offsets 0,0,graph 0.15,0\n\
             $panel <<END\n{rows}END\n\
             plot $panel using 0:2:xtic(1) with linespoints lc rgb '{OURS}' lw 2 pt 7 ps 0.5\n"
        )
    })
}

fn gnuplot(script: &str) {
    need("gnuplot");
    let child = Command::new("gnuplot").arg("-").stdin(Stdio::piped()).spawn();
    let mut child = child.expect("gnuplot cannot be started");
    let mut input = child.stdin.take().expect("stdin is a pipe");
    input.write_all(script.as_bytes()).expect("gnuplot does not read");
    drop(input);
    let status = child.wait().expect("cannot wait for a child");
    assert!(status.success(), "gnuplot ended with {status}; it read:\n{script}");
}

//! iperf3 between two machines, its report as JSON.

use serde_json::Value;

use super::machine::Machine;
use super::process::succeed;
use super::{seconds, wait_for};

/// Runs a client in `from` and a server in `to`, which listens at `address`; returns what the client
/// reports. It may take two minutes.
#[track_caller]
pub(crate) fn iperf3(from: &Machine, to: &Machine, address: &str, options: &[&str]) -> Value {
    let mut server = to.start("iperf3", &["--server", "--one-off", "--bind", address]);
    wait_for("iperf3 to listen", seconds(5), || {
        (!to.run("ss", &["-Htln", "sport = 5201"]).is_empty()).then_some(())
    });
    let mut client = from.command("timeout");
    client.args(["--kill-after=1", "120", "iperf3", "--json", "--client", address]);
    let text = succeed(client.args(options));
    wait_for("the end of iperf3's server", seconds(5), || server.ended());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

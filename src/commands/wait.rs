//! `hushwire wait`: ends when the overlay is ready, or says what is missing.
//!
//! Polls the control socket: the daemon keeps no list of who waits.

use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::status::{label, session};
use super::{Failure, interface};
use crate::cli::Wait;
use crate::status::{PeerStatus, Status};
use crate::uapi::fetch_status_within;
use crate::wireguard::SessionState;

/// Short against the 0.5 s after which memberlist gives up a probe, long against the work of an answer.
const INTERVAL: Duration = Duration::from_millis(100);
/// Patience with a hushwire that runs, when none is given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

#[allow(clippy::disallowed_methods, reason = "this loop is the clock of its command")]
pub(super) fn run(arguments: &Wait, out: &mut dyn Write) -> Result<(), Failure> {
    let interface = interface(&arguments.running)?;
    let (started, timeout) = (Instant::now(), arguments.timeout.unwrap_or(DEFAULT_TIMEOUT));
    let left = || timeout.saturating_sub(started.elapsed());
    loop {
        // The last look, when the time is over, needs some as well.
        let answer = fetch_status_within(&interface, left().max(INTERVAL));
        let left = left();
        let status = match answer {
            Ok(status) => status,
            // A health check wants to hear of it at once, a start gate names its patience.
            Err(error) if arguments.timeout.is_none() || left.is_zero() => {
                return Err(Failure::failed(error));
            }
            Err(_) => {
                sleep(INTERVAL.min(left));
                continue;
            }
        };
        let missing = missing(&status, arguments.peers);
        if missing.is_empty() {
            let count = established(&status).count();
            let all = status.peers.len();
            return Ok(writeln!(out, "{interface} is up; {count} of {all} peers have a session")?);
        }
        if left.is_zero() {
            return Err(Failure::failed(format_args!(
                "{interface} is not ready after {} s: {}",
                timeout.as_secs_f64(),
                missing.join("; ")
            )));
        }
        sleep(INTERVAL.min(left));
    }
}

fn established(status: &Status) -> impl Iterator<Item = &PeerStatus> {
    status.peers.iter().filter(|peer| peer.session == SessionState::Established)
}

/// What is between this status and a ready one; nothing when it is ready.
fn missing(status: &Status, peers: usize) -> Vec<String> {
    let mut missing = Vec::new();
    if !status.interface.attached {
        missing.push(format!("the interface is not up: {}", status.interface.detail));
    }
    let count = established(status).count();
    if count < peers {
        missing.push(format!("{count} of {peers} peers have a session"));
        if status.peers.len() < peers {
            missing.push(format!("the configuration has only {}", status.peers.len()));
        }
        missing.extend(
            status
                .peers
                .iter()
                .filter(|peer| peer.session != SessionState::Established)
                .map(|peer| format!("{} {}", label(peer), session(peer))),
        );
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::{peer, status};
    use super::*;

    #[test]
    fn ready_is_attached_and_enough_sessions() {
        let ready = status(vec![peer("machine2", SessionState::Established)]);
        assert_eq!(missing(&ready, 0), Vec::<String>::new());
        assert_eq!(missing(&ready, 1), Vec::<String>::new());
        let idle = status(vec![peer("machine2", SessionState::Idle)]);
        assert_eq!(missing(&idle, 0), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut waiting =
            PeerStatus { unanswered_initiations: 6, ..peer("machine3", SessionState::Handshaking) };
        waiting.public_key = "k".into();
        let mut status = status(vec![peer("machine2", SessionState::Established), waiting]);
        status.interface.attached = false;
        status.interface.detail = "waits for the namespace".into();
        assert_eq!(
            missing(&status, 3),
            [
                "the interface is not up: waits for the namespace",
                "1 of 3 peers have a session",
                "the configuration has only 2",
                "machine3 handshaking, 6 initiations unanswered",
            ]
        );
    }
}

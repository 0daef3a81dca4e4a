//! What is remembered of packets that passed, bounded in number and time: UDP datagrams that may be answered,
//! and first fragments that may be continued. The oldest entry goes when there are too many.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Headers;

/// Flows of one peer that may be answered at a time. Gossip needs none: it has one port at both ends.
const MOST_FLOWS: usize = 64;
/// For how long after the last datagram an answer is let in (nf_conntrack_udp_timeout, in Linux).
const FLOW_TIME: Duration = Duration::from_secs(30);
/// Datagrams of one peer that may be on their way in pieces at a time.
const MOST_PIECES: usize = 32;
/// For how long the pieces of one datagram are waited for (ipfrag_time, in Linux).
const PIECE_TIME: Duration = Duration::from_secs(30);

/// The two ends of UDP datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

impl Flow {
    pub(super) fn of(headers: &Headers<'_>, source: u16, destination: u16) -> Self {
        let (from, to) = (headers.source, headers.destination);
        Self { source: (from, source), destination: (to, destination) }
    }
}

/// Flows whose answers may pass.
#[derive(Default)]
pub(super) struct Flows(Recent<Flow, (), MOST_FLOWS>);

impl Flows {
    /// Lets the answers to this flow pass for a while.
    pub(super) fn remember(&mut self, now: Instant, flow: Flow) {
        self.0.insert(now, flow, ());
    }

    /// Whether this answers a flow that passed.
    pub(super) fn is_answer(&self, now: Instant, flow: &Flow) -> bool {
        let asked = Flow { source: flow.destination, destination: flow.source };
        self.0.get(now, FLOW_TIME, &asked).is_some()
    }
}

/// What the pieces of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) id: u32,
}

/// First fragments that passed, with their lengths.
#[derive(Default)]
pub(super) struct Fragments(Recent<Piece, usize, MOST_PIECES>);

impl Fragments {
    /// Lets the fragments behind this first one pass.
    pub(super) fn remember(&mut self, now: Instant, piece: Piece, length: usize) {
        self.0.insert(now, piece, length);
    }

    /// Whether a fragment lies behind a first one that passed.
    pub(super) fn continues(&self, now: Instant, piece: &Piece, offset: usize) -> bool {
        self.0.get(now, PIECE_TIME, piece).is_some_and(|length| offset >= length)
    }
}

/// The entries that were made last, each key once. They are few and lie side by side: looking through all
/// of them takes less than a hash table does to begin with.
struct Recent<K, V, const MOST: usize>(Vec<(Instant, K, V)>);

impl<K, V, const MOST: usize> Default for Recent<K, V, MOST> {
    /// Takes no memory before it is used: most peers never need it.
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V: Copy, const MOST: usize> Recent<K, V, MOST> {
    fn insert(&mut self, now: Instant, key: K, value: V) {
        if let Some(entry) = self.0.iter_mut().find(|(_, known, _)| *known == key) {
            *entry = (now, key, value);
        } else if self.0.len() < MOST {
            self.0.reserve_exact(MOST - self.0.len());
            self.0.push((now, key, value));
        } else if let Some(oldest) = self.0.iter_mut().min_by_key(|(at, ..)| *at) {
            *oldest = (now, key, value);
        }
    }

    fn get(&self, now: Instant, age: Duration, key: &K) -> Option<V> {
        let found = self.0.iter().find(|(_, known, _)| known == key);
        let (at, _, value) = found?;
        (now.saturating_duration_since(*at) <= age).then_some(*value)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_goes_and_memory_stays_what_it_was() {
        let (mut recent, start) = (Recent::<u32, u32, 4>::default(), Instant::now());
        let at = |n: u32| start + Duration::from_millis(n.into());
        for n in 0..6 {
            recent.insert(at(n), n, n * 10);
        }
        let age = Duration::from_secs(1);
        assert_eq!(recent.get(at(6), age, &1), None);
        assert_eq!(recent.get(at(6), age, &2), Some(20));
        // Used again it is young again, and takes no second place.
        recent.insert(at(7), 2, 21);
        recent.insert(at(8), 9, 90);
        assert_eq!(recent.get(at(8), age, &2), Some(21));
        assert_eq!(recent.get(at(8), age, &3), None);
        assert_eq!((recent.0.len(), recent.0.capacity()), (4, 4));
        assert_eq!(recent.get(at(8) + age, age, &9), Some(90));
        assert_eq!(recent.get(at(9) + age, age, &9), None);
    }
}

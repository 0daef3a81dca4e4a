//! When a handshake message must show a cookie first: the "under load" of section 5.3 of the paper.
//!
//! Answering a handshake costs some 100 µs of Curve25519, checking its mac1 a microsecond. Each source
//! (an IPv4 address, an IPv6 /64) may have a few answered without further ado, and all of them together
//! some more. One source that floods spends its own allowance and is asked for cookies, the others
//! notice nothing; a flood of invented sources spends the common one, and cookies tell who is real.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::drops::DropReason;

/// Handshake messages a second from one source: as in the kernel's ratelimiter.c
/// (`PACKETS_PER_SECOND`, `PACKETS_BURSTABLE`), where peers retry every 5 s.
const PER_SOURCE: Bucket = Bucket { per_second: 20, burst: 10 };
/// The same behind a valid cookie: a source that proved its address is held to this, not let loose.
const PER_PROVEN_SOURCE: Bucket = Bucket { per_second: 50, burst: 50 };
/// Handshake messages a second from all sources together before each must show a cookie: 500 cost a
/// twentieth of one core.
const ALL_SOURCES: Bucket = Bucket { per_second: 500, burst: 500 };
/// Sources counted at once. Two that share a place share an allowance, and which ones do cannot be
/// known outside (the hash is keyed).
const PLACES: usize = 1024;

struct Bucket {
    per_second: u32,
    burst: u32,
}

/// What is left of an allowance: the time up to which it is spent.
#[derive(Clone, Copy, Default)]
struct Spent(Option<Instant>);

impl Spent {
    /// Takes one from the allowance, if there is one (a token bucket told as a time).
    fn take(&mut self, now: Instant, bucket: &Bucket) -> bool {
        let each = Duration::from_secs(1) / bucket.per_second;
        let until = self.0.map_or(now, |until| until.max(now)) + each;
        let fits = until.saturating_duration_since(now) <= each * bucket.burst;
        if fits {
            self.0 = Some(until);
        }
        fits
    }
}

/// How a handshake message with a valid mac1 is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer it.
    Pass,
    /// Answer it if it shows a valid cookie and [`Load::pass_proven`] agrees, else send a cookie.
    AskForCookie,
}

/// Handshake messages seen of late.
pub(super) struct Load {
    all: Spent,
    sources: Box<[(Spent, Spent)]>,
    hash: RandomState,
}

impl Load {
    pub(super) fn new() -> Self {
        Self {
            all: Spent::default(),
            sources: vec![(Spent::default(), Spent::default()); PLACES].into(),
            hash: RandomState::new(),
        }
    }

    /// Counts a handshake message with a valid mac1.
    pub(super) fn judge(&mut self, now: Instant, source: IpAddr) -> Verdict {
        let Some((unproven, _)) = self.place(source) else { return Verdict::AskForCookie };
        if unproven.take(now, &PER_SOURCE) && self.all.take(now, &ALL_SOURCES) {
            Verdict::Pass
        } else {
            Verdict::AskForCookie
        }
    }

    /// Counts a handshake message with a valid cookie.
    ///
    /// # Errors
    /// [`DropReason::UnderLoad`] when this source has sent too many of these as well.
    pub(super) fn pass_proven(&mut self, now: Instant, source: IpAddr) -> Result<(), DropReason> {
        let (_, proven) = self.place(source).ok_or(DropReason::UnderLoad)?;
        proven.take(now, &PER_PROVEN_SOURCE).then_some(()).ok_or(DropReason::UnderLoad)
    }

    fn place(&mut self, source: IpAddr) -> Option<&mut (Spent, Spent)> {
        let prefix = match source {
            IpAddr::V4(address) => u64::from(u32::from(address)),
            IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
        };
        let hash = self.hash.hash_one(Source { v6: source.is_ipv6(), prefix });
        self.sources.get_mut(hash as usize % PLACES)
    }
}

#[derive(Hash)]
struct Source {
    v6: bool,
    prefix: u64,
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test is its own loop and owns the clock")]
mod tests {
    use super::*;

    fn address(i: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xc000_0200 + i).into()
    }

    #[test]
    fn a_source_that_floods_is_asked_for_cookies_and_the_others_are_not() {
        let (mut load, start) = (Load::new(), Instant::now());
        let passed = (0..1000).filter(|_| load.judge(start, address(1)) == Verdict::Pass).count();
        assert_eq!(passed, 10);
        let second = start + Duration::from_secs(1);
        assert_eq!(load.judge(second, address(2)), Verdict::Pass);
        assert_eq!(load.judge(second, address(1)), Verdict::Pass);
    }

    /// Whoever has one IPv6 address has as many as they like beside it.
    #[test]
    fn the_addresses_of_one_ipv6_64_share_an_allowance_and_other_networks_have_theirs() {
        let (mut load, start) = (Load::new(), Instant::now());
        let v6 = |network, host| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        let passed = (0..1000).filter(|&host| load.judge(start, v6(1, host)) == Verdict::Pass);
        assert_eq!(passed.count(), 10);
        let proven = (0..1000).filter(|&host| load.pass_proven(start, v6(1, host)).is_ok());
        assert_eq!(proven.count(), 50);
        // Some may share a place with another one.
        let others = (2..102).filter(|&network| load.judge(start, v6(network, 1)) == Verdict::Pass);
        assert!(others.count() > 80);
    }

    #[test]
    fn invented_sources_together_exhaust_the_common_allowance_for_a_moment() {
        let (mut load, start) = (Load::new(), Instant::now());
        let passed = (0..100_000).filter(|&i| load.judge(start, address(i)) == Verdict::Pass);
        assert_eq!(passed.count(), 500);
        let later = start + Duration::from_secs(2);
        assert_eq!(load.judge(later, address(1 << 20)), Verdict::Pass);
    }

    #[test]
    fn a_proven_source_is_held_to_its_own_rate() {
        let (mut load, start) = (Load::new(), Instant::now());
        let passed = (0..1000).filter(|_| load.pass_proven(start, address(1)).is_ok()).count();
        assert_eq!(passed, 50);
    }
}

//! Two stations joined by a path that delays, loses, duplicates and reorders, over hours of virtual
//! time. Our `now` and boringtun's mock clock advance together, from event to event; nothing sleeps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hushwire::wireguard::{Change, Device, DropReason};
use mock_instant::MockClock;

use crate::wire::{Delivery, Station, Wire, kind, udp};

/// Lines of the ladder that are kept.
const LADDER: usize = 50_000;

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The seed of a randomised test: `HUSHWIRE_SEED`, or the test's own. Prints it.
#[expect(clippy::disallowed_methods, reason = "the seed is for people who repeat a run")]
pub fn seed(test: &str, own: u64) -> u64 {
    let seed = match std::env::var("HUSHWIRE_SEED") {
        Ok(text) => text.parse().expect("HUSHWIRE_SEED is a number"),
        Err(_) => own,
    };
    println!("{test}: HUSHWIRE_SEED={seed}");
    seed
}

/// What the path does to datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Delay of each datagram, in milliseconds, from and to.
    pub delay: (u64, u64),
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// Share of datagrams that arrive twice.
    pub twice: f64,
    /// Share of datagrams that are held up to half a second, so that later ones overtake them.
    pub held: f64,
}

impl Path {
    /// 1 to 30 ms, nothing lost.
    pub const GOOD: Path = Path { delay: (1, 30), loss: 0.0, twice: 0.0, held: 0.0 };
}

/// One datagram that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub at: Duration,
    pub from_a: bool,
    pub kind: &'static str,
    pub len: usize,
    /// When it arrives, each time.
    pub arrives: Vec<Duration>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = if self.from_a { "A -> B" } else { "B -> A" };
        write!(f, "{:>12.6} {arrow} {} {} B ", self.at.as_secs_f64(), self.kind, self.len)?;
        match self.arrives.as_slice() {
            [] => write!(f, "lost"),
            times => times.iter().try_for_each(|at| write!(f, "-> {:.6} ", at.as_secs_f64())),
        }
    }
}

/// Gossip in one direction, counted.
#[derive(Default)]
pub struct Gossip {
    pub sent: u64,
    pub delivered: u64,
    pub twice: u64,
    /// The longest time between two arrivals, and when it ended.
    pub silence: Duration,
    pub silence_ended: Duration,
    last: Option<Duration>,
    seen: Vec<bool>,
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, delivered, twice, silence, silence_ended, .. } = self;
        write!(f, "{delivered} of {sent}, {twice} twice, silence {silence:?} to {silence_ended:?}")
    }
}

impl Gossip {
    fn arrived(&mut self, at: Duration, number: u64) {
        if std::mem::replace(&mut self.seen[number as usize], true) {
            self.twice += 1;
            return;
        }
        self.delivered += 1;
        let silence = at - self.last.unwrap_or(at);
        if silence > self.silence {
            (self.silence, self.silence_ended) = (silence, at);
        }
        self.last = Some(at);
    }

    /// Forgets the longest silence; the present one counts from its beginning.
    pub fn measure_from_here(&mut self) {
        self.silence = Duration::ZERO;
        self.silence_ended = Duration::ZERO;
    }

    /// When a packet arrived last.
    pub fn last(&self) -> Option<Duration> {
        self.last
    }
}

/// A datagram under way: when it arrives, its number, whether A sent it, to whom, its bytes.
type Flying = (Duration, u64, bool, SocketAddr, Vec<u8>);

type Fate = Box<dyn FnMut(bool, &[u8]) -> Delivery>;

/// The two stations, the path between them and the time.
pub struct Net {
    pub wire: Wire,
    pub rng: fastrand::Rng,
    pub path: Path,
    /// Asked about each datagram before the path is: what is to be lost for certain.
    pub fate: Fate,
    pub ladder: VecDeque<Line>,
    /// Counts of datagrams by sender (A first) and kind.
    pub counts: BTreeMap<(bool, &'static str), u64>,
    /// A to B, then B to A.
    pub gossip: [Gossip; 2],
    /// Length of gossip datagrams' payload.
    pub gossip_len: usize,
    /// When gossip goes, and how often; for A, then for B.
    gossip_at: [Option<(Duration, Duration)>; 2],
    now: Duration,
    start: std::time::Instant,
    /// The next one to arrive on top; of those that arrive together, the one that was sent first.
    flight: BinaryHeap<Reverse<Flying>>,
    order: u64,
}

impl Net {
    /// Two stations that know each other's keys and are told nothing else.
    pub fn strangers(seed: u64, path: Path) -> Self {
        MockClock::set_time(Duration::ZERO);
        let wire = Wire::strangers();
        let mut net = Self {
            start: wire.now,
            wire,
            rng: fastrand::Rng::with_seed(seed),
            path,
            fate: Box::new(|_, _| Delivery::Deliver),
            ladder: VecDeque::new(),
            counts: BTreeMap::new(),
            gossip: Default::default(),
            gossip_len: 172,
            gossip_at: [None; 2],
            now: Duration::ZERO,
            flight: BinaryHeap::new(),
            order: 0,
        };
        net.renew(true);
        net.renew(false);
        let (a, b) = (&mut net.wire.a, &mut net.wire.b);
        a.know(net.start, b, false);
        b.know(net.start, a, false);
        net
    }

    /// The same with a session that A initiated.
    pub fn connected(seed: u64, path: Path) -> Self {
        let mut net = Self::strangers(seed, Path::GOOD);
        net.meet(true);
        net.run(seconds(1));
        net.path = path;
        net
    }

    /// Tells one station where the other one is: it starts a handshake unless there is a session.
    pub fn meet(&mut self, a: bool) {
        let now = self.wire.now;
        let (from, to) = self.pair(a);
        from.know(now, to, true);
        self.carry();
    }

    /// Kills a station's process and starts another one with the same key, which starts a handshake.
    pub fn restart(&mut self, a: bool) {
        // The mock clock does not move the wall clock that initiations are stamped with: a device made
        // now would look older than the one before it, and its initiation like a replay. Made at the
        // mock clock's beginning, it has the right stamps.
        MockClock::set_time(Duration::ZERO);
        self.renew(a);
        let now = self.wire.now;
        let (new, other) = self.pair(a);
        new.know(now, other, false);
        MockClock::set_time(self.now);
        self.meet(a);
    }

    fn renew(&mut self, a: bool) {
        let (seed, now) = (self.rng.u64(..), self.wire.now);
        let (station, _) = self.pair(a);
        let key = station.key.clone();
        station.device = Device::new(seed);
        station.device.apply(now, vec![Change::PrivateKey(Some(key)), Change::Mtu(1440)]);
        station.sent.clear();
        station.received.clear();
    }

    pub fn pair(&mut self, a: bool) -> (&mut Station, &mut Station) {
        let (first, second) = (&mut self.wire.a, &mut self.wire.b);
        if a { (first, second) } else { (second, first) }
    }

    /// The time since the beginning.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Lets both stations send gossip from now on, the second one half an interval later.
    pub fn gossip_every(&mut self, interval: Duration) {
        self.gossip_at = [self.now, self.now + interval / 2].map(|at| Some((at, interval)));
    }

    /// Lets one station alone send gossip, or none.
    pub fn gossip_from(&mut self, a: Option<bool>, interval: Duration) {
        self.gossip_at =
            [true, false].map(|side| (a == Some(side)).then_some((self.now, interval)));
    }

    /// Sends one numbered packet.
    pub fn send(&mut self, a: bool) {
        let gossip = &mut self.gossip[usize::from(!a)];
        let mut payload = vec![0; self.gossip_len.max(8)];
        payload[..8].copy_from_slice(&gossip.sent.to_le_bytes());
        gossip.sent += 1;
        gossip.seen.push(false);
        let now = self.wire.now;
        let (from, to) = self.pair(a);
        let packet = udp(&from.overlay, &to.overlay, &payload);
        from.send(now, &packet);
        self.carry();
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.advance(end);
    }

    /// Lets time pass until something holds; the time it took, or `None` if it never did.
    pub fn run_until(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let (start, end) = (self.now, self.now + time);
        while !done(self) {
            if !self.step(end) {
                self.advance(end);
                return None;
            }
        }
        Some(self.now - start)
    }

    /// Does what happens next, unless that is after `end`.
    fn step(&mut self, end: Duration) -> bool {
        let timeout = |station: &Station| {
            station.device.next_timeout().map(|at| at.saturating_duration_since(self.start))
        };
        let next = [
            self.flight.peek().map(|Reverse(first)| first.0),
            timeout(&self.wire.a),
            timeout(&self.wire.b),
            self.gossip_at[0].map(|(at, _)| at),
            self.gossip_at[1].map(|(at, _)| at),
        ];
        let Some(next) = next.into_iter().flatten().min().filter(|&next| next <= end) else {
            return false;
        };
        self.advance(next.max(self.now));
        while self.flight.peek().is_some_and(|Reverse(first)| first.0 <= self.now) {
            let Some(Reverse((_, _, from_a, to, datagram))) = self.flight.pop() else { break };
            let now = self.wire.now;
            let (from, target) = self.pair(from_a);
            if to == target.address {
                target.take(now, from.address, &datagram);
            }
            self.carry();
        }
        self.wire.a.timeout(self.wire.now);
        self.wire.b.timeout(self.wire.now);
        self.carry();
        for (side, a) in [(0, true), (1, false)] {
            if let Some((at, interval)) = self.gossip_at[side].filter(|(at, _)| *at <= self.now) {
                self.gossip_at[side] = Some((at + interval, interval));
                self.send(a);
            }
        }
        true
    }

    fn advance(&mut self, to: Duration) {
        self.now = to;
        self.wire.now = self.start + to;
        MockClock::set_time(to);
    }

    /// Puts what the stations sent on the path, and counts what they received.
    fn carry(&mut self) {
        for a in [true, false] {
            let sent = std::mem::take(&mut self.pair(a).0.sent);
            for (to, datagram) in sent {
                self.transmit(a, to, datagram);
            }
            let received = std::mem::take(&mut self.pair(a).0.received);
            for packet in received {
                let number = packet[28..36].try_into().expect("eight bytes");
                self.gossip[usize::from(a)].arrived(self.now, u64::from_le_bytes(number));
            }
        }
    }

    fn transmit(&mut self, from_a: bool, to: SocketAddr, datagram: Vec<u8>) {
        let kind = kind(&datagram);
        *self.counts.entry((from_a, kind)).or_default() += 1;
        let copies = match (self.fate)(from_a, &datagram) {
            Delivery::Lose => 0,
            Delivery::Twice => 2,
            Delivery::Deliver if self.rng.f64() < self.path.loss => 0,
            Delivery::Deliver => 1 + u32::from(self.rng.f64() < self.path.twice),
        };
        let mut arrives = Vec::new();
        for _ in 0..copies {
            let (least, most) = self.path.delay;
            let mut delay = Duration::from_micros(self.rng.u64(least * 1000..=most * 1000));
            if self.rng.f64() < self.path.held {
                delay += millis(self.rng.u64(0..=500));
            }
            let at = self.now + delay;
            arrives.push(at);
            self.order += 1;
            self.flight.push(Reverse((at, self.order, from_a, to, datagram.clone())));
        }
        if self.ladder.len() == LADDER {
            self.ladder.pop_front();
        }
        let len = datagram.len();
        self.ladder.push_back(Line { at: self.now, from_a, kind, len, arrives });
    }

    /// Datagrams of a kind that one station has sent.
    pub fn count(&self, a: bool, kind: &'static str) -> u64 {
        self.counts.get(&(a, kind)).copied().unwrap_or(0)
    }

    /// Times at which one station sent a datagram of this kind, as far as the ladder reaches.
    pub fn times(&self, a: bool, kind: &str) -> Vec<Duration> {
        let sent = self.ladder.iter().filter(|line| line.from_a == a && line.kind == kind);
        sent.map(|line| line.at).collect()
    }

    /// Drops of both stations by their reason, without the zeros.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let both = |reason| {
            self.wire.a.dropped(self.wire.now, reason) + self.wire.b.dropped(self.wire.now, reason)
        };
        let all = DropReason::ALL.iter().map(|&reason| (reason.label(), both(reason)));
        all.filter(|&(_, count)| count != 0).collect()
    }

    /// The last lines of the ladder without the gossip, for messages of failed tests.
    pub fn tell(&self) -> String {
        let told = self.ladder.iter().rev().filter(|line| line.kind != "data").take(40);
        let mut lines: Vec<String> = told.map(Line::to_string).collect();
        lines.reverse();
        format!("now {:.6}, drops {:?}\n{}", self.now.as_secs_f64(), self.drops(), lines.join("\n"))
    }
}

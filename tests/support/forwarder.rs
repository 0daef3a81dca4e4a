//! A wire between two tunnels that can lose, delay, repeat and reorder datagrams, and that writes down
//! what passed.
//!
//! ```text
//!   machine1 <--> 192.0.2.254:52002   Forwarder   192.0.2.254:52001 <--> machine2
//! ```
//!
//! It listens in the switch: on port 52002 it stands for machine2, on 52001 for machine1. Each side
//! takes it for the other. It answers to where a side was last heard from, so that roaming works.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::machine::Machine;
use super::message::Message;
use super::millis;

/// Where the forwarder stands for a machine of the lab (1 or 2).
pub(crate) fn stand_in(number: usize) -> String {
    format!("192.0.2.254:{}", 52000 + number)
}

/// What happens to datagrams; all off at first.
#[derive(Default)]
pub(crate) struct Rules {
    /// Loses everything.
    pub(crate) cut: bool,
    /// Loses the next so many messages of one kind, in either direction.
    pub(crate) lose_next: Vec<(Message, usize)>,
    /// Holds every datagram for so long.
    pub(crate) delay: Duration,
    /// Delivers every datagram twice.
    pub(crate) duplicate: bool,
    /// Holds every n-th datagram 20 ms longer, so that later ones overtake it; 0 is off.
    pub(crate) reorder_every: usize,
}

/// A running forwarder.
pub(crate) struct Forwarder {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    start: Instant,
    stop: AtomicBool,
    rules: Mutex<Rules>,
    /// Where machine1 and machine2 were last heard from.
    sides: Mutex<[SocketAddr; 2]>,
    sockets: [UdpSocket; 2],
    ladder: Mutex<Vec<Rung>>,
}

/// One datagram that came by.
#[derive(Clone, Debug)]
pub(crate) struct Rung {
    pub(crate) at: Duration,
    /// The number of the machine that it came from.
    pub(crate) from: usize,
    pub(crate) message: Message,
    pub(crate) len: usize,
    pub(crate) lost: bool,
    pub(crate) bytes: Vec<u8>,
}

/// A datagram that waits for its time: for which side, and what.
type Parcel = (Instant, usize, Vec<u8>);

impl Forwarder {
    /// Starts one in the switch, between the underlay addresses of machine1 and machine2.
    pub(crate) fn start(switch: &Machine, sides: [&str; 2]) -> Self {
        let bind = |number| switch.udp(&stand_in(number)).expect("cannot bind in the switch");
        // Socket 0 speaks to machine1 (and stands for machine2), socket 1 to machine2.
        let sockets = [bind(2), bind(1)];
        let sides = sides.map(|side| side.parse().expect("an address and a port"));
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            rules: Mutex::default(),
            sides: Mutex::new(sides),
            sockets,
            ladder: Mutex::default(),
        });
        let (sender, receiver) = mpsc::channel();
        let mut threads: Vec<_> = (0..2)
            .map(|side| {
                let (shared, sender) = (Arc::clone(&shared), sender.clone());
                std::thread::spawn(move || shared.receive(side, &sender))
            })
            .collect();
        let posting = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || posting.deliver(&receiver)));
        Self { shared, threads }
    }

    /// The rules, to be read or changed.
    pub(crate) fn rules(&self) -> MutexGuard<'_, Rules> {
        lock(&self.shared.rules)
    }

    /// What came by so far.
    pub(crate) fn ladder(&self) -> Vec<Rung> {
        lock(&self.shared.ladder).clone()
    }
}

impl Shared {
    /// Takes datagrams from one side until the end.
    fn receive(&self, side: usize, parcels: &mpsc::Sender<Parcel>) {
        let socket = &self.sockets[side];
        socket.set_read_timeout(Some(millis(50))).expect("a timeout above zero");
        let mut buffer = [0; 65_535];
        let mut count = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
            lock(&self.sides)[side] = from;
            count += 1;
            self.judge(side, count, &buffer[..len], parcels);
        }
    }

    fn judge(&self, side: usize, count: usize, bytes: &[u8], parcels: &mpsc::Sender<Parcel>) {
        let message = Message::of(bytes);
        let mut rules = lock(&self.rules);
        let unlucky = rules.lose_next.iter_mut().find(|(kind, left)| *kind == message && *left > 0);
        let lost = unlucky.map(|(_, left)| *left -= 1).is_some() || rules.cut;
        let rung = Rung {
            at: self.start.elapsed(),
            from: side + 1,
            message,
            len: bytes.len(),
            lost,
            bytes: bytes.to_vec(),
        };
        lock(&self.ladder).push(rung);
        if lost {
            return;
        }
        let late = rules.reorder_every > 0 && count.is_multiple_of(rules.reorder_every);
        let due = Instant::now() + rules.delay + if late { millis(20) } else { Duration::ZERO };
        for _ in 0..if rules.duplicate { 2 } else { 1 } {
            // The posting thread lives as long as the senders.
            let _ = parcels.send((due, 1 - side, bytes.to_vec()));
        }
    }

    /// Hands datagrams out when they are due, until the end.
    fn deliver(&self, parcels: &mpsc::Receiver<Parcel>) {
        let mut waiting = BTreeMap::new();
        let mut number = 0_u64;
        loop {
            let next = waiting.keys().next().map(|(due, _): &(Instant, u64)| *due);
            let pause =
                next.map_or(millis(50), |due| due.saturating_duration_since(Instant::now()));
            match parcels.recv_timeout(pause) {
                Ok((due, side, bytes)) => {
                    waiting.insert((due, number), (side, bytes));
                    number += 1;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            while let Some(entry) = waiting.first_entry() {
                if entry.key().0 > Instant::now() {
                    break;
                }
                let (side, bytes) = entry.remove();
                let to = lock(&self.sides)[side];
                // A side that is down refuses datagrams; that is what it is tested for.
                let _ = self.sockets[side].send_to(&bytes, to);
            }
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if std::thread::panicking() {
            eprintln!("--- the wire:\n{}", picture(&lock(&self.shared.ladder)));
        }
    }
}

/// The packet ladder: its last 30 rungs, and of those before whatever is no transport data.
fn picture(ladder: &[Rung]) -> String {
    let mut text = String::new();
    for (number, rung) in ladder.iter().enumerate() {
        if rung.message == Message::Data && number + 30 < ladder.len() {
            continue;
        }
        let arrow = if rung.from == 1 { "1 -> 2" } else { "2 -> 1" };
        let fate = if rung.lost { "  LOST" } else { "" };
        let (at, message, len) = (rung.at.as_secs_f64(), rung.message, rung.len);
        let _ = writeln!(text, "  {at:9.4} s  {arrow}  {message} {len} B{fate}");
    }
    text
}

/// A mutex's content, also after another thread panicked with it: it is only shown or counted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

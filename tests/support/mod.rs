//! What the tests with real processes stand on.
//!
//! - [`machine`]: a machine is a network and a mount namespace held open by one child process
//! - [`lab`]: machines on one switch; the topology is drawn there
//! - [`tunnel`]: hushwire in a machine, and the one file that all machines share
//! - [`manager`]: a service manager that starts hushwire, hears it and keeps its descriptors
//! - [`neighbour`]: wireguard-go or boringtun-cli in a machine, which hushwire must get on with
//! - [`alertmanager`]: a stock Alertmanager in a machine, spoken to over its HTTP interface ([`http`])
//! - [`docker`]: a container engine in a machine, with images of local files
//! - [`iperf3`]: a transfer from machine to machine
//! - [`forwarder`]: a wire between two tunnels that loses, delays, repeats and writes down a ladder
//! - [`capture`]: what really was on a wire; [`checksums`] judges it, [`message`] names WireGuard messages
//! - [`frames`]: any frame out of an interface, and what of it a machine takes for its own
//!
//! Nothing here has a global name: when the test process ends, however it ends, the pipe to each holder
//! closes, and namespaces, interfaces and sockets are gone with it (30 s later where a killed hushwire has
//! left its keeper). Conditions are waited for with a deadline; a missing program is a failure that names
//! the Debian package.

pub(crate) mod alertmanager;
pub(crate) mod capture;
pub(crate) mod checksums;
pub(crate) mod docker;
pub(crate) mod forwarder;
pub(crate) mod frames;
pub(crate) mod http;
pub(crate) mod iperf3;
pub(crate) mod lab;
pub(crate) mod machine;
pub(crate) mod manager;
pub(crate) mod message;
pub(crate) mod neighbour;
pub(crate) mod process;
pub(crate) mod tunnel;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Asks every 5 ms until there is an answer; panics with `what` when `limit` is over.
#[track_caller]
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return (value, start.elapsed());
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Seconds, for deadlines that read well.
pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Milliseconds, for deadlines that read well.
pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The median and the largest of some durations.
pub(crate) fn median_and_worst(mut durations: Vec<Duration>) -> (Duration, Duration) {
    assert!(!durations.is_empty(), "nothing was measured");
    durations.sort();
    (durations[durations.len() / 2], durations[durations.len() - 1])
}

/// Random bytes of the kernel, for keys and junk.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    use std::io::Read;
    let mut bytes = [0; N];
    let mut source = std::fs::File::open("/dev/urandom").expect("cannot open /dev/urandom");
    source.read_exact(&mut bytes).expect("cannot read /dev/urandom");
    bytes
}

/// Text that does not compress: memberlist would else shrink a silence's comment below the size that
/// a test wants on the wire.
pub(crate) fn random_text(len: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = fastrand::Rng::new();
    (0..len).map(|_| char::from(ALPHABET[random.usize(..64)])).collect()
}

/// A directory of one test below `target/tmp`, removed on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a fresh one.
    pub(crate) fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{what}-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("cannot make a directory in target/tmp");
        Self(path)
    }

    /// Where it is, as an absolute path: commands inside a machine start in `/`.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! What a small datagram meets beside transfers. Times are printed and never asserted: the computer may be
//! busy.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hushwire::wireguard::PrivateKey;
use nix::sys::signal::Signal;

use crate::bare::{Device, status, wg_set};
use crate::pair::Pair;
use crate::support::capture::Capture;
use crate::support::lab::Lab;
use crate::support::machine::Machine;
use crate::support::tunnel::HUSHWIRE;
use crate::support::{millis, random_bytes, seconds, wait_for};

const STREAMS: usize = 4;
const ECHOES: usize = 200;
const LARGE_PACKETS: usize = 12;

/// Runs something while streams go from the left to the right as fast as they can.
fn beside_streams<T>(pair: &Pair, run: impl FnOnce() -> T) -> T {
    for machine in &pair.places {
        // BBR, which some make the default, heeds neither marks nor losses; and no namespace may choose
        // CUBIC, unless the computer allows it.
        machine.sysctl("net/ipv4/tcp_congestion_control", "reno");
    }
    let listener = pair.places[1].listen("10.99.0.2:0").expect("cannot listen");
    let address = listener.local_addr().expect("it is bound");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..STREAMS {
            let near = pair.places[0].connect(address, seconds(5)).expect("cannot connect");
            let (far, _) = listener.accept().expect("cannot accept");
            let over = &over;
            scope.spawn(move || fill(near, over));
            scope.spawn(move || empty(far));
        }
        // Past slow start.
        std::thread::sleep(millis(300));
        let end = End(&over);
        let result = run();
        drop(end);
        result
    })
}

/// Ends the streams, also when a test fails: else the scope would wait for them for ever.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn fill(mut stream: TcpStream, over: &AtomicBool) {
    stream.set_write_timeout(Some(seconds(10))).expect("an option of sockets");
    let bytes = vec![7; 256 * 1024];
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&bytes).expect("a stream is stuck");
    }
}

fn empty(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer).expect("a stream broke") > 0 {}
}

/// Sends echo requests one after the other and says how long each took; none may be lost.
fn echoes(sender: &UdpSocket, echo: &UdpSocket) -> Vec<Duration> {
    let (mut buffer, to) = ([0; 300], echo.local_addr().expect("it is bound"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 300];
            for _ in 0..ECHOES {
                let (len, from) = echo.recv_from(&mut buffer).expect("a request is lost");
                echo.send_to(&buffer[..len], from).expect("cannot answer");
            }
        });
        let times = (0..ECHOES).map(|number| {
            let (start, request) = (Instant::now(), [number as u8; 200]);
            sender.send_to(&request, to).expect("cannot send");
            let len = sender.recv(&mut buffer).expect("an answer is lost");
            assert_eq!(buffer[..len], request);
            let took = start.elapsed();
            std::thread::sleep(millis(5));
            took
        });
        times.collect()
    })
}

#[test]
fn no_datagram_is_lost_beside_four_streams() {
    let pair = Pair::new([HUSHWIRE; 2], "");
    pair.adjust(1420, 1500, "192.0.2.2");
    let [sender, echo] = [(0, "10.99.0.1:0"), (1, "10.99.0.2:9094")].map(|(index, address)| {
        let socket = pair.places[index].udp(address).expect("cannot bind");
        socket.set_read_timeout(Some(seconds(3))).expect("an option of sockets");
        socket
    });
    let print = |what: &str, mut times: Vec<Duration>| {
        times.sort();
        let [median, p99] = [ECHOES / 2, ECHOES * 99 / 100].map(|at| times[at]);
        println!("{what}: {ECHOES} echoes, median {median:.0?}, 99th percentile {p99:.0?}");
    };
    print("alone", echoes(&sender, &echo));
    print("beside streams", beside_streams(&pair, || echoes(&sender, &echo)));
    let resident = pair.devices.each_ref().map(|device| device.resident() / 1024);
    println!("resident after that: {resident:?} KiB");
    marks(&pair, "four streams");
}

/// The packet loop waited for room in the buffer of its socket, 10 ms for each batch, and everything with it: of
/// twenty echoes by another link five were answered, after 0.9 s.
#[test]
fn a_link_that_takes_no_more_holds_up_no_other() {
    let lab = Lab::new(3);
    let keys = [(); 3].map(|()| PrivateKey::from_random(random_bytes()));
    let devices: Vec<_> = (1..=3)
        .map(|number| Device::configured(lab.machine(number), number, &keys[number - 1]))
        .collect();
    let [near, slow, far] = [1, 2, 3].map(|number| lab.machine(number));
    near.ip(&format!("link add cable type veth peer name cable netns {}", slow.pid()));
    for (machine, number) in [(near, 1), (slow, 2)] {
        machine.ip(&format!("addr add 198.51.100.{number}/24 dev cable"));
        machine.ip("link set cable up");
    }
    near.run("tc", &words("qdisc add dev cable root tbf rate 20mbit burst 32kb limit 50mb"));
    for (machine, other, endpoint) in [
        (near, 2, "198.51.100.2"),
        (near, 3, "192.0.2.3"),
        (slow, 1, "198.51.100.1"),
        (far, 1, "192.0.2.1"),
    ] {
        let key = keys[other - 1].public_key();
        let peer = format!("peer {key} allowed-ips 10.99.0.{other}/32 endpoint {endpoint}:51820");
        wg_set(machine, &[&peer]);
    }
    for other in ["10.99.0.2", "10.99.0.3"] {
        near.run("ping", &["-c1", "-W5", other]);
    }

    let flood = near.udp("10.99.0.1:0").expect("cannot bind");
    let over = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Ten times what the link takes. Nobody listens there, and the answer to that is an error.
                for _ in 0..20 {
                    let _ = flood.send_to(&[7; 1300], "10.99.0.2:9");
                }
                std::thread::sleep(millis(1));
            }
        });
        let end = End(&over);
        let failed =
            || status(near).peers.iter().map(|peer| peer.drops["send_failed"]).sum::<u64>();
        wait_for("a full buffer", seconds(20), || (failed() > 100).then_some(()));
        let answered = near.attempt("ping", &words("-q -c20 -i.05 -W2 10.99.0.3"));
        drop(end);
        String::from_utf8_lossy(&answered.stdout).into_owned()
    });
    println!("beside a full link: {answered}");
    let received = answered.split(' ').zip(answered.split(' ').skip(1));
    let received =
        received.filter(|(_, word)| *word == "received,").map(|(count, _)| count.parse::<u32>());
    assert!(received.flatten().next().is_some_and(|count| count >= 15), "{answered}");
    drop(devices);
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// All of it waits in the queue of the interface when the process goes on, and what is small came last.
#[test]
fn a_datagram_passes_all_large_packets_that_wait_before_it() {
    let pair = Pair::new([HUSHWIRE; 2], "");
    pair.adjust(1420, 1500, "192.0.2.2");
    // BBR might send the segments one after the other.
    pair.places[0].sysctl("net/ipv4/tcp_congestion_control", "reno");
    let listener = pair.places[1].listen("10.99.0.2:0").expect("cannot listen");
    let address = listener.local_addr().expect("it is bound");
    let connect = |_| {
        let near = pair.places[0].connect(address, seconds(5)).expect("cannot connect");
        (near, listener.accept().expect("cannot accept"))
    };
    let mut streams: Vec<_> = (0..LARGE_PACKETS).map(connect).collect();
    let [sender, receiver] = [(0, "10.99.0.1:9094"), (1, "10.99.0.2:9094")]
        .map(|(index, address)| pair.places[index].udp(address).expect("cannot bind"));
    receiver.set_read_timeout(Some(seconds(5))).expect("an option of sockets");

    pair.devices[0].signal(Signal::SIGSTOP);
    wait_for("a stopped process", seconds(5), || pair.devices[0].is_stopped().then_some(()));
    let capture = Capture::start(&pair.places[1], "wg0");
    for (near, _) in &mut streams {
        // Less than the initial window.
        near.write_all(&[7; 8 * 1368]).expect("a stream is stuck");
    }
    sender.send_to(&[7; 200], "10.99.0.2:9094").expect("cannot send");
    pair.devices[0].signal(Signal::SIGCONT);
    receiver.recv(&mut [0; 300]).expect("the datagram is lost");
    for (_, (far, _)) in &mut streams {
        far.read_exact(&mut [0; 8 * 1368]).expect("a stream broke");
    }

    // Bare acknowledgements are shorter.
    let captured = capture.stop();
    let from_left =
        captured.raw().iter().filter(|packet| packet.get(12..16) == Some(&[10, 99, 0, 1]));
    let lengths: Vec<_> = from_left.map(Vec::len).filter(|len| *len > 100).collect();
    assert!(lengths.len() > LARGE_PACKETS, "{lengths:?}");
    assert_eq!(lengths[0], 200 + 28, "{lengths:?}");
}

/// A counter of a network stack (`/proc/net/netstat`).
fn counter(machine: &Machine, name: &str) -> u64 {
    let text = machine.run("cat", &["/proc/net/netstat"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let found = lines.chunks_exact(2).find_map(|pair| {
        let at = pair[0].iter().position(|column| *column == name)?;
        pair[1][at].parse().ok()
    });
    found.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// What was marked as congested on its way to the right, and prints what was lost.
fn marks(pair: &Pair, what: &str) -> u64 {
    let [left, right] = &pair.places;
    let status = status(&pair.homes[0]);
    let marks = counter(right, "InCEPkts");
    println!(
        "{what}: {marks} packets marked, {} segments sent again, {} packets dropped by the backlog, {} \
         sent and {} segments out of order",
        counter(left, "TCPFastRetrans") + counter(left, "TCPSlowStartRetrans"),
        status.drops["backlog"],
        status.peers[0].tx_packets,
        counter(right, "TCPOFOQueue"),
    );
    marks
}

/// The process gets the processor for a fraction of the time only, so that what it has read waits.
#[test]
fn streams_that_understand_marks_get_them_when_a_queue_stands() {
    let pair = Pair::new([HUSHWIRE; 2], "");
    pair.adjust(1420, 1500, "192.0.2.2");
    beside_streams(&pair, || {
        let start = Instant::now();
        while start.elapsed() < seconds(2) {
            pair.devices[0].signal(Signal::SIGSTOP);
            std::thread::sleep(millis(8));
            pair.devices[0].signal(Signal::SIGCONT);
            std::thread::sleep(Duration::from_micros(300));
        }
    });
    assert!(marks(&pair, "a process that is held up") > 0);
}

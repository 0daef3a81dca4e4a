//! A suite of traffic in which every byte is checked: what `packets` sends from one machine to another.
//!
//! The content is pseudo-random and known to both ends, so that a byte that is lost, doubled, moved or
//! changed is seen. UDP goes in steps that no queue on the way overflows: what is lost is an error.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use fastrand::Rng;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

use crate::support::machine::Machine;
use crate::support::seconds;

/// One end of the suite.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) address: IpAddr,
}

/// How a stream is written: its bytes, and the most bytes of each write.
#[derive(Clone, Copy)]
struct Stream {
    bytes: usize,
    most: usize,
}

/// Streams that run at once, each in both directions. The sizes are no multiple of any segment's, so that
/// FIN comes in the middle of one.
const STREAMS: [Stream; 5] = [
    Stream { bytes: 400_009, most: 65_536 },
    Stream { bytes: 150_001, most: 3000 },
    Stream { bytes: 60_013, most: 200 },
    Stream { bytes: 701, most: 1 },
    Stream { bytes: 17, most: 17 },
];

/// The port of datagrams without a checksum, for captures.
pub(crate) const NO_CHECKSUM_PORT: u16 = 40_404;

/// Sends everything, both ways, between two ends of a tunnel with this MTU.
pub(crate) fn exchange(one: End<'_>, other: End<'_>, mtu: usize) {
    let mut random = Rng::with_seed(mtu as u64);
    streams(one, other, &mut random);
    for (from, to) in [(one, other), (other, one)] {
        datagrams(from, to, mtu, &mut random);
        cut_datagrams(from, to, mtu, &mut random);
        if to.address.is_ipv4() {
            datagrams_without_checksum(from, to, &mut random);
        }
    }
}

fn streams(one: End<'_>, other: End<'_>, random: &mut Rng) {
    let any = SocketAddr::new(other.address, 0).to_string();
    let listener = other.machine.listen(&any).expect("cannot listen");
    let address = listener.local_addr().expect("it is bound");
    std::thread::scope(|scope| {
        for stream in STREAMS {
            let near = one.machine.connect(address, seconds(5)).expect("cannot connect");
            let (far, _) = listener.accept().expect("cannot accept");
            let contents = [content(random, stream.bytes), content(random, stream.bytes)];
            let seed = random.u64(..);
            scope.spawn(move || {
                let [there, back] = &contents;
                std::thread::scope(|scope| {
                    scope.spawn(|| write(&near, there, stream.most, seed));
                    scope.spawn(|| write(&far, back, stream.most, seed));
                    scope.spawn(|| read(&far, there));
                    scope.spawn(|| read(&near, back));
                });
            });
        }
    });
}

fn write(mut stream: &TcpStream, content: &[u8], most: usize, seed: u64) {
    // Small writes are to be small packets.
    stream.set_nodelay(most < 1000).expect("an option of TCP");
    let mut random = Rng::with_seed(seed);
    let mut rest = content;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.usize(1..=most).min(rest.len()));
        stream.write_all(now).expect("cannot write");
        rest = later;
    }
    stream.shutdown(Shutdown::Write).expect("cannot end");
}

fn read(mut stream: &TcpStream, content: &[u8]) {
    stream.set_read_timeout(Some(seconds(10))).expect("an option of sockets");
    let mut read = Vec::new();
    stream.read_to_end(&mut read).expect("cannot read");
    same(&read, content, "a stream");
}

fn datagrams(from: End<'_>, to: End<'_>, mtu: usize, random: &mut Rng) {
    let (sender, receiver, address) = sockets(from, to, 0);
    let headers = headers(to.address);
    for size in [0, 1, 15, 16, 17, 500, 1200, mtu - headers, mtu + 200, 60_000] {
        let content = content(random, size);
        sender.send_to(&content, address).expect("cannot send");
        receive(&receiver, &content);
    }
}

/// The application lets the kernel cut what it sends (udp(7), `UDP_SEGMENT`).
fn cut_datagrams(from: End<'_>, to: End<'_>, mtu: usize, random: &mut Rng) {
    let (sender, receiver, address) = sockets(from, to, 0);
    for size in [mtu - headers(to.address), 1200, 333, 1] {
        // The last one is shorter, but where all have one byte.
        let content = content(random, (size * 48 - size / 2).min(60_001));
        let segment = i32::try_from(size).expect("it is small");
        setsockopt(&sender, UdpGsoSegment, &segment).expect("cannot set UDP_SEGMENT");
        match sender.send_to(&content, address) {
            Ok(_) => {}
            // Before Linux 6.11 an interface without checksum offload refused.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                setsockopt(&sender, UdpGsoSegment, &0).expect("cannot set UDP_SEGMENT");
                for datagram in content.chunks(size) {
                    sender.send_to(datagram, address).expect("cannot send");
                }
            }
            Err(error) => panic!("cannot send {} bytes cut to {size}: {error}", content.len()),
        }
        for datagram in content.chunks(size) {
            receive(&receiver, datagram);
        }
    }
}

/// IPv4 alone allows it.
fn datagrams_without_checksum(from: End<'_>, to: End<'_>, random: &mut Rng) {
    let (sender, receiver, address) = sockets(from, to, NO_CHECKSUM_PORT);
    omit_checksums(&sender).expect("cannot set SO_NO_CHECK");
    let contents: Vec<_> = (0..8).map(|_| content(random, 900)).collect();
    for content in &contents {
        sender.send_to(content, address).expect("cannot send");
    }
    for content in &contents {
        receive(&receiver, content);
    }
}

#[expect(unsafe_code, reason = "nix does not have this option")]
fn omit_checksums(socket: &UdpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int, which lives through the call.
    let result = unsafe {
        let (value, length) = ((&raw const on).cast(), size_of::<libc::c_int>() as u32);
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn sockets(from: End<'_>, to: End<'_>, port: u16) -> (UdpSocket, UdpSocket, SocketAddr) {
    let bind = |end: End<'_>, port| {
        let address = SocketAddr::new(end.address, port).to_string();
        end.machine.udp(&address).expect("cannot bind")
    };
    let (sender, receiver) = (bind(from, 0), bind(to, port));
    receiver.set_read_timeout(Some(seconds(5))).expect("an option of sockets");
    let address = receiver.local_addr().expect("it is bound");
    (sender, receiver, address)
}

#[track_caller]
fn receive(socket: &UdpSocket, content: &[u8]) {
    let mut buffer = [0; 65_536];
    let read = socket.recv(&mut buffer);
    let read = read.unwrap_or_else(|error| panic!("{} bytes are lost: {error}", content.len()));
    same(&buffer[..read], content, "a datagram");
}

/// Bytes of the IP and UDP headers.
fn headers(address: IpAddr) -> usize {
    if address.is_ipv4() { 28 } else { 48 }
}

fn content(random: &mut Rng, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    random.fill(&mut content);
    content
}

#[track_caller]
fn same(read: &[u8], content: &[u8], what: &str) {
    let at = read.iter().zip(content).position(|(one, other)| one != other);
    assert!(
        read == content,
        "{what} of {} bytes came as {} bytes, and differs from byte {at:?} on",
        content.len(),
        read.len(),
    );
}

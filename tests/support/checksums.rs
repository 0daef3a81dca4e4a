//! What tcpdump says of the checksums in a capture.
//!
//! tcpdump reads the capture as a file and as nobody: so it runs in a user namespace, too. Of each packet
//! it says whether its checksums are right; where one is not, this room looks whether it is one that is
//! still to be finished: with checksum offload the field holds the sum of the pseudo-header alone until
//! the last possible moment (`CHECKSUM_PARTIAL`, include/linux/skbuff.h). Anything else is wrong.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::process::need;

/// What was found in some packets.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Transport checksums that are right.
    pub(crate) right: usize,
    /// Those that are still to be finished.
    pub(crate) unfinished: usize,
    /// UDP datagrams that have none.
    pub(crate) without: usize,
    /// All that is wrong, as tcpdump says it.
    pub(crate) wrong: Vec<String>,
}

/// Judges packets, each from its IP header on: those from `source`, and those from anywhere else.
pub(crate) fn judge(packets: &[Vec<u8>], source: IpAddr) -> [Verdict; 2] {
    let text = tcpdump(packets);
    let mut records: Vec<String> = Vec::new();
    for line in text.lines() {
        match records.last_mut() {
            Some(record) if line.starts_with([' ', '\t']) => record.push_str(line),
            _ => records.push(line.to_owned()),
        }
    }
    assert_eq!(records.len(), packets.len(), "tcpdump has lost count");
    let mut verdicts = [Verdict::default(), Verdict::default()];
    for (packet, said) in packets.iter().zip(records) {
        let verdict = &mut verdicts[usize::from(addresses(packet) != Some(source))];
        let transport = ["(incorrect ", "[bad udp cksum "].iter().any(|bad| said.contains(bad));
        let other = [", bad cksum ", "wrong icmp cksum", "bad icmp6 cksum"];
        if other.iter().any(|bad| said.contains(bad)) || transport && !is_unfinished(packet) {
            verdict.wrong.push(said);
        } else if transport {
            verdict.unfinished += 1;
        } else if said.contains("[no cksum]") {
            verdict.without += 1;
        } else if said.contains("(correct)") || said.contains("[udp sum ok]") {
            verdict.right += 1;
        }
    }
    verdicts
}

fn tcpdump(packets: &[Vec<u8>]) -> String {
    need("tcpdump");
    let mut command = Command::new("unshare");
    // Any user but root would do: root must be given up, and inside a user namespace cannot be.
    command.args(["--user", "--map-user=1", "tcpdump", "-nn", "-tt", "-vv", "-r", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot start tcpdump");
    let mut input = child.stdin.take().expect("stdin is a pipe");
    let file = file(packets);
    let writer = std::thread::spawn(move || input.write_all(&file));
    let output = child.wait_with_output().expect("cannot wait for tcpdump");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tcpdump: {}: {said}", output.status);
    writer.join().expect("the writer failed").expect("tcpdump did not read all");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A capture file of raw IP packets (pcap-savefile(5), `LINKTYPE_RAW`).
fn file(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, 101u32] {
        file.extend(word.to_ne_bytes());
    }
    for packet in packets {
        let len = u32::try_from(packet.len()).expect("a packet is short");
        for word in [0, 0, len, len] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(packet);
    }
    file
}

fn addresses(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?)),
        _ => None,
    }
}

/// Whether the checksum of TCP or UDP is the sum of the pseudo-header.
fn is_unfinished(packet: &[u8]) -> bool {
    let (addresses, protocol, transport) = match packet[0] >> 4 {
        4 => (&packet[12..20], packet[9], usize::from(packet[0] & 15) * 4),
        _ => (&packet[8..40], packet[6], 40),
    };
    let at = transport + if protocol == 6 { 16 } else { 6 };
    let words = addresses.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    sum += u32::from(protocol) + (packet.len() - transport) as u32;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    packet[at..at + 2] == (sum as u16).to_be_bytes()
}

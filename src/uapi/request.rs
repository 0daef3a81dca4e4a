//! A request of the control socket, from text to [`Request`]: pure, line by line, in linear time.
//!
//! Nothing is applied here. A request that is wrong anywhere is an [`Errno`] as a whole. The text is
//! never held: each line is parsed as it comes, since it may be a secret and may be one of 130,560
//! allowed IPs. Rules and errors are those of wireguard-go's `device/uapi.go`, so that what one takes
//! the other takes. Called by the socket, and by the tests with text.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use ipnet::IpNet;

use super::reload::{self, Reload};
use crate::wireguard::{
    AllowedIpChange, Change, KEY_LEN, PeerChange, PresharedKey, PrivateKey, PublicKey,
};

/// Finds the index of an interface by its name, for `endpoint=[fe80::1%eth0]:51820`.
pub type ZoneIndex = fn(&str) -> Option<u32>;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Everything that `wg show` and `wg showconf` print.
    Get,
    /// Changes, to be applied in order and as a whole.
    Set(Vec<Change>),
    /// Our own: what `hushwire status` prints.
    Status,
    /// Our own: the configuration is to be read again.
    Reload(Reload),
}

/// Why a request was not carried out, as `errno` tells it to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// `EINVAL`: a key that does not exist, or a value that it does not take.
    Invalid,
    /// `EPROTO`: not of the form `key=value`, an unknown operation, or no empty line at the end.
    Protocol,
    /// `EADDRINUSE`: the listen port or the mark cannot be had.
    PortInUse,
    /// `EPERM`: it takes a right that the daemon has not, or has given up.
    NotPermitted,
    /// `EIO`: the daemon cannot answer.
    Io,
}

impl Errno {
    /// The number for the `errno` line. It is negative as in wireguard-go: `wg set` prints the error
    /// by its name only then.
    pub fn code(self) -> i32 {
        match self {
            Errno::Invalid => -libc::EINVAL,
            Errno::Protocol => -libc::EPROTO,
            Errno::PortInUse => -libc::EADDRINUSE,
            Errno::NotPermitted => -libc::EPERM,
            Errno::Io => -libc::EIO,
        }
    }
}

/// Parses the text of one request, its empty line included.
///
/// # Errors
/// The [`Errno`] to answer with; [`Errno::Protocol`] if the empty line is missing.
pub fn parse_request(text: &str, zone_index: ZoneIndex) -> Result<Request, Errno> {
    let mut parser = Parser::new(zone_index);
    text.split_terminator('\n')
        .find_map(|line| parser.line(line.as_bytes()))
        .unwrap_or(Err(Errno::Protocol))
}

/// Parses one request after the other, line by line.
#[derive(Debug)]
pub struct Parser {
    zone_index: ZoneIndex,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The operation comes next.
    Start,
    Get,
    Status,
    Set(Settings),
    Reload(reload::Lines),
    /// What is left of the request is skipped, and this is the answer.
    Failed(Errno),
}

impl Parser {
    /// Starts before the first line of a request.
    pub fn new(zone_index: ZoneIndex) -> Self {
        Self { zone_index, state: State::Start }
    }

    /// Takes one line without its line feed. The empty line ends the request and gives the result.
    pub fn line(&mut self, line: &[u8]) -> Option<Result<Request, Errno>> {
        if line.is_empty() {
            return Some(self.finish());
        }
        if let Err(errno) = self.key_value(line) {
            self.fail(errno);
        }
        None
    }

    /// Lets the request fail, whatever its other lines say.
    pub fn fail(&mut self, errno: Errno) {
        if !matches!(self.state, State::Failed(_)) {
            self.state = State::Failed(errno);
        }
    }

    /// Tells whether a request has begun and not ended.
    pub fn is_in_request(&self) -> bool {
        !matches!(self.state, State::Start)
    }

    fn finish(&mut self) -> Result<Request, Errno> {
        match std::mem::replace(&mut self.state, State::Start) {
            State::Start => Err(Errno::Protocol),
            State::Get => Ok(Request::Get),
            State::Status => Ok(Request::Status),
            State::Set(settings) => Ok(Request::Set(settings.finish())),
            State::Reload(lines) => lines.finish().map(Request::Reload),
            State::Failed(errno) => Err(errno),
        }
    }

    fn key_value(&mut self, line: &[u8]) -> Result<(), Errno> {
        let line = std::str::from_utf8(line).map_err(|_| Errno::Protocol)?;
        let (key, value) = line.split_once('=').ok_or(Errno::Protocol)?;
        match &mut self.state {
            State::Start => {
                self.state = match (key, value) {
                    ("get", "1") => State::Get,
                    ("set", "1") => State::Set(Settings::default()),
                    ("status", "1") => State::Status,
                    ("reload", "1") => State::Reload(reload::Lines::default()),
                    _ => return Err(Errno::Protocol),
                };
                Ok(())
            }
            State::Set(settings) => settings.key_value(key, value, self.zone_index),
            State::Reload(lines) => lines.key_value(key, value),
            // These two take no further line; after a failure none is looked at.
            State::Get | State::Status => Err(Errno::Invalid),
            State::Failed(_) => Ok(()),
        }
    }
}

/// What a `set=1` has said so far.
#[derive(Debug, Default)]
struct Settings {
    changes: Vec<Change>,
    /// The peer that the last `public_key` named.
    peer: Option<PeerSection>,
}

#[derive(Debug)]
struct PeerSection {
    change: PeerChange,
    remove: bool,
}

impl Settings {
    fn key_value(&mut self, key: &str, value: &str, zone_index: ZoneIndex) -> Result<(), Errno> {
        if key == "public_key" {
            let public_key = PublicKey::from_hex(value).map_err(|_| Errno::Invalid)?;
            self.end_peer();
            self.peer = Some(PeerSection { change: PeerChange::new(public_key), remove: false });
            return Ok(());
        }
        match &mut self.peer {
            Some(peer) => peer.key_value(key, value, zone_index),
            None => {
                self.changes.push(device_change(key, value)?);
                Ok(())
            }
        }
    }

    fn end_peer(&mut self) {
        if let Some(PeerSection { change, remove }) = self.peer.take() {
            self.changes.push(if remove {
                Change::RemovePeer(change.public_key)
            } else {
                Change::Peer(change)
            });
        }
    }

    fn finish(mut self) -> Vec<Change> {
        self.end_peer();
        self.changes
    }
}

fn device_change(key: &str, value: &str) -> Result<Change, Errno> {
    Ok(match key {
        "private_key" => {
            let key = PrivateKey::from_hex(value).map_err(|_| Errno::Invalid)?;
            Change::PrivateKey((key != PrivateKey::from_bytes([0; KEY_LEN])).then_some(key))
        }
        "listen_port" => Change::ListenPort(number(value)?),
        "fwmark" => Change::Fwmark(number(value)?),
        "replace_peers" => {
            only_true(value)?;
            Change::RemoveAllPeers
        }
        _ => return Err(Errno::Invalid),
    })
}

impl PeerSection {
    fn key_value(&mut self, key: &str, value: &str, zone_index: ZoneIndex) -> Result<(), Errno> {
        let change = &mut self.change;
        match key {
            "remove" => {
                only_true(value)?;
                self.remove = true;
            }
            "update_only" => {
                only_true(value)?;
                change.update_only = true;
            }
            "preshared_key" => {
                let key = PresharedKey::from_hex(value).map_err(|_| Errno::Invalid)?;
                let none = key == PresharedKey::from_bytes([0; KEY_LEN]);
                change.preshared_key = Some((!none).then_some(key));
            }
            "endpoint" => change.endpoints = Some(vec![endpoint(value, zone_index)?]),
            "persistent_keepalive_interval" => {
                change.persistent_keepalive = Some(number(value)?);
            }
            "replace_allowed_ips" => {
                only_true(value)?;
                change.replace_allowed_ips = true;
                change.allowed_ips.clear();
            }
            "allowed_ip" => change.allowed_ips.push(allowed_ip(value)?),
            "protocol_version" if value == "1" => {}
            _ => return Err(Errno::Invalid),
        }
        Ok(())
    }
}

fn only_true(value: &str) -> Result<(), Errno> {
    if value == "true" { Ok(()) } else { Err(Errno::Invalid) }
}

/// Reads a decimal number; `str::parse` alone would take a `+` as well.
fn number<T: std::str::FromStr>(value: &str) -> Result<T, Errno> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Errno::Invalid);
    }
    value.parse().map_err(|_| Errno::Invalid)
}

/// Reads `address:port` or `[address]:port`. An IPv6 zone may be a number or an interface's name: that
/// is how `wg` writes a link-local endpoint. An IPv4-mapped address becomes IPv4.
fn endpoint(value: &str, zone_index: ZoneIndex) -> Result<SocketAddr, Errno> {
    let address = value.parse().or_else(|_| zoned_endpoint(value, zone_index))?;
    let address = match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
        other => other,
    };
    if address.port() == 0 { Err(Errno::Invalid) } else { Ok(address) }
}

fn zoned_endpoint(value: &str, zone_index: ZoneIndex) -> Result<SocketAddr, Errno> {
    let (inside, port) =
        value.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:")).ok_or(Errno::Invalid)?;
    let (address, zone) = inside.split_once('%').ok_or(Errno::Invalid)?;
    let address = address.parse().map_err(|_| Errno::Invalid)?;
    let index = zone_index(zone).ok_or(Errno::Invalid)?;
    Ok(SocketAddr::V6(SocketAddrV6::new(address, number(port)?, 0, index)))
}

/// Reads `address/length`, with a leading `-` for one to be taken away. Host bits are cut off, as the
/// kernel's `drivers/net/wireguard/allowedips.c` does.
fn allowed_ip(value: &str) -> Result<AllowedIpChange, Errno> {
    let (text, remove) = match value.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (value, false),
    };
    let (address, length) = text.split_once('/').ok_or(Errno::Invalid)?;
    let address: IpAddr = address.parse().map_err(|_| Errno::Invalid)?;
    let prefix = IpNet::new(address, number(length)?).map_err(|_| Errno::Invalid)?.trunc();
    Ok(if remove { AllowedIpChange::Remove(prefix) } else { AllowedIpChange::Add(prefix) })
}

#[cfg(test)]
mod tests;

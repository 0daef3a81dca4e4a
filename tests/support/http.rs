//! Just enough HTTP/1.0 to speak to an Alertmanager inside a machine: one request a connection, the
//! answer ends with the connection. Fast enough to ask every 5 ms when a silence arrives.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use super::machine::Machine;
use super::seconds;

/// Sends one request from inside a machine; returns the status code and the body.
///
/// # Errors
/// When nobody listens, when the answer takes over 5 s, or when it is no HTTP.
pub(crate) fn request(
    machine: &Machine,
    server: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let mut stream = machine.connect(server, seconds(5))?;
    stream.set_read_timeout(Some(seconds(5)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

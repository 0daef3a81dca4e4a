//! Names WireGuard messages by their first byte and length (section 5.4 of the WireGuard paper).

use std::fmt;

/// What a UDP payload on the underlay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Initiation,
    Response,
    CookieReply,
    Keepalive,
    /// Transport data with a packet inside; padded to 16 bytes.
    Data,
    /// Nothing that WireGuard sends.
    Alien,
}

impl Message {
    /// Names a UDP payload. Data padded to the MTU need not be a multiple of 16 bytes long; the tests
    /// that care look at the length themselves.
    pub(crate) fn of(payload: &[u8]) -> Self {
        let Some((kind, rest)) = payload.split_first() else { return Self::Alien };
        if rest.len() < 3 || rest[..3] != [0; 3] {
            return Self::Alien;
        }
        match (kind, payload.len()) {
            (1, 148) => Self::Initiation,
            (2, 92) => Self::Response,
            (3, 64) => Self::CookieReply,
            (4, 32) => Self::Keepalive,
            (4, 52..) => Self::Data,
            _ => Self::Alien,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initiation => "handshake initiation",
            Self::Response => "handshake response",
            Self::CookieReply => "cookie reply",
            Self::Keepalive => "keepalive",
            Self::Data => "transport data",
            Self::Alien => "no WireGuard message",
        })
    }
}

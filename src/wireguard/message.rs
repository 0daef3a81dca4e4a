//! Checked views of WireGuard messages, before any cryptography: type, exact length, indices.
//!
//! Section 5.4 of the WireGuard paper. A datagram that is none of the four kinds ends here.

/// Length of a handshake initiation (section 5.4.2).
pub(super) const INITIATION_LEN: usize = 148;
/// Length of a handshake response (section 5.4.3).
pub(super) const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply (section 5.4.7).
pub(super) const COOKIE_REPLY_LEN: usize = 64;
/// What transport data adds to a packet: header 16, authentication tag 16 (section 5.4.6).
pub(super) const DATA_OVERHEAD: usize = 32;
/// Counters from here on are never used (section 6.5, `REJECT_AFTER_MESSAGES`).
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A datagram's kind, and the index that says to whom it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Initiation,
    Response { receiver: u32 },
    CookieReply { receiver: u32 },
    Data { receiver: u32 },
}

impl Message {
    /// Reads the kind of a datagram; `None` if it is no WireGuard message.
    pub(super) fn parse(datagram: &[u8]) -> Option<Self> {
        match (u32_at(datagram, 0)?, datagram.len()) {
            (1, INITIATION_LEN) => Some(Message::Initiation),
            (2, RESPONSE_LEN) => Some(Message::Response { receiver: u32_at(datagram, 8)? }),
            (3, COOKIE_REPLY_LEN) => Some(Message::CookieReply { receiver: u32_at(datagram, 4)? }),
            (4, DATA_OVERHEAD..) => Some(Message::Data { receiver: u32_at(datagram, 4)? }),
            _ => None,
        }
    }
}

/// The sender index of a handshake message.
pub(super) fn sender_index(message: &[u8]) -> Option<u32> {
    u32_at(message, 4)
}

/// Whether the counter of transport data is one that a session may use.
pub(super) fn counter_is_usable(data: &[u8]) -> bool {
    data.get(8..16)
        .and_then(|bytes| bytes.try_into().ok())
        .is_some_and(|bytes| u64::from_le_bytes(bytes) < REJECT_AFTER_MESSAGES)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u32, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn only_the_exact_lengths_pass() {
        for (kind, len) in [(1, INITIATION_LEN), (2, RESPONSE_LEN), (3, COOKIE_REPLY_LEN)] {
            assert!(Message::parse(&message(kind, len)).is_some());
            assert_eq!(Message::parse(&message(kind, len - 1)), None);
            assert_eq!(Message::parse(&message(kind, len + 1)), None);
        }
        assert_eq!(Message::parse(&message(4, DATA_OVERHEAD - 1)), None);
        assert_eq!(
            Message::parse(&message(4, 2000)),
            Some(Message::Data { receiver: 0x0706_0504 })
        );
    }

    #[test]
    fn other_types_and_reserved_bytes_are_refused() {
        assert_eq!(Message::parse(&[]), None);
        assert_eq!(Message::parse(&[1, 0, 0]), None);
        assert_eq!(Message::parse(&message(0, INITIATION_LEN)), None);
        assert_eq!(Message::parse(&message(5, DATA_OVERHEAD)), None);
        assert_eq!(Message::parse(&message(1 | 1 << 8, INITIATION_LEN)), None);
    }

    #[test]
    fn a_counter_at_its_end_is_not_usable() {
        let mut data = message(4, DATA_OVERHEAD);
        data[8..16].copy_from_slice(&(REJECT_AFTER_MESSAGES - 1).to_le_bytes());
        assert!(counter_is_usable(&data));
        data[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(!counter_is_usable(&data));
    }
}

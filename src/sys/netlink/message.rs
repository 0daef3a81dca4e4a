//! A message of the kernel's routing part as it travels: its type, and its body.
//!
//! The body is a header of some words of 4 bytes, which depends on the type, and attributes behind it. Here
//! nothing is read of it: a message that nobody asked for, or of a type that only a newer kernel knows, is
//! passed over unread. What the few that are known say is read in `convert` and `rule`.

use std::convert::Infallible;

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};

use super::attributes::Attributes;

/// A request, or an answer to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Its type, one of libc's `RTM_*`.
    pub(super) kind: u16,
    /// Its header and its attributes.
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn new<const WORDS: usize>(
        kind: u16,
        header: [[u8; 4]; WORDS],
        attributes: &Attributes,
    ) -> Self {
        Self { kind, body: [header.as_flattened(), attributes.as_bytes()].concat() }
    }

    /// The type of what answers a question. The four types that there are about each thing stand in a row,
    /// and that of what there is comes first (include/uapi/linux/rtnetlink.h).
    pub(super) fn answer(&self) -> u16 {
        self.kind & !3
    }
}

/// The words of a body's header, and the attributes behind it.
pub(super) fn split<const WORDS: usize>(
    body: &[u8],
) -> Result<(&[[u8; 4]; WORDS], &[u8]), DecodeError> {
    let header = body.as_chunks().0.first_chunk();
    header
        .zip(body.get(4 * WORDS..))
        .ok_or_else(|| DecodeError::buffer_too_small(body.len(), 4 * WORDS))
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { kind: header.message_type, body: payload.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

    use super::*;

    #[test]
    fn a_message_of_any_type_is_read_as_it_was_written() {
        let attributes = Attributes::default().text(libc::IFLA_IFNAME, "hush0");
        for kind in [libc::RTM_NEWLINK, libc::RTM_NEWNSID, u16::MAX] {
            let message = Message::new(kind, [[1, 2, 3, 4], [5, 6, 7, 8]], &attributes);
            let payload = NetlinkPayload::InnerMessage(message.clone());
            let mut packet = NetlinkMessage::new(NetlinkHeader::default(), payload);
            packet.finalize();
            let mut bytes = vec![0; packet.buffer_len()];
            packet.serialize(&mut bytes);
            assert_eq!(bytes.len(), 16 + 8 + 12);
            assert_eq!(NetlinkMessage::deserialize(&bytes).unwrap(), packet);
            let (header, rest) = split(&message.body).unwrap();
            assert_eq!((header, rest), (&[[1, 2, 3, 4], [5, 6, 7, 8]], attributes.as_bytes()));
        }
    }

    #[test]
    fn a_body_without_its_whole_header_is_refused() {
        for length in 0..8 {
            assert!(split::<2>(&[0; 8][..length]).is_err());
        }
        assert_eq!(split::<2>(&[0; 8]).unwrap(), (&[[0; 4]; 2], &[][..]));
    }

    #[test]
    fn what_there_is_answers_the_question_for_it() {
        let pairs = [
            (libc::RTM_GETLINK, libc::RTM_NEWLINK),
            (libc::RTM_GETADDR, libc::RTM_NEWADDR),
            (libc::RTM_GETROUTE, libc::RTM_NEWROUTE),
            (libc::RTM_GETRULE, libc::RTM_NEWRULE),
        ];
        for (question, answer) in pairs {
            let question = Message::new(question, [], &Attributes::default());
            assert_eq!(question.answer(), answer);
        }
    }
}

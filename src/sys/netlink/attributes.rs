//! Netlink attributes: written one behind the other, and what their values are read as.
//!
//! Their shape alone (`nlattr` in include/uapi/linux/netlink.h): length and number, the value, padding to 4
//! bytes. What a number means stands where it is used. They are read with `NlasIterator`. Called by the
//! requests of the room above and by those to nftables.

/// Netlink attributes, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::sys) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds a value as it is.
    pub(in crate::sys) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (4 + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number in the machine's own byte order, as the routing part of the kernel has them.
    pub(in crate::sys) fn native(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a text, which ends with a zero.
    pub(in crate::sys) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that is made of others.
    pub(in crate::sys) fn nested(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | libc::NLA_F_NESTED as u16, &inner.0)
    }

    /// What is sent.
    pub(in crate::sys) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads a text. An interface may have any bytes for a name; those that are no UTF-8 are replaced.
pub(in crate::sys) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NlasIterator;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let all = NlasIterator::new(bytes).map(|attribute| attribute.unwrap());
        all.map(|attribute| (attribute.kind(), attribute.value().to_vec())).collect()
    }

    #[test]
    fn attributes_begin_at_multiples_of_four_bytes_and_are_read_as_they_were_written() {
        let inner = Attributes::default().bytes(2, &[7]);
        let all = Attributes::default().text(1, "lo").native(4, 1500).nested(3, inner.clone());
        assert_eq!(inner.as_bytes(), [&5u16.to_ne_bytes()[..], &[2, 0, 7, 0, 0, 0]].concat());
        let expected = [
            (1, b"lo\0".to_vec()),
            (4, 1500u32.to_ne_bytes().to_vec()),
            (3, inner.as_bytes().to_vec()),
        ];
        assert_eq!(read(all.as_bytes()), expected);
    }

    #[test]
    fn a_text_ends_at_its_zero_and_need_not_be_utf_8() {
        assert_eq!(text(b"hush0\0"), "hush0");
        assert_eq!(text(b"hush0"), "hush0");
        assert_eq!(text(b"h\xff\0"), "h\u{fffd}");
        assert_eq!(text(b""), "");
    }
}

//! The three kinds of keys, and their two text forms.
//!
//! Base64 is the form of files and people, lower-case hexadecimal that of the control socket. Secret
//! keys print as `(hidden)`, compare in constant time, lie in memory that is locked, and are wiped when the last
//! copy is dropped: a clone shares the bytes. Decoding does not branch on the bytes of a key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, Zeroizing};

use crate::sys::locked::{Locked, wipe_stack};

/// Length of every WireGuard key, in bytes.
pub const KEY_LEN: usize = 32;
/// Length of a key in base64, its one `=` included.
pub const KEY_BASE64_LEN: usize = 44;

/// Says why a text is no key. It never repeats the text: that may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Not 44 characters of base64 (or 64 of hexadecimal): the length found, in characters.
    Length(usize),
    /// The right length, but characters or a last digit that no key has.
    Encoding,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Length(n) => write!(f, "a key has {KEY_BASE64_LEN} characters, this has {n}"),
            KeyError::Encoding => {
                write!(f, "these {KEY_BASE64_LEN} characters are not base64 of 32 bytes")
            }
        }
    }
}

impl std::error::Error for KeyError {}

fn from_base64(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    if text.len() != KEY_BASE64_LEN {
        return Err(KeyError::Length(text.chars().count()));
    }
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    let decoded = Base64::decode(text, bytes.as_mut()).map_err(|_| KeyError::Encoding)?;
    if decoded.len() != KEY_LEN {
        return Err(KeyError::Encoding);
    }
    Ok(bytes)
}

fn from_hex(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    if text.len() != 2 * KEY_LEN {
        return Err(KeyError::Length(text.chars().count()));
    }
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    let mut bad = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return Err(KeyError::Encoding) };
        let (high, low) = (hex_digit(*high), hex_digit(*low));
        bad |= high | low;
        *byte = (high << 4) | (low & 15);
    }
    if bad > 15 { Err(KeyError::Encoding) } else { Ok(bytes) }
}

/// The value of a hexadecimal digit, or 0xff; without a branch or a table on the digit.
fn hex_digit(digit: u8) -> u8 {
    let in_range = |from: u8, to: u8| {
        let below = (u16::from(digit).wrapping_sub(u16::from(from)) >> 8) as u8;
        let above = (u16::from(to).wrapping_sub(u16::from(digit)) >> 8) as u8;
        !(below | above)
    };
    let (number, lower, upper) = (in_range(b'0', b'9'), in_range(b'a', b'f'), in_range(b'A', b'F'));
    let value = (number & digit.wrapping_sub(b'0'))
        | (lower & digit.wrapping_sub(b'a').wrapping_add(10))
        | (upper & digit.wrapping_sub(b'A').wrapping_add(10));
    value | !(number | lower | upper)
}

fn to_hex(bytes: &[u8; KEY_LEN]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(2 * KEY_LEN);
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

macro_rules! secret_key {
    ($name:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Clone)]
        pub struct $name(Arc<Locked<[u8; KEY_LEN]>>);

        impl $name {
            /// Takes 32 bytes as they are.
            pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
                let mut place = Locked::new([0; KEY_LEN]);
                place.copy_from_slice(&bytes);
                bytes.zeroize();
                Self(Arc::new(place))
            }

            /// The 32 bytes; a secret.
            pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }

            /// Reads 64 hexadecimal digits.
            ///
            /// # Errors
            /// [`KeyError`] when the text is not that.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                from_hex(text).map(|bytes| Self::from_bytes(*bytes))
            }

            /// Base64 of the key, wiped when dropped; only for key files and their printing.
            pub fn to_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(Base64::encode_string(self.as_bytes()))
            }

            /// Hexadecimal digits of the key, wiped when dropped; only for the control socket.
            pub fn to_hex(&self) -> Zeroizing<String> {
                Zeroizing::new(to_hex(self.as_bytes()))
            }
        }

        impl FromStr for $name {
            type Err = KeyError;
            fn from_str(text: &str) -> Result<Self, KeyError> {
                from_base64(text).map(|bytes| Self::from_bytes(*bytes))
            }
        }

        impl PartialEq for $name {
            /// Compares in constant time.
            fn eq(&self, other: &Self) -> bool {
                let pairs = self.0.iter().zip(other.0.iter());
                pairs.fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("(hidden)")
            }
        }
    };
}

secret_key!(PrivateKey, "A machine's own Curve25519 private key.");
secret_key!(PresharedKey, "A symmetric key that two peers share beside their key pairs.");

impl PrivateKey {
    /// Makes a private key of 32 random bytes, clamped as Curve25519 wants it and `wg genkey` does.
    pub fn from_random(mut bytes: [u8; KEY_LEN]) -> Self {
        let [first, .., last] = &mut bytes;
        *first &= 248;
        *last = (*last & 127) | 64;
        let key = Self::from_bytes(bytes);
        bytes.zeroize();
        key
    }

    /// Derives the public key.
    pub fn public_key(&self) -> PublicKey {
        let public_key = self.derive();
        // The library takes the secret by value.
        wipe_stack();
        public_key
    }

    /// A function of its own, so that what it leaves is below the caller's part of the stack.
    #[inline(never)]
    fn derive(&self) -> PublicKey {
        let secret = StaticSecret::from(*self.as_bytes());
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

/// A Curve25519 public key: the name of a machine, and no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// Takes 32 bytes as they are.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`] when the text is not that.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        from_hex(text).map(|bytes| Self(*bytes))
    }

    /// 64 hexadecimal digits, the form of the control socket.
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// Whether it has the same secret with everybody, zero, so that whoever knows our public key could pass for
    /// its owner (RFC 7748 section 6.1). It is nobody's: no private key makes it.
    pub fn is_nobodys(&self) -> bool {
        // Whichever private key: as a multiple of eight each takes these few points to zero.
        let any = StaticSecret::from([1; KEY_LEN]);
        !any.diffie_hellman(&x25519_dalek::PublicKey::from(self.0)).was_contributory()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        from_base64(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Base64::encode_string(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_key_is_that_of_rfc_7748_section_5_2() {
        // One iteration of the iterated vector: scalar 9, base point 9.
        let mut nine = [0; KEY_LEN];
        nine[0] = 9;
        assert_eq!(
            PrivateKey::from_bytes(nine).public_key().to_hex(),
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
        );
    }

    #[test]
    fn keys_that_share_the_same_secret_with_everybody_are_nobodys() {
        let of = |first: u8, rest: u8, last: u8| {
            let mut bytes = [rest; KEY_LEN];
            (bytes[0], bytes[31]) = (first, last);
            PublicKey::from_bytes(bytes).is_nobodys()
        };
        // 0, 1, -1 and 0 again, modulo 2^255 - 19.
        assert!(of(0, 0, 0) && of(1, 0, 0) && of(0xec, 0xff, 0x7f) && of(0xed, 0xff, 0x7f));
        assert!(!of(9, 0, 0));
    }

    #[test]
    fn both_text_forms_read_back_what_they_wrote() {
        let key = PrivateKey::from_random([0xa7; KEY_LEN]);
        assert_eq!(key.to_base64().parse::<PrivateKey>(), Ok(key.clone()));
        assert_eq!(PrivateKey::from_hex(&key.to_hex()), Ok(key.clone()));
        let upper = key.to_hex().to_uppercase();
        assert_eq!(PrivateKey::from_hex(&upper), Ok(key));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = PublicKey::from_bytes([1; KEY_LEN]).to_string();
        assert_eq!("".parse::<PublicKey>(), Err(KeyError::Length(0)));
        assert_eq!(good[1..].parse::<PublicKey>(), Err(KeyError::Length(43)));
        assert_eq!(good.replace('E', "!").parse::<PublicKey>(), Err(KeyError::Encoding));
        // The last character before '=' carries 4 bits: other values would be a second spelling.
        assert_eq!(good.replace("E=", "F=").parse::<PublicKey>(), Err(KeyError::Encoding));
        for bad in ["g", "G", "/", ":", "@", "`"] {
            let text = bad.to_owned() + &"0".repeat(63);
            assert_eq!(PublicKey::from_hex(&text), Err(KeyError::Encoding), "{bad}");
        }
    }

    #[test]
    fn secret_keys_do_not_print() {
        assert_eq!(format!("{:?}", PrivateKey::from_bytes([7; KEY_LEN])), "(hidden)");
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([7; KEY_LEN])), "(hidden)");
    }
}

//! The walk over netlink attributes, on borrowed bytes: nothing is copied until a decoder keeps it.

use netlink_packet_core::{NlaBuffer, NlasIterator};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use verifier_core::names::Mac;

/// Why a message could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too few bytes.
    #[error("{part} has {have} bytes where {want} are needed")]
    Short {
        /// Which part.
        part: &'static str,
        /// Bytes needed.
        want: usize,
        /// Bytes there.
        have: usize,
    },
    /// The attribute list is broken: a length that runs past the end.
    #[error("a broken attribute list")]
    Attributes,
    /// A value that cannot be.
    #[error("{part} has the impossible value {value}")]
    Value {
        /// Which part.
        part: &'static str,
        /// The value.
        value: u64,
    },
    /// Something without which the message says nothing.
    #[error("{part} is missing")]
    Missing {
        /// Which part.
        part: &'static str,
    },
}

/// Iterator over the attributes of a message: type without its flag bits, and value.
pub struct Attrs<'a>(NlasIterator<&'a [u8]>);

/// The attributes in `bytes`.
pub fn attrs(bytes: &[u8]) -> Attrs<'_> {
    Attrs(NlasIterator::new(bytes))
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let attr: NlaBuffer<&'a [u8]> = match self.0.next()? {
            Ok(attr) => attr,
            Err(_) => return Some(Err(Malformed::Attributes)),
        };
        let end = usize::from(attr.length());
        // The iterator checked that the length lies within the buffer and covers the header.
        Some(
            attr.into_inner()
                .get(4..end)
                .map(|value| (attr.kind(), value))
                .ok_or(Malformed::Attributes),
        )
    }
}

/// The first `N` bytes of `bytes`.
pub fn head<const N: usize>(part: &'static str, bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.first_chunk::<N>().copied().ok_or(Malformed::Short {
        part,
        want: N,
        have: bytes.len(),
    })
}

/// A byte.
pub fn u8_of(part: &'static str, value: &[u8]) -> Result<u8, Malformed> {
    head::<1>(part, value).map(|[b]| b)
}

/// A number in the machine's byte order.
pub fn u16_of(part: &'static str, value: &[u8]) -> Result<u16, Malformed> {
    head(part, value).map(u16::from_ne_bytes)
}

/// A number in network byte order.
pub fn be16_of(part: &'static str, value: &[u8]) -> Result<u16, Malformed> {
    head(part, value).map(u16::from_be_bytes)
}

/// A number in the machine's byte order.
pub fn u32_of(part: &'static str, value: &[u8]) -> Result<u32, Malformed> {
    head(part, value).map(u32::from_ne_bytes)
}

/// A number in the machine's byte order.
pub fn i32_of(part: &'static str, value: &[u8]) -> Result<i32, Malformed> {
    head(part, value).map(i32::from_ne_bytes)
}

/// A number in network byte order.
pub fn be32_of(part: &'static str, value: &[u8]) -> Result<u32, Malformed> {
    head(part, value).map(u32::from_be_bytes)
}

/// A number in network byte order.
pub fn be64_of(part: &'static str, value: &[u8]) -> Result<u64, Malformed> {
    head(part, value).map(u64::from_be_bytes)
}

/// An address: 4 bytes or 16, and nothing else.
pub fn ip_of(part: &'static str, value: &[u8]) -> Result<IpAddr, Malformed> {
    match value.len() {
        4 => head::<4>(part, value).map(|b| Ipv4Addr::from(b).into()),
        16 => head::<16>(part, value).map(|b| Ipv6Addr::from(b).into()),
        have => Err(Malformed::Short { part, want: 4, have }),
    }
}

/// An Ethernet address; none if the length is that of another link layer.
pub fn mac_of(value: &[u8]) -> Option<Mac> {
    value.first_chunk::<6>().filter(|_| value.len() == 6).copied().map(Mac)
}

/// A name, up to its terminating zero. Bytes that are no UTF-8 are kept as replacement characters: a name is for people.
pub fn name_of(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flags_of_the_type_are_masked_and_padding_is_skipped() {
        // A nested attribute of type 5 with one byte, three of padding, then type 6.
        let bytes = [5, 0, 5, 0x80, 0xaa, 0, 0, 0, 4, 0, 6, 0];
        let all: Vec<_> = attrs(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(all, [(5, &[0xaa][..]), (6, &[][..])]);
    }

    #[test]
    fn a_length_past_the_end_is_an_error() {
        assert_eq!(attrs(&[9, 0, 1, 0]).next(), Some(Err(Malformed::Attributes)));
        assert_eq!(attrs(&[3, 0, 1, 0]).next(), Some(Err(Malformed::Attributes)));
    }

    proptest! {
        #[test]
        fn the_walk_ends_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut seen = 0;
            for attr in attrs(&bytes) {
                seen += 1;
                prop_assert!(seen <= 64 + 1);
                if attr.is_err() { break; }
            }
        }
    }
}

//! The header that makes a packet a probe: 40 bytes, big-endian, at the start of a UDP payload or of the data of an ICMP echo.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `DPV1` |
//! | 4 | 1 | version |
//! | 5 | 1 | kind: 1 request, 2 reply |
//! | 6 | 1 | key id |
//! | 7 | 1 | reserved, zero |
//! | 8 | 8 | probe id |
//! | 16 | 4 | sequence number |
//! | 20 | 4 | incarnation of the sender |
//! | 24 | 8 | `CLOCK_REALTIME` of the sender in nanoseconds |
//! | 32 | 8 | SipHash-2-4 of bytes 0 to 31 |
//!
//! TCP probes carry no header: the low 32 bits of the probe id are a SYN's sequence number plus the bytes of padding behind it. A closed
//! port acknowledges both, so whatever the size, an answer's acknowledgement less one is the id.

use crate::bytes::be32;
use crate::checksum::sum_of;
use crate::siphash::{SipKey, siphash_2_4};

/// Size of the header.
pub const HEADER_BYTES: usize = 40;
/// `DPV1`: the first four bytes of every probe.
pub const MAGIC: u32 = 0x4450_5631;
/// The only version this build speaks.
pub const VERSION: u8 = 1;

const SIGNED_BYTES: usize = 32;

/// Which way a probe travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// From the prober to the probed.
    Request = 1,
    /// Back, and never reflected again.
    Reply = 2,
}

/// A decoded header, its tag not yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Request or reply.
    pub kind: Kind,
    /// Which of the two keys signed it.
    pub key_id: u8,
    /// Names one probe in the whole cluster.
    pub probe_id: u64,
    /// Counts the packets of one probe.
    pub sequence: u32,
    /// Changes whenever the sender starts anew.
    pub incarnation: u32,
    /// When it was sent, by the sender's clock.
    pub sent_realtime_ns: u64,
}

/// Where and why a header was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// Fewer than [`HEADER_BYTES`] bytes.
    Truncated {
        /// What there was.
        got_bytes: usize,
    },
    /// No probe at all (offset 0).
    Magic(u32),
    /// A probe of another version (offset 4).
    Version(u8),
    /// Neither request nor reply (offset 5).
    Kind(u8),
    /// The reserved byte is not zero (offset 7).
    Reserved(u8),
    /// The tag is not that of this key (offset 32): forged, damaged, or signed with another key of the same id.
    Tag,
}

impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated { got_bytes } => write!(f, "{got_bytes} bytes where a probe header has {HEADER_BYTES}"),
            Self::Magic(got) => write!(f, "magic {got:#010x} at offset 0 is not a probe's"),
            Self::Version(got) => write!(f, "version {got} at offset 4, this build speaks {VERSION}"),
            Self::Kind(got) => write!(f, "kind {got} at offset 5 is neither request nor reply"),
            Self::Reserved(got) => write!(f, "reserved byte at offset 7 is {got}, not zero"),
            Self::Tag => f.write_str("tag at offset 32 does not match"),
        }
    }
}

impl core::error::Error for WireError {}

impl Header {
    /// The header on the wire, signed.
    pub fn encode(&self, key: SipKey) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[6] = self.key_id;
        bytes[8..16].copy_from_slice(&self.probe_id.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.incarnation.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.sent_realtime_ns.to_be_bytes());
        let tag = tag(&bytes, key);
        bytes[SIGNED_BYTES..].copy_from_slice(&tag.to_be_bytes());
        bytes
    }

    /// Reads a header from the first [`HEADER_BYTES`] of a payload; padding may follow.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        match payload.first_chunk() {
            Some(bytes) => Self::decode_array(bytes),
            None => Err(WireError::Truncated { got_bytes: payload.len() }),
        }
    }

    /// Reads a header of exactly its size.
    #[inline(always)]
    pub fn decode_array(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let magic = be32(bytes, 0);
        if magic != MAGIC {
            return Err(WireError::Magic(magic));
        }
        if bytes[4] != VERSION {
            return Err(WireError::Version(bytes[4]));
        }
        let kind = match bytes[5] {
            1 => Kind::Request,
            2 => Kind::Reply,
            other => return Err(WireError::Kind(other)),
        };
        if bytes[7] != 0 {
            return Err(WireError::Reserved(bytes[7]));
        }
        Ok(Self {
            kind,
            key_id: bytes[6],
            probe_id: be64(bytes, 8),
            sequence: be32(bytes, 16),
            incarnation: be32(bytes, 20),
            sent_realtime_ns: be64(bytes, 24),
        })
    }

    /// Reads a header and checks that `key` signed it.
    pub fn decode_verified(payload: &[u8], key: SipKey) -> Result<Self, WireError> {
        let Some(bytes) = payload.first_chunk() else {
            return Err(WireError::Truncated { got_bytes: payload.len() });
        };
        let header = Self::decode_array(bytes)?;
        if tag_matches(bytes, key) { Ok(header) } else { Err(WireError::Tag) }
    }
}

/// Whether the tag in `bytes` is that of `key`.
#[inline(always)]
pub const fn tag_matches(bytes: &[u8; HEADER_BYTES], key: SipKey) -> bool {
    stored_tag(bytes) == tag(bytes, key)
}

/// The tag that stands in a header.
#[inline(always)]
pub const fn stored_tag(bytes: &[u8; HEADER_BYTES]) -> u64 {
    word(bytes, 4).swap_bytes()
}

/// The tag that belongs over the first 32 bytes.
#[inline(always)]
pub const fn tag(bytes: &[u8; HEADER_BYTES], key: SipKey) -> u64 {
    siphash_2_4(key, [word(bytes, 0), word(bytes, 1), word(bytes, 2), word(bytes, 3)])
}

/// Turns a request into its answer: only kind and tag change. Returns what must be added to a one's complement sum over the request to
/// get the sum over the answer.
#[inline(always)]
pub fn into_reply(probe: &mut [u8; HEADER_BYTES], key: SipKey) -> u32 {
    let old_tag = stored_tag(probe);
    // RFC 1624: new sum = old sum + ~old word + new word, for each word that changed. The kind is the low byte of its word.
    let old_kind = u32::from(probe[5]);
    probe[5] = Kind::Reply as u8;
    let new_tag = tag(probe, key);
    let (words, _) = probe.as_chunks_mut::<8>();
    words[4] = new_tag.to_be_bytes();
    sum_of(!old_tag) + sum_of(new_tag) + (0xffff - old_kind) + Kind::Reply as u32
}

/// The one's complement sum of a header.
#[inline(always)]
pub const fn sum(bytes: &[u8; HEADER_BYTES]) -> u32 {
    let (words, _) = bytes.as_chunks::<8>();
    let mut sum = 0;
    let mut index = 0;
    while index < words.len() {
        sum += sum_of(u64::from_be_bytes(words[index]));
        index += 1;
    }
    sum
}

/// Little-endian 64-bit word number `index`.
#[inline(always)]
const fn word(bytes: &[u8; HEADER_BYTES], index: usize) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    u64::from_le_bytes(words[index])
}

#[inline(always)]
const fn be64(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    word(bytes, at / 8).swap_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::{self, fold};

    fn any_header() -> impl Strategy<Value = Header> {
        (any::<bool>(), any::<u8>(), any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
            |(reply, key_id, probe_id, sequence, incarnation, sent_realtime_ns)| Header {
                kind: if reply { Kind::Reply } else { Kind::Request },
                key_id,
                probe_id,
                sequence,
                incarnation,
                sent_realtime_ns,
            },
        )
    }

    fn any_key() -> impl Strategy<Value = SipKey> {
        any::<[u8; 16]>().prop_map(SipKey::from_bytes)
    }

    proptest! {
        #[test]
        fn a_header_survives_the_wire(header in any_header(), key in any_key()) {
            prop_assert_eq!(Header::decode_verified(&header.encode(key), key), Ok(header));
        }

        #[test]
        fn any_flipped_bit_is_refused(header in any_header(), key in any_key(), bit in 0..HEADER_BYTES * 8) {
            let mut bytes = header.encode(key);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode_verified(&bytes, key).is_err());
        }

        #[test]
        fn every_cut_is_refused(header in any_header(), key in any_key(), keep in 0..HEADER_BYTES) {
            let bytes = header.encode(key);
            prop_assert_eq!(
                Header::decode_verified(&bytes[..keep], key),
                Err(WireError::Truncated { got_bytes: keep })
            );
        }

        #[test]
        fn a_reply_is_signed_and_its_difference_repairs_the_checksum(header in any_header(), key in any_key()) {
            let request = Header { kind: Kind::Request, ..header };
            let bytes = request.encode(key);
            let mut reply = bytes;
            let difference = into_reply(&mut reply, key);
            prop_assert_eq!(Header::decode_verified(&reply, key), Ok(Header { kind: Kind::Reply, ..request }));
            prop_assert_eq!(fold(sum(&bytes)), fold(checksum::sum(&bytes, 0)));
            prop_assert_eq!(fold(checksum::sum(&bytes, 0) + difference), fold(checksum::sum(&reply, 0)));
        }
    }

    #[test]
    fn each_stage_names_what_it_refused() {
        let key = SipKey { k0: 1, k1: 2 };
        let header = Header {
            kind: Kind::Request,
            key_id: 0,
            probe_id: 7,
            sequence: 0,
            incarnation: 0,
            sent_realtime_ns: 0,
        };
        let with = |at: usize, value: u8| {
            let mut bytes = header.encode(key);
            bytes[at] = value;
            Header::decode_verified(&bytes, key)
        };
        assert_eq!(with(0, 0), Err(WireError::Magic(MAGIC & 0x00ff_ffff)));
        assert_eq!(with(4, 9), Err(WireError::Version(9)));
        assert_eq!(with(5, 3), Err(WireError::Kind(3)));
        assert_eq!(with(7, 1), Err(WireError::Reserved(1)));
        assert_eq!(with(39, 0).err(), (header.encode(key)[39] != 0).then_some(WireError::Tag));
    }
}

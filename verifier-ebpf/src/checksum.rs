//! The Internet checksum (RFC 1071) of a packet's transport, and what state a tap finds it in.

use crate::address::Address6;

/// What a tap can say about the transport checksum of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChecksumState {
    /// Not looked at: too long for a tap, a fragment, or not readable.
    Unchecked = 0,
    /// Verified.
    Good = 1,
    /// Left to the device (`CHECKSUM_PARTIAL`): the field holds the folded sum of the pseudo header.
    Partial = 2,
    /// Neither.
    Bad = 3,
    /// UDP without a checksum.
    Absent = 4,
}

impl ChecksumState {
    /// The state of a record's byte; what is unknown was not checked.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Good,
            2 => Self::Partial,
            3 => Self::Bad,
            4 => Self::Absent,
            _ => Self::Unchecked,
        }
    }
}

/// Adds `bytes` as big-endian 16-bit words to `seed`; an odd last byte counts as the high one.
pub fn sum(bytes: &[u8], seed: u32) -> u32 {
    let mut sum = u64::from(seed);
    for pair in bytes.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([high, low]));
    }
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// Folds a one's complement sum into 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    twice as u16
}

/// The sum of the IPv4 pseudo header of a transport of `length` bytes.
#[inline(always)]
pub const fn pseudo_sum(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) -> u32 {
    let s = u16::from_be_bytes([source[0], source[1]]) as u32 + u16::from_be_bytes([source[2], source[3]]) as u32;
    let d = u16::from_be_bytes([destination[0], destination[1]]) as u32 + u16::from_be_bytes([destination[2], destination[3]]) as u32;
    s + d + protocol as u32 + length as u32
}

/// The sum of the IPv6 pseudo header (RFC 8200, 8.1) of a transport of `length` bytes; of a mapped IPv4 address it is that of IPv4, because
/// the ones in front of it are a zero of one's complement.
#[inline(always)]
pub const fn pseudo_sum6(source: Address6, destination: Address6, protocol: u8, length: u16) -> u32 {
    sum_of(source[0]) + sum_of(source[1]) + sum_of(destination[0]) + sum_of(destination[1]) + protocol as u32 + length as u32
}

/// The four 16-bit words of a value, added up.
#[inline(always)]
pub(crate) const fn sum_of(value: u64) -> u32 {
    (value & 0xffff) as u32 + ((value >> 16) & 0xffff) as u32 + ((value >> 32) & 0xffff) as u32 + (value >> 48) as u32
}

/// A checksum field after `difference` was added to the sum of what it covers (RFC 1624). UDP's zero means "none", so it becomes all ones.
#[inline(always)]
pub const fn adjusted(field: u16, difference: u32) -> u16 {
    match !fold(!field as u32 + fold(difference) as u32) {
        0 => 0xffff,
        field => field,
    }
}

/// Which kinds of transport a checksum belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Pseudo header; a field of zero means none.
    Udp,
    /// Pseudo header.
    Tcp,
    /// No pseudo header, never left to the device.
    Icmp,
    /// Of IPv6, where a field of zero is no checksum, and is refused (RFC 8200, 8.1).
    Udp6,
    /// Of IPv6: pseudo header, never left to the device.
    Icmp6,
}

/// Judges a checksum before its bytes are summed: some states need no sum.
#[inline(always)]
pub const fn without_sum(transport: Transport, pseudo: u32, field: u16) -> Option<ChecksumState> {
    match transport {
        Transport::Udp if field == 0 => Some(ChecksumState::Absent),
        Transport::Udp6 if field == 0 => Some(ChecksumState::Bad),
        Transport::Udp | Transport::Udp6 | Transport::Tcp if field == fold(pseudo) => Some(ChecksumState::Partial),
        _ => None,
    }
}

/// Judges a checksum by the sum over the whole transport, checksum field included.
#[inline(always)]
pub const fn with_sum(transport: Transport, pseudo: u32, transport_sum: u16) -> ChecksumState {
    let all = match transport {
        Transport::Udp | Transport::Udp6 | Transport::Tcp | Transport::Icmp6 => fold(fold(pseudo) as u32 + transport_sum as u32),
        Transport::Icmp => transport_sum,
    };
    if all == 0xffff { ChecksumState::Good } else { ChecksumState::Bad }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::{mapped, words_of};

    fn udp(source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let length = 8 + payload.len() as u16;
        let mut bytes = vec![0x80, 0, 0x12, 0x34];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let all = fold(sum(&bytes, pseudo_sum(source, destination, 17, length)));
        let field = if all == 0xffff { 0xffff } else { !all };
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        bytes
    }

    fn judge(source: [u8; 4], destination: [u8; 4], datagram: &[u8]) -> ChecksumState {
        let pseudo = pseudo_sum(source, destination, 17, datagram.len() as u16);
        let field = u16::from_be_bytes([datagram[6], datagram[7]]);
        without_sum(Transport::Udp, pseudo, field).unwrap_or_else(|| with_sum(Transport::Udp, pseudo, fold(sum(datagram, 0))))
    }

    proptest! {
        #[test]
        fn a_right_checksum_is_never_bad_and_a_flipped_bit_is(
            source: [u8; 4], destination: [u8; 4], payload in prop::collection::vec(any::<u8>(), 1..80), bit in 0usize..64,
        ) {
            let mut datagram = udp(source, destination, &payload);
            let judged = judge(source, destination, &datagram);
            prop_assert!(matches!(judged, ChecksumState::Good | ChecksumState::Partial), "{judged:?}");
            let at = 8 + (bit / 8) % payload.len();
            datagram[at] ^= 1 << (bit % 8);
            let damaged = judge(source, destination, &datagram);
            // A field that happens to equal the pseudo header's sum reads as partial whatever the payload.
            prop_assert!(judged == ChecksumState::Partial || damaged == ChecksumState::Bad, "{damaged:?}");
        }
    }

    #[test]
    fn the_partial_and_absent_forms_are_recognised() {
        let (s, d) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut datagram = udp(s, d, b"payload");
        let pseudo = pseudo_sum(s, d, 17, datagram.len() as u16);
        datagram[6..8].copy_from_slice(&fold(pseudo).to_be_bytes());
        assert_eq!(judge(s, d, &datagram), ChecksumState::Partial);
        datagram[6..8].fill(0);
        assert_eq!(judge(s, d, &datagram), ChecksumState::Absent);
        assert_eq!(without_sum(Transport::Udp6, pseudo, 0), Some(ChecksumState::Bad));
        assert_eq!(without_sum(Transport::Udp6, pseudo, fold(pseudo)), Some(ChecksumState::Partial));
        assert_eq!(without_sum(Transport::Icmp6, pseudo, fold(pseudo)), None);
    }

    proptest! {
        #[test]
        fn the_pseudo_header_of_a_mapped_address_is_that_of_ipv4(source: [u8; 4], destination: [u8; 4], length: u16) {
            let six = pseudo_sum6(words_of(mapped(source)), words_of(mapped(destination)), 17, length);
            prop_assert_eq!(fold(six), fold(pseudo_sum(source, destination, 17, length)));
        }

        #[test]
        fn the_pseudo_header_of_ipv6_is_the_sum_of_its_bytes(source: [u8; 16], destination: [u8; 16], length: u16) {
            // As RFC 8200 draws it: addresses, length of 32 bits, three zeros, next header.
            let mut drawn = [&source[..], &destination[..]].concat();
            drawn.extend(u32::from(length).to_be_bytes());
            drawn.extend([0, 0, 0, 58]);
            let six = pseudo_sum6(words_of(source), words_of(destination), 58, length);
            prop_assert_eq!(fold(six), fold(sum(&drawn, 0)));
        }
    }
}

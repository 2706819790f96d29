//! SipHash-2-4 over whole 64-bit words, small enough for a kernel program.
//!
//! Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012). A probe's header is four words, so there is no tail to
//! handle and no loop that depends on data. The tests compare it with an independent implementation.

/// A 128-bit key as the two words that SipHash uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SipKey {
    /// Bytes 0 to 7, little-endian.
    pub k0: u64,
    /// Bytes 8 to 15, little-endian.
    pub k1: u64,
}

impl SipKey {
    /// The key of sixteen bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let all = u128::from_le_bytes(bytes);
        Self {
            k0: all as u64,
            k1: (all >> 64) as u64,
        }
    }
}

#[inline(always)]
const fn round(mut v: [u64; 4]) -> [u64; 4] {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
    v
}

#[inline(always)]
const fn absorb(v: [u64; 4], word: u64) -> [u64; 4] {
    let mut v = [v[0], v[1], v[2], v[3] ^ word];
    v = round(round(v));
    [v[0] ^ word, v[1], v[2], v[3]]
}

/// The tag of four little-endian words (32 bytes).
#[inline(always)]
pub const fn siphash_2_4(key: SipKey, words: [u64; 4]) -> u64 {
    let mut v = [
        key.k0 ^ 0x736f_6d65_7073_6575,
        key.k1 ^ 0x646f_7261_6e64_6f6d,
        key.k0 ^ 0x6c79_6765_6e65_7261,
        key.k1 ^ 0x7465_6462_7974_6573,
    ];
    v = absorb(v, words[0]);
    v = absorb(v, words[1]);
    v = absorb(v, words[2]);
    v = absorb(v, words[3]);
    // The last block holds the length in its top byte and, for whole words, nothing else.
    v = absorb(v, 32 << 56);
    v[2] ^= 0xff;
    v = round(round(round(round(v))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_an_independent_implementation(key: [u8; 16], words: [u64; 4]) {
            let mut hasher = siphasher::sip::SipHasher24::new_with_key(&key);
            for word in words {
                hasher.write(&word.to_le_bytes());
            }
            prop_assert_eq!(siphash_2_4(SipKey::from_bytes(key), words), hasher.finish());
        }
    }
}

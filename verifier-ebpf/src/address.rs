//! Addresses as the programs hold them: 32 bits of IPv4, two words of IPv6, sixteen bytes in a record.

/// An IPv6 address, or an IPv4 address mapped into one (RFC 4291, 2.5.5.2): bytes 0 to 7 and 8 to 15 as big-endian words, in host order.
pub type Address6 = [u64; 2];

/// An IPv4 address as sixteen bytes (RFC 4291, 2.5.5.2).
#[inline(always)]
pub const fn mapped(a: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
}

/// The same of an address in host order, as words.
#[inline(always)]
pub const fn mapped_words(address: u32) -> Address6 {
    [0, 0xffff_0000_0000 | address as u64]
}

/// The sixteen bytes of two words.
#[inline(always)]
pub const fn bytes_of(address: Address6) -> [u8; 16] {
    let (h, l) = (address[0].to_be_bytes(), address[1].to_be_bytes());
    [
        h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7],
    ]
}

/// The words of sixteen bytes.
pub const fn words_of(bytes: [u8; 16]) -> Address6 {
    let all = u128::from_be_bytes(bytes);
    [(all >> 64) as u64, all as u64]
}

/// The mask of an IPv4 prefix length of at most 32.
#[inline(always)]
pub const fn mask(prefix: u8) -> u32 {
    // One shift by 64 - prefix of a 64-bit value: no special case for zero.
    !((u32::MAX as u64) >> (prefix as u64 & 63)) as u32
}

/// The mask of an IPv6 prefix length of at most 128. Only user space makes masks of IPv6: the programs are given them.
pub const fn mask6(prefix: u8) -> Address6 {
    let all = match u128::MAX.checked_shr(prefix as u32) {
        Some(host_bits) => !host_bits,
        None => u128::MAX,
    };
    [(all >> 64) as u64, all as u64]
}

/// Whether `mask` takes from `address` the network `network`.
#[inline(always)]
pub const fn within(address: Address6, network: Address6, mask: Address6) -> bool {
    address[0] & mask[0] == network[0] && address[1] & mask[1] == network[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_as_many_ones_as_the_prefix_says() {
        for prefix in 0..=32 {
            assert_eq!(mask(prefix).leading_ones(), u32::from(prefix));
            assert_eq!(mask(prefix).count_ones(), u32::from(prefix));
        }
        for prefix in 0..=128 {
            let [high, low] = mask6(prefix);
            let all = u128::from(high) << 64 | u128::from(low);
            assert_eq!((all.leading_ones(), all.count_ones()), (u32::from(prefix), u32::from(prefix)));
        }
    }

    #[test]
    fn words_and_bytes_convert_both_ways() {
        let bytes = [0xfd, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        assert_eq!(words_of(bytes), [0xfd01_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f]);
        assert_eq!(bytes_of(words_of(bytes)), bytes);
        assert_eq!(bytes_of(mapped_words(0x0a01_0203)), mapped([10, 1, 2, 3]));
        assert!(within(words_of(bytes), [0xfd01_0203_0000_0000, 0], mask6(32)));
        assert!(!within(words_of(bytes), [0xfd01_0204_0000_0000, 0], mask6(32)));
    }
}

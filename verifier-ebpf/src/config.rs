//! What user space tells the programs: values of maps, and the frozen layout of the running kernel's structures.

use crate::address::{Address6, within};
use crate::plain;

plain! {
    /// Value of the map `CONFIG` (one entry). Everything a tap compares a packet with.
    pub struct Config {
        /// Destination port of UDP probes, source port of their replies.
        pub probe_port: u16,
        /// Destination port of the tunnel.
        pub vxlan_port: u16,
        /// First of the source ports reserved for TCP probes.
        pub tcp_port_first: u16,
        /// Last of them.
        pub tcp_port_last: u16,
        /// VXLAN network identifier intended on this fabric.
        pub vni: u32,
        /// [`Config::JUDGE`] and [`Config::MIXED`].
        pub flags: u32,
        /// Replies per second and CPU that the reflector gives at most.
        pub reflect_per_second: u32,
        /// Conformance samples per second and CPU.
        pub sample_per_second: u32,
        /// A request older than this is stale.
        pub max_age_ns: u64,
        /// A request from further in the future is refused: clocks differ, or somebody prepares a replay.
        pub max_ahead_ns: u64,
        /// Address ranges of pods of IPv4, as `address & mask`; unused entries have a mask of zero and an address of all ones.
        pub pool_address: [u32; POOLS],
        /// Their masks.
        pub pool_mask: [u32; POOLS],
        /// Address ranges of pods of IPv6, in the same way.
        pub pool6_address: [Address6; POOLS],
        /// Their masks.
        pub pool6_mask: [Address6; POOLS],
        /// Masks of [`Config::block6_prefix`].
        pub block6_mask: [Address6; PREFIXES],
        /// Prefix lengths of IPv4 blocks in use, longest first; zero ends the list.
        pub block_prefix: [u8; PREFIXES],
        /// The same of IPv6.
        pub block6_prefix: [u8; PREFIXES],
    }
}

/// Address ranges of one family that a tap compares bare packets with.
pub const POOLS: usize = 4;
/// Different block sizes of one family that a tap looks up.
pub const PREFIXES: usize = 4;

impl Config {
    /// Intent is settled: judge packets. Without it they are counted as unjudged.
    pub const JUDGE: u32 = 1;

    /// Pools of one family travel in different ways: what arrives is judged by the pool of its destination ([`crate::conformance::Owner::arriving`]).
    pub const MIXED: u32 = 2;

    /// A configuration under which nothing is ours.
    pub const NOTHING: Self = Self {
        probe_port: 0,
        vxlan_port: 0,
        tcp_port_first: 1,
        tcp_port_last: 0,
        vni: 0,
        flags: 0,
        reflect_per_second: 0,
        sample_per_second: 0,
        max_age_ns: 0,
        max_ahead_ns: 0,
        pool_address: [u32::MAX; POOLS],
        pool_mask: [0; POOLS],
        pool6_address: [[u64::MAX; 2]; POOLS],
        pool6_mask: [[0; 2]; POOLS],
        block6_mask: [[0; 2]; PREFIXES],
        block_prefix: [0; PREFIXES],
        block6_prefix: [0; PREFIXES],
    };

    /// Whether `port` is reserved for TCP probes.
    #[inline(always)]
    pub const fn is_tcp_probe_port(&self, port: u16) -> bool {
        port >= self.tcp_port_first && port <= self.tcp_port_last
    }

    /// Whether pods may have this address of IPv4.
    #[inline(always)]
    pub const fn in_pool(&self, address: u32) -> bool {
        (address & self.pool_mask[0] == self.pool_address[0])
            || (address & self.pool_mask[1] == self.pool_address[1])
            || (address & self.pool_mask[2] == self.pool_address[2])
            || (address & self.pool_mask[3] == self.pool_address[3])
    }

    /// Place of the pool of an address of IPv4; [`POOLS`] if it is in none.
    #[inline(always)]
    pub const fn pool_of(&self, address: u32) -> u32 {
        let mut place = 0;
        while place < POOLS {
            if address & self.pool_mask[place] == self.pool_address[place] {
                break;
            }
            place += 1;
        }
        place as u32
    }

    /// Place of the pool of an address of IPv6; [`POOLS`] if it is in none.
    #[inline(always)]
    pub const fn pool6_of(&self, address: Address6) -> u32 {
        let mut place = 0;
        while place < POOLS {
            if within(address, self.pool6_address[place], self.pool6_mask[place]) {
                break;
            }
            place += 1;
        }
        place as u32
    }

    /// Whether pods may have this address of IPv6.
    #[inline(always)]
    pub const fn in_pool6(&self, address: Address6) -> bool {
        within(address, self.pool6_address[0], self.pool6_mask[0])
            || within(address, self.pool6_address[1], self.pool6_mask[1])
            || within(address, self.pool6_address[2], self.pool6_mask[2])
            || within(address, self.pool6_address[3], self.pool6_mask[3])
    }
}

plain! {
    /// Value of the map `CLOCK` (one entry): a kernel program has no `CLOCK_REALTIME`.
    pub struct Clock {
        /// `CLOCK_REALTIME - CLOCK_MONOTONIC`, refreshed by user space; zero while unknown.
        pub realtime_minus_monotonic_ns: u64,
    }
}

plain! {
    /// Value of the map `KEYS` (two entries): two keys are valid at once, so that one can follow the other without a gap.
    pub struct KeySlot {
        /// Bytes 0 to 7 of the key, little-endian.
        pub k0: u64,
        /// Bytes 8 to 15.
        pub k1: u64,
        /// The key's id.
        pub id: u8,
        /// 1 when there is a key here.
        pub valid: u8,
        /// Zero.
        pub reserved: [u8; 6],
    }
}

impl KeySlot {
    /// Whether a key of this id stands here.
    #[inline(always)]
    pub const fn is(&self, id: u8) -> bool {
        self.valid == 1 && self.id == id
    }
}

plain! {
    /// Value of the map `RATES` (per CPU): how much of a second's allowance is used.
    pub struct Rate {
        /// The second it counts, of the monotonic clock.
        pub second: u64,
        /// Used so far.
        pub used: u64,
    }
}

impl Rate {
    /// Takes one of `per_second` at time `now_ns`; false when the allowance is used up.
    #[inline(always)]
    pub const fn take(&mut self, now_ns: u64, per_second: u32) -> bool {
        // 2^30 ns: close enough to a second, and no division for every packet.
        let second = now_ns >> 30;
        if self.second != second {
            self.second = second;
            self.used = 0;
        }
        if self.used >= per_second as u64 {
            return false;
        }
        self.used += 1;
        true
    }
}

plain! {
    /// Offsets into the running kernel's structures, in bytes, resolved from its BTF when the programs are loaded and then frozen.
    /// [`Layout::ABSENT`] marks a field that this kernel does not have.
    pub struct Layout {
        /// `sk_buff.dev`
        pub skb_dev: u32,
        /// `sk_buff.sk`
        pub skb_sk: u32,
        /// `sk_buff.head`
        pub skb_head: u32,
        /// `sk_buff.data`
        pub skb_data: u32,
        /// `sk_buff.tail`, an offset from `head` on 64-bit kernels
        pub skb_tail: u32,
        /// `sk_buff.network_header`
        pub skb_network_header: u32,
        /// `sk_buff.protocol`
        pub skb_protocol: u32,
        /// `sk_buff.skb_iif`
        pub skb_iif: u32,
        /// `sk_buff._skb_refdst`
        pub skb_refdst: u32,
        /// `sk_buff.mark`
        pub skb_mark: u32,
        /// `net_device.nd_net`
        pub dev_net: u32,
        /// `net_device.ifindex`
        pub dev_ifindex: u32,
        /// `sock.__sk_common.skc_net`
        pub sock_net: u32,
        /// `net.ns.inum`
        pub net_inum: u32,
        /// Tracepoint `skb:kfree_skb`: the field `skbaddr`
        pub tracepoint_skb: u32,
        /// Its field `location`
        pub tracepoint_location: u32,
        /// Its field `reason`
        pub tracepoint_reason: u32,
    }
}

impl Layout {
    /// No such field.
    pub const ABSENT: u32 = u32::MAX;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_in_a_pool_by_default() {
        for address in [0, 1, 0x0a00_0001, u32::MAX - 1] {
            assert!(!Config::NOTHING.in_pool(address));
            assert!(!Config::NOTHING.in_pool6([u64::from(address), 0]));
        }
        assert!(!Config::NOTHING.is_tcp_probe_port(0));
        assert!(!Config::NOTHING.is_tcp_probe_port(1));
    }

    #[test]
    fn an_allowance_lasts_for_its_second() {
        let mut rate = Rate { second: 0, used: 0 };
        let second = 1 << 30;
        assert!(rate.take(second, 2) && rate.take(second + 5, 2));
        assert!(!rate.take(second + 9, 2));
        assert!(rate.take(2 * second, 2));
        assert!(!rate.take(2 * second, 0));
    }
}

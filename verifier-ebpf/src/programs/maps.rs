//! The maps, and what user space freezes into the object before it is loaded. Sizes here are defaults; the loader sets them.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use verifier_ebpf::address::{Address6, mask};
use verifier_ebpf::config::{Clock, Config, KeySlot, Layout, Rate};
use verifier_ebpf::conformance::{self, Owner, Owner6, Owner6Key, OwnerKey};
use verifier_ebpf::parse::STOPS as STOP_SLOTS;
use verifier_ebpf::reflect::REFUSALS as REFUSAL_KINDS;
use verifier_ebpf::{config, record, replay};

use super::packet::Scratch;

/// Peers that are counted apart; the loader sets the real number.
const PEERS: u32 = 64;

/// What a tap compares packets with.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Offset of the wall clock.
#[map]
pub static CLOCK: Array<Clock> = Array::with_max_entries(1, 0);
/// The two keys that are valid at once.
#[map]
pub static KEYS: Array<KeySlot> = Array::with_max_entries(2, 0);
/// Intent: who has which addresses of IPv4. Not preallocated, so that a lookup never sees an entry being reused.
#[map]
pub static OWNERS: HashMap<OwnerKey, Owner> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// The same of IPv6.
#[map]
pub static OWNERS6: HashMap<Owner6Key, Owner6> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Packets by peer, direction and kind.
#[map]
pub static CONFORMANCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(conformance::slots(PEERS), 0);
/// Requests that were not answered, by peer and reason.
#[map]
pub static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(PEERS * REFUSAL_KINDS, 0);
/// Requests that were answered, by peer.
#[map]
pub static REFLECTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(PEERS, 0);
/// Records that did not fit into the ring, by kind.
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(record::KINDS, 0);
/// Packets that looked like ours and could not be read, by layer and reason.
#[map]
pub static STOPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(STOP_SLOTS, 0);
/// Drops of probes in namespaces that nobody asked about.
#[map]
pub static UNATTRIBUTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Tags answered of late: a second use is a replay.
#[map]
pub static ANSWERED: Array<[u64; replay::WAYS]> = Array::with_max_entries(replay::SETS, 0);
/// Allowances: [`RATE_REFLECT`], [`RATE_SAMPLE`], [`RATE_ARP`].
#[map]
pub static RATES: PerCpuArray<Rate> = PerCpuArray::with_max_entries(3, 0);
/// Network namespaces (inode numbers) whose drops are recorded.
#[map]
pub static NAMESPACES: HashMap<u32, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);
/// Records on their way to user space.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Room for a packet's first bytes, of the taps.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// The same for drops, which may happen in the middle of a tap's work.
#[map]
pub static DROP_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Place in [`RATES`] of the reflector's answers.
pub const RATE_REFLECT: u32 = 0;
/// Place in [`RATES`] of conformance samples.
pub const RATE_SAMPLE: u32 = 1;
/// Place in [`RATES`] of dropped ARP packets, and of neighbour discovery.
pub const RATE_ARP: u32 = 2;

/// Offsets into the kernel's structures, frozen when the object is loaded.
#[unsafe(no_mangle)]
static LAYOUT: Layout = Layout {
    skb_dev: Layout::ABSENT,
    skb_sk: Layout::ABSENT,
    skb_head: Layout::ABSENT,
    skb_data: Layout::ABSENT,
    skb_tail: Layout::ABSENT,
    skb_network_header: Layout::ABSENT,
    skb_protocol: Layout::ABSENT,
    skb_iif: Layout::ABSENT,
    skb_refdst: Layout::ABSENT,
    skb_mark: Layout::ABSENT,
    dev_net: Layout::ABSENT,
    dev_ifindex: Layout::ABSENT,
    sock_net: Layout::ABSENT,
    net_inum: Layout::ABSENT,
    tracepoint_skb: Layout::ABSENT,
    tracepoint_location: Layout::ABSENT,
    tracepoint_reason: Layout::ABSENT,
};

/// 1 only while measuring: the reflector then swaps a request without making it a reply, and sees no replay, so that one packet can be
/// sent through it many times.
#[unsafe(no_mangle)]
static MEASURING: u8 = 0;

/// The frozen layout; its fields are read by [`field`] only.
#[inline(always)]
pub fn layout() -> &'static Layout {
    &LAYOUT
}

/// Reads one field of the frozen layout.
#[inline(always)]
pub fn field(field: &'static u32) -> usize {
    // SAFETY: a reference is a valid, aligned pointer. Volatile, because the loader replaces what the compiler sees.
    (unsafe { core::ptr::read_volatile(field) }) as usize
}

/// Whether the reflector is being measured.
#[inline(always)]
pub fn measuring() -> bool {
    // SAFETY: as in `field`.
    (unsafe { core::ptr::read_volatile(&raw const MEASURING) }) == 1
}

/// The configuration, or `None` before user space has set one (an array always has its entries: never).
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Adds one to a per-CPU counter.
#[inline(always)]
pub fn count(map: &PerCpuArray<u64>, slot: u32) {
    if let Some(counter) = map.get_ptr_mut(slot) {
        // SAFETY: a valid pointer to this CPU's value, which only programs on this CPU write.
        unsafe { *counter += 1 };
    }
}

/// Takes one of an allowance of `per_second`.
#[inline(always)]
pub fn allowed(rate: u32, now_ns: u64, per_second: u32) -> bool {
    match RATES.get_ptr_mut(rate) {
        // SAFETY: as in `count`.
        Some(rate) => unsafe { (*rate).take(now_ns, per_second) },
        None => false,
    }
}

/// The owner of an IPv4 address by intent: a block, or an exception within one.
#[inline(always)]
pub fn owner(config: &Config, address: u32) -> Option<&'static Owner> {
    let mut i = 0;
    while i < config::PREFIXES {
        let prefix = config.block_prefix[i];
        if prefix == 0 {
            break;
        }
        let key = OwnerKey {
            address: address & mask(prefix),
            prefix: u32::from(prefix),
        };
        // SAFETY: the map is not preallocated, so an entry stays what it is while a program holds it.
        if let Some(owner) = unsafe { OWNERS.get(key) } {
            if owner.flags & Owner::EXCEPTIONS == 0 {
                return Some(owner);
            }
            return Some(exact(address).unwrap_or(owner));
        }
        i += 1;
    }
    exact(address)
}

#[inline(always)]
fn exact(address: u32) -> Option<&'static Owner> {
    // SAFETY: as in `owner`.
    unsafe { OWNERS.get(OwnerKey { address, prefix: 32 }) }
}

/// The owner of an IPv6 address by intent.
#[inline(always)]
pub fn owner6(config: &Config, address: Address6) -> Option<&'static Owner6> {
    let mut i = 0;
    while i < config::PREFIXES {
        let prefix = config.block6_prefix[i];
        if prefix == 0 {
            break;
        }
        let mask = config.block6_mask[i];
        let key = Owner6Key {
            address: [address[0] & mask[0], address[1] & mask[1]],
            prefix: u32::from(prefix),
            reserved: 0,
        };
        // SAFETY: as in `owner`.
        if let Some(owner) = unsafe { OWNERS6.get(key) } {
            if owner.flags & Owner::EXCEPTIONS == 0 {
                return Some(owner);
            }
            return Some(exact6(address).unwrap_or(owner));
        }
        i += 1;
    }
    exact6(address)
}

#[inline(always)]
fn exact6(address: Address6) -> Option<&'static Owner6> {
    let key = Owner6Key {
        address,
        prefix: 128,
        reserved: 0,
    };
    // SAFETY: as in `owner`.
    unsafe { OWNERS6.get(key) }
}

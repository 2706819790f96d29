//! Drops: what the kernel frees as dropped, recorded when it is a probe (or looks for a neighbour) of a namespace that user space asked about.
//!
//! The tracepoint is global to the machine. Kernel structures are read through the frozen layout (`maps::layout`), resolved from the
//! running kernel's BTF by user space: no offset is compiled in.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use verifier_ebpf::config::Layout;
use verifier_ebpf::parse::{Start, WINDOW_BYTES, describe, neighbour};
use verifier_ebpf::plain::Field as _;
use verifier_ebpf::record::{Class, DropRecord, PacketRecord};

use super::maps::{DROP_SCRATCH, LOST, NAMESPACES, RATE_ARP, RING, UNATTRIBUTED, allowed, config, count, field, layout};
use super::packet::{Scratch, Window, bounded};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_ARP: u16 = 0x0806;
/// Drops of ARP and of neighbour discovery recorded per second and CPU.
const ARP_PER_SECOND: u32 = 32;

/// `tp_btf/kfree_skb(skb, location, reason)`.
#[btf_tracepoint(function = "kfree_skb")]
pub fn dpv_drop_btf(ctx: BtfTracePointContext) -> i32 {
    let skb: *const c_void = ctx.arg(0);
    let location: *const c_void = ctx.arg(1);
    let reason: u32 = ctx.arg(2);
    dropped(skb as usize, location as u64, reason);
    0
}

/// The same event where BTF tracepoints are missing, read by the offsets of its format.
#[tracepoint(category = "skb", name = "kfree_skb")]
pub fn dpv_drop_tp(ctx: TracePointContext) -> i32 {
    let layout = layout();
    let base = ctx.as_ptr() as usize;
    let (Some(skb), Some(location)) = (
        read::<u64>(base, field(&layout.tracepoint_skb)),
        read::<u64>(base, field(&layout.tracepoint_location)),
    ) else {
        return 0;
    };
    let reason_at = field(&layout.tracepoint_reason);
    let reason = if reason_at == Layout::ABSENT as usize {
        None
    } else {
        read::<u32>(base, reason_at)
    };
    dropped(skb as usize, location, reason.unwrap_or(DropRecord::NO_REASON));
    0
}

#[inline(always)]
fn read<T: Copy + Default>(base: usize, offset: usize) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper reads any address or fails, and writes a value of exactly this size.
    let failed = unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            (base.wrapping_add(offset)) as *const c_void,
        )
    };
    (failed == 0).then_some(value)
}

#[inline(always)]
fn dropped(skb: usize, location: u64, reason: u32) {
    let layout = layout();
    let Some(protocol) = read::<u16>(skb, field(&layout.skb_protocol)) else {
        return;
    };
    let protocol = u16::from_be(protocol);
    if protocol != ETH_P_IP && protocol != ETH_P_ARP && protocol != ETH_P_IPV6 {
        return;
    }
    let Some((netns, ifindex, by_socket)) = namespace(skb) else {
        return;
    };
    // SAFETY: the map is not preallocated, and the value is not read.
    let asked_for = unsafe { NAMESPACES.get(netns) }.is_some();
    if protocol == ETH_P_ARP && !asked_for {
        return;
    }
    let Some(config) = config() else { return };
    let Some(scratch) = DROP_SCRATCH.get_ptr_mut(0) else { return };
    let Some(window) = copy(skb, scratch) else { return };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let discovery = protocol == ETH_P_IPV6 && neighbour(&window, None);
    if discovery && !asked_for {
        return;
    }
    if (discovery || protocol == ETH_P_ARP) && !allowed(RATE_ARP, now_ns, ARP_PER_SECOND) {
        return;
    }
    let Some(mut entry) = RING.reserve::<DropRecord>(0) else {
        count(&LOST, DropRecord::KIND);
        return;
    };
    let drop = entry.as_mut_ptr();
    // SAFETY: reserved memory of the record's size; every field is set before it is submitted.
    let packet = unsafe { &mut (*drop).packet };
    let ours = if protocol == ETH_P_ARP {
        arp(&window, packet)
    } else if discovery {
        neighbour(&window, Some(packet))
    } else {
        describe(&window, Start::Ip, config, packet).is_ok()
    };
    if !ours || !asked_for {
        entry.discard(0);
        if ours {
            count(&UNATTRIBUTED, 0);
        }
        return;
    }
    // SAFETY: as above.
    unsafe {
        (*drop).kind = DropRecord::KIND;
        (*drop).ifindex = ifindex;
        (*drop).time_ns = now_ns;
        (*drop).location = location;
        (*drop).reason = reason;
        (*drop).netns = netns;
        (*drop).iif = read::<u32>(skb, field(&layout.skb_iif)).unwrap_or(0);
        (*drop).cpu = bpf_get_smp_processor_id();
        (*drop).mark = read::<u32>(skb, field(&layout.skb_mark)).unwrap_or(0);
        (*drop).protocol = protocol;
        // The lowest bit says only who holds the reference (include/linux/skbuff.h, SKB_DST_NOREF).
        (*drop).has_dst = u8::from(read::<u64>(skb, field(&layout.skb_refdst)).unwrap_or(0) & !1 != 0);
        (*drop).by_socket = by_socket;
        (*drop).reserved = [0; 4];
    }
    entry.submit(0);
}

/// In which namespace, by the device, else by the socket; with the device's index.
#[inline(always)]
fn namespace(skb: usize) -> Option<(u32, u32, u8)> {
    let layout = layout();
    let dev = read::<u64>(skb, field(&layout.skb_dev))? as usize;
    if dev != 0 {
        let ifindex = read::<u32>(dev, field(&layout.dev_ifindex))?;
        let net = read::<u64>(dev, field(&layout.dev_net))? as usize;
        return Some((read::<u32>(net, field(&layout.net_inum))?, ifindex, 0));
    }
    let sk = read::<u64>(skb, field(&layout.skb_sk))? as usize;
    if sk == 0 {
        return None;
    }
    let net = read::<u64>(sk, field(&layout.sock_net))? as usize;
    Some((read::<u32>(net, field(&layout.net_inum))?, 0, 1))
}

/// Copies the packet from its network header on, as far as it is linear.
#[inline(always)]
fn copy(skb: usize, scratch: *mut Scratch) -> Option<Window> {
    let layout = layout();
    let head = read::<u64>(skb, field(&layout.skb_head))? as usize;
    let network = read::<u16>(skb, field(&layout.skb_network_header))?;
    let tail = read::<u32>(skb, field(&layout.skb_tail))?;
    // All ones while nobody has set it (include/linux/skbuff.h, skb_mac_header_was_set and its kin).
    if network == u16::MAX || tail <= u32::from(network) {
        return None;
    }
    let length = bounded(((tail - u32::from(network)) as usize).min(WINDOW_BYTES), WINDOW_BYTES)?;
    // SAFETY: the helper reads any address or fails, and writes at most the window's size into this CPU's map value.
    unsafe {
        let window = &raw mut (*scratch).window;
        let from = head.wrapping_add(usize::from(network)) as *const c_void;
        if bpf_probe_read_kernel(window.cast(), length as u32, from) != 0 {
            return None;
        }
        Some(Window::filled(scratch, length))
    }
}

/// Sender and target of an ARP packet for IPv4 over Ethernet (RFC 826).
#[inline(always)]
fn arp(window: &Window, packet: &mut PacketRecord) -> bool {
    use verifier_ebpf::bytes::{Bytes as _, View as _};
    *packet = PacketRecord::ZERO;
    let Some(arp) = window.view::<28>(0) else { return false };
    if arp.be16(2) != ETH_P_IP || arp.be16(4) != 0x0604 {
        return false;
    }
    packet.class = Class::Arp as u8;
    packet.source_mac = arp.copy(8);
    packet.source = verifier_ebpf::address::mapped(arp.copy(14));
    packet.destination_mac = arp.copy(18);
    packet.destination = verifier_ebpf::address::mapped(arp.copy(24));
    true
}

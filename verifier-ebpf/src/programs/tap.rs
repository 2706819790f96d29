//! The taps: see every packet of an interface, record probes, leave everything as it is.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use verifier_ebpf::bytes::Bytes;
use verifier_ebpf::config::Config;
use verifier_ebpf::parse::{Start, Triage, describe, triage, triage_six};
use verifier_ebpf::record::{Direction, HopRecord, Tap};

use super::conform;
use super::maps::{LOST, RING, SCRATCH, STOPS, config, count};
use super::packet::{Linear, Window, checksum};

/// Every tap ends with this: the next program decides (`TCX_NEXT` has the same number).
const CONTINUE: i32 = TC_ACT_UNSPEC;

// Each is inlined into the function that the attribute makes of it: the compiler would leave a large one out, at the price of a call for
// every packet.

/// What the measurement compares the others with.
#[classifier]
#[inline(always)]
pub fn dpv_empty(_ctx: TcContext) -> i32 {
    CONTINUE
}

/// From a pod into the node.
#[classifier]
#[inline(always)]
pub fn dpv_wl_ingress(ctx: TcContext) -> i32 {
    tap(&ctx, Tap::Workload, Direction::Ingress)
}

/// From the node to a pod.
#[classifier]
#[inline(always)]
pub fn dpv_wl_egress(ctx: TcContext) -> i32 {
    tap(&ctx, Tap::Workload, Direction::Egress)
}

/// Out of the tunnel.
#[classifier]
#[inline(always)]
pub fn dpv_tun_ingress(ctx: TcContext) -> i32 {
    tap(&ctx, Tap::Tunnel, Direction::Ingress)
}

/// Into the tunnel.
#[classifier]
#[inline(always)]
pub fn dpv_tun_egress(ctx: TcContext) -> i32 {
    tap(&ctx, Tap::Tunnel, Direction::Egress)
}

/// From the network.
#[classifier]
#[inline(always)]
pub fn dpv_ul_ingress(ctx: TcContext) -> i32 {
    tap(&ctx, Tap::Underlay, Direction::Ingress)
}

/// To the network.
#[classifier]
#[inline(always)]
pub fn dpv_ul_egress(ctx: TcContext) -> i32 {
    tap(&ctx, Tap::Underlay, Direction::Egress)
}

/// Out of a tunnel whose device has no link-layer header (IPIP).
#[classifier]
#[inline(always)]
pub fn dpv_tun3_ingress(ctx: TcContext) -> i32 {
    tap_bare(&ctx, Tap::Tunnel, Direction::Ingress)
}

/// Into such a tunnel.
#[classifier]
#[inline(always)]
pub fn dpv_tun3_egress(ctx: TcContext) -> i32 {
    tap_bare(&ctx, Tap::Tunnel, Direction::Egress)
}

/// From a network whose device has no link-layer header (a point-to-point link).
#[classifier]
#[inline(always)]
pub fn dpv_ul3_ingress(ctx: TcContext) -> i32 {
    tap_bare(&ctx, Tap::Underlay, Direction::Ingress)
}

/// To such a network.
#[classifier]
#[inline(always)]
pub fn dpv_ul3_egress(ctx: TcContext) -> i32 {
    tap_bare(&ctx, Tap::Underlay, Direction::Egress)
}

#[inline(always)]
fn tap(ctx: &TcContext, tap: Tap, direction: Direction) -> i32 {
    if let Some(config) = config() {
        look(ctx, Start::Ethernet, tap, direction, config);
    }
    CONTINUE
}

#[inline(always)]
fn tap_bare(ctx: &TcContext, tap: Tap, direction: Direction) -> i32 {
    if let Some(config) = config() {
        look(ctx, Start::Ip, tap, direction, config);
    }
    CONTINUE
}

#[inline(always)]
fn look(ctx: &TcContext, start: Start, tap: Tap, direction: Direction, config: &Config) {
    let mut seen = triage(&Linear::of(ctx), start, tap, direction, config);
    if let Triage::Short(_) = seen {
        // Headers beyond the linear part (a driver that puts them into fragments) are read from a copy; a packet that ends there is not ours.
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
        let Some(window) = Window::copy_of(ctx, scratch) else { return };
        seen = triage(&window, start, tap, direction, config);
    }
    let candidate = match seen {
        Triage::NotOurs | Triage::Short(_) => false,
        Triage::Candidate => true,
        Triage::Six => look_six(ctx, start, tap, direction, config),
        Triage::Encapsulated(packet) => {
            conform::tunnelled(ctx, direction, config, &packet);
            packet.candidate
        }
        Triage::Bare {
            source,
            destination,
            candidate,
        } => {
            conform::bare(ctx, direction, config, source, destination);
            candidate
        }
    };
    if candidate {
        record(ctx, start, tap, direction, config);
    }
}

/// The same where IPv6 is in the packet; tells whether it may be a probe.
#[inline(always)]
fn look_six(ctx: &TcContext, start: Start, tap: Tap, direction: Direction, config: &Config) -> bool {
    match look_six_in_place(ctx, start, tap, direction, config) {
        Six::Other => false,
        Six::Candidate => true,
        Six::Short => matches!(look_six_at_copy(ctx, start, tap, direction, config), Six::Candidate),
    }
}

/// What a look at IPv6 gave, once the packet was judged.
#[repr(u32)]
enum Six {
    Other = 0,
    Candidate = 1,
    Short = 2,
}

// Functions of their own also in the object: the programs stay small and straight for IPv4, and each has a stack frame of its own.

#[inline(never)]
fn look_six_in_place(ctx: &TcContext, start: Start, tap: Tap, direction: Direction, config: &Config) -> Six {
    judge_six(&Linear::of(ctx), ctx, start, tap, direction, config)
}

#[inline(never)]
fn look_six_at_copy(ctx: &TcContext, start: Start, tap: Tap, direction: Direction, config: &Config) -> Six {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return Six::Other };
    let Some(window) = Window::copy_of(ctx, scratch) else {
        return Six::Other;
    };
    judge_six(&window, ctx, start, tap, direction, config)
}

#[inline(always)]
fn judge_six<B: Bytes>(bytes: &B, ctx: &TcContext, start: Start, tap: Tap, direction: Direction, config: &Config) -> Six {
    let candidate = match triage_six(bytes, start, tap, direction, config) {
        Triage::NotOurs | Triage::Six => false,
        Triage::Candidate => true,
        Triage::Encapsulated(packet) => {
            conform::tunnelled_six(ctx, direction, config, &packet);
            packet.candidate
        }
        Triage::Bare {
            source,
            destination,
            candidate,
        } => {
            conform::bare_six(ctx, direction, config, source, destination);
            candidate
        }
        Triage::Short(_) => return Six::Short,
    };
    if candidate { Six::Candidate } else { Six::Other }
}

/// Takes a possible probe apart, in the ring's own memory; what turns out not to be one is given back.
#[inline(always)]
fn record(ctx: &TcContext, start: Start, tap: Tap, direction: Direction, config: &Config) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    let Some(window) = Window::copy_of(ctx, scratch) else { return };
    let Some(mut entry) = RING.reserve::<HopRecord>(0) else {
        count(&LOST, HopRecord::KIND);
        return;
    };
    let hop = entry.as_mut_ptr();
    // SAFETY: `hop` points to reserved memory of the record's size. `describe` sets the whole packet, the rest is set below, and the
    // record is submitted only then.
    let found = describe(&window, start, config, unsafe { &mut (*hop).packet });
    let found = match found {
        Ok(found) => found,
        Err(stop) => {
            entry.discard(0);
            if stop.is_loss() {
                count(&STOPS, stop.slot());
            }
            return;
        }
    };
    let skb: *const __sk_buff = ctx.skb.skb;
    // SAFETY: fields of a valid context, and of reserved memory.
    unsafe {
        (*hop).packet.checksum = checksum(ctx, scratch, &found) as u8;
        (*hop).kind = HopRecord::KIND;
        (*hop).ifindex = (*skb).ifindex;
        (*hop).time_ns = bpf_ktime_get_ns();
        (*hop).cpu = bpf_get_smp_processor_id();
        (*hop).mark = (*skb).mark;
        (*hop).frame_bytes = (*skb).len;
        (*hop).gso_size = (*skb).gso_size;
        (*hop).gso_segs = (*skb).gso_segs;
        (*hop).ingress_ifindex = (*skb).ingress_ifindex;
        (*hop).direction = direction as u8;
        (*hop).tap = tap as u8;
        (*hop).reserved = [0; 2];
    }
    entry.submit(0);
}

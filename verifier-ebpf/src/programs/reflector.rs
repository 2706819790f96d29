//! The reflector: at a workload's door it answers a UDP request in the pod's stead.
//!
//! A program of its own, after the tap and after whatever others put on the interface, so that their drops are still seen. It writes
//! with helpers only: a program that writes packet data directly makes the kernel copy the header of every shared packet first.

// This target's `AtomicU64` has no compare-and-swap, though its instruction set does.
use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_l4_csum_replace, bpf_redirect, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use verifier_ebpf::checksum::{ChecksumState, adjusted, fold, with_sum, without_sum};
use verifier_ebpf::config::Config;
use verifier_ebpf::parse::Found;
use verifier_ebpf::reflect::{
    Addressed, Frame, Frame4, Frame6, Head, Outcome, Refusal, answer, authenticate, is_addressed_to_probe_port,
    is_addressed_to_probe_port_six, request, slot,
};
use verifier_ebpf::replay::{self, Seen};
use verifier_ebpf::wire::stored_tag;

use super::maps::{ANSWERED, CLOCK, KEYS, RATE_REFLECT, REFLECTED, REFUSALS, SCRATCH, allowed, config, count, measuring, owner, owner6};
use super::packet::{Linear, checksum};

/// Answers UDP requests at a workload's door.
#[classifier]
#[inline(always)]
pub fn dpv_reflector(ctx: TcContext) -> i32 {
    match reflect(&ctx) {
        Outcome::NotOurs => TC_ACT_UNSPEC,
        Outcome::Refused(_) => TC_ACT_UNSPEC,
        Outcome::Reflected => {
            let skb: *mut __sk_buff = ctx.skb.skb;
            // SAFETY: fields of a valid context.
            let ifindex = unsafe {
                // The mark that led the request here would lead the reply astray.
                (*skb).mark = 0;
                (*skb).ifindex
            };
            // SAFETY: a helper that only notes where to go; its result is the program's.
            unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
        }
    }
}

#[inline(always)]
fn reflect(ctx: &TcContext) -> Outcome {
    let Some(config) = config() else { return Outcome::NotOurs };
    match is_addressed_to_probe_port(&Linear::of(ctx), config) {
        Addressed::No => Outcome::NotOurs,
        Addressed::Six => reflect_six(ctx, config),
        addressed @ (Addressed::Yes | Addressed::Unknown) => reflect_four(ctx, config, addressed),
    }
}

// Functions of their own also in the object, so that each has a stack frame of its own.

/// A frame of IPv4; whether it is addressed to us, a copy decides where it is not linear.
#[inline(never)]
fn reflect_four(ctx: &TcContext, config: &Config, addressed: Addressed) -> Outcome {
    let mut frame = Frame4::ZERO;
    if !load(ctx, &mut frame) {
        return too_short(addressed);
    }
    if addressed == Addressed::Unknown && !frame.is_addressed_to_probe_port(config) {
        return Outcome::NotOurs;
    }
    match decide(ctx, config, &mut frame) {
        Ok(()) => reflected(owner(config, frame.destination()).map_or(0, |owner| owner.peer)),
        Err(why) => refused(owner(config, frame.source()).map_or(0, |owner| owner.peer), why),
    }
}

/// The same for IPv6.
#[inline(never)]
fn reflect_six(ctx: &TcContext, config: &Config) -> Outcome {
    let addressed = is_addressed_to_probe_port_six(&Linear::of(ctx), config);
    if addressed == Addressed::No {
        return Outcome::NotOurs;
    }
    let mut frame = Frame6::ZERO;
    if !load(ctx, &mut frame) {
        return too_short(addressed);
    }
    if addressed == Addressed::Unknown && !frame.is_addressed_to_probe_port(config) {
        return Outcome::NotOurs;
    }
    match decide(ctx, config, &mut frame) {
        Ok(()) => reflected(owner6(config, frame.destination()).map_or(0, |owner| owner.peer)),
        Err(why) => refused(owner6(config, frame.source()).map_or(0, |owner| owner.peer), why),
    }
}

/// Reads a frame's first bytes; false if there are not so many.
#[inline(always)]
fn load<const P: usize, const H: usize>(ctx: &TcContext, frame: &mut Frame<P, H>) -> bool {
    // SAFETY: the helper writes as many bytes as a frame has, from the frame's start on, which is the rest of the structure, or fails.
    unsafe {
        let start = (&raw mut *frame).cast::<u8>().add(Frame::<P, H>::OFFSET);
        bpf_skb_load_bytes(ctx.as_ptr(), 0, start.cast(), Frame::<P, H>::BYTES as u32) == 0
    }
}

/// A frame too short for a probe: refused if it is addressed like one.
#[inline(always)]
fn too_short(addressed: Addressed) -> Outcome {
    match addressed {
        Addressed::Yes => refused(0, Some(Refusal::Truncated)),
        Addressed::No | Addressed::Six | Addressed::Unknown => Outcome::NotOurs,
    }
}

#[inline(always)]
fn reflected(peer: u32) -> Outcome {
    count(&REFLECTED, peer);
    Outcome::Reflected
}

#[inline(always)]
fn refused(peer: u32, why: Option<Refusal>) -> Outcome {
    match why {
        None => Outcome::NotOurs,
        Some(refusal) => {
            count(&REFUSALS, slot(peer, refusal));
            Outcome::Refused(refusal)
        }
    }
}

#[inline(always)]
fn decide<const P: usize, const H: usize>(ctx: &TcContext, config: &Config, frame: &mut Frame<P, H>) -> Result<(), Option<Refusal>>
where
    Frame<P, H>: Head,
{
    let request = request(frame)?;
    let (Some(first), Some(second)) = (KEYS.get(0), KEYS.get(1)) else {
        return Err(Some(Refusal::UnknownKey));
    };
    // SAFETY: a helper without arguments. The coarse clock is late by a tick at most, and ages here are seconds.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    let realtime_ns = match CLOCK.get(0) {
        Some(clock) if clock.realtime_minus_monotonic_ns != 0 => Some(now_ns.wrapping_add(clock.realtime_minus_monotonic_ns)),
        _ => None,
    };
    let key = authenticate(&request, &frame.probe, [first, second], realtime_ns, config)?;
    let state = udp_checksum(ctx, frame, request.udp_length);
    if state == ChecksumState::Bad {
        return Err(Some(Refusal::BadChecksum));
    }
    if !allowed(RATE_REFLECT, now_ns, config.reflect_per_second) {
        return Err(Some(Refusal::RateLimited));
    }
    take_once(stored_tag(&frame.probe), now_ns, config)?;
    let asked = frame.probe;
    let mut difference = answer(frame, key);
    if measuring() {
        // The same work, and a request again for the next run.
        frame.probe = asked;
        difference = 0;
    }
    // A checksum that was verified is replaced here; any other by the helper, which knows what the packet alone does not say: whether the
    // device is to fill it in.
    let verified = state == ChecksumState::Good;
    if verified {
        frame.set_checksum(adjusted(frame.checksum(), difference));
    }
    // SAFETY: helpers on a valid context with memory of the given size. The first one makes the packet writable or fails with nothing
    // changed; after it the others cannot fail.
    unsafe {
        let start = (&raw const *frame).cast::<u8>().add(Frame::<P, H>::OFFSET);
        if bpf_skb_store_bytes(ctx.skb.skb, 0, start.cast(), Frame::<P, H>::BYTES as u32, 0) != 0 {
            return Err(Some(Refusal::NotWritable));
        }
        // With a size of zero the helper adds a difference. It leaves a checksum alone that the device is to fill in, and a missing one.
        let difference = u64::from(fold(difference).swap_bytes());
        if !verified && bpf_l4_csum_replace(ctx.skb.skb, Frame::<P, H>::UDP_CHECKSUM_AT as u32, 0, difference, MANGLED_ZERO) != 0 {
            return Err(Some(Refusal::NotWritable));
        }
    }
    Ok(())
}

/// `BPF_F_MARK_MANGLED_0`: UDP's zero means "none", and is not to be touched or produced.
const MANGLED_ZERO: u64 = 1 << 5;

/// Notes a tag, or refuses it.
#[inline(always)]
fn take_once(tag: u64, now_ns: u64, config: &Config) -> Result<(), Refusal> {
    let Some(set) = ANSWERED.get_ptr(replay::set_of(tag)) else {
        return Err(Refusal::NotWritable);
    };
    // SAFETY: a valid map value; each place is read whole and written by compare-and-swap only.
    let seen = replay::look_up(unsafe { core::ptr::read_volatile(set) }, tag, now_ns, config);
    match seen {
        Seen::Before if measuring() => Ok(()),
        Seen::Before => Err(Refusal::Replayed),
        Seen::Full => Err(Refusal::RateLimited),
        Seen::New { place, old, new } => {
            // SAFETY: `place` is one of the set's, as the mask tells the kernel's verifier; all CPUs write it by this instruction alone.
            let (_, written) = unsafe {
                let place = set.cast_mut().cast::<u64>().add(place & (replay::WAYS - 1));
                atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(place, old, new)
            };
            if written {
                Ok(())
            } else {
                // Another CPU was faster, in all likelihood with the same request.
                Err(Refusal::Replayed)
            }
        }
    }
}

/// The state of a request's checksum. The smallest request, which is the usual one, is summed where it lies.
#[inline(always)]
fn udp_checksum<const P: usize, const H: usize>(ctx: &TcContext, frame: &Frame<P, H>, udp_length: u16) -> ChecksumState
where
    Frame<P, H>: Head,
{
    let transport = <Frame<P, H> as Head>::TRANSPORT;
    let pseudo = frame.pseudo_sum(udp_length);
    if usize::from(udp_length) == Frame::<P, H>::BYTES - Frame::<P, H>::UDP_START {
        return match without_sum(transport, pseudo, frame.checksum()) {
            Some(state) => state,
            None => with_sum(transport, pseudo, frame.udp_sum()),
        };
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return ChecksumState::Unchecked;
    };
    let found = Found {
        transport_at: Frame::<P, H>::UDP_START,
        transport_length: udp_length,
        pseudo,
        field: frame.checksum(),
        transport,
        fragmented: false,
    };
    checksum(ctx, scratch, &found)
}

//! Conformance on the underlay: every tunnel packet is judged against intent, and counted.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use verifier_ebpf::address::{Address6, mapped_words};
use verifier_ebpf::config::Config;
use verifier_ebpf::conformance::{Carrier, Claim, Conformance, End, Owner, decisive, judge_bare, judge_tunnelled, slot};
use verifier_ebpf::parse::{Crossing, Encapsulated};
use verifier_ebpf::record::{ConformanceSample, Direction};

use super::maps::{CONFORMANCE, LOST, RATE_SAMPLE, RING, allowed, count, owner, owner6};

/// What a sample holds of a packet, once it was judged.
struct Judged {
    outer_source: Address6,
    outer_destination: Address6,
    source: Address6,
    destination: Address6,
    vni: u32,
    peer: u32,
    conformance: Conformance,
}

/// Judges a packet of IPv4 in a tunnel of IPv4.
#[inline(always)]
pub fn tunnelled(ctx: &TcContext, direction: Direction, config: &Config, seen: &Encapsulated) {
    if is_foreign(config, seen.carrier, seen.port) {
        return;
    }
    let owner = owner(config, decisive(direction, seen.source, seen.destination));
    let other_end = decisive(direction, seen.outer_source, seen.outer_destination);
    let claim = owner.map(|owner| {
        let claim = owner.against(other_end);
        claim.with(meant(config, direction, claim.flags, seen.destination))
    });
    let conformance = judge_tunnelled(config, direction, seen.carrier, seen.vni, claim);
    let peer = owner.map_or(0, |owner| owner.peer);
    count(&CONFORMANCE, slot(peer, direction, conformance));
    if conformance.deviates() {
        let judged = Judged {
            outer_source: mapped_words(seen.outer_source),
            outer_destination: mapped_words(seen.outer_destination),
            source: mapped_words(seen.source),
            destination: mapped_words(seen.destination),
            vni: seen.vni,
            peer,
            conformance,
        };
        sample(ctx, direction, config, &judged);
    }
}

/// Judges a packet with IPv6 within, without, or both.
#[inline(always)]
pub fn tunnelled_six(ctx: &TcContext, direction: Direction, config: &Config, seen: &Encapsulated<Address6>) {
    if is_foreign(config, seen.carrier, seen.port) {
        return;
    }
    let inner = decisive(direction, seen.source, seen.destination);
    let other_end = decisive(direction, seen.outer_source, seen.outer_destination);
    let crossed = |flags| Claim {
        flags,
        end: End::OtherFamily,
    };
    let (claim, peer) = match seen.crossing {
        Crossing::FourInSix => {
            // Mapped: the address is the low half of the second word.
            let owner = owner(config, inner[1] as u32);
            (owner.map(|owner| crossed(owner.flags)), owner.map_or(0, |owner| owner.peer))
        }
        crossing => {
            let owner = owner6(config, inner);
            let claim = owner.map(|owner| match crossing {
                Crossing::None => owner
                    .against(other_end)
                    .with(meant_six(config, direction, owner.flags, seen.destination)),
                _ => crossed(owner.flags),
            });
            (claim, owner.map_or(0, |owner| owner.peer))
        }
    };
    let conformance = judge_tunnelled(config, direction, seen.carrier, seen.vni, claim);
    count(&CONFORMANCE, slot(peer, direction, conformance));
    if conformance.deviates() {
        let judged = Judged {
            outer_source: seen.outer_source,
            outer_destination: seen.outer_destination,
            source: seen.source,
            destination: seen.destination,
            vni: seen.vni,
            peer,
            conformance,
        };
        sample(ctx, direction, config, &judged);
    }
}

/// Judges a packet of IPv4 outside the tunnel that has a pod's address.
#[inline(always)]
pub fn bare(ctx: &TcContext, direction: Direction, config: &Config, source: u32, destination: u32) {
    let owner = owner(config, decisive(direction, source, destination));
    let flags = owner.map(|owner| meant(config, direction, owner.flags, destination));
    let Some(conformance) = judge_bare(config, flags) else {
        return;
    };
    let peer = owner.map_or(0, |owner| owner.peer);
    count(&CONFORMANCE, slot(peer, direction, conformance));
    if conformance.deviates() {
        let judged = Judged {
            outer_source: mapped_words(0),
            outer_destination: mapped_words(0),
            source: mapped_words(source),
            destination: mapped_words(destination),
            vni: 0,
            peer,
            conformance,
        };
        sample(ctx, direction, config, &judged);
    }
}

/// The same of IPv6.
#[inline(always)]
pub fn bare_six(ctx: &TcContext, direction: Direction, config: &Config, source: Address6, destination: Address6) {
    let owner = owner6(config, decisive(direction, source, destination));
    let flags = owner.map(|owner| meant_six(config, direction, owner.flags, destination));
    let Some(conformance) = judge_bare(config, flags) else {
        return;
    };
    let peer = owner.map_or(0, |owner| owner.peer);
    count(&CONFORMANCE, slot(peer, direction, conformance));
    if conformance.deviates() {
        let judged = Judged {
            outer_source: [0; 2],
            outer_destination: [0; 2],
            source,
            destination,
            vni: 0,
            peer,
            conformance,
        };
        sample(ctx, direction, config, &judged);
    }
}

/// An owner's flags for this packet: what arrives travels as the pool of its destination has it, which may not be that of its source.
#[inline(always)]
fn meant(config: &Config, direction: Direction, flags: u32, destination: u32) -> u32 {
    if config.flags & Config::MIXED == 0 || matches!(direction, Direction::Egress) {
        return flags;
    }
    Owner::as_arriving(flags, config.pool_of(destination))
}

/// The same of IPv6.
#[inline(always)]
fn meant_six(config: &Config, direction: Direction, flags: u32, destination: Address6) -> u32 {
    if config.flags & Config::MIXED == 0 || matches!(direction, Direction::Egress) {
        return flags;
    }
    Owner::as_arriving(flags, config.pool6_of(destination))
}

/// Somebody else's tunnel, or a misconfigured one of ours: the probes in it are recorded, its traffic is not judged.
#[inline(always)]
const fn is_foreign(config: &Config, carrier: Carrier, port: u16) -> bool {
    matches!(carrier, Carrier::Vxlan) && port != config.vxlan_port
}

#[inline(always)]
fn sample(ctx: &TcContext, direction: Direction, config: &Config, judged: &Judged) {
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if !allowed(RATE_SAMPLE, now_ns, config.sample_per_second) {
        return;
    }
    let Some(mut entry) = RING.reserve::<ConformanceSample>(0) else {
        count(&LOST, ConformanceSample::KIND);
        return;
    };
    let skb: *const __sk_buff = ctx.skb.skb;
    let sample = entry.as_mut_ptr();
    // SAFETY: a field of a valid context; reserved memory of the record's size, of which every field is set.
    unsafe {
        (*sample).kind = ConformanceSample::KIND;
        (*sample).ifindex = (*skb).ifindex;
        (*sample).time_ns = now_ns;
        (*sample).outer_source = judged.outer_source;
        (*sample).outer_destination = judged.outer_destination;
        (*sample).source = judged.source;
        (*sample).destination = judged.destination;
        (*sample).vni = judged.vni;
        (*sample).peer = judged.peer;
        (*sample).conformance = judged.conformance as u8;
        (*sample).direction = direction as u8;
        (*sample).reserved = [0; 6];
    }
    entry.submit(0);
}

//! Conformance on the underlay: every tunnel packet is judged against intent, and counted.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use verifier_ebpf::config::Config;
use verifier_ebpf::conformance::{Carrier, Conformance, Tunnelled, decisive, judge_bare, judge_tunnelled, slot};
use verifier_ebpf::parse::Encapsulated;
use verifier_ebpf::record::{ConformanceSample, Direction};

use super::maps::{CONFORMANCE, LOST, RATE_SAMPLE, RING, allowed, count, owner};

/// Judges a packet in the tunnel.
#[inline(always)]
pub fn tunnelled(ctx: &TcContext, direction: Direction, config: &Config, seen: &Encapsulated) {
    if matches!(seen.carrier, Carrier::Vxlan) && seen.port != config.vxlan_port {
        // Somebody else's tunnel, or a misconfigured one of ours: the probes in it are recorded, its traffic is not judged.
        return;
    }
    let packet = Tunnelled {
        carrier: seen.carrier,
        outer_source: seen.outer_source,
        outer_destination: seen.outer_destination,
        vni: seen.vni,
        source: seen.source,
        destination: seen.destination,
    };
    let owner = owner(config, decisive(direction, packet.source, packet.destination));
    let judged = judge_tunnelled(config, direction, &packet, owner);
    let peer = owner.map_or(0, |owner| owner.peer);
    count(&CONFORMANCE, slot(peer, direction, judged));
    if judged.deviates() {
        sample(ctx, direction, config, &packet, peer, judged);
    }
}

/// Judges a packet outside the tunnel that has a pod's address.
#[inline(always)]
pub fn bare(ctx: &TcContext, direction: Direction, config: &Config, source: u32, destination: u32) {
    let owner = owner(config, decisive(direction, source, destination));
    let Some(judged) = judge_bare(config, owner) else { return };
    let peer = owner.map_or(0, |owner| owner.peer);
    count(&CONFORMANCE, slot(peer, direction, judged));
    if judged.deviates() {
        let packet = Tunnelled {
            // Not looked at: a sample names what was deviated from, not the carrier.
            carrier: Carrier::Vxlan,
            outer_source: 0,
            outer_destination: 0,
            vni: 0,
            source,
            destination,
        };
        sample(ctx, direction, config, &packet, peer, judged);
    }
}

#[inline(always)]
fn sample(ctx: &TcContext, direction: Direction, config: &Config, packet: &Tunnelled, peer: u32, judged: Conformance) {
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
    entry.write(ConformanceSample {
        kind: ConformanceSample::KIND,
        // SAFETY: a field of a valid context.
        ifindex: unsafe { (*skb).ifindex },
        time_ns: now_ns,
        outer_source: packet.outer_source,
        outer_destination: packet.outer_destination,
        source: packet.source,
        destination: packet.destination,
        vni: packet.vni,
        peer,
        conformance: judged as u8,
        direction: direction as u8,
        reserved: [0; 6],
    });
    entry.submit(0);
}

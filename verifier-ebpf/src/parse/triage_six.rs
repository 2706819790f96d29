//! The first look at a packet with IPv6 in it, apart from that at IPv4: nobody's IPv4 pays for it.

use super::header::{Family, Ipv6, PROTOCOL_UDP, ipv4, ipv6};
use super::triage::candidate;
use super::{
    Crossing, ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Encapsulated, Layer, Start, Stop, Triage, UDP_BYTES, VXLAN_BYTES,
    VXLAN_FLAGS, Why, triage,
};
use crate::address::{Address6, mapped_words};
use crate::bytes::{Bytes, View};
use crate::config::Config;
use crate::conformance::{Carrier, decisive};
use crate::record::{Direction, Tap};

/// The whole first look at a packet of either family, as the programs take it in two steps: what is IPv4 alone comes back mapped.
pub fn first_look<B: Bytes + ?Sized>(bytes: &B, start: Start, tap: Tap, direction: Direction, config: &Config) -> Triage<Address6> {
    match triage(bytes, start, tap, direction, config) {
        Triage::Six => triage_six(bytes, start, tap, direction, config),
        Triage::NotOurs => Triage::NotOurs,
        Triage::Candidate => Triage::Candidate,
        Triage::Short(layer) => Triage::Short(layer),
        Triage::Bare {
            source,
            destination,
            candidate,
        } => Triage::Bare {
            source: mapped_words(source),
            destination: mapped_words(destination),
            candidate,
        },
        Triage::Encapsulated(four) => Triage::Encapsulated(Encapsulated {
            outer_source: mapped_words(four.outer_source),
            outer_destination: mapped_words(four.outer_destination),
            carrier: four.carrier,
            crossing: four.crossing,
            port: four.port,
            vni: four.vni,
            source: mapped_words(four.source),
            destination: mapped_words(four.destination),
            candidate: four.candidate,
        }),
    }
}

/// Looks at a packet of which [`triage()`] said [`Triage::Six`]: IPv6 in front, or IPv6 in a tunnel of IPv4.
#[inline(always)]
pub fn triage_six<B: Bytes + ?Sized>(bytes: &B, start: Start, tap: Tap, direction: Direction, config: &Config) -> Triage<Address6> {
    let at = match start {
        Start::Ethernet => {
            let Some(ethernet) = bytes.view::<ETHERNET_BYTES>(0) else {
                return Triage::Short(Layer::Ethernet);
            };
            if ethernet.be16(12) == ETHERTYPE_IPV4 {
                return in_four(bytes, ETHERNET_BYTES, config);
            }
            ETHERNET_BYTES
        }
        Start::Ip => {
            // Four bytes, not one: the kernel's verifier takes no range from a comparison for a single byte.
            let Some(first) = bytes.view::<4>(0) else {
                return Triage::Short(Layer::Ip);
            };
            if first.byte(0) >> 4 == 4 {
                return in_four(bytes, 0, config);
            }
            0
        }
    };
    let ip = match ipv6(bytes, at, Layer::Ip) {
        Ok(ip) => ip,
        Err(stop) => return gave_up(stop),
    };
    match tap {
        Tap::Workload | Tap::Tunnel => match candidate_six(bytes, &ip, config) {
            Some(true) => Triage::Candidate,
            Some(false) => Triage::NotOurs,
            None => Triage::Short(Layer::Transport),
        },
        Tap::Underlay => underlay(bytes, &ip, direction, config),
    }
}

/// On the underlay alone, behind a VXLAN header that [`triage()`] has seen.
#[inline(always)]
fn in_four<B: Bytes + ?Sized>(bytes: &B, at: usize, config: &Config) -> Triage<Address6> {
    let outer = match ipv4(bytes, at, Layer::Ip) {
        Ok(outer) => outer,
        Err(stop) => return gave_up(stop),
    };
    tunnelled(
        bytes,
        &Outer {
            source: mapped_words(u32::from_be_bytes(outer.source)),
            destination: mapped_words(u32::from_be_bytes(outer.destination)),
            family: Family::Four,
            payload_at: outer.payload_at,
        },
        config,
    )
}

#[inline(always)]
fn underlay<B: Bytes + ?Sized>(bytes: &B, ip: &Ipv6, direction: Direction, config: &Config) -> Triage<Address6> {
    if ip.protocol == PROTOCOL_UDP {
        let Some(udp) = bytes.view::<{ UDP_BYTES + VXLAN_BYTES }>(ip.payload_at) else {
            // A datagram too short for a tunnel header cannot be a probe either.
            return if usize::from(ip.payload_length) < UDP_BYTES + VXLAN_BYTES {
                Triage::NotOurs
            } else {
                Triage::Short(Layer::Tunnel)
            };
        };
        // As for IPv4: the header decides, not the port.
        if udp.be32(8) == VXLAN_FLAGS && udp.be16(2) != config.probe_port && udp.be16(0) != config.probe_port {
            let outer = Outer {
                source: ip.source,
                destination: ip.destination,
                family: Family::Six,
                payload_at: ip.payload_at,
            };
            return tunnelled(bytes, &outer, config);
        }
    }
    let Some(candidate) = candidate_six(bytes, ip, config) else {
        return Triage::Short(Layer::Transport);
    };
    if config.in_pool6(decisive(direction, ip.source, ip.destination)) {
        Triage::Bare {
            source: ip.source,
            destination: ip.destination,
            candidate,
        }
    } else if candidate {
        Triage::Candidate
    } else {
        Triage::NotOurs
    }
}

/// What stands around a VXLAN header.
struct Outer {
    source: Address6,
    destination: Address6,
    family: Family,
    payload_at: usize,
}

#[inline(always)]
fn tunnelled<B: Bytes + ?Sized>(bytes: &B, outer: &Outer, config: &Config) -> Triage<Address6> {
    let Some(head) = bytes.view::<{ UDP_BYTES + VXLAN_BYTES + ETHERNET_BYTES }>(outer.payload_at) else {
        return Triage::Short(Layer::InnerEthernet);
    };
    let at = outer.payload_at + UDP_BYTES + VXLAN_BYTES + ETHERNET_BYTES;
    let (source, destination, crossing, candidate) = match (outer.family, head.be16(UDP_BYTES + VXLAN_BYTES + 12)) {
        (family, ETHERTYPE_IPV6) => {
            let inner = match ipv6(bytes, at, Layer::InnerIp) {
                Ok(inner) => inner,
                Err(stop) => return gave_up(stop),
            };
            let crossing = match family {
                Family::Four => Crossing::SixInFour,
                Family::Six => Crossing::None,
            };
            (inner.source, inner.destination, crossing, candidate_six(bytes, &inner, config))
        }
        (Family::Six, ETHERTYPE_IPV4) => {
            let inner = match ipv4(bytes, at, Layer::InnerIp) {
                Ok(inner) => inner,
                Err(stop) => return gave_up(stop),
            };
            (
                mapped_words(u32::from_be_bytes(inner.source)),
                mapped_words(u32::from_be_bytes(inner.destination)),
                Crossing::FourInSix,
                candidate(bytes, Family::Four, inner.protocol, inner.payload_at, inner.payload_length, config),
            )
        }
        _ => return Triage::NotOurs,
    };
    let Some(candidate) = candidate else {
        return Triage::Short(Layer::Transport);
    };
    Triage::Encapsulated(Encapsulated {
        outer_source: outer.source,
        outer_destination: outer.destination,
        carrier: Carrier::Vxlan,
        crossing,
        port: head.be16(2),
        vni: head.be32(12) >> 8,
        source,
        destination,
        candidate,
    })
}

#[inline(always)]
fn candidate_six<B: Bytes + ?Sized>(bytes: &B, ip: &Ipv6, config: &Config) -> Option<bool> {
    candidate(bytes, Family::Six, ip.protocol, ip.payload_at, ip.payload_length, config)
}

#[inline(always)]
const fn gave_up(stop: Stop) -> Triage<Address6> {
    match stop.why {
        Why::Truncated => Triage::Short(stop.layer),
        _ => Triage::NotOurs,
    }
}

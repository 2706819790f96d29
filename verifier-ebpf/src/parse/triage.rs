//! The first look at a packet: nearly always it ends after a few reads with "not ours".

use super::header::{Family, Ipv4, PROTOCOL_IPIP, PROTOCOL_TCP, PROTOCOL_UDP, ipv4};
use super::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Layer, Start, Stop, UDP_BYTES, VXLAN_BYTES, VXLAN_FLAGS, Why};
use crate::bytes::{Bytes, View};
use crate::config::Config;
use crate::conformance::{Carrier, decisive};
use crate::record::{Direction, Tap};
use crate::wire::MAGIC;

/// Whether the two headers of an encapsulated packet are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// They are.
    None,
    /// IPv4 inside IPv6.
    FourInSix,
    /// IPv6 inside IPv4.
    SixInFour,
}

/// An encapsulated packet on the underlay, addresses of type `A`: an IPv4 address in host order, or an
/// [`Address6`](crate::address::Address6), IPv4 mapped into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulated<A = u32> {
    /// Outer source.
    pub outer_source: A,
    /// Outer destination.
    pub outer_destination: A,
    /// What it is encapsulated in.
    pub carrier: Carrier,
    /// Of which families the two are.
    pub crossing: Crossing,
    /// Outer UDP destination port, of VXLAN; else zero.
    pub port: u16,
    /// Network identifier, of VXLAN; else zero.
    pub vni: u32,
    /// Inner source.
    pub source: A,
    /// Inner destination.
    pub destination: A,
    /// Whether the inner packet may be a probe.
    pub candidate: bool,
}

/// What the first look gave; addresses of type `A` as in [`Encapsulated`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Triage<A = u32> {
    /// Nothing to do with us.
    NotOurs,
    /// May be a probe: to be described.
    Candidate,
    /// In the tunnel, on the underlay.
    Encapsulated(Encapsulated<A>),
    /// Not in the tunnel, on the underlay, to (or when coming in, from) an address that may be a pod's.
    Bare {
        /// Source.
        source: A,
        /// Destination.
        destination: A,
        /// Whether it may be a probe.
        candidate: bool,
    },
    /// Cannot be told from the bytes at hand: look again at a longer copy, or give up if there is none.
    Short(Layer),
    /// IPv6 is in it: [`triage_six`](super::triage_six()) tells.
    Six,
}

impl<A> Triage<A> {
    /// Whether the packet may be a probe, and is to be described.
    #[inline(always)]
    pub const fn candidate(&self) -> bool {
        match self {
            Self::NotOurs | Self::Short(_) | Self::Six => false,
            Self::Candidate => true,
            Self::Encapsulated(packet) => packet.candidate,
            Self::Bare { candidate, .. } => *candidate,
        }
    }
}

/// Looks at a frame, or at a packet without a frame around it.
#[inline(always)]
pub fn triage<B: Bytes + ?Sized>(bytes: &B, start: Start, tap: Tap, direction: Direction, config: &Config) -> Triage {
    let ip_at = match start {
        Start::Ethernet => {
            let Some(ethernet) = bytes.view::<ETHERNET_BYTES>(0) else {
                return Triage::Short(Layer::Ethernet);
            };
            match ethernet.be16(12) {
                ETHERTYPE_IPV4 => ETHERNET_BYTES,
                ETHERTYPE_IPV6 => return Triage::Six,
                _ => return Triage::NotOurs,
            }
        }
        Start::Ip => 0,
    };
    let ip = match ipv4(bytes, ip_at, Layer::Ip) {
        Ok(ip) => ip,
        Err(Stop { why: Why::Truncated, .. }) => return Triage::Short(Layer::Ip),
        // The other family, where no frame says so.
        Err(Stop { why: Why::Unsupported, .. }) if matches!(start, Start::Ip) => return Triage::Six,
        Err(_) => return Triage::NotOurs,
    };
    match tap {
        Tap::Workload | Tap::Tunnel => match candidate_four(bytes, &ip, config) {
            Some(true) => Triage::Candidate,
            Some(false) => Triage::NotOurs,
            None => Triage::Short(Layer::Transport),
        },
        Tap::Underlay => underlay(bytes, &ip, direction, config),
    }
}

#[inline(always)]
fn underlay<B: Bytes + ?Sized>(bytes: &B, ip: &Ipv4, direction: Direction, config: &Config) -> Triage {
    if ip.protocol == PROTOCOL_IPIP {
        return ipip(bytes, ip, config);
    }
    if ip.protocol == PROTOCOL_UDP {
        let Some(udp) = bytes.view::<{ UDP_BYTES + VXLAN_BYTES }>(ip.payload_at) else {
            // A datagram too short for a tunnel header cannot be a probe either.
            return if usize::from(ip.payload_length) < UDP_BYTES + VXLAN_BYTES {
                Triage::NotOurs
            } else {
                Triage::Short(Layer::Tunnel)
            };
        };
        let port = udp.be16(2);
        // Another port than intended may be the very fault that is looked for, so the header decides.
        if udp.be32(8) == VXLAN_FLAGS && port != config.probe_port && udp.be16(0) != config.probe_port {
            return vxlan(bytes, ip, port, udp.be32(12) >> 8, config);
        }
    }
    let candidate = match candidate_four(bytes, ip, config) {
        Some(candidate) => candidate,
        None => return Triage::Short(Layer::Transport),
    };
    let (source, destination) = (u32::from_be_bytes(ip.source), u32::from_be_bytes(ip.destination));
    if config.in_pool(decisive(direction, source, destination)) {
        Triage::Bare {
            source,
            destination,
            candidate,
        }
    } else if candidate {
        Triage::Candidate
    } else {
        Triage::NotOurs
    }
}

#[inline(always)]
fn vxlan<B: Bytes + ?Sized>(bytes: &B, outer: &Ipv4, port: u16, vni: u32, config: &Config) -> Triage {
    let at = outer.payload_at + UDP_BYTES + VXLAN_BYTES;
    let Some(ethernet) = bytes.view::<ETHERNET_BYTES>(at) else {
        return Triage::Short(Layer::InnerEthernet);
    };
    match ethernet.be16(12) {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_IPV6 => return Triage::Six,
        _ => return Triage::NotOurs,
    }
    let inner = match ipv4(bytes, at + ETHERNET_BYTES, Layer::InnerIp) {
        Ok(inner) => inner,
        Err(Stop { why: Why::Truncated, .. }) => return Triage::Short(Layer::InnerIp),
        Err(_) => return Triage::NotOurs,
    };
    let Some(candidate) = candidate_four(bytes, &inner, config) else {
        return Triage::Short(Layer::Transport);
    };
    Triage::Encapsulated(Encapsulated {
        outer_source: u32::from_be_bytes(outer.source),
        outer_destination: u32::from_be_bytes(outer.destination),
        carrier: Carrier::Vxlan,
        crossing: Crossing::None,
        port,
        vni,
        source: u32::from_be_bytes(inner.source),
        destination: u32::from_be_bytes(inner.destination),
        candidate,
    })
}

/// The inner packet follows the outer header, options included. Anything but IPv4 in IPv4 is somebody else's.
#[inline(always)]
fn ipip<B: Bytes + ?Sized>(bytes: &B, outer: &Ipv4, config: &Config) -> Triage {
    let inner = match ipv4(bytes, outer.payload_at, Layer::InnerIp) {
        Ok(inner) => inner,
        Err(Stop { why: Why::Truncated, .. }) => return Triage::Short(Layer::InnerIp),
        Err(_) => return Triage::NotOurs,
    };
    let Some(candidate) = candidate_four(bytes, &inner, config) else {
        return Triage::Short(Layer::Transport);
    };
    Triage::Encapsulated(Encapsulated {
        outer_source: u32::from_be_bytes(outer.source),
        outer_destination: u32::from_be_bytes(outer.destination),
        carrier: Carrier::Ipip,
        crossing: Crossing::None,
        port: 0,
        vni: 0,
        source: u32::from_be_bytes(inner.source),
        destination: u32::from_be_bytes(inner.destination),
        candidate,
    })
}

#[inline(always)]
fn candidate_four<B: Bytes + ?Sized>(bytes: &B, ip: &Ipv4, config: &Config) -> Option<bool> {
    candidate(bytes, Family::Four, ip.protocol, ip.payload_at, ip.payload_length, config)
}

/// Whether an innermost packet may be a probe; `None` when its transport, `length` bytes at `at`, is out of reach.
#[inline(always)]
pub(super) fn candidate<B: Bytes + ?Sized>(
    bytes: &B,
    family: Family,
    protocol: u8,
    at: usize,
    length: u16,
    config: &Config,
) -> Option<bool> {
    match protocol {
        PROTOCOL_TCP => {
            let ports = bytes.view::<4>(at)?;
            Some(config.is_tcp_probe_port(ports.be16(0)) || config.is_tcp_probe_port(ports.be16(2)))
        }
        PROTOCOL_UDP => {
            let ports = bytes.view::<4>(at)?;
            Some(ports.be16(0) == config.probe_port || ports.be16(2) == config.probe_port)
        }
        icmp if icmp == family.icmp() => {
            // Four bytes, not one: the kernel's verifier takes no range from a comparison for a single byte.
            let icmp_type = bytes.view::<4>(at)?.byte(0);
            if family.quotes(icmp_type) {
                return Some(true);
            }
            if icmp_type != family.echo() && icmp_type != family.echo_reply() {
                return Some(false);
            }
            // An echo without data is no probe: only where more was promised is a longer look worth it.
            if length < 12 {
                return Some(false);
            }
            Some(bytes.view::<4>(at + 8)?.be32(0) == MAGIC)
        }
        _ => Some(false),
    }
}

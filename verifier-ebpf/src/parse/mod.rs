//! Bounded parsing of Ethernet, IPv4 with options, IPv6 with extension headers, UDP, TCP, ICMP, ICMPv6, VXLAN and IPIP, down to a
//! probe's header.
//!
//! Two parsers share the pieces of this directory. The first look decides with as few reads as possible whether a packet needs a closer
//! one; it runs for every packet of every tapped interface. [`triage()`] is that look at IPv4, and hands over to [`triage_six()`] where
//! IPv6 is in a packet, so that nobody's IPv4 pays for it. [`describe()`] takes a packet of either family apart for a record; it runs for
//! what the first look let through. All say where and why they stopped. All take frames, and bare packets as devices without a link-layer
//! header carry them (`tunl0`).
//!
//! Of IPv6 the extension headers that a transport can follow are skipped, four at most: hop-by-hop, routing, destination options, and the
//! header of a first fragment. A packet of one family in a tunnel of the other is described as what it is; IPIP is IPv4 in IPv4 only.

mod describe;
mod header;
mod neighbour;
mod triage;
mod triage_six;

pub use describe::{Found, describe};
pub use header::EXTENSIONS;
pub use neighbour::neighbour;
pub use triage::{Crossing, Encapsulated, Triage, triage};
pub use triage_six::{first_look, triage_six};

pub(crate) use header::udp_six;

/// Bytes of an Ethernet header; VLAN tags are taken out before a tap sees a frame, or make it [`Why::Unsupported`].
pub const ETHERNET_BYTES: usize = 14;
/// Bytes of a UDP header.
pub const UDP_BYTES: usize = 8;
/// Bytes of a VXLAN header (RFC 7348).
pub const VXLAN_BYTES: usize = 8;
/// First word of a VXLAN header without extensions: the flag "VNI is valid" alone.
pub const VXLAN_FLAGS: u32 = 0x0800_0000;
/// The most that is looked at for a probe's header, and the header: enough for VXLAN with IPv4 options everywhere or IPv6 throughout, and for
/// an ICMP error with its quote; what extension headers push beyond it is [`Why::Truncated`].
pub const WINDOW_BYTES: usize = 320;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// With which header the bytes start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Ethernet, as at most taps.
    Ethernet,
    /// IP, as at a device without a link-layer header, and in a dropped packet.
    Ip,
}

/// Part of a packet at which parsing stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Layer {
    /// Outer or only Ethernet header.
    Ethernet = 0,
    /// Outer or only IP header.
    Ip = 1,
    /// Outer UDP header and VXLAN header.
    Tunnel = 2,
    /// Ethernet header inside the tunnel.
    InnerEthernet = 3,
    /// IP header inside the tunnel.
    InnerIp = 4,
    /// UDP, TCP or ICMP header of the innermost packet.
    Transport = 5,
    /// The packet that an ICMP error quotes.
    Quote = 6,
    /// The probe's header.
    Probe = 7,
}

/// Why parsing stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Why {
    /// The bytes end here.
    Truncated = 0,
    /// A protocol that is not parsed.
    Unsupported = 1,
    /// A field that contradicts itself.
    Malformed = 2,
    /// A later fragment: it has no transport header.
    Fragment = 3,
    /// Parsed, and not a probe.
    NotProbe = 4,
}

/// Counters of stops: one for each layer and reason.
pub const STOPS: u32 = 8 * 5;

/// Where and why parsing stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// At which layer.
    pub layer: Layer,
    /// Why there.
    pub why: Why,
}

impl Stop {
    #[inline(always)]
    pub(crate) const fn new(layer: Layer, why: Why) -> Self {
        Self { layer, why }
    }

    /// Place of its counter.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.layer as u32 * 5 + self.why as u32
    }

    /// Whether it is worth counting: the packet looked like ours and could not be read.
    #[inline(always)]
    pub const fn is_loss(self) -> bool {
        matches!(self.why, Why::Malformed | Why::Fragment)
    }
}

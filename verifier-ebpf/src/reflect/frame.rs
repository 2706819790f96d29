//! The frames that the reflector answers: what of each it reads and writes, and where the parts stand.

use super::{IP_AT, UDP};
use crate::address::Address6;
use crate::bytes::{be16, be32, be64};
use crate::checksum::{Transport, fold, pseudo_sum, pseudo_sum6};
use crate::config::Config;
use crate::parse::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP_BYTES};
use crate::wire::{self, HEADER_BYTES};

/// A frame's first bytes: Ethernet, IP and UDP, `HEAD` bytes, then the probe's header. `PADDING` places it so that addresses and the probe's
/// words lie aligned.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<const PADDING: usize, const HEAD: usize> {
    padding: [u8; PADDING],
    /// Everything in front of the probe's header.
    pub head: [u8; HEAD],
    /// The probe's header.
    pub probe: [u8; HEADER_BYTES],
}

/// Of IPv4 without options.
pub type Frame4 = Frame<6, { ETHERNET_BYTES + 20 + UDP_BYTES }>;
/// Of IPv6 without extension headers.
pub type Frame6 = Frame<2, { ETHERNET_BYTES + 40 + UDP_BYTES }>;

const _: () = assert!(
    size_of::<Frame4>() == Frame4::OFFSET + Frame4::BYTES && size_of::<Frame6>() == Frame6::OFFSET + Frame6::BYTES,
    "padding between the parts of a frame"
);

impl<const PADDING: usize, const HEAD: usize> Frame<PADDING, HEAD> {
    /// Where the frame starts within the structure.
    pub const OFFSET: usize = PADDING;
    /// All that the reflector reads and writes.
    pub const BYTES: usize = HEAD + HEADER_BYTES;
    /// Where UDP starts in a frame.
    pub const UDP_START: usize = HEAD - UDP_BYTES;
    /// Where the UDP checksum stands in a frame.
    pub const UDP_CHECKSUM_AT: usize = HEAD - 2;
    /// All zero.
    pub const ZERO: Self = Self {
        padding: [0; PADDING],
        head: [0; HEAD],
        probe: [0; HEADER_BYTES],
    };

    /// The type in the Ethernet header.
    #[inline(always)]
    pub const fn ethertype(&self) -> u16 {
        be16(&self.head, 12)
    }

    /// Whether the UDP header, if there is one where it is expected, names the probe port.
    #[inline(always)]
    const fn is_to_probe_port(&self, config: &Config) -> bool {
        be16(&self.head, HEAD - UDP_BYTES + 2) == config.probe_port
    }

    /// The sum of UDP header and probe, of a datagram that ends there.
    #[inline(always)]
    pub fn udp_sum(&self) -> u16 {
        let mut sum = 0;
        let mut at = Self::UDP_START;
        while at < HEAD {
            sum += be16(&self.head, at) as u32;
            at += 2;
        }
        fold(sum + wire::sum(&self.probe))
    }

    /// Replaces the UDP checksum.
    #[inline(always)]
    pub const fn set_checksum(&mut self, checksum: u16) {
        let [high, low] = checksum.to_be_bytes();
        self.head[HEAD - 2] = high;
        self.head[HEAD - 1] = low;
    }

    /// The UDP checksum field.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        be16(&self.head, HEAD - 2)
    }
}

/// What differs between the families.
pub trait Head {
    /// What a UDP checksum of zero means.
    const TRANSPORT: Transport;
    /// Whether this is the only IP packet of its datagram, and its header has nothing behind it: then everything stands where expected.
    fn is_plain(&self) -> bool;
    /// The same as [`is_addressed_to_probe_port`], for a frame that is plain but for more fragments.
    fn is_addressed_to_probe_port(&self, config: &Config) -> bool;
    /// The sum of the pseudo header of a datagram of this length.
    fn pseudo_sum(&self, udp_length: u16) -> u32;
    /// Source becomes destination and the reverse.
    fn swap_addresses(&mut self);
}

impl Frame4 {
    /// Source address, in host order.
    #[inline(always)]
    pub const fn source(&self) -> u32 {
        be32(&self.head, IP_AT + 12)
    }

    /// Destination address, in host order.
    #[inline(always)]
    pub const fn destination(&self) -> u32 {
        be32(&self.head, IP_AT + 16)
    }
}

impl Head for Frame4 {
    const TRANSPORT: Transport = Transport::Udp;

    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.head[IP_AT] == 0x45 && be16(&self.head, IP_AT + 6) & 0x2000 == 0
    }

    #[inline(always)]
    fn is_addressed_to_probe_port(&self, config: &Config) -> bool {
        self.ethertype() == ETHERTYPE_IPV4
            && self.head[IP_AT] == 0x45
            && self.head[IP_AT + 9] == UDP
            && be16(&self.head, IP_AT + 6) & 0x1fff == 0
            && self.is_to_probe_port(config)
    }

    #[inline(always)]
    fn pseudo_sum(&self, udp_length: u16) -> u32 {
        pseudo_sum(self.source().to_be_bytes(), self.destination().to_be_bytes(), UDP, udp_length)
    }

    #[inline(always)]
    fn swap_addresses(&mut self) {
        swap::<4, _>(&mut self.head, IP_AT + 12, IP_AT + 16);
    }
}

impl Frame6 {
    /// Source address.
    #[inline(always)]
    pub const fn source(&self) -> Address6 {
        [be64(&self.head, IP_AT + 8), be64(&self.head, IP_AT + 16)]
    }

    /// Destination address.
    #[inline(always)]
    pub const fn destination(&self) -> Address6 {
        [be64(&self.head, IP_AT + 24), be64(&self.head, IP_AT + 32)]
    }
}

impl Head for Frame6 {
    const TRANSPORT: Transport = Transport::Udp6;

    #[inline(always)]
    fn is_plain(&self) -> bool {
        // A fragment says so in an extension header.
        self.head[IP_AT] >> 4 == 6 && self.head[IP_AT + 6] == UDP
    }

    #[inline(always)]
    fn is_addressed_to_probe_port(&self, config: &Config) -> bool {
        self.ethertype() == ETHERTYPE_IPV6 && self.is_plain() && self.is_to_probe_port(config)
    }

    #[inline(always)]
    fn pseudo_sum(&self, udp_length: u16) -> u32 {
        pseudo_sum6(self.source(), self.destination(), UDP, udp_length)
    }

    #[inline(always)]
    fn swap_addresses(&mut self) {
        swap::<16, _>(&mut self.head, IP_AT + 8, IP_AT + 24);
    }
}

/// Whole parts at once: byte by byte it would cost a tenth of the reflector's time.
#[inline(always)]
pub(super) fn swap<const N: usize, const H: usize>(head: &mut [u8; H], a: usize, b: usize) {
    let (at_a, at_b) = (part::<N, H>(head, a), part::<N, H>(head, b));
    put(head, a, at_b);
    put(head, b, at_a);
}

#[inline(always)]
fn part<const N: usize, const H: usize>(head: &[u8; H], at: usize) -> [u8; N] {
    match head[at..].first_chunk() {
        Some(part) => *part,
        None => [0; N],
    }
}

#[inline(always)]
fn put<const N: usize, const H: usize>(head: &mut [u8; H], at: usize, part: [u8; N]) {
    if let Some(place) = head[at..].first_chunk_mut() {
        *place = part;
    }
}

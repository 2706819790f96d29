//! The IP headers, each read once and whole; behind them stands what they carry.

use core::hint::black_box;

use super::{Layer, Stop, Why};
use crate::address::{Address6, mapped_words};
use crate::bytes::{Bytes, View};

/// Bytes of an IPv6 header without extensions.
pub(crate) const IPV6_BYTES: usize = 40;
/// Extension headers that are walked through; a packet with more of them is [`Why::Unsupported`].
pub const EXTENSIONS: usize = 4;
/// Bytes that they may have together: behind more of them no window reaches the probe.
const EXTENSION_BYTES: usize = 0xf8;

/// IP in IP (RFC 2003).
pub(crate) const PROTOCOL_IPIP: u8 = 4;
const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_ICMP6: u8 = 58;
/// Extension headers of IPv6 that can be skipped (RFC 8200, 4): the others end the chain, as a transport does.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Which IP, and what it calls its ICMP messages (RFC 792, RFC 4443).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Four,
    Six,
}

impl Family {
    /// The protocol number of its ICMP.
    #[inline(always)]
    pub(crate) const fn icmp(self) -> u8 {
        match self {
            Self::Four => PROTOCOL_ICMP,
            Self::Six => PROTOCOL_ICMP6,
        }
    }

    /// The type of an echo request.
    #[inline(always)]
    pub(crate) const fn echo(self) -> u8 {
        match self {
            Self::Four => 8,
            Self::Six => 128,
        }
    }

    /// The type of its answer.
    #[inline(always)]
    pub(crate) const fn echo_reply(self) -> u8 {
        match self {
            Self::Four => 0,
            Self::Six => 129,
        }
    }

    /// Whether a type quotes the packet it complains about: unreachable, too big, time exceeded, parameter.
    #[inline(always)]
    pub(crate) const fn quotes(self, icmp_type: u8) -> bool {
        match self {
            Self::Four => matches!(icmp_type, 3 | 11 | 12),
            Self::Six => matches!(icmp_type, 1..=4),
        }
    }
}

/// What is used of an IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ipv4 {
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) length: u16,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) more_fragments: bool,
    /// Where the transport starts, from the start of the packet.
    pub(crate) payload_at: usize,
    /// Bytes from there to the end of the datagram.
    pub(crate) payload_length: u16,
}

/// Reads the IPv4 header at `at`, options skipped.
#[inline(always)]
pub(crate) fn ipv4<B: Bytes + ?Sized>(bytes: &B, at: usize, layer: Layer) -> Result<Ipv4, Stop> {
    let Some(header) = bytes.view::<20>(at) else {
        return Err(Stop::new(layer, Why::Truncated));
    };
    if header.byte(0) >> 4 != 4 {
        return Err(Stop::new(layer, Why::Unsupported));
    }
    // At most 60 by its four bits, which also keeps every later offset small and known to the kernel's verifier. The compiler may not
    // take its mask from the comparison above: it then knows a smaller bound than an older verifier (6.1) sees, and leaves out checks.
    let header_bytes = usize::from(black_box(header.byte(0)) & 0x0f) * 4;
    let length = header.be16(2);
    if header_bytes < 20 || usize::from(length) < header_bytes {
        return Err(Stop::new(layer, Why::Malformed));
    }
    let fragment = header.be16(6);
    if fragment & 0x1fff != 0 {
        return Err(Stop::new(layer, Why::Fragment));
    }
    Ok(Ipv4 {
        source: header.copy(12),
        destination: header.copy(16),
        protocol: header.byte(9),
        ttl: header.byte(8),
        length,
        id: header.be16(4),
        dont_fragment: fragment & 0x4000 != 0,
        more_fragments: fragment & 0x2000 != 0,
        payload_at: at + header_bytes,
        payload_length: length - header_bytes as u16,
    })
}

/// What is used of an IPv6 header and its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ipv6 {
    pub(crate) source: Address6,
    pub(crate) destination: Address6,
    /// What the last extension names, or the header itself.
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    /// Of the whole datagram.
    pub(crate) length: u16,
    pub(crate) more_fragments: bool,
    /// Where the transport starts, from the start of the packet.
    pub(crate) payload_at: usize,
    /// Bytes from there to the end of the datagram.
    pub(crate) payload_length: u16,
}

/// Reads the IPv6 header at `at`; up to [`EXTENSIONS`] extension headers are skipped.
#[inline(always)]
pub(crate) fn ipv6<B: Bytes + ?Sized>(bytes: &B, at: usize, layer: Layer) -> Result<Ipv6, Stop> {
    let Some(header) = bytes.view::<IPV6_BYTES>(at) else {
        return Err(Stop::new(layer, Why::Truncated));
    };
    if header.byte(0) >> 4 != 6 {
        return Err(Stop::new(layer, Why::Unsupported));
    }
    // A length of zero stands for more than its field can say (RFC 2675): so the kernel marks segments that a device is yet to cut.
    let after_header = match header.be16(4) {
        0 => u16::MAX - IPV6_BYTES as u16,
        length => length,
    };
    let mut protocol = header.byte(6);
    let (mut skipped, mut more_fragments) = (0, 0);
    let mut walked = 0;
    while walked < EXTENSIONS {
        if !is_extension(protocol) {
            break;
        }
        let Some(extension) = bytes.view::<8>(at + IPV6_BYTES + skipped) else {
            return Err(Stop::new(layer, Why::Truncated));
        };
        let fragment = extension.be16(2);
        if protocol == FRAGMENT {
            if fragment & 0xfff8 != 0 {
                return Err(Stop::new(layer, Why::Fragment));
            }
            more_fragments |= fragment & 1;
            skipped += 8;
        } else {
            // In units of eight bytes, the first not counted.
            skipped += (usize::from(extension.byte(1)) + 1) * 8;
        }
        if skipped > EXTENSION_BYTES {
            return Err(Stop::new(layer, Why::Unsupported));
        }
        skipped = blurred(skipped, after_header);
        protocol = extension.byte(0);
        walked += 1;
    }
    if is_extension(protocol) {
        return Err(Stop::new(layer, Why::Unsupported));
    }
    if skipped > usize::from(after_header) {
        return Err(Stop::new(layer, Why::Malformed));
    }
    Ok(Ipv6 {
        source: [header.be64(8), header.be64(16)],
        destination: [header.be64(24), header.be64(32)],
        protocol,
        hop_limit: header.byte(7),
        length: after_header.saturating_add(IPV6_BYTES as u16),
        more_fragments: more_fragments != 0,
        payload_at: at + IPV6_BYTES + skipped,
        payload_length: after_header - skipped as u16,
    })
}

/// The same number, of which the kernel's verifier now knows no more than its bound. It follows every way through the headers, and ways
/// that differ in what it knows are different to it: two walks behind each other would be twenty-five, four beyond all bounds. `unknown` is
/// anything read from the packet; to the verifier its difference to itself is as unknown.
#[inline(always)]
fn blurred(skipped: usize, unknown: u16) -> usize {
    (skipped ^ usize::from(unknown ^ black_box(unknown))) & EXTENSION_BYTES
}

/// Whether a next-header value names an extension that is skipped.
#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// A header of either family, for a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) family: Family,
    /// IPv4 mapped.
    pub(crate) source: Address6,
    pub(crate) destination: Address6,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) length: u16,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) more_fragments: bool,
    /// Within any window, so sixteen bits hold it.
    pub(crate) payload_at: usize,
    pub(crate) payload_length: u16,
}

impl Ip {
    /// The same header, where the ways of both families meet: what decides about the way on is [forgotten](Bytes::forgotten).
    #[inline(always)]
    pub(crate) fn settled<B: Bytes + ?Sized>(self, bytes: &B) -> Self {
        let packed = bytes.forgotten(
            self.payload_at as u64
                | u64::from(self.payload_length) << 16
                | u64::from(self.protocol) << 32
                | u64::from(matches!(self.family, Family::Six)) << 40
                | u64::from(self.more_fragments) << 41,
        );
        Self {
            family: if packed >> 40 & 1 == 0 { Family::Four } else { Family::Six },
            protocol: (packed >> 32) as u8,
            more_fragments: packed >> 41 & 1 != 0,
            payload_at: usize::from(packed as u16),
            payload_length: (packed >> 16) as u16,
            ..self
        }
    }
}

impl From<Ipv4> for Ip {
    #[inline(always)]
    fn from(ip: Ipv4) -> Self {
        Self {
            family: Family::Four,
            source: mapped_words(u32::from_be_bytes(ip.source)),
            destination: mapped_words(u32::from_be_bytes(ip.destination)),
            protocol: ip.protocol,
            ttl: ip.ttl,
            length: ip.length,
            id: ip.id,
            dont_fragment: ip.dont_fragment,
            more_fragments: ip.more_fragments,
            payload_at: ip.payload_at,
            payload_length: ip.payload_length,
        }
    }
}

/// Reads the header at `at`, of the family that it names itself.
#[inline(always)]
pub(crate) fn any<B: Bytes + ?Sized>(bytes: &B, at: usize, layer: Layer) -> Result<Ip, Stop> {
    // Four bytes, not one: the kernel's verifier takes no range from a comparison for a single byte.
    let Some(first) = bytes.view::<4>(at) else {
        return Err(Stop::new(layer, Why::Truncated));
    };
    if first.byte(0) >> 4 == 6 {
        six(bytes, at, layer)
    } else {
        ipv4(bytes, at, layer).map(Ip::from)
    }
}

/// Reads an IPv6 header for a record. An IPv4 address mapped into it belongs on no wire, and a record could not tell it from IPv4.
#[inline(always)]
pub(crate) fn six<B: Bytes + ?Sized>(bytes: &B, at: usize, layer: Layer) -> Result<Ip, Stop> {
    let ip = ipv6(bytes, at, layer)?;
    if is_mapped(ip.source) || is_mapped(ip.destination) {
        return Err(Stop::new(layer, Why::Unsupported));
    }
    Ok(Ip {
        family: Family::Six,
        source: ip.source,
        destination: ip.destination,
        protocol: ip.protocol,
        ttl: ip.hop_limit,
        length: ip.length,
        id: 0,
        dont_fragment: true,
        more_fragments: ip.more_fragments,
        payload_at: ip.payload_at,
        payload_length: ip.payload_length,
    })
}

#[inline(always)]
const fn is_mapped(address: Address6) -> bool {
    address[0] == 0 && address[1] >> 32 == 0xffff
}

/// Where the UDP header behind the IPv6 header at `at` stands, if that is what it carries; an error when it is out of reach. For the
/// reflector, which sees every packet to a pod: extension headers are walked only where there are any.
#[inline(always)]
pub(crate) fn udp_six<B: Bytes + ?Sized>(bytes: &B, at: usize) -> Result<Option<usize>, ()> {
    let Some(header) = bytes.view::<8>(at) else {
        return Err(());
    };
    let next = header.byte(6);
    if next == PROTOCOL_UDP {
        return Ok(Some(at + IPV6_BYTES));
    }
    if !is_extension(next) {
        return Ok(None);
    }
    match ipv6(bytes, at, Layer::Ip) {
        Ok(ip) if ip.protocol == PROTOCOL_UDP => Ok(Some(ip.payload_at)),
        Err(Stop { why: Why::Truncated, .. }) => Err(()),
        Ok(_) | Err(_) => Ok(None),
    }
}

//! The reflector's decisions: whether a UDP request at a workload's door is answered, and with what bytes.
//!
//! The program answers only what it can prove to be ours and fresh; everything else goes on to the pod as if nobody had looked.
//! What looks like a request and is refused is counted by reason, because a refusal says nothing about forwarding.

mod frame;

pub use frame::{Frame, Frame4, Frame6, Head};

use crate::bytes::{Bytes, View, be16};
use crate::config::{Config, KeySlot};
use crate::parse::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP_BYTES, udp_six};
use crate::siphash::SipKey;
use crate::wire::{HEADER_BYTES, Header, Kind, WireError, into_reply, tag_matches};
use frame::swap;

const IP_AT: usize = ETHERNET_BYTES;
const UDP: u8 = 17;

/// Why a request was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Refusal {
    /// Too short for a header, IP options, or a fragment.
    Truncated = 0,
    /// A version this build does not speak, or a header that contradicts itself.
    Version = 1,
    /// No key with this id.
    UnknownKey = 2,
    /// The tag is not that of the key.
    BadTag = 3,
    /// Older than the configured age, or from the future, or our own clock is unknown.
    Stale = 4,
    /// Answered once already.
    Replayed = 5,
    /// More requests than the allowance.
    RateLimited = 6,
    /// The transport checksum is wrong: a pod would not have got it either.
    BadChecksum = 7,
    /// The kernel refused to change the packet.
    NotWritable = 8,
}

/// How many kinds of [`Refusal`] there are.
pub const REFUSALS: u32 = 9;

impl Refusal {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; REFUSALS as usize] = [
        Self::Truncated,
        Self::Version,
        Self::UnknownKey,
        Self::BadTag,
        Self::Stale,
        Self::Replayed,
        Self::RateLimited,
        Self::BadChecksum,
        Self::NotWritable,
    ];

    /// The name in reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Version => "version",
            Self::UnknownKey => "unknown-key",
            Self::BadTag => "bad-tag",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::RateLimited => "rate-limited",
            Self::BadChecksum => "bad-checksum",
            Self::NotWritable => "not-writable",
        }
    }
}

/// Place of a count in the map `REFUSALS`.
#[inline(always)]
pub const fn slot(peer: u32, refusal: Refusal) -> u32 {
    peer * REFUSALS + refusal as u32
}

/// What the reflector does with a packet. One exhaustive match turns it into the program's return code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not a request: let it pass, uncounted.
    NotOurs,
    /// A request that is not answered: let it pass, counted.
    Refused(Refusal),
    /// Answered: send it back.
    Reflected,
}

/// Whether a frame is a UDP datagram to the probe port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressed {
    /// It is not.
    No,
    /// It is.
    Yes,
    /// It is IPv6: [`is_addressed_to_probe_port_six`] tells.
    Six,
    /// Not enough bytes to tell.
    Unknown,
}

/// Whether a frame is an IPv4 datagram to the probe port, by as few reads as possible.
#[inline(always)]
pub fn is_addressed_to_probe_port<B: Bytes + ?Sized>(bytes: &B, config: &Config) -> Addressed {
    let Some(head) = bytes.view::<{ ETHERNET_BYTES + 20 }>(0) else {
        return Addressed::Unknown;
    };
    if head.be16(12) != ETHERTYPE_IPV4 {
        return if head.be16(12) == ETHERTYPE_IPV6 {
            Addressed::Six
        } else {
            Addressed::No
        };
    }
    if head.byte(IP_AT + 9) != UDP || head.byte(IP_AT) >> 4 != 4 {
        return Addressed::No;
    }
    let header_bytes = usize::from(head.byte(IP_AT) & 0x0f) * 4;
    if header_bytes < 20 || head.be16(IP_AT + 6) & 0x1fff != 0 {
        return Addressed::No;
    }
    let Some(ports) = bytes.view::<4>(IP_AT + header_bytes) else {
        return Addressed::Unknown;
    };
    addressed(ports.be16(2), config)
}

/// The same of a frame that announces IPv6; behind extension headers too.
#[inline(always)]
pub fn is_addressed_to_probe_port_six<B: Bytes + ?Sized>(bytes: &B, config: &Config) -> Addressed {
    match udp_six(bytes, IP_AT) {
        Ok(Some(at)) => match bytes.view::<4>(at) {
            Some(ports) => addressed(ports.be16(2), config),
            None => Addressed::Unknown,
        },
        Ok(None) => Addressed::No,
        Err(()) => Addressed::Unknown,
    }
}

#[inline(always)]
const fn addressed(port: u16, config: &Config) -> Addressed {
    if port == config.probe_port { Addressed::Yes } else { Addressed::No }
}

/// What a request says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The decoded header.
    pub header: Header,
    /// Length of the datagram by its UDP header.
    pub udp_length: u16,
}

/// Reads a frame that is addressed to the probe port. `Err(None)`: not a request at all.
#[inline(always)]
pub fn request<const P: usize, const H: usize>(frame: &Frame<P, H>) -> Result<Request, Option<Refusal>>
where
    Frame<P, H>: Head,
{
    if !frame.is_plain() {
        return Err(Some(Refusal::Truncated));
    }
    let header = match Header::decode_array(&frame.probe) {
        Ok(header) => header,
        Err(WireError::Magic(_)) => return Err(None),
        Err(_) => return Err(Some(Refusal::Version)),
    };
    match header.kind {
        // A reply on its way home, to a pod that probes from this very port.
        Kind::Reply => return Err(None),
        Kind::Request => {}
    }
    let udp_length = be16(&frame.head, H - UDP_BYTES + 4);
    if usize::from(udp_length) < UDP_BYTES + HEADER_BYTES {
        return Err(Some(Refusal::Truncated));
    }
    Ok(Request { header, udp_length })
}

/// Checks key, age and tag, the cheap ones first.
#[inline(always)]
pub fn authenticate(
    request: &Request,
    probe: &[u8; HEADER_BYTES],
    keys: [&KeySlot; 2],
    realtime_ns: Option<u64>,
    config: &Config,
) -> Result<SipKey, Refusal> {
    let key = if keys[0].is(request.header.key_id) {
        keys[0]
    } else if keys[1].is(request.header.key_id) {
        keys[1]
    } else {
        return Err(Refusal::UnknownKey);
    };
    let sent = request.header.sent_realtime_ns;
    match realtime_ns {
        Some(now) if now.saturating_sub(sent) <= config.max_age_ns && sent.saturating_sub(now) <= config.max_ahead_ns => {}
        _ => return Err(Refusal::Stale),
    }
    let key = SipKey { k0: key.k0, k1: key.k1 };
    if tag_matches(probe, key) { Ok(key) } else { Err(Refusal::BadTag) }
}

/// Turns the frame into its answer: MACs, addresses and ports swapped, kind and tag replaced. The swap keeps every checksum valid; the
/// returned value is the difference that kind and tag make to the UDP checksum's sum.
#[inline(always)]
pub fn answer<const P: usize, const H: usize>(frame: &mut Frame<P, H>, key: SipKey) -> u32
where
    Frame<P, H>: Head,
{
    swap::<6, _>(&mut frame.head, 0, 6);
    frame.swap_addresses();
    swap::<2, _>(&mut frame.head, H - UDP_BYTES, H - UDP_BYTES + 2);
    into_reply(&mut frame.probe, key)
}

#[cfg(test)]
mod tests;

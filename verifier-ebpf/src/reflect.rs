//! The reflector's decisions: whether a UDP request at a workload's door is answered, and with what bytes.
//!
//! The program answers only what it can prove to be ours and fresh; everything else goes on to the pod as if nobody had looked.
//! What looks like a request and is refused is counted by reason, because a refusal says nothing about forwarding.

use crate::bytes::{Bytes, View, be16, be32};
use crate::checksum::fold;
use crate::config::{Config, KeySlot};
use crate::parse::{ETHERNET_BYTES, UDP_BYTES};
use crate::siphash::SipKey;
use crate::wire::{self, HEADER_BYTES, Header, Kind, WireError, into_reply, tag_matches};

/// Ethernet, IPv4 without options, UDP: what stands in front of the probe's header.
pub const HEAD_BYTES: usize = UDP_START + UDP_BYTES;
/// All that the reflector reads and writes.
pub const FRAME_BYTES: usize = HEAD_BYTES + HEADER_BYTES;
const IP_AT: usize = ETHERNET_BYTES;
/// Where UDP starts in a frame.
pub const UDP_START: usize = IP_AT + 20;
/// Where the UDP checksum stands in a frame.
pub const UDP_CHECKSUM_AT: usize = UDP_START + 6;

/// A frame's first bytes, placed so that addresses and the probe's words lie aligned.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    padding: [u8; 6],
    /// Everything in front of the probe's header.
    pub head: [u8; HEAD_BYTES],
    /// The probe's header.
    pub probe: [u8; HEADER_BYTES],
}

const _: () = assert!(size_of::<Frame>() == 6 + FRAME_BYTES, "padding between the parts of a frame");

impl Frame {
    /// Where the frame starts within the structure.
    pub const OFFSET: usize = 6;
    /// All zero.
    pub const ZERO: Self = Self {
        padding: [0; 6],
        head: [0; HEAD_BYTES],
        probe: [0; HEADER_BYTES],
    };

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

    /// The same as [`is_addressed_to_probe_port`], for a frame without IP options.
    #[inline(always)]
    pub const fn is_addressed_to_probe_port(&self, config: &Config) -> bool {
        be16(&self.head, 12) == 0x0800
            && self.head[IP_AT] == 0x45
            && self.head[IP_AT + 9] == 17
            && be16(&self.head, IP_AT + 6) & 0x1fff == 0
            && be16(&self.head, UDP_START + 2) == config.probe_port
    }

    /// The sum of UDP header and probe, of a datagram that ends there.
    #[inline(always)]
    pub fn udp_sum(&self) -> u16 {
        let mut sum = 0;
        let mut at = UDP_START;
        while at < HEAD_BYTES {
            sum += be16(&self.head, at) as u32;
            at += 2;
        }
        fold(sum + wire::sum(&self.probe))
    }

    /// Replaces the UDP checksum.
    #[inline(always)]
    pub const fn set_checksum(&mut self, checksum: u16) {
        let [high, low] = checksum.to_be_bytes();
        self.head[UDP_CHECKSUM_AT] = high;
        self.head[UDP_CHECKSUM_AT + 1] = low;
    }

    /// The UDP checksum field.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        be16(&self.head, UDP_CHECKSUM_AT)
    }
}

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

/// Whether a frame is a UDP datagram to the probe port, by as few reads as possible. `None`: not enough bytes.
#[inline(always)]
pub fn is_addressed_to_probe_port<B: Bytes + ?Sized>(bytes: &B, config: &Config) -> Option<bool> {
    let head = bytes.view::<{ ETHERNET_BYTES + 20 }>(0)?;
    if head.be16(12) != 0x0800 || head.byte(IP_AT + 9) != 17 || head.byte(IP_AT) >> 4 != 4 {
        return Some(false);
    }
    let header_bytes = usize::from(head.byte(IP_AT) & 0x0f) * 4;
    if header_bytes < 20 || head.be16(IP_AT + 6) & 0x1fff != 0 {
        return Some(false);
    }
    let ports = bytes.view::<4>(IP_AT + header_bytes)?;
    Some(ports.be16(2) == config.probe_port)
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
pub fn request(frame: &Frame) -> Result<Request, Option<Refusal>> {
    // Without options, not a first fragment: then everything stands where it is expected.
    if frame.head[IP_AT] != 0x45 || be16(&frame.head, IP_AT + 6) & 0x2000 != 0 {
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
    let udp_length = be16(&frame.head, UDP_START + 4);
    if usize::from(udp_length) < UDP_BYTES + HEADER_BYTES {
        return Err(Some(Refusal::Truncated));
    }
    Ok(Request { header, udp_length })
}

/// Checks key, age and tag, the cheap ones first.
#[inline(always)]
pub fn authenticate(
    request: &Request,
    frame: &Frame,
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
    if tag_matches(&frame.probe, key) {
        Ok(key)
    } else {
        Err(Refusal::BadTag)
    }
}

/// Turns the frame into its answer: MACs, addresses and ports swapped, kind and tag replaced. The swap keeps every checksum valid; the
/// returned value is the difference that kind and tag make to the UDP checksum's sum.
#[inline(always)]
pub fn answer(frame: &mut Frame, key: SipKey) -> u32 {
    let head = &mut frame.head;
    swap::<6>(head, 0, 6);
    swap::<4>(head, IP_AT + 12, IP_AT + 16);
    swap::<2>(head, UDP_START, UDP_START + 2);
    into_reply(&mut frame.probe, key)
}

/// Whole parts at once: byte by byte it would cost a tenth of the reflector's time.
#[inline(always)]
fn swap<const N: usize>(head: &mut [u8; HEAD_BYTES], a: usize, b: usize) {
    let (at_a, at_b) = (part::<N>(head, a), part::<N>(head, b));
    put(head, a, at_b);
    put(head, b, at_a);
}

#[inline(always)]
fn part<const N: usize>(head: &[u8; HEAD_BYTES], at: usize) -> [u8; N] {
    match head[at..].first_chunk() {
        Some(part) => *part,
        None => [0; N],
    }
}

#[inline(always)]
fn put<const N: usize>(head: &mut [u8; HEAD_BYTES], at: usize, part: [u8; N]) {
    if let Some(place) = head[at..].first_chunk_mut() {
        *place = part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{ChecksumState, Transport, adjusted, pseudo_sum, sum, with_sum};
    use crate::plain::Field as _;

    const KEY: KeySlot = KeySlot {
        k0: 3,
        k1: 4,
        id: 2,
        valid: 1,
        reserved: [0; 6],
    };
    const CONFIG: Config = Config {
        probe_port: 9,
        max_age_ns: 10,
        max_ahead_ns: 5,
        ..Config::NOTHING
    };

    fn frame() -> Frame {
        let header = Header {
            kind: Kind::Request,
            key_id: 2,
            probe_id: 77,
            sequence: 1,
            incarnation: 5,
            sent_realtime_ns: 1000,
        };
        let mut frame = Frame::ZERO;
        frame.head[..6].fill(0xaa);
        frame.head[6..12].fill(0xbb);
        frame.head[12] = 8;
        frame.head[IP_AT] = 0x45;
        frame.head[IP_AT + 3] = 68;
        frame.head[IP_AT + 9] = 17;
        frame.head[IP_AT + 12..IP_AT + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame.head[UDP_START..UDP_START + 6].copy_from_slice(&[0x9c, 0x40, 0, 9, 0, 48]);
        frame.probe = header.encode(SipKey { k0: 3, k1: 4 });
        let all = fold(udp_sum(&frame, pseudo_sum([10, 0, 0, 1], [10, 0, 0, 2], 17, 48)));
        frame.head[UDP_CHECKSUM_AT..UDP_CHECKSUM_AT + 2].copy_from_slice(&(!all).to_be_bytes());
        frame
    }

    fn udp_sum(frame: &Frame, seed: u32) -> u32 {
        sum(&frame.probe, sum(&frame.head[UDP_START..], seed))
    }

    fn judge(frame: &Frame, key: &KeySlot, now: Option<u64>) -> Result<SipKey, Option<Refusal>> {
        let request = request(frame)?;
        authenticate(&request, frame, [&KeySlot::ZERO, key], now, &CONFIG).map_err(Some)
    }

    #[test]
    fn a_fresh_request_is_answered_with_valid_checksum_and_tag() {
        let mut frame = frame();
        assert_eq!(is_addressed_to_probe_port(&frame.head[..], &CONFIG), Some(true));
        assert!(frame.is_addressed_to_probe_port(&CONFIG));
        let key = judge(&frame, &KEY, Some(1005)).unwrap();
        let difference = answer(&mut frame, key);
        frame.set_checksum(adjusted(frame.checksum(), difference));
        assert_eq!(frame.udp_sum(), fold(udp_sum(&frame, 0)));
        assert_eq!(frame.head[..12], [[0xbb; 6], [0xaa; 6]].concat()[..]);
        assert_eq!((frame.source(), frame.destination()), (0x0a00_0002, 0x0a00_0001));
        assert_eq!(frame.head[UDP_START..UDP_START + 4], [0, 9, 0x9c, 0x40]);
        let pseudo = pseudo_sum([10, 0, 0, 2], [10, 0, 0, 1], 17, 48);
        assert_eq!(with_sum(Transport::Udp, pseudo, fold(udp_sum(&frame, 0))), ChecksumState::Good);
        let reply = Header::decode_verified(&frame.probe, key).unwrap();
        assert_eq!((reply.kind, reply.probe_id), (Kind::Reply, 77));
        // A reply is never answered again, even when it comes to the probe port.
        assert_eq!(judge(&frame, &KEY, Some(1005)), Err(None));
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let good = frame();
        assert_eq!(judge(&good, &KEY, Some(1011)), Err(Some(Refusal::Stale)));
        assert_eq!(judge(&good, &KEY, Some(994)), Err(Some(Refusal::Stale)));
        assert_eq!(judge(&good, &KEY, None), Err(Some(Refusal::Stale)));
        assert_eq!(
            judge(&good, &KeySlot { valid: 0, ..KEY }, Some(1000)),
            Err(Some(Refusal::UnknownKey))
        );
        assert_eq!(judge(&good, &KeySlot { id: 4, ..KEY }, Some(1000)), Err(Some(Refusal::UnknownKey)));
        assert_eq!(judge(&good, &KeySlot { k0: 9, ..KEY }, Some(1000)), Err(Some(Refusal::BadTag)));
        let in_head = |at: usize, value: u8| {
            let mut frame = good;
            frame.head[at] = value;
            judge(&frame, &KEY, Some(1000))
        };
        let in_probe = |at: usize, value: u8| {
            let mut frame = good;
            frame.probe[at] = value;
            judge(&frame, &KEY, Some(1000))
        };
        assert_eq!(in_head(IP_AT, 0x46), Err(Some(Refusal::Truncated)));
        assert_eq!(in_head(IP_AT + 6, 0x20), Err(Some(Refusal::Truncated)));
        assert_eq!(in_head(UDP_START + 5, 47), Err(Some(Refusal::Truncated)));
        assert_eq!(in_probe(0, 0), Err(None));
        assert_eq!(in_probe(4, 9), Err(Some(Refusal::Version)));
        assert_eq!(in_probe(20, 9), Err(Some(Refusal::BadTag)));
    }

    #[test]
    fn no_two_counts_share_a_slot() {
        let slots: std::collections::BTreeSet<u32> = (0..3).flat_map(|peer| Refusal::ALL.map(|refusal| slot(peer, refusal))).collect();
        assert_eq!(slots.len(), 3 * REFUSALS as usize);
    }
}

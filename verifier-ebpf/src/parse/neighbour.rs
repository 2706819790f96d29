//! Neighbour discovery of IPv6 (RFC 4861), which is ICMPv6: who looks for whom, as ARP says it of IPv4.

use super::header::{IPV6_BYTES, PROTOCOL_ICMP6};
use crate::bytes::{Bytes, View};
use crate::plain::Field as _;
use crate::record::{Class, PacketRecord};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Option with the sender's link-layer address, of a solicitation.
const SOURCE_LINK: u8 = 1;
/// Option with the target's, of an advertisement.
const TARGET_LINK: u8 = 2;
/// Type, code, checksum, flags, target.
const MESSAGE_BYTES: usize = 24;

/// Whether a packet, without a frame around it, is a neighbour solicitation or advertisement; then `out`, if there is one, is filled with
/// its sender and its target, as for ARP, and with the MAC address that its first option tells.
#[inline(always)]
pub fn neighbour<B: Bytes + ?Sized>(bytes: &B, out: Option<&mut PacketRecord>) -> bool {
    let Some(message) = bytes.view::<{ IPV6_BYTES + MESSAGE_BYTES }>(0) else {
        return false;
    };
    let icmp_type = message.byte(IPV6_BYTES);
    // A router never forwards one: with another hop limit it is no neighbour's (RFC 4861, 7.1).
    if message.byte(0) >> 4 != 6
        || message.byte(6) != PROTOCOL_ICMP6
        || message.byte(7) != u8::MAX
        || (icmp_type != SOLICITATION && icmp_type != ADVERTISEMENT)
    {
        return false;
    }
    let Some(out) = out else { return true };
    *out = PacketRecord::ZERO;
    out.class = Class::Arp as u8;
    out.protocol = PROTOCOL_ICMP6;
    out.ttl = u8::MAX;
    out.icmp_type = icmp_type;
    out.source = message.copy(8);
    out.destination = message.copy(IPV6_BYTES + 8);
    if let Some(option) = bytes.view::<8>(IPV6_BYTES + MESSAGE_BYTES) {
        match (icmp_type, option.byte(0)) {
            (SOLICITATION, SOURCE_LINK) => out.source_mac = option.copy(2),
            (ADVERTISEMENT, TARGET_LINK) => out.destination_mac = option.copy(2),
            _ => {}
        }
    }
    true
}

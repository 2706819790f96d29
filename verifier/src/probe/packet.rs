//! The bytes of requests and replies. The kernel writes the IP header of everything that is sent; what is raw below it is built and
//! read here. The headers below it are the same in IPv4 and IPv6 but for the numbers of ICMP types and the checksums' pseudo-header
//! (RFC 8200, 8.1).
//!
//! A TCP SYN has no room for a header: its sequence number is the low half of the probe's id, less the bytes of padding that follow. A
//! closed port acknowledges SYN and padding (`tcp_v4_send_reset`, net/ipv4/tcp_ipv4.c), so whatever the size, *the acknowledgement
//! number less one is the low half of the id*, and the taps name request and reply alike. A listening port does not take the padding
//! (no TCP Fast Open) and acknowledges the SYN alone.

use super::keys::{ProbeKeys, Untrusted};
use pnet::packet::{
    MutablePacket, Packet,
    icmp::{
        IcmpCode, IcmpPacket, IcmpType, IcmpTypes, checksum as icmp_checksum,
        echo_reply::EchoReplyPacket,
        echo_request::{EchoRequestPacket, MutableEchoRequestPacket},
    },
    ip::IpNextHeaderProtocols,
    ipv4::Ipv4Packet,
    tcp::{MutableTcpPacket, TcpFlags, TcpPacket, ipv4_checksum, ipv6_checksum},
};
use std::net::IpAddr;
use verifier_core::probe::{
    Event, Probe, ProbeConfig,
    config::{IPV4_HEADER_BYTES, TCP_HEADER_BYTES, UDP_HEADER_BYTES, ip_header_bytes},
    id::{incarnation, low},
};
use verifier_ebpf::wire::{HEADER_BYTES, Header, Kind};

/// Types of echo request and reply of ICMPv6 (RFC 4443, 4.1 and 4.2). Identifier, number and data stand as in ICMP.
const ECHO_REQUEST_V6: IcmpType = IcmpType(128);
const ECHO_REPLY_V6: IcmpType = IcmpType(129);

/// What was read from a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// For the session.
    Event(Event),
    /// Nothing of ours: another program's traffic, offered to a raw socket.
    Foreign,
}

impl From<Untrusted> for Read {
    fn from(why: Untrusted) -> Self {
        Self::Event(match why {
            Untrusted::Truncated => Event::Truncated,
            Untrusted::Forged => Event::Forged,
        })
    }
}

fn header(probe: &Probe, keys: &ProbeKeys, sent_realtime_ns: u64) -> [u8; HEADER_BYTES] {
    let signing = keys.signing();
    Header {
        kind: Kind::Request,
        key_id: signing.id,
        probe_id: probe.id,
        sequence: probe.seq,
        incarnation: incarnation(probe.id),
        sent_realtime_ns,
    }
    .encode(signing.key)
}

/// Bytes below the IP header.
fn below_ip(probe: &Probe) -> usize {
    (probe.length_bytes.saturating_sub(ip_header_bytes(probe.to.ip))) as usize
}

/// Payload of a UDP probe: header and padding.
pub(super) fn udp_payload(probe: &Probe, keys: &ProbeKeys, sent_realtime_ns: u64) -> Vec<u8> {
    let mut payload = header(probe, keys, sent_realtime_ns).to_vec();
    payload.resize(below_ip(probe).saturating_sub(UDP_HEADER_BYTES as usize).max(HEADER_BYTES), 0);
    payload
}

/// An ICMP echo request. Through a datagram socket the kernel writes identifier and checksum again, to the same values; the checksum of
/// ICMPv6 it alone writes, through a raw socket too (RFC 3542, 3.1).
pub(super) fn echo_request(probe: &Probe, keys: &ProbeKeys, sent_realtime_ns: u64) -> Vec<u8> {
    let header = header(probe, keys, sent_realtime_ns);
    let mut packet = vec![0; below_ip(probe).max(UDP_HEADER_BYTES as usize + HEADER_BYTES)];
    if let Some(mut echo) = MutableEchoRequestPacket::new(&mut packet) {
        echo.set_icmp_type(if probe.is_ipv6() { ECHO_REQUEST_V6 } else { IcmpTypes::EchoRequest });
        echo.set_icmp_code(IcmpCode::new(0));
        echo.set_identifier(probe.src_port);
        // Sixteen bits that differ from probe to probe, for a person with tcpdump; the header tells probes apart.
        echo.set_sequence_number(low(probe.id) as u16);
        echo.payload_mut()[..HEADER_BYTES].copy_from_slice(&header);
    }
    if let Some(mut icmp) = pnet::packet::icmp::MutableIcmpPacket::new(&mut packet)
        && !probe.is_ipv6()
    {
        let sum = icmp_checksum(&icmp.to_immutable());
        icmp.set_checksum(sum);
    }
    packet
}

/// A TCP SYN, padded to the probe's size.
pub(super) fn tcp_syn(probe: &Probe, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut packet = vec![0; below_ip(probe).max(TCP_HEADER_BYTES as usize)];
    let padding = (packet.len() - TCP_HEADER_BYTES as usize) as u32;
    if let Some(mut tcp) = MutableTcpPacket::new(&mut packet) {
        tcp.set_source(probe.src_port);
        tcp.set_destination(probe.dst_port);
        tcp.set_sequence(low(probe.id).wrapping_sub(padding));
        tcp.set_data_offset((TCP_HEADER_BYTES / 4) as u8);
        tcp.set_flags(TcpFlags::SYN);
        tcp.set_window(1_024);
        let sum = tcp_checksum(&tcp.to_immutable(), from, to);
        tcp.set_checksum(sum);
    }
    packet
}

/// Checksum of a segment between these two; of two families there is none, and a socket of one family sends nothing to the other.
fn tcp_checksum(tcp: &TcpPacket<'_>, from: IpAddr, to: IpAddr) -> u16 {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_checksum(tcp, &from, &to),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_checksum(tcp, &from, &to),
        _ => 0,
    }
}

/// Reads a UDP reply.
pub(crate) fn udp_reply(payload: &[u8], from: IpAddr, keys: &ProbeKeys, mono_ns: u64) -> Read {
    match keys.verify(payload) {
        Ok(header) if header.kind == Kind::Reply => reply(header, from, mono_ns),
        // A request that comes to a source port: somebody sends our own packets back at us.
        Ok(_) => Read::Event(Event::Forged),
        Err(why) => why.into(),
    }
}

/// Reads an echo reply: what follows the IP header. It carries the request's header as it was sent.
///
/// A raw socket of ICMPv6 gives that too, and only where the kernel has found the checksum right (`rawv6_recvmsg`, net/ipv6/raw.c).
pub(crate) fn echo_reply(icmp: &[u8], identifier: u16, from: IpAddr, keys: &ProbeKeys, mono_ns: u64) -> Read {
    let Some(echo) = EchoReplyPacket::new(icmp) else {
        return Read::Event(Event::Truncated);
    };
    let wanted = if from.is_ipv4() { IcmpTypes::EchoReply } else { ECHO_REPLY_V6 };
    if echo.get_icmp_type() != wanted || echo.get_identifier() != identifier {
        return Read::Foreign;
    }
    match keys.verify(echo.payload()) {
        Ok(header) if header.kind == Kind::Request => reply(header, from, mono_ns),
        Ok(_) => Read::Event(Event::Forged),
        Err(why) => why.into(),
    }
}

fn reply(header: Header, from: IpAddr, mono_ns: u64) -> Read {
    Read::Event(Event::Reply {
        id: header.probe_id,
        seq: header.sequence,
        from,
        mono_ns,
    })
}

/// The IPv4 header and what follows it, as a raw socket of IPv4 delivers them.
fn ip_payload(packet: &[u8]) -> Option<(Ipv4Packet<'_>, &[u8])> {
    let ip = Ipv4Packet::new(packet)?;
    let (start, end) = (usize::from(ip.get_header_length()) * 4, usize::from(ip.get_total_length()));
    let payload = packet.get(start..end.min(packet.len()))?;
    (start >= IPV4_HEADER_BYTES as usize).then_some((ip, payload))
}

/// Reads an echo reply from a raw socket of IPv4. The socket gets it before `icmp_rcv` has verified the checksum, so that is done here.
pub(crate) fn raw_echo_reply(packet: &[u8], identifier: u16, keys: &ProbeKeys, mono_ns: u64) -> Read {
    let Some((ip, payload)) = ip_payload(packet) else {
        return Read::Event(Event::Truncated);
    };
    let Some(icmp) = IcmpPacket::new(payload) else {
        return Read::Event(Event::Truncated);
    };
    if icmp.get_checksum() != icmp_checksum(&icmp) {
        return Read::Event(Event::BadChecksum);
    }
    echo_reply(payload, identifier, ip.get_source().into(), keys, mono_ns)
}

/// Reads a TCP answer from a raw socket of IPv4.
pub(crate) fn tcp_reply(packet: &[u8], config: &ProbeConfig, mono_ns: u64) -> Read {
    match ip_payload(packet) {
        Some((ip, payload)) => tcp_segment(payload, ip.get_source().into(), ip.get_destination().into(), config, mono_ns),
        None => Read::Event(Event::Truncated),
    }
}

/// Reads a TCP answer as a raw socket of IPv6 delivers it, without the IP header. Raw sockets get it before the protocol has verified
/// the checksum.
pub(crate) fn tcp_segment(payload: &[u8], from: IpAddr, to: IpAddr, config: &ProbeConfig, mono_ns: u64) -> Read {
    let Some(tcp) = TcpPacket::new(payload) else {
        return Read::Event(Event::Truncated);
    };
    if tcp.get_source() != config.tcp_port || !config.tcp_sources.contains(tcp.get_destination()) {
        return Read::Foreign;
    }
    let flags = tcp.get_flags();
    let reset = flags & TcpFlags::RST != 0;
    let syn_ack = flags & TcpFlags::SYN != 0;
    if flags & TcpFlags::ACK == 0 || !(reset || syn_ack) {
        return Read::Foreign;
    }
    if !tcp_checksum_holds(&tcp, from, to, payload.len()) {
        return Read::Event(Event::BadChecksum);
    }
    Read::Event(Event::TcpReply {
        id_low: tcp.get_acknowledgement().wrapping_sub(1),
        reset,
        src_port: tcp.get_destination(),
        from,
        mono_ns,
    })
}

/// Whether the checksum is right, or left to a device that the packet never met: then the field holds the folded sum of the
/// pseudo-header (CHECKSUM_PARTIAL, include/linux/skbuff.h), as every packet of the stack's own between two veths does.
fn tcp_checksum_holds(tcp: &TcpPacket<'_>, from: IpAddr, to: IpAddr, length: usize) -> bool {
    let found = tcp.get_checksum();
    if found == tcp_checksum(tcp, from, to) {
        return true;
    }
    let sum = words(from) + words(to) + u32::from(IpNextHeaderProtocols::Tcp.0) + length as u32;
    // Sixteen words of IPv6 may carry more than once.
    let fold = |sum: u32| (sum >> 16) + (sum & 0xffff);
    u32::from(found) == fold(fold(sum))
}

/// Sum of an address' 16-bit words.
fn words(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => (ip.to_bits() >> 16) + (ip.to_bits() & 0xffff),
        IpAddr::V6(ip) => ip.segments().into_iter().map(u32::from).sum(),
    }
}

/// Low half of the id in the quote of an ICMP error about a UDP probe: `quoted` begins after the UDP header.
pub(crate) fn quoted_udp(quoted: &[u8], keys: &ProbeKeys) -> Option<u32> {
    keys.verify(quoted).map(|header| low(header.probe_id)).ok()
}

/// Identifier and, if quoted, low half of the id in the quote of an ICMP error about an echo request.
pub(crate) fn quoted_echo(quoted: &[u8], keys: &ProbeKeys) -> Option<(u16, Option<u32>)> {
    let echo = EchoRequestPacket::new(quoted)?;
    let request = [IcmpTypes::EchoRequest, ECHO_REQUEST_V6].contains(&echo.get_icmp_type());
    request.then(|| (echo.get_identifier(), quoted_udp(echo.payload(), keys)))
}

/// Source port in the quote of an ICMP error about a TCP segment. Each SYN has its own, so it names the probe.
pub(crate) fn quoted_tcp(quoted: &[u8], config: &ProbeConfig) -> Option<u16> {
    let port = |at: usize| quoted.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (source, destination) = (port(0)?, port(2)?);
    (config.tcp_sources.contains(source) && destination == config.tcp_port).then_some(source)
}

#[cfg(test)]
mod tests;

//! The bytes of requests and replies. The kernel writes the IP header of everything that is sent; what is raw below it is built and
//! read here.
//!
//! A TCP SYN has no room for a header: its sequence number is the low half of the probe's id, less the bytes of padding that follow. A
//! closed port acknowledges SYN and padding (`tcp_v4_send_reset`, net/ipv4/tcp_ipv4.c), so whatever the size, *the acknowledgement
//! number less one is the low half of the id*, and the taps name request and reply alike. A listening port does not take the padding
//! (no TCP Fast Open) and acknowledges the SYN alone.

use super::keys::{ProbeKeys, Untrusted};
use pnet::packet::{
    MutablePacket, Packet,
    icmp::{
        IcmpCode, IcmpPacket, IcmpTypes, checksum as icmp_checksum,
        echo_reply::EchoReplyPacket,
        echo_request::{EchoRequestPacket, MutableEchoRequestPacket},
    },
    ip::IpNextHeaderProtocols,
    ipv4::Ipv4Packet,
    tcp::{MutableTcpPacket, TcpFlags, TcpPacket, ipv4_checksum},
};
use std::net::Ipv4Addr;
use verifier_core::probe::{
    Event, Probe, ProbeConfig,
    config::{IPV4_HEADER_BYTES, TCP_HEADER_BYTES, UDP_HEADER_BYTES},
    id::{incarnation, low},
};
use verifier_ebpf::wire::{HEADER_BYTES, Header, Kind};

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
    (probe.length_bytes.saturating_sub(IPV4_HEADER_BYTES)) as usize
}

/// Payload of a UDP probe: header and padding.
pub(super) fn udp_payload(probe: &Probe, keys: &ProbeKeys, sent_realtime_ns: u64) -> Vec<u8> {
    let mut payload = header(probe, keys, sent_realtime_ns).to_vec();
    payload.resize(below_ip(probe).saturating_sub(UDP_HEADER_BYTES as usize).max(HEADER_BYTES), 0);
    payload
}

/// An ICMP echo request. Through a datagram socket the kernel writes identifier and checksum again, to the same values.
pub(super) fn echo_request(probe: &Probe, keys: &ProbeKeys, sent_realtime_ns: u64) -> Vec<u8> {
    let header = header(probe, keys, sent_realtime_ns);
    let mut packet = vec![0; below_ip(probe).max(UDP_HEADER_BYTES as usize + HEADER_BYTES)];
    if let Some(mut echo) = MutableEchoRequestPacket::new(&mut packet) {
        echo.set_icmp_type(IcmpTypes::EchoRequest);
        echo.set_icmp_code(IcmpCode::new(0));
        echo.set_identifier(probe.src_port);
        // Sixteen bits that differ from probe to probe, for a person with tcpdump; the header tells probes apart.
        echo.set_sequence_number(low(probe.id) as u16);
        echo.payload_mut()[..HEADER_BYTES].copy_from_slice(&header);
    }
    if let Some(mut icmp) = pnet::packet::icmp::MutableIcmpPacket::new(&mut packet) {
        let sum = icmp_checksum(&icmp.to_immutable());
        icmp.set_checksum(sum);
    }
    packet
}

/// A TCP SYN, padded to the probe's size.
pub(super) fn tcp_syn(probe: &Probe, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0; below_ip(probe).max(TCP_HEADER_BYTES as usize)];
    let padding = (packet.len() - TCP_HEADER_BYTES as usize) as u32;
    if let Some(mut tcp) = MutableTcpPacket::new(&mut packet) {
        tcp.set_source(probe.src_port);
        tcp.set_destination(probe.dst_port);
        tcp.set_sequence(low(probe.id).wrapping_sub(padding));
        tcp.set_data_offset((TCP_HEADER_BYTES / 4) as u8);
        tcp.set_flags(TcpFlags::SYN);
        tcp.set_window(1_024);
        let sum = ipv4_checksum(&tcp.to_immutable(), &from, &to);
        tcp.set_checksum(sum);
    }
    packet
}

/// Reads a UDP reply.
pub(crate) fn udp_reply(payload: &[u8], from: Ipv4Addr, keys: &ProbeKeys, mono_ns: u64) -> Read {
    match keys.verify(payload) {
        Ok(header) if header.kind == Kind::Reply => reply(header, from, mono_ns),
        // A request that comes to a source port: somebody sends our own packets back at us.
        Ok(_) => Read::Event(Event::Forged),
        Err(why) => why.into(),
    }
}

/// Reads an echo reply: what follows the IP header. It carries the request's header as it was sent.
pub(crate) fn echo_reply(icmp: &[u8], identifier: u16, from: Ipv4Addr, keys: &ProbeKeys, mono_ns: u64) -> Read {
    let Some(echo) = EchoReplyPacket::new(icmp) else {
        return Read::Event(Event::Truncated);
    };
    if echo.get_icmp_type() != IcmpTypes::EchoReply || echo.get_identifier() != identifier {
        return Read::Foreign;
    }
    match keys.verify(echo.payload()) {
        Ok(header) if header.kind == Kind::Request => reply(header, from, mono_ns),
        Ok(_) => Read::Event(Event::Forged),
        Err(why) => why.into(),
    }
}

fn reply(header: Header, from: Ipv4Addr, mono_ns: u64) -> Read {
    Read::Event(Event::Reply {
        id: header.probe_id,
        seq: header.sequence,
        from: from.into(),
        mono_ns,
    })
}

/// The IPv4 header and what follows it, as a raw socket delivers them.
fn ip_payload(packet: &[u8]) -> Option<(Ipv4Packet<'_>, &[u8])> {
    let ip = Ipv4Packet::new(packet)?;
    let (start, end) = (usize::from(ip.get_header_length()) * 4, usize::from(ip.get_total_length()));
    let payload = packet.get(start..end.min(packet.len()))?;
    (start >= IPV4_HEADER_BYTES as usize).then_some((ip, payload))
}

/// Reads an echo reply from a raw socket. The socket gets it before `icmp_rcv` has verified the checksum, so that is done here.
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
    echo_reply(payload, identifier, ip.get_source(), keys, mono_ns)
}

/// Reads a TCP answer from a raw socket, which gets it before `tcp_v4_rcv` has verified the checksum.
pub(crate) fn tcp_reply(packet: &[u8], config: &ProbeConfig, mono_ns: u64) -> Read {
    let Some((ip, payload)) = ip_payload(packet) else {
        return Read::Event(Event::Truncated);
    };
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
    if !tcp_checksum_holds(&tcp, ip.get_source(), ip.get_destination(), payload.len()) {
        return Read::Event(Event::BadChecksum);
    }
    Read::Event(Event::TcpReply {
        id_low: tcp.get_acknowledgement().wrapping_sub(1),
        reset,
        src_port: tcp.get_destination(),
        from: ip.get_source().into(),
        mono_ns,
    })
}

/// Whether the checksum is right, or left to a device that the packet never met: then the field holds the folded sum of the
/// pseudo-header (CHECKSUM_PARTIAL, include/linux/skbuff.h), as every packet of the stack's own between two veths does.
fn tcp_checksum_holds(tcp: &TcpPacket<'_>, from: Ipv4Addr, to: Ipv4Addr, length: usize) -> bool {
    let found = tcp.get_checksum();
    if found == ipv4_checksum(tcp, &from, &to) {
        return true;
    }
    let words = |ip: Ipv4Addr| {
        let bits = u32::from(ip);
        (bits >> 16) + (bits & 0xffff)
    };
    let sum = words(from) + words(to) + u32::from(IpNextHeaderProtocols::Tcp.0) + length as u32;
    let folded = (sum >> 16) + (sum & 0xffff);
    u32::from(found) == (folded >> 16) + (folded & 0xffff)
}

/// Low half of the id in the quote of an ICMP error about a UDP probe: `quoted` begins after the UDP header.
pub(crate) fn quoted_udp(quoted: &[u8], keys: &ProbeKeys) -> Option<u32> {
    keys.verify(quoted).map(|header| low(header.probe_id)).ok()
}

/// Identifier and, if quoted, low half of the id in the quote of an ICMP error about an echo request.
pub(crate) fn quoted_echo(quoted: &[u8], keys: &ProbeKeys) -> Option<(u16, Option<u32>)> {
    let echo = EchoRequestPacket::new(quoted)?;
    (echo.get_icmp_type() == IcmpTypes::EchoRequest).then(|| (echo.get_identifier(), quoted_udp(echo.payload(), keys)))
}

/// Source port in the quote of an ICMP error about a TCP segment. Each SYN has its own, so it names the probe.
pub(crate) fn quoted_tcp(quoted: &[u8], config: &ProbeConfig) -> Option<u16> {
    let port = |at: usize| quoted.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (source, destination) = (port(0)?, port(2)?);
    (config.tcp_sources.contains(source) && destination == config.tcp_port).then_some(source)
}

#[cfg(test)]
mod tests;

//! Takes a packet apart for a record, down to the probe's header.

use super::header::{Family, Ip, PROTOCOL_IPIP, PROTOCOL_TCP, PROTOCOL_UDP, any, ipv4, six};
use super::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Layer, Start, Stop, UDP_BYTES, VXLAN_BYTES, VXLAN_FLAGS, Why};
use crate::address::bytes_of;
use crate::bytes::{Bytes, View};
use crate::checksum::{Transport, pseudo_sum6};
use crate::config::Config;
use crate::plain::Field as _;
use crate::record::{Class, PacketRecord};
use crate::wire::{HEADER_BYTES, MAGIC};

const ICMP6_TOO_BIG: u8 = 2;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// Where a probe's transport lies, to look at its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// From the start of the packet.
    pub transport_at: usize,
    /// Its length by the IP header.
    pub transport_length: u16,
    /// Sum of its pseudo header.
    pub pseudo: u32,
    /// Its checksum field.
    pub field: u16,
    /// What it is.
    pub transport: Transport,
    /// More fragments follow: the sum covers what is not here.
    pub fragmented: bool,
}

/// Fills `out` with a probe packet. On an error `out` holds what was read until then, and no class.
#[inline(always)]
pub fn describe<B: Bytes + ?Sized>(bytes: &B, start: Start, config: &Config, out: &mut PacketRecord) -> Result<Found, Stop> {
    *out = PacketRecord::ZERO;
    let outer = match start {
        Start::Ethernet => {
            let Some(ethernet) = bytes.view::<ETHERNET_BYTES>(0) else {
                return Err(Stop::new(Layer::Ethernet, Why::Truncated));
            };
            out.destination_mac = ethernet.copy(0);
            out.source_mac = ethernet.copy(6);
            framed(bytes, ethernet.be16(12), ETHERNET_BYTES, Layer::Ethernet, Layer::Ip)?
        }
        Start::Ip => any(bytes, 0, Layer::Ip)?,
    }
    .settled(bytes);
    let innermost = match tunnel(bytes, &outer, config, Layer::Tunnel)? {
        None => outer,
        Some(tunnel) => {
            out.outer_source = bytes_of(outer.source);
            out.outer_destination = bytes_of(outer.destination);
            out.outer_protocol = outer.protocol;
            out.outer_ttl = outer.ttl;
            out.outer_length_bytes = outer.length;
            out.outer_destination_mac = out.destination_mac;
            out.outer_source_mac = out.source_mac;
            match tunnel {
                Tunnel::Ipip { inner_at } => {
                    out.encapsulation = PacketRecord::IPIP;
                    out.destination_mac = [0; 6];
                    out.source_mac = [0; 6];
                    ipv4(bytes, inner_at, Layer::InnerIp)?.into()
                }
                Tunnel::Vxlan(vxlan) => {
                    out.encapsulation = PacketRecord::VXLAN;
                    out.outer_source_port = vxlan.source_port;
                    out.outer_destination_port = vxlan.destination_port;
                    out.vni = vxlan.vni;
                    let Some(ethernet) = bytes.view::<ETHERNET_BYTES>(vxlan.ethernet_at) else {
                        return Err(Stop::new(Layer::InnerEthernet, Why::Truncated));
                    };
                    out.destination_mac = ethernet.copy(0);
                    out.source_mac = ethernet.copy(6);
                    let inner_at = vxlan.ethernet_at + ETHERNET_BYTES;
                    framed(bytes, ethernet.be16(12), inner_at, Layer::InnerEthernet, Layer::InnerIp)?
                }
            }
        }
    }
    .settled(bytes);
    out.source = bytes_of(innermost.source);
    out.destination = bytes_of(innermost.destination);
    out.protocol = innermost.protocol;
    out.ttl = innermost.ttl;
    out.length_bytes = innermost.length;
    out.ip_id = innermost.id;
    out.flags =
        u8::from(innermost.dont_fragment) * PacketRecord::DONT_FRAGMENT + u8::from(innermost.more_fragments) * PacketRecord::MORE_FRAGMENTS;
    transport(bytes, &innermost, config, out)
}

/// Reads the header behind an Ethernet header of this type, which must be of the family that the type names.
#[inline(always)]
fn framed<B: Bytes + ?Sized>(bytes: &B, ethertype: u16, at: usize, ethernet: Layer, layer: Layer) -> Result<Ip, Stop> {
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(bytes, at, layer).map(Ip::from),
        ETHERTYPE_IPV6 => six(bytes, at, layer),
        _ => Err(Stop::new(ethernet, Why::Unsupported)),
    }
}

enum Tunnel {
    Vxlan(Vxlan),
    Ipip { inner_at: usize },
}

struct Vxlan {
    source_port: u16,
    destination_port: u16,
    vni: u32,
    ethernet_at: usize,
}

/// The tunnel header behind `ip`, if there is one.
#[inline(always)]
fn tunnel<B: Bytes + ?Sized>(bytes: &B, ip: &Ip, config: &Config, layer: Layer) -> Result<Option<Tunnel>, Stop> {
    if ip.protocol == PROTOCOL_IPIP && matches!(ip.family, Family::Four) {
        return Ok(Some(Tunnel::Ipip { inner_at: ip.payload_at }));
    }
    if ip.protocol != PROTOCOL_UDP {
        return Ok(None);
    }
    let Some(ports) = bytes.view::<4>(ip.payload_at) else {
        return Err(Stop::new(layer, Why::Truncated));
    };
    let (source_port, destination_port) = (ports.be16(0), ports.be16(2));
    if source_port == config.probe_port || destination_port == config.probe_port {
        return Ok(None);
    }
    let Some(vxlan) = bytes.view::<VXLAN_BYTES>(ip.payload_at + UDP_BYTES) else {
        return Err(Stop::new(layer, Why::Truncated));
    };
    if vxlan.be32(0) != VXLAN_FLAGS {
        return Ok(None);
    }
    Ok(Some(Tunnel::Vxlan(Vxlan {
        source_port,
        destination_port,
        vni: vxlan.be32(4) >> 8,
        ethernet_at: ip.payload_at + UDP_BYTES + VXLAN_BYTES,
    })))
}

#[inline(always)]
fn transport<B: Bytes + ?Sized>(bytes: &B, ip: &Ip, config: &Config, out: &mut PacketRecord) -> Result<Found, Stop> {
    let at = ip.payload_at;
    let truncated = Stop::new(Layer::Transport, Why::Truncated);
    let six = matches!(ip.family, Family::Six);
    let (transport, field) = match ip.protocol {
        icmp if icmp == ip.family.icmp() => {
            let Some(icmp) = bytes.view::<8>(at) else {
                return Err(truncated);
            };
            out.icmp_type = icmp.byte(0);
            out.icmp_code = icmp.byte(1);
            if ip.family.quotes(icmp.byte(0)) {
                if six && icmp.byte(0) == ICMP6_TOO_BIG {
                    // 32 bits here; no device has an MTU that 16 could not hold, loopback aside.
                    out.icmp_mtu_bytes = if icmp.be16(4) == 0 { icmp.be16(6) } else { u16::MAX };
                } else if !six && icmp.byte(0) == 3 && icmp.byte(1) == 4 {
                    out.icmp_mtu_bytes = icmp.be16(6);
                }
                quoted(bytes, at + 8, config, out)?;
                out.class = Class::IcmpError as u8;
            } else {
                out.source_port = icmp.be16(4);
                let class = if icmp.byte(0) == ip.family.echo() {
                    Class::EchoRequest
                } else if icmp.byte(0) == ip.family.echo_reply() {
                    Class::EchoReply
                } else {
                    return Err(Stop::new(Layer::Transport, Why::Unsupported));
                };
                out.probe = own_header(bytes, ip)?;
                out.class = class as u8;
            }
            (if six { Transport::Icmp6 } else { Transport::Icmp }, icmp.be16(2))
        }
        PROTOCOL_UDP => {
            let Some(udp) = bytes.view::<UDP_BYTES>(at) else {
                return Err(truncated);
            };
            ports(out, udp.be16(0), udp.be16(2));
            if !is_probe_port(config, out.source_port, out.destination_port) {
                return Err(Stop::new(Layer::Transport, Why::NotProbe));
            }
            out.probe = own_header(bytes, ip)?;
            out.class = Class::Udp as u8;
            (if six { Transport::Udp6 } else { Transport::Udp }, udp.be16(6))
        }
        PROTOCOL_TCP => {
            let Some(tcp) = bytes.view::<20>(at) else {
                return Err(truncated);
            };
            ports(out, tcp.be16(0), tcp.be16(2));
            out.tcp_flags = tcp.byte(13);
            let from_prober = config.is_tcp_probe_port(out.source_port) && tcp.byte(13) & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN;
            let to_prober = config.is_tcp_probe_port(out.destination_port) && tcp.byte(13) & TCP_ACK != 0;
            let class = if from_prober {
                out.tcp_id = syn_id(tcp.be32(4), ip.payload_length);
                Class::TcpSyn
            } else if to_prober && tcp.byte(13) & (TCP_SYN | TCP_RST) != 0 {
                // Both acknowledge the SYN, which counts as one byte; a closed port acknowledges the padding too.
                out.tcp_id = tcp.be32(8).wrapping_sub(1);
                if tcp.byte(13) & TCP_RST != 0 {
                    Class::TcpReset
                } else {
                    Class::TcpSynAck
                }
            } else {
                return Err(Stop::new(Layer::Transport, Why::NotProbe));
            };
            out.class = class as u8;
            (Transport::Tcp, tcp.be16(16))
        }
        _ => return Err(Stop::new(Layer::Transport, Why::Unsupported)),
    };
    Ok(Found {
        transport_at: at,
        transport_length: ip.payload_length,
        pseudo: pseudo_sum6(ip.source, ip.destination, ip.protocol, ip.payload_length),
        field,
        transport,
        fragmented: ip.more_fragments,
    })
}

/// The packet that an ICMP error quotes; one that was still encapsulated is quoted with its tunnel header.
#[inline(always)]
fn quoted<B: Bytes + ?Sized>(bytes: &B, at: usize, config: &Config, out: &mut PacketRecord) -> Result<(), Stop> {
    let outer = any(bytes, at, Layer::Quote)?.settled(bytes);
    let ip = match tunnel(bytes, &outer, config, Layer::Quote)? {
        None => outer,
        Some(Tunnel::Ipip { inner_at }) => ipv4(bytes, inner_at, Layer::Quote)?.into(),
        Some(Tunnel::Vxlan(vxlan)) => any(bytes, vxlan.ethernet_at + ETHERNET_BYTES, Layer::Quote)?,
    }
    .settled(bytes);
    out.quoted_source = bytes_of(ip.source);
    out.quoted_destination = bytes_of(ip.destination);
    out.quoted_protocol = ip.protocol;
    let Some(first) = bytes.view::<8>(ip.payload_at) else {
        return Err(Stop::new(Layer::Quote, Why::Truncated));
    };
    match ip.protocol {
        icmp if icmp == ip.family.icmp() && (first.byte(0) == ip.family.echo() || first.byte(0) == ip.family.echo_reply()) => {
            out.quoted_source_port = first.be16(4);
            out.probe = header(bytes, ip.payload_at + 8)?;
        }
        PROTOCOL_UDP if is_probe_port(config, first.be16(0), first.be16(2)) => {
            out.quoted_source_port = first.be16(0);
            out.quoted_destination_port = first.be16(2);
            out.probe = header(bytes, ip.payload_at + UDP_BYTES)?;
        }
        PROTOCOL_TCP if config.is_tcp_probe_port(first.be16(0)) => {
            out.quoted_source_port = first.be16(0);
            out.quoted_destination_port = first.be16(2);
            out.tcp_id = syn_id(first.be32(4), ip.payload_length);
        }
        _ => return Err(Stop::new(Layer::Quote, Why::NotProbe)),
    }
    Ok(())
}

/// Low half of the probe's id in a SYN: sequence number plus padding, which is what the answer's acknowledgement less one is. Probes
/// have no TCP options.
#[inline(always)]
const fn syn_id(sequence: u32, tcp_length: u16) -> u32 {
    sequence.wrapping_add((tcp_length as u32).saturating_sub(20))
}

#[inline(always)]
const fn is_probe_port(config: &Config, source: u16, destination: u16) -> bool {
    source == config.probe_port || destination == config.probe_port
}

#[inline(always)]
const fn ports(out: &mut PacketRecord, source: u16, destination: u16) {
    out.source_port = source;
    out.destination_port = destination;
}

/// The probe's header behind the eight bytes of an echo's or a datagram's own header, which must lie inside what the IP header calls the
/// packet: bytes behind that (padding of a short frame) are nobody's word.
#[inline(always)]
fn own_header<B: Bytes + ?Sized>(bytes: &B, ip: &Ip) -> Result<[u8; HEADER_BYTES], Stop> {
    if usize::from(ip.payload_length) < UDP_BYTES + HEADER_BYTES {
        return Err(Stop::new(Layer::Probe, Why::Truncated));
    }
    header(bytes, ip.payload_at + UDP_BYTES)
}

/// The probe's header at `at`; only its magic is looked at, user space verifies the rest.
#[inline(always)]
fn header<B: Bytes + ?Sized>(bytes: &B, at: usize) -> Result<[u8; HEADER_BYTES], Stop> {
    let Some(header) = bytes.view::<HEADER_BYTES>(at) else {
        return Err(Stop::new(Layer::Probe, Why::Truncated));
    };
    if header.be32(0) == MAGIC {
        Ok(header.copy(0))
    } else {
        Err(Stop::new(Layer::Probe, Why::NotProbe))
    }
}

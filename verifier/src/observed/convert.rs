//! From the kernel's records to the core's types: numbers become names, and what cannot be named says so.

use std::net::{IpAddr, Ipv6Addr};

use verifier_core::{
    names::{Mac, NodeName},
    observed::{Checksum, Direction, Drop, DropStage, Hop, Inner, Leg, Outer, TapKind, Where},
};
use verifier_ebpf::{
    address::bytes_of,
    checksum::ChecksumState,
    record::{self, Class, ConformanceSample, DropRecord, HopRecord, PacketRecord},
    wire::{Header, Kind},
};

use super::symbols::Symbols;

/// A record that this build does not understand, though its size is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record with an unknown {field}")]
pub struct Unconvertible {
    /// Which field.
    pub field: &'static str,
}

/// A hop, on `node`; `device` names an interface by its index.
///
/// # Errors
/// A field has a value of another build, or the probe's header is of another version.
pub fn hop(record: &HopRecord, node: &NodeName, device: impl Fn(u32) -> Option<String>) -> Result<Hop, Unconvertible> {
    let identity = identity(&record.packet)?;
    Ok(Hop {
        node: node.clone(),
        at_ns: record.time_ns,
        probe: identity.probe,
        seq: identity.sequence,
        leg: identity.leg,
        // A link that went away in the meantime has no name any more, but its index is as good.
        device: device(record.ifindex).unwrap_or_else(|| format!("if{}", record.ifindex)),
        ifindex: record.ifindex,
        direction: direction(record.direction)?,
        tap: match record::Tap::from_byte(record.tap) {
            Some(record::Tap::Workload) => TapKind::Workload,
            Some(record::Tap::Tunnel) => TapKind::Tunnel,
            Some(record::Tap::Underlay) => TapKind::Underlay,
            None => return Err(Unconvertible { field: "tap" }),
        },
        outer: outer(&record.packet),
        inner: inner(&record.packet),
        checksum: match ChecksumState::from_byte(record.packet.checksum) {
            ChecksumState::Good => Checksum::Good,
            ChecksumState::Partial => Checksum::Partial,
            ChecksumState::Bad => Checksum::Bad,
            ChecksumState::Unchecked | ChecksumState::Absent => Checksum::Unchecked,
        },
        mark: record.mark,
        cpu: record.cpu,
        gso_size: record.gso_size,
        gso_segs: record.gso_segs,
    })
}

/// What a drop record is resolved with.
pub struct DropContext<'a, D, P, L> {
    /// The node.
    pub node: &'a NodeName,
    /// Names of reasons and places.
    pub symbols: &'a Symbols,
    /// Name of a device by namespace and index.
    pub device: D,
    /// Namespace by its inode number.
    pub place: P,
    /// Whether an address is the node's own.
    pub is_local: L,
}

/// A drop of a probe; `None` for ARP and neighbour discovery, and for a namespace that is not ours (any more).
///
/// # Errors
/// A field has a value of another build, or the probe's header is of another version.
pub fn dropped<D, P, L>(record: &DropRecord, context: &DropContext<'_, D, P, L>) -> Result<Option<Drop>, Unconvertible>
where
    D: Fn(u32, u32) -> Option<String>,
    P: Fn(u32) -> Option<Where>,
    L: Fn(IpAddr) -> bool,
{
    if Class::from_byte(record.packet.class) == Class::Arp {
        return Ok(None);
    }
    let Some(place) = (context.place)(record.netns) else {
        return Ok(None);
    };
    let identity = identity(&record.packet)?;
    Ok(Some(Drop {
        node: context.node.clone(),
        place,
        at_ns: record.time_ns,
        probe: identity.probe,
        seq: identity.sequence,
        leg: identity.leg,
        device: if record.ifindex == 0 {
            None
        } else {
            (context.device)(record.netns, record.ifindex)
        },
        reason: context.symbols.reason(record.reason),
        location: context.symbols.location(record.location),
        stage: stage(record, &context.is_local),
        encapsulated: record.packet.encapsulation != PacketRecord::BARE,
    }))
}

/// At which point of the stack a packet was, by what its buffer says: no route yet is before routing; routed and still on the device it
/// came in by is forwarding or input; routed and on another device is after routing; nowhere come in from is this host's own.
fn stage(record: &DropRecord, is_local: impl Fn(IpAddr) -> bool) -> DropStage {
    let destination = if record.packet.encapsulation == PacketRecord::BARE {
        record.packet.destination
    } else {
        record.packet.outer_destination
    };
    match (record.iif, record.has_dst) {
        (0, 0) => DropStage::Unknown,
        (0, _) => DropStage::Output,
        (_, 0) => DropStage::Prerouting,
        (iif, _) if iif != record.ifindex => DropStage::Postrouting,
        _ if is_local(address(destination)) => DropStage::Input,
        _ => DropStage::Forward,
    }
}

struct Identity {
    probe: u32,
    sequence: u32,
    leg: Leg,
}

fn identity(packet: &PacketRecord) -> Result<Identity, Unconvertible> {
    let class = Class::from_byte(packet.class);
    let tcp = packet.protocol == 6 || (class == Class::IcmpError && packet.quoted_protocol == 6);
    let (probe, sequence, kind) = if tcp {
        (packet.tcp_id, 0, Kind::Request)
    } else {
        let header = Header::decode(&packet.probe).map_err(|_| Unconvertible { field: "probe header" })?;
        // The core pairs by the low half, which is all that TCP carries.
        (header.probe_id as u32, header.sequence, header.kind)
    };
    let leg = match class {
        Class::Udp => match kind {
            Kind::Request => Leg::Request,
            Kind::Reply => Leg::Reply,
        },
        Class::EchoRequest | Class::TcpSyn => Leg::Request,
        Class::EchoReply | Class::TcpSynAck | Class::TcpReset => Leg::Reply,
        Class::IcmpError => Leg::Error,
        Class::None | Class::Arp => return Err(Unconvertible { field: "class" }),
    };
    Ok(Identity { probe, sequence, leg })
}

pub(super) fn direction(byte: u8) -> Result<Direction, Unconvertible> {
    match record::Direction::from_byte(byte) {
        Some(record::Direction::Ingress) => Ok(Direction::Ingress),
        Some(record::Direction::Egress) => Ok(Direction::Egress),
        None => Err(Unconvertible { field: "direction" }),
    }
}

fn outer(packet: &PacketRecord) -> Option<Outer> {
    (packet.encapsulation != PacketRecord::BARE).then(|| Outer {
        src_mac: Mac(packet.outer_source_mac),
        dst_mac: Mac(packet.outer_destination_mac),
        src: address(packet.outer_source),
        dst: address(packet.outer_destination),
        protocol: packet.outer_protocol,
        src_port: packet.outer_source_port,
        dst_port: packet.outer_destination_port,
        vni: (packet.encapsulation == PacketRecord::VXLAN).then_some(packet.vni),
        ttl: packet.outer_ttl,
        length_bytes: u32::from(packet.outer_length_bytes),
    })
}

fn inner(packet: &PacketRecord) -> Inner {
    Inner {
        src: address(packet.source),
        dst: address(packet.destination),
        protocol: packet.protocol,
        src_port: packet.source_port,
        dst_port: packet.destination_port,
        ttl: packet.ttl,
        length_bytes: u32::from(packet.length_bytes),
        dont_fragment: packet.flags & PacketRecord::DONT_FRAGMENT != 0,
    }
}

/// An address of a record; IPv4 stands there as a mapped address.
pub(super) fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// The packet of a sample: outer source and destination, inner source and destination.
pub fn sampled(sample: &ConformanceSample) -> (IpAddr, IpAddr, IpAddr, IpAddr) {
    let of = |words| address(bytes_of(words));
    (
        of(sample.outer_source),
        of(sample.outer_destination),
        of(sample.source),
        of(sample.destination),
    )
}

#[cfg(test)]
mod tests {
    use verifier_ebpf::plain::Field as _;

    use super::*;

    fn packet(class: Class, kind: Kind) -> PacketRecord {
        let header = Header {
            kind,
            key_id: 0,
            probe_id: 0xaaaa_bbbb_cccc_dddd,
            sequence: 9,
            incarnation: 1,
            sent_realtime_ns: 2,
        };
        PacketRecord {
            class: class as u8,
            protocol: 17,
            probe: header.encode(verifier_ebpf::siphash::SipKey { k0: 0, k1: 0 }),
            ..PacketRecord::ZERO
        }
    }

    fn record(class: Class, kind: Kind) -> HopRecord {
        HopRecord {
            direction: 1,
            tap: 3,
            packet: packet(class, kind),
            ..HopRecord::ZERO
        }
    }

    #[test]
    fn legs_follow_from_class_and_kind() {
        let leg = |class, kind| hop(&record(class, kind), &"a".into(), |_| None).map(|hop| (hop.leg, hop.probe, hop.seq));
        assert_eq!(leg(Class::Udp, Kind::Request), Ok((Leg::Request, 0xcccc_dddd, 9)));
        assert_eq!(leg(Class::Udp, Kind::Reply), Ok((Leg::Reply, 0xcccc_dddd, 9)));
        assert_eq!(leg(Class::EchoReply, Kind::Request), Ok((Leg::Reply, 0xcccc_dddd, 9)));
        assert_eq!(leg(Class::IcmpError, Kind::Request), Ok((Leg::Error, 0xcccc_dddd, 9)));
        assert_eq!(leg(Class::None, Kind::Request), Err(Unconvertible { field: "class" }));
        let tcp = PacketRecord {
            class: Class::TcpReset as u8,
            protocol: 6,
            tcp_id: 77,
            ..PacketRecord::ZERO
        };
        let tcp = HopRecord {
            packet: tcp,
            ..record(Class::Udp, Kind::Request)
        };
        assert_eq!(
            hop(&tcp, &"a".into(), |_| None).map(|hop| (hop.leg, hop.probe)),
            Ok((Leg::Reply, 77))
        );
    }

    #[test]
    fn the_stage_of_a_drop_is_read_from_its_buffer() {
        let stage = |iif, ifindex, has_dst, local| {
            let record = DropRecord {
                iif,
                ifindex,
                has_dst,
                ..DropRecord::ZERO
            };
            super::stage(&record, |_| local)
        };
        assert_eq!(stage(3, 3, 0, false), DropStage::Prerouting);
        assert_eq!(stage(3, 3, 1, false), DropStage::Forward);
        assert_eq!(stage(3, 3, 1, true), DropStage::Input);
        assert_eq!(stage(3, 4, 1, false), DropStage::Postrouting);
        assert_eq!(stage(0, 4, 1, false), DropStage::Output);
        assert_eq!(stage(0, 4, 0, false), DropStage::Unknown);
    }

    #[test]
    fn an_unnamed_device_keeps_its_index() {
        let hop = hop(
            &HopRecord {
                ifindex: 12,
                ..record(Class::Udp, Kind::Request)
            },
            &"a".into(),
            |_| None,
        )
        .unwrap();
        assert_eq!(hop.device, "if12");
        assert!(hop.outer.is_none());
    }
}

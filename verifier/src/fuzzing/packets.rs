//! Packets and records.

use crate::probe::{
    keys::{ProbeKeys, WireKey},
    packet,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use verifier_core::probe::ProbeConfig;
use verifier_ebpf::{
    address::{Address6, mask6},
    config::Config,
    parse::{Start, Triage, describe, first_look, neighbour},
    plain::Field as _,
    record::{Class, Direction, PacketRecord, Record, Tap},
    siphash::SipKey,
    wire::Header,
};

const KEY: SipKey = SipKey { k0: 1, k1: 2 };
/// The first of `ProbeConfig`.
const IDENTIFIER: u16 = 62_100;
const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 2, 3));
const FROM6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 2, 3));

/// As `ProbeConfig` has it, and on the addresses of the tests' fabric, where the seeds were captured.
const CONFIG: Config = Config {
    probe_port: 61_998,
    vxlan_port: 4789,
    tcp_port_first: 63_000,
    tcp_port_last: 64_999,
    vni: 4096,
    pool_address: [0x0af4_0000, u32::MAX, u32::MAX, u32::MAX],
    pool_mask: [0xffff_0000, 0, 0, 0],
    pool6_address: [[0xfd00_0010_0244_0000, 0], [u64::MAX; 2], [u64::MAX; 2], [u64::MAX; 2]],
    pool6_mask: [mask6(48), [0; 2], [0; 2], [0; 2]],
    ..Config::NOTHING
};

/// A frame at a tap: the quick look must never turn away what the thorough one would find, and a record never reaches past the bytes.
pub(super) fn packet(bytes: &[u8]) {
    for start in [Start::Ethernet, Start::Ip] {
        starting_with(bytes, start);
    }
}

fn starting_with(bytes: &[u8], start: Start) {
    let mut record = PacketRecord::ZERO;
    match describe(bytes, start, &CONFIG, &mut record) {
        Ok(place) => {
            assert!(Class::from_byte(record.class) != Class::None, "found, and nothing");
            assert!(place.transport_at < bytes.len(), "past the end");
            let seen = first_look(bytes, start, Tap::Underlay, Direction::Egress, &CONFIG);
            assert!(seen.candidate(), "the quick look turned a probe away");
        }
        Err(_) => assert!(Class::from_byte(record.class) == Class::None, "nothing found, and something said"),
    }
    for tap in [Tap::Workload, Tap::Tunnel, Tap::Underlay] {
        for direction in [Direction::Ingress, Direction::Egress] {
            let _: Triage<Address6> = first_look(bytes, start, tap, direction, &CONFIG);
        }
    }
    if start == Start::Ip && neighbour(bytes, Some(&mut record)) {
        assert!(Class::from_byte(record.class) == Class::Arp, "a neighbour's, and not said so");
        let mut again = PacketRecord::ZERO;
        assert!(
            describe(bytes, start, &CONFIG, &mut again).is_err(),
            "a probe and a neighbour's at once"
        );
    }
}

/// The header of a probe, and the records of the ring.
pub(super) fn wire(bytes: &[u8]) {
    if let Ok(header) = Header::decode(bytes) {
        let again = header.encode(KEY);
        assert_eq!(Header::decode(&again), Ok(header), "a header does not survive the wire");
        assert_eq!(Header::decode_verified(&again, KEY), Ok(header), "a signed header is refused");
    }
    if let Ok(header) = Header::decode_verified(bytes, KEY) {
        assert_eq!(Header::decode(bytes), Ok(header), "verified, and not decoded");
    }
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(Record::decode(bytes), Ok(record), "one record, two readings");
    }
}

/// Answers as a socket gives them, and the packets that ICMP errors quote.
pub(super) fn replies(bytes: &[u8]) {
    let keys = ProbeKeys::new(WireKey { id: 1, key: KEY });
    let config = ProbeConfig::default();
    let _: packet::Read = packet::udp_reply(bytes, FROM, &keys, 1);
    let _: packet::Read = packet::echo_reply(bytes, IDENTIFIER, FROM, &keys, 1);
    let _: packet::Read = packet::echo_reply(bytes, IDENTIFIER, FROM6, &keys, 1);
    let _: packet::Read = packet::tcp_segment(bytes, FROM6, FROM6, &config, 1);
    let _: packet::Read = packet::raw_echo_reply(bytes, IDENTIFIER, &keys, 1);
    let _: packet::Read = packet::tcp_reply(bytes, &config, 1);
    let _: Option<u32> = packet::quoted_udp(bytes, &keys);
    let _: Option<(u16, Option<u32>)> = packet::quoted_echo(bytes, &keys);
    let _: Option<u16> = packet::quoted_tcp(bytes, &config);
}

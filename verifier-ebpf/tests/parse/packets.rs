//! Packets, built by hand.

use verifier_ebpf::address::words_of;
use verifier_ebpf::checksum::{fold, pseudo_sum6, sum};
use verifier_ebpf::config::Config;
use verifier_ebpf::parse::{Start, Stop, describe};
use verifier_ebpf::plain::Field as _;
use verifier_ebpf::record::{Class, PacketRecord};
use verifier_ebpf::siphash::SipKey;
use verifier_ebpf::wire::{Header, Kind};

pub(crate) const CONFIG: Config = Config {
    probe_port: 20_011,
    vxlan_port: 4789,
    tcp_port_first: 20_100,
    tcp_port_last: 20_199,
    vni: 4096,
    pool_address: [0x0af4_0000, u32::MAX, u32::MAX, u32::MAX],
    pool_mask: [0xffff_0000, 0, 0, 0],
    pool6_address: [[0xfd00_0010_0244_0000, 0], [u64::MAX; 2], [u64::MAX; 2], [u64::MAX; 2]],
    pool6_mask: [[0xffff_ffff_ffff_0000, 0], [0; 2], [0; 2], [0; 2]],
    ..Config::NOTHING
};
pub(crate) const PROBE_ID: u64 = 0x1122_3344_5566_7788;

pub(crate) fn header(kind: Kind) -> Vec<u8> {
    Header {
        kind,
        key_id: 1,
        probe_id: PROBE_ID,
        sequence: 3,
        incarnation: 4,
        sent_realtime_ns: 5,
    }
    .encode(SipKey { k0: 1, k1: 2 })
    .to_vec()
}

/// IPv4 with `options` words of options.
pub(crate) fn ip(source: [u8; 4], destination: [u8; 4], protocol: u8, options: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + usize::from(options) * 4;
    let mut bytes = vec![0x40 | (5 + options), 0];
    bytes.extend(((header + payload.len()) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34, 0x40, 0, 63, protocol, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.resize(header, 1);
    bytes.extend(payload);
    bytes
}

pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [
        source.to_be_bytes(),
        destination.to_be_bytes(),
        ((8 + payload.len()) as u16).to_be_bytes(),
    ]
    .concat();
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

pub(crate) fn icmp(kind: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0, 0x0b, 0xad, 0x05, 0x78][..], payload].concat()
}

pub(crate) fn tcp(source: u16, destination: u16, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
    bytes
}

pub(crate) fn ethernet(tail: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tail; 6];
    bytes.extend([tail + 1; 6]);
    bytes.extend([8, 0]);
    bytes.extend(payload);
    bytes
}

pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
}

pub(crate) const POD_A: [u8; 4] = [10, 244, 1, 2];
pub(crate) const POD_B: [u8; 4] = [10, 244, 2, 3];
pub(crate) const NODE_A: [u8; 4] = [192, 168, 7, 1];
pub(crate) const NODE_B: [u8; 4] = [192, 168, 7, 2];

/// Every shape of a probe, as the pod sends or receives it, with the class it must be given.
pub(crate) fn bare_probes(options: u8) -> Vec<(Class, Vec<u8>)> {
    let request = udp(30_001, 20_011, &header(Kind::Request));
    let quoted = ip(POD_A, POD_B, 17, options, &request);
    let quoted_tcp = ip(POD_A, POD_B, 6, options, &tcp(20_150, 81, PROBE_ID as u32, 0, 2)[..8]);
    vec![
        (Class::Udp, ip(POD_A, POD_B, 17, options, &request)),
        (
            Class::Udp,
            ip(POD_B, POD_A, 17, options, &udp(20_011, 30_001, &header(Kind::Reply))),
        ),
        (
            Class::EchoRequest,
            ip(POD_A, POD_B, 1, options, &icmp(8, 0, &header(Kind::Request))),
        ),
        (Class::EchoReply, ip(POD_B, POD_A, 1, options, &icmp(0, 0, &header(Kind::Request)))),
        (Class::TcpSyn, ip(POD_A, POD_B, 6, options, &tcp(20_150, 81, PROBE_ID as u32, 0, 2))),
        // Padded: sequence number and padding together are the id.
        (
            Class::TcpSyn,
            ip(
                POD_A,
                POD_B,
                6,
                options,
                &[tcp(20_150, 81, (PROBE_ID as u32).wrapping_sub(64), 0, 2), vec![0; 64]].concat(),
            ),
        ),
        (
            Class::TcpReset,
            ip(
                POD_B,
                POD_A,
                6,
                options,
                &tcp(81, 20_150, 0, (PROBE_ID as u32).wrapping_add(1), 0x14),
            ),
        ),
        (
            Class::TcpSynAck,
            ip(
                POD_B,
                POD_A,
                6,
                options,
                &tcp(81, 20_150, 9, (PROBE_ID as u32).wrapping_add(1), 0x12),
            ),
        ),
        (Class::IcmpError, ip(POD_B, POD_A, 1, options, &icmp(3, 3, &quoted))),
        (Class::IcmpError, ip(POD_B, POD_A, 1, options, &icmp(3, 4, &quoted_tcp))),
    ]
}

pub(crate) fn encapsulate(packet: &[u8], options: u8) -> Vec<u8> {
    let inner = vxlan(4096, &ethernet(0x10, packet));
    ethernet(0x20, &ip(NODE_A, NODE_B, 17, options, &udp(50_000, 4789, &inner)))
}

/// In IP instead, as `tunl0` does.
pub(crate) fn in_ip(packet: &[u8], options: u8) -> Vec<u8> {
    ethernet(0x20, &ip(NODE_A, NODE_B, 4, options, packet))
}

pub(crate) fn found(frame: &[u8]) -> Result<PacketRecord, Stop> {
    let mut record = PacketRecord::ZERO;
    describe(frame, Start::Ethernet, &CONFIG, &mut record).map(|_| record)
}

pub(crate) const POD6_A: [u8; 16] = [0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2];
pub(crate) const POD6_B: [u8; 16] = [0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3];
pub(crate) const NODE6_A: [u8; 16] = [0xfd, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const NODE6_B: [u8; 16] = [0xfd, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// The extension headers that may stand between header and transport: none; options; several, one of them long; a first fragment.
pub(crate) const EXTENSIONS: [&[(u8, &[u8])]; 4] = [
    &[],
    &[(60, &[0, 0, 1, 4, 0, 0, 0, 0])],
    &[
        (0, &[0, 0, 1, 4, 0, 0, 0, 0]),
        (43, &[0, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ],
    &[(0, &[0, 0, 5, 2, 0, 0, 0, 0]), (44, &[0, 0, 0, 1, 0, 0, 0, 7])],
];

/// IPv6 with these extension headers; each says which header follows it.
pub(crate) fn ip6(source: [u8; 16], destination: [u8; 16], protocol: u8, extensions: &[(u8, &[u8])], payload: &[u8]) -> Vec<u8> {
    let mut behind = Vec::new();
    for (index, (_, extension)) in extensions.iter().enumerate() {
        let start = behind.len();
        behind.extend(*extension);
        behind[start] = extensions.get(index + 1).map_or(protocol, |(next, _)| *next);
    }
    behind.extend(payload);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((behind.len() as u16).to_be_bytes());
    bytes.extend([extensions.first().map_or(protocol, |(next, _)| *next), 63]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend(behind);
    bytes
}

/// A transport of IPv6 with its checksum, which stands at `at`.
fn summed(source: [u8; 16], destination: [u8; 16], protocol: u8, at: usize, mut transport: Vec<u8>) -> Vec<u8> {
    let pseudo = pseudo_sum6(words_of(source), words_of(destination), protocol, transport.len() as u16);
    transport[at..at + 2].fill(0);
    let checksum = !fold(sum(&transport, pseudo));
    transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    transport
}

/// Every shape of a probe of IPv6, with the class it must be given.
pub(crate) fn bare_probes6(extensions: &[(u8, &[u8])]) -> Vec<(Class, Vec<u8>)> {
    let there = |protocol, at, transport| {
        ip6(
            POD6_A,
            POD6_B,
            protocol,
            extensions,
            &summed(POD6_A, POD6_B, protocol, at, transport),
        )
    };
    let back = |protocol, at, transport| {
        ip6(
            POD6_B,
            POD6_A,
            protocol,
            extensions,
            &summed(POD6_B, POD6_A, protocol, at, transport),
        )
    };
    let request = there(17, 6, udp(30_001, 20_011, &header(Kind::Request)));
    let echo = there(58, 2, icmp(128, 0, &header(Kind::Request)));
    // The padding counts: sequence number and padding together are the id.
    let syn = there(
        6,
        16,
        [tcp(20_150, 81, (PROBE_ID as u32).wrapping_sub(64), 0, 2), vec![0; 64]].concat(),
    );
    let answer = (PROBE_ID as u32).wrapping_add(1);
    vec![
        (Class::Udp, request.clone()),
        (Class::Udp, back(17, 6, udp(20_011, 30_001, &header(Kind::Reply)))),
        (Class::EchoRequest, echo.clone()),
        (Class::EchoReply, back(58, 2, icmp(129, 0, &header(Kind::Request)))),
        (Class::TcpSyn, syn.clone()),
        (Class::TcpReset, back(6, 16, tcp(81, 20_150, 0, answer, 0x14))),
        (Class::TcpSynAck, back(6, 16, tcp(81, 20_150, 9, answer, 0x12))),
        (Class::IcmpError, back(58, 2, icmp(1, 4, &request))),
        (Class::IcmpError, back(58, 2, icmp(3, 0, &echo))),
        (Class::IcmpError, back(58, 2, icmp(4, 1, &syn))),
        (Class::IcmpError, back(58, 2, too_big(1430, &request))),
    ]
}

/// ICMPv6 "packet too big" (RFC 4443, 3.2).
pub(crate) fn too_big(mtu: u32, quote: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0][..], &mtu.to_be_bytes(), quote].concat()
}

/// In a frame that announces IPv6.
pub(crate) fn ethernet6(tail: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ethernet(tail, payload);
    bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
    bytes
}

/// A frame in VXLAN over IPv6.
pub(crate) fn encapsulate6(frame: &[u8], extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let outer = udp(50_000, 4789, &vxlan(4096, frame));
    ethernet6(0x20, &ip6(NODE6_A, NODE6_B, 17, extensions, &outer))
}

/// IPv6 in VXLAN over IPv4.
pub(crate) fn six_in_four(packet: &[u8]) -> Vec<u8> {
    let outer = udp(50_000, 4789, &vxlan(4096, &ethernet6(0x10, packet)));
    ethernet(0x20, &ip(NODE_A, NODE_B, 17, 0, &outer))
}

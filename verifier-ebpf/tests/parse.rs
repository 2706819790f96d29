//! The parsers against packets built here, cut, damaged and made up: they never panic, they find every probe, and the quick
//! look never turns away a packet in which the thorough one would find a probe.

use proptest::prelude::*;
use verifier_ebpf::config::Config;
use verifier_ebpf::conformance::Carrier;
use verifier_ebpf::parse::{Layer, Start, Stop, Triage, Why, describe, triage};
use verifier_ebpf::plain::Field as _;
use verifier_ebpf::record::{Class, Direction, PacketRecord, Tap};
use verifier_ebpf::siphash::SipKey;
use verifier_ebpf::wire::{Header, Kind};

const CONFIG: Config = Config {
    probe_port: 20_011,
    vxlan_port: 4789,
    tcp_port_first: 20_100,
    tcp_port_last: 20_199,
    vni: 4096,
    pool_address: [0x0af4_0000, u32::MAX, u32::MAX, u32::MAX],
    pool_mask: [0xffff_0000, 0, 0, 0],
    ..Config::NOTHING
};
const PROBE_ID: u64 = 0x1122_3344_5566_7788;

fn header(kind: Kind) -> Vec<u8> {
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
fn ip(source: [u8; 4], destination: [u8; 4], protocol: u8, options: u8, payload: &[u8]) -> Vec<u8> {
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

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
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

fn icmp(kind: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0, 0x0b, 0xad, 0x05, 0x78][..], payload].concat()
}

fn tcp(source: u16, destination: u16, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
    bytes
}

fn ethernet(tail: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tail; 6];
    bytes.extend([tail + 1; 6]);
    bytes.extend([8, 0]);
    bytes.extend(payload);
    bytes
}

fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
}

const POD_A: [u8; 4] = [10, 244, 1, 2];
const POD_B: [u8; 4] = [10, 244, 2, 3];
const NODE_A: [u8; 4] = [192, 168, 7, 1];
const NODE_B: [u8; 4] = [192, 168, 7, 2];

/// Every shape of a probe, as the pod sends or receives it, with the class it must be given.
fn bare_probes(options: u8) -> Vec<(Class, Vec<u8>)> {
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

fn encapsulate(packet: &[u8], options: u8) -> Vec<u8> {
    let inner = vxlan(4096, &ethernet(0x10, packet));
    ethernet(0x20, &ip(NODE_A, NODE_B, 17, options, &udp(50_000, 4789, &inner)))
}

/// In IP instead, as `tunl0` does.
fn in_ip(packet: &[u8], options: u8) -> Vec<u8> {
    ethernet(0x20, &ip(NODE_A, NODE_B, 4, options, packet))
}

fn found(frame: &[u8]) -> Result<PacketRecord, Stop> {
    let mut record = PacketRecord::ZERO;
    describe(frame, Start::Ethernet, &CONFIG, &mut record).map(|_| record)
}

#[test]
fn every_shape_of_a_probe_is_found_bare_and_encapsulated() {
    for options in [0, 3, 10] {
        for (class, packet) in bare_probes(options) {
            let bare = ethernet(0x10, &packet);
            let record = found(&bare).unwrap_or_else(|stop| panic!("{class:?}: {stop:?}"));
            assert_eq!(Class::from_byte(record.class), class);
            assert_eq!(record.encapsulation, PacketRecord::BARE);
            assert_eq!((record.destination_mac, record.source_mac), ([0x10; 6], [0x11; 6]));
            let id = if record.protocol == 6 || record.quoted_protocol == 6 {
                u64::from(record.tcp_id)
            } else {
                Header::decode(&record.probe).unwrap().probe_id
            };
            assert_eq!(id as u32, PROBE_ID as u32);
            for tap in [Tap::Workload, Tap::Tunnel] {
                assert_eq!(
                    triage(&bare[..], Start::Ethernet, tap, Direction::Egress, &CONFIG),
                    Triage::Candidate
                );
            }
            assert!(matches!(
                triage(&bare[..], Start::Ethernet, Tap::Underlay, Direction::Egress, &CONFIG),
                Triage::Bare { candidate: true, .. }
            ));

            let outer = encapsulate(&packet, options);
            let record = found(&outer).unwrap();
            assert_eq!(Class::from_byte(record.class), class);
            assert_eq!(
                (record.encapsulation, record.vni, record.outer_source_port),
                (PacketRecord::VXLAN, 4096, 50_000)
            );
            assert_eq!((record.outer_destination_mac, record.destination_mac), ([0x20; 6], [0x10; 6]));
            assert_eq!(record.outer_source[12..], NODE_A);
            let Triage::Encapsulated(seen) = triage(&outer[..], Start::Ethernet, Tap::Underlay, Direction::Egress, &CONFIG) else {
                panic!("{class:?} not seen in the tunnel")
            };
            assert!(seen.candidate);
            assert_eq!(
                (seen.vni, seen.port, seen.outer_destination),
                (4096, 4789, u32::from_be_bytes(NODE_B))
            );

            let mut from_ip = PacketRecord::ZERO;
            describe(&outer[14..], Start::Ip, &CONFIG, &mut from_ip).unwrap();
            assert_eq!((from_ip.class, from_ip.source), (record.class, record.source));
        }
    }
}

#[test]
fn every_shape_of_a_probe_is_found_in_ip_and_without_a_frame() {
    for options in [0, 3, 10] {
        for (class, packet) in bare_probes(options) {
            let outer = in_ip(&packet, options);
            let record = found(&outer).unwrap_or_else(|stop| panic!("{class:?}: {stop:?}"));
            assert_eq!(Class::from_byte(record.class), class);
            assert_eq!(
                (record.encapsulation, record.vni, record.outer_protocol, record.outer_source_port),
                (PacketRecord::IPIP, 0, 4, 0)
            );
            assert_eq!((record.outer_destination_mac, record.destination_mac), ([0x20; 6], [0; 6]));
            assert_eq!((&record.outer_source[12..], &record.source[12..]), (&NODE_A[..], &packet[12..16]));
            let Triage::Encapsulated(seen) = triage(&outer[..], Start::Ethernet, Tap::Underlay, Direction::Egress, &CONFIG) else {
                panic!("{class:?} not seen in the tunnel")
            };
            assert!(seen.candidate);
            assert_eq!(
                (seen.carrier, seen.port, seen.vni, seen.outer_destination),
                (Carrier::Ipip, 0, 0, u32::from_be_bytes(NODE_B))
            );

            // At the tunnel device the packet stands alone, and on a point-to-point underlay the outer header comes first.
            assert_eq!(
                triage(&packet[..], Start::Ip, Tap::Tunnel, Direction::Ingress, &CONFIG),
                Triage::Candidate
            );
            let mut alone = PacketRecord::ZERO;
            describe(&packet[..], Start::Ip, &CONFIG, &mut alone).unwrap();
            assert_eq!((alone.class, alone.encapsulation), (record.class, PacketRecord::BARE));
            assert!(matches!(
                triage(&outer[14..], Start::Ip, Tap::Underlay, Direction::Egress, &CONFIG),
                Triage::Encapsulated(again) if again == seen
            ));
        }
    }
}

#[test]
fn ip_in_ip_that_is_cut_or_of_another_family_is_not_ours() {
    let whole = in_ip(&bare_probes(0).swap_remove(0).1, 0);
    let at = |bytes: &[u8]| triage(bytes, Start::Ethernet, Tap::Underlay, Direction::Ingress, &CONFIG);
    assert_eq!(at(&whole[..14 + 20 + 19]), Triage::Short(Layer::InnerIp));
    assert_eq!(at(&whole[..14 + 20 + 20]), Triage::Short(Layer::Transport));
    let mut six = whole.clone();
    six[14 + 20] = 0x60;
    assert_eq!(at(&six), Triage::NotOurs);
    assert_eq!(
        found(&six).map(|_| ()),
        Err(Stop {
            layer: Layer::InnerIp,
            why: Why::Unsupported
        })
    );
}

#[test]
fn an_icmp_error_about_the_tunnel_itself_names_the_probe_inside() {
    for (class, packet) in bare_probes(0) {
        if class == Class::IcmpError {
            continue;
        }
        for outer in [encapsulate(&packet, 0), in_ip(&packet, 2)] {
            let error = ethernet(0x30, &ip(NODE_B, NODE_A, 1, 0, &icmp(3, 3, &outer[14..])));
            match found(&error) {
                Ok(record) => {
                    assert_eq!(Class::from_byte(record.class), Class::IcmpError);
                    assert_eq!(record.quoted_source[12..], packet[12..16]);
                }
                // The kernel never complains about a reset or an answer, and a quote of one names no SYN.
                Err(stop) => assert!(matches!(class, Class::TcpReset | Class::TcpSynAck), "{class:?} {stop:?}"),
            }
        }
    }
}

#[test]
fn what_is_not_a_probe_says_where_parsing_stopped() {
    let at = |layer, why| Err(Stop { layer, why });
    let other = |packet: Vec<u8>| found(&ethernet(0x10, &packet)).map(|_| ());
    assert_eq!(found(&[0; 13]).map(|_| ()), at(Layer::Ethernet, Why::Truncated));
    assert_eq!(found(&[0; 64]).map(|_| ()), at(Layer::Ethernet, Why::Unsupported));
    assert_eq!(
        other(ip(POD_A, POD_B, 17, 0, &udp(1, 2, &[0; 64]))),
        at(Layer::Transport, Why::NotProbe)
    );
    assert_eq!(other(ip(POD_A, POD_B, 132, 0, &[0; 64])), at(Layer::Transport, Why::Unsupported));
    assert_eq!(
        other(ip(POD_A, POD_B, 17, 0, &udp(1, 20_011, &[0; 64]))),
        at(Layer::Probe, Why::NotProbe)
    );
    assert_eq!(
        other(ip(POD_A, POD_B, 17, 0, &udp(1, 20_011, &header(Kind::Request)[..39]))),
        at(Layer::Probe, Why::Truncated)
    );
    assert_eq!(
        other(ip(POD_A, POD_B, 6, 0, &tcp(20_150, 81, 1, 1, 0x10))),
        at(Layer::Transport, Why::NotProbe)
    );
    assert_eq!(
        other(ip(POD_A, POD_B, 1, 0, &icmp(3, 3, &ip(POD_A, POD_B, 17, 0, &udp(5, 6, &[0; 8]))))),
        at(Layer::Quote, Why::NotProbe)
    );
    let mut fragment = ip(POD_A, POD_B, 17, 0, &udp(1, 20_011, &header(Kind::Request)));
    fragment[7] = 1;
    assert_eq!(other(fragment.clone()), at(Layer::Ip, Why::Fragment));
    assert_eq!(found(&encapsulate(&fragment, 0)).map(|_| ()), at(Layer::InnerIp, Why::Fragment));
    fragment[7] = 0;
    fragment[3] = 10;
    assert_eq!(other(fragment.clone()), at(Layer::Ip, Why::Malformed));
    // A probe's bytes behind the end that the IP header tells are padding, not a probe.
    for (protocol, payload) in [
        (17, udp(20_011, 20_011, &header(Kind::Request))),
        (1, icmp(8, 0, &header(Kind::Request))),
    ] {
        let mut padded = ip(POD_A, POD_B, protocol, 0, &payload);
        padded[3] = 20 + 8 + 35;
        assert_eq!(other(padded), at(Layer::Probe, Why::Truncated));
    }
    fragment[0] = 0x65;
    assert_eq!(other(fragment), at(Layer::Ip, Why::Unsupported));
    assert_eq!(
        triage(
            &ethernet(0, &ip([1, 1, 1, 1], [2, 2, 2, 2], 6, 0, &tcp(1, 2, 3, 4, 16)))[..],
            Start::Ethernet,
            Tap::Underlay,
            Direction::Egress,
            &CONFIG
        ),
        Triage::NotOurs
    );
}

fn any_probe_frame() -> impl Strategy<Value = Vec<u8>> {
    (0u8..11, 0usize..9, 0u8..3).prop_map(|(options, shape, carrier)| {
        let packet = bare_probes(options).swap_remove(shape).1;
        match carrier {
            0 => ethernet(0x10, &packet),
            1 => in_ip(&packet, options),
            _ => encapsulate(&packet, options),
        }
    })
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let damaged = (
        any_probe_frame(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    )
        .prop_map(|(mut frame, changes)| {
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            frame
        });
    let cut = (damaged, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(mut frame, at, cut)| {
        if cut {
            frame.truncate(at.index(frame.len()));
        }
        frame
    });
    prop_oneof![4 => cut, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn triage_never_turns_away_what_describe_would_find(frame in any_frame()) {
        if found(&frame).is_ok() {
            // On workload and tunnel devices a tunnel header belongs to the pods themselves: nothing of ours.
            let encapsulated = found(&frame).is_ok_and(|record| record.encapsulation != PacketRecord::BARE);
            if !encapsulated {
                for tap in [Tap::Workload, Tap::Tunnel] {
                    prop_assert!(matches!(triage(&frame[..], Start::Ethernet, tap, Direction::Egress, &CONFIG), Triage::Candidate));
                }
            }
            let seen = match triage(&frame[..], Start::Ethernet, Tap::Underlay, Direction::Egress, &CONFIG) {
                Triage::Candidate => true,
                Triage::Bare { candidate, .. } => candidate,
                Triage::Encapsulated(encapsulated) => encapsulated.candidate,
                Triage::NotOurs | Triage::Short(_) => false,
            };
            prop_assert!(seen);
        }
    }

    #[test]
    fn a_record_never_claims_more_than_the_bytes_hold(frame in any_frame()) {
        let mut record = PacketRecord::ZERO;
        match describe(&frame[..], Start::Ethernet, &CONFIG, &mut record) {
            Ok(place) => {
                prop_assert!(Class::from_byte(record.class) != Class::None);
                prop_assert!(place.transport_at < frame.len());
            }
            Err(_) => prop_assert_eq!(Class::from_byte(record.class), Class::None),
        }
    }
}

//! The parsers against packets built here, cut, damaged and made up: they never panic, they find every probe, and the quick
//! look never turns away a packet in which the thorough one would find a probe.

mod packets;
mod property;
mod six;

use packets::*;
use verifier_ebpf::conformance::Carrier;
use verifier_ebpf::parse::{Layer, Start, Stop, Triage, Why, describe, triage};
use verifier_ebpf::plain::Field as _;
use verifier_ebpf::record::{Class, Direction, PacketRecord, Tap};
use verifier_ebpf::wire::{Header, Kind};

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

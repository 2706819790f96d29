//! IPv6: the shapes of IPv4 again, and what IPv4 does not have.

use verifier_ebpf::address::{mapped, mapped_words, words_of};
use verifier_ebpf::checksum::{ChecksumState, Transport, fold, sum, with_sum};
use verifier_ebpf::conformance::Carrier;
use verifier_ebpf::parse::{Crossing, Found, Layer, Start, Stop, Triage, Why, describe, first_look, neighbour};
use verifier_ebpf::plain::Field as _;
use verifier_ebpf::record::{Class, Direction, PacketRecord, Tap};
use verifier_ebpf::wire::{Header, Kind};

use super::packets::*;

fn look(frame: &[u8], tap: Tap) -> Triage<[u64; 2]> {
    first_look(frame, Start::Ethernet, tap, Direction::Egress, &CONFIG)
}

fn stopped(frame: &[u8]) -> Option<Stop> {
    found(frame).err()
}

const fn at(layer: Layer, why: Why) -> Option<Stop> {
    Some(Stop { layer, why })
}

fn id(record: &PacketRecord) -> u32 {
    if record.protocol == 6 || record.quoted_protocol == 6 {
        record.tcp_id
    } else {
        Header::decode(&record.probe).map_or(0, |header| header.probe_id as u32)
    }
}

#[test]
fn every_shape_of_a_probe_is_found_bare_and_encapsulated() {
    for extensions in EXTENSIONS {
        let fragmented = extensions.iter().any(|(kind, _)| *kind == 44);
        for (class, packet) in bare_probes6(extensions) {
            let bare = ethernet6(0x10, &packet);
            let record = found(&bare).unwrap_or_else(|stop| panic!("{class:?}: {stop:?}"));
            assert_eq!(Class::from_byte(record.class), class);
            assert_eq!((&record.source[..], &record.destination[..]), (&packet[8..24], &packet[24..40]));
            assert_eq!((record.encapsulation, record.ttl, record.ip_id), (PacketRecord::BARE, 63, 0));
            assert_eq!(usize::from(record.length_bytes), packet.len());
            assert_eq!(
                record.flags,
                PacketRecord::DONT_FRAGMENT | if fragmented { PacketRecord::MORE_FRAGMENTS } else { 0 }
            );
            assert_eq!(id(&record), PROBE_ID as u32);
            for tap in [Tap::Workload, Tap::Tunnel] {
                assert_eq!(look(&bare, tap), Triage::Candidate);
            }
            assert_eq!(
                look(&bare, Tap::Underlay),
                Triage::Bare {
                    source: words_of(record.source),
                    destination: words_of(record.destination),
                    candidate: true
                }
            );

            let outer = encapsulate6(&bare, extensions);
            let record = found(&outer).unwrap();
            assert_eq!((Class::from_byte(record.class), id(&record)), (class, PROBE_ID as u32));
            assert_eq!(
                (record.encapsulation, record.vni, record.outer_source_port, record.outer_protocol),
                (PacketRecord::VXLAN, 4096, 50_000, 17)
            );
            assert_eq!((record.outer_destination_mac, record.destination_mac), ([0x20; 6], [0x10; 6]));
            assert_eq!((record.outer_source, record.outer_destination), (NODE6_A, NODE6_B));
            assert_eq!(usize::from(record.outer_length_bytes), outer.len() - 14);
            let Triage::Encapsulated(seen) = look(&outer, Tap::Underlay) else {
                panic!("{class:?} not seen in the tunnel")
            };
            assert_eq!(
                (seen.carrier, seen.crossing, seen.vni, seen.port, seen.candidate),
                (Carrier::Vxlan, Crossing::None, 4096, 4789, true)
            );
            assert_eq!((seen.outer_source, seen.outer_destination), (words_of(NODE6_A), words_of(NODE6_B)));
            assert_eq!(
                (seen.source, seen.destination),
                (words_of(record.source), words_of(record.destination))
            );

            let mut alone = PacketRecord::ZERO;
            describe(&outer[14..], Start::Ip, &CONFIG, &mut alone).unwrap();
            assert_eq!(
                (alone.class, alone.source, alone.outer_source),
                (record.class, record.source, NODE6_A)
            );
            assert_eq!(
                first_look(&outer[14..], Start::Ip, Tap::Underlay, Direction::Egress, &CONFIG),
                Triage::Encapsulated(seen)
            );
        }
    }
}

#[test]
fn checksums_hold_with_the_pseudo_header_of_ipv6() {
    for extensions in EXTENSIONS {
        for (class, packet) in bare_probes6(extensions) {
            let mut record = PacketRecord::ZERO;
            let Found {
                transport_at,
                transport_length,
                pseudo,
                transport,
                ..
            } = describe(&packet[..], Start::Ip, &CONFIG, &mut record).unwrap();
            assert_eq!(transport_at + usize::from(transport_length), packet.len());
            assert!(
                matches!(transport, Transport::Udp6 | Transport::Icmp6 | Transport::Tcp),
                "{transport:?}"
            );
            let mut transport_bytes = packet[transport_at..].to_vec();
            let state = |bytes: &[u8]| with_sum(transport, pseudo, fold(sum(bytes, 0)));
            assert_eq!(state(&transport_bytes), ChecksumState::Good, "{class:?}");
            transport_bytes[12] ^= 1;
            assert_eq!(state(&transport_bytes), ChecksumState::Bad, "{class:?}");
        }
    }
}

#[test]
fn errors_say_what_they_complain_about() {
    let errors: Vec<PacketRecord> = bare_probes6(&[])
        .into_iter()
        .filter(|(class, _)| *class == Class::IcmpError)
        .map(|(_, packet)| found(&ethernet6(0x10, &packet)).unwrap())
        .collect();
    let said: Vec<_> = errors
        .iter()
        .map(|e| (e.protocol, e.icmp_type, e.icmp_code, e.icmp_mtu_bytes, e.quoted_protocol))
        .collect();
    assert_eq!(said, [(58, 1, 4, 0, 17), (58, 3, 0, 0, 58), (58, 4, 1, 0, 6), (58, 2, 0, 1430, 17)]);
    for error in &errors {
        assert_eq!((error.quoted_source, error.quoted_destination), (POD6_A, POD6_B));
    }
    let huge = ip6(POD6_B, POD6_A, 58, &[], &too_big(65_536, &bare_probes6(&[])[0].1));
    assert_eq!(found(&ethernet6(0, &huge)).unwrap().icmp_mtu_bytes, u16::MAX);
}

#[test]
fn an_error_about_the_tunnel_itself_names_the_probe_inside() {
    for (class, packet) in bare_probes6(&[]) {
        if matches!(class, Class::IcmpError | Class::TcpReset | Class::TcpSynAck) {
            continue;
        }
        let outer = encapsulate6(&ethernet6(0x10, &packet), &[]);
        let error = ethernet6(0x30, &ip6(NODE6_B, NODE6_A, 58, &[], &too_big(1400, &outer[14..])));
        let record = found(&error).unwrap_or_else(|stop| panic!("{class:?}: {stop:?}"));
        assert_eq!((Class::from_byte(record.class), record.icmp_mtu_bytes), (Class::IcmpError, 1400));
        assert_eq!(record.quoted_source[..], packet[8..24]);
        assert!(look(&error, Tap::Underlay).candidate());
        // As a router of IPv4 says it of a tunnel of IPv4.
        let crossed = six_in_four(&packet);
        let error = ethernet(0x30, &ip(NODE_B, NODE_A, 1, 0, &icmp(3, 4, &crossed[14..])));
        assert_eq!(found(&error).unwrap().quoted_source[..], packet[8..24]);
    }
}

#[test]
fn a_tunnel_of_the_other_family_is_told_as_what_it_is() {
    for (class, packet) in bare_probes(0) {
        let outer = encapsulate6(&ethernet(0x10, &packet), &[]);
        let record = found(&outer).unwrap();
        assert_eq!(Class::from_byte(record.class), class);
        assert_eq!((record.outer_source, &record.source[12..]), (NODE6_A, &packet[12..16]));
        let Triage::Encapsulated(seen) = look(&outer, Tap::Underlay) else {
            panic!("{class:?} not seen")
        };
        assert_eq!((seen.crossing, seen.candidate), (Crossing::FourInSix, true));
        assert_eq!(seen.source, words_of(record.source));
    }
    for (class, packet) in bare_probes6(&[]) {
        let outer = six_in_four(&packet);
        let record = found(&outer).unwrap();
        assert_eq!(Class::from_byte(record.class), class);
        assert_eq!(
            (record.outer_source, record.source),
            (mapped(NODE_A), packet[8..24].try_into().unwrap())
        );
        for (frame, start) in [(&outer[..], Start::Ethernet), (&outer[14..], Start::Ip)] {
            let Triage::Encapsulated(seen) = first_look(frame, start, Tap::Underlay, Direction::Egress, &CONFIG) else {
                panic!("{class:?} not seen")
            };
            assert_eq!((seen.crossing, seen.candidate), (Crossing::SixInFour, true));
            assert_eq!(seen.outer_destination, mapped_words(u32::from_be_bytes(NODE_B)));
            assert_eq!(seen.source, words_of(record.source));
        }
    }
}

#[test]
fn fragments_and_extension_headers_are_followed_so_far_and_no_further() {
    let request = udp(30_001, 20_011, &header(Kind::Request));
    let options: (u8, &[u8]) = (60, &[0, 0, 1, 4, 0, 0, 0, 0]);
    let with = |extensions: &[(u8, &[u8])]| ip6(POD6_A, POD6_B, 17, extensions, &request);
    let later = with(&[(44, &[0, 0, 0, 9, 0, 0, 0, 7])]);
    for (packet, why) in [
        (with(&[options; 4]), None),
        (with(&[options; 5]), Some(Why::Unsupported)),
        (later.clone(), Some(Why::Fragment)),
        // Longer than the packet says it is.
        (
            {
                let mut short = with(&[options]);
                short[5] = 4;
                short
            },
            Some(Why::Malformed),
        ),
    ] {
        let frame = ethernet6(0x10, &packet);
        assert_eq!(stopped(&frame), why.map(|why| Stop { layer: Layer::Ip, why }));
        assert_eq!(look(&frame, Tap::Workload).candidate(), why.is_none());
        let inside = encapsulate6(&frame, &[]);
        assert_eq!(
            stopped(&inside),
            why.map(|why| Stop {
                layer: Layer::InnerIp,
                why
            })
        );
        assert_eq!(look(&inside, Tap::Underlay).candidate(), why.is_none());
    }
    // What no transport follows ends the chain, and is no probe's: encrypted, authenticated, nothing.
    for last in [50, 51, 59] {
        let frame = ethernet6(0x10, &ip6(POD6_A, POD6_B, last, &[options], &request));
        assert_eq!(stopped(&frame), at(Layer::Transport, Why::Unsupported));
        assert!(matches!(look(&frame, Tap::Underlay), Triage::Bare { candidate: false, .. }));
    }
    // A chain that the bytes at hand end in: look again at more of them.
    let frame = ethernet6(0x10, &with(&[options; 2]));
    assert_eq!(look(&frame[..14 + 40 + 8], Tap::Workload), Triage::Short(Layer::Ip));
    assert_eq!(look(&frame[..14 + 40 + 16], Tap::Workload), Triage::Short(Layer::Transport));
    assert_eq!(look(&frame[..14 + 39], Tap::Workload), Triage::Short(Layer::Ip));
}

#[test]
fn what_is_not_a_probe_says_where_parsing_stopped() {
    let six = |protocol, payload: &[u8]| ethernet6(0x10, &ip6(POD6_A, POD6_B, protocol, &[], payload));
    assert_eq!(stopped(&six(17, &udp(1, 2, &[0; 64]))), at(Layer::Transport, Why::NotProbe));
    assert_eq!(stopped(&six(17, &udp(1, 20_011, &[0; 64]))), at(Layer::Probe, Why::NotProbe));
    // The ICMP of the other family.
    assert_eq!(
        stopped(&six(1, &icmp(8, 0, &header(Kind::Request)))),
        at(Layer::Transport, Why::Unsupported)
    );
    let four = ethernet(0x10, &ip(POD_A, POD_B, 58, 0, &icmp(128, 0, &header(Kind::Request))));
    assert_eq!(stopped(&four), at(Layer::Transport, Why::Unsupported));
    // IPIP is IPv4's.
    assert_eq!(stopped(&six(4, &bare_probes(0)[0].1)), at(Layer::Transport, Why::Unsupported));
    // A frame that announces one family and carries the other.
    assert_eq!(stopped(&ethernet6(0x10, &bare_probes(0)[0].1)), at(Layer::Ip, Why::Unsupported));
    assert_eq!(stopped(&ethernet(0x10, &bare_probes6(&[])[0].1)), at(Layer::Ip, Why::Unsupported));
    assert_eq!(look(&ethernet6(0x10, &bare_probes(0)[0].1), Tap::Workload), Triage::NotOurs);
    assert_eq!(look(&ethernet(0x10, &bare_probes6(&[])[0].1), Tap::Workload), Triage::NotOurs);
    // A mapped address on the wire: a record would call it IPv4.
    let mapped_source = ip6(mapped(POD_A), POD6_B, 17, &[], &udp(1, 20_011, &header(Kind::Request)));
    assert_eq!(stopped(&ethernet6(0x10, &mapped_source)), at(Layer::Ip, Why::Unsupported));
    // Padding behind the end that the header tells.
    let mut padded = ip6(POD6_A, POD6_B, 17, &[], &udp(20_011, 20_011, &header(Kind::Request)));
    padded[5] = 8 + 35;
    assert_eq!(stopped(&ethernet6(0x10, &padded)), at(Layer::Probe, Why::Truncated));
    // Somebody else's traffic between other addresses.
    let foreign = ip6(NODE6_A, NODE6_B, 6, &[], &tcp(1, 2, 3, 4, 16));
    assert_eq!(look(&ethernet6(0, &foreign), Tap::Underlay), Triage::NotOurs);
}

#[test]
fn a_length_of_zero_is_more_than_its_field_can_say() {
    let mut jumbo = ip6(POD6_A, POD6_B, 6, &[(0, &[0, 0, 0xc2, 4, 0, 1, 0, 0])], &tcp(1, 2, 3, 4, 16));
    jumbo[4..6].fill(0);
    assert!(matches!(
        look(&ethernet6(0x10, &jumbo), Tap::Underlay),
        Triage::Bare { candidate: false, .. }
    ));
}

#[test]
fn who_looks_for_whom_is_read_from_neighbour_discovery() {
    let message = |kind: u8, option: &[u8]| {
        let mut packet = ip6(
            NODE6_A,
            NODE6_B,
            58,
            &[],
            &[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &POD6_B, option].concat(),
        );
        packet[7] = 255;
        packet
    };
    let read = |packet: &[u8]| {
        let mut record = PacketRecord::ZERO;
        let is = neighbour(packet, Some(&mut record));
        assert_eq!(is, neighbour(packet, None));
        is.then_some(record)
    };
    let asked = read(&message(135, &[1, 1, 2, 3, 4, 5, 6, 7])).unwrap();
    assert_eq!(Class::from_byte(asked.class), Class::Arp);
    assert_eq!(
        (asked.source, asked.destination, asked.source_mac),
        (NODE6_A, POD6_B, [2, 3, 4, 5, 6, 7])
    );
    let told = read(&message(136, &[2, 1, 2, 3, 4, 5, 6, 7])).unwrap();
    assert_eq!(
        (told.icmp_type, told.source_mac, told.destination_mac),
        (136, [0; 6], [2, 3, 4, 5, 6, 7])
    );
    assert!(read(&message(135, &[])).is_some());
    // A router's advertisement, one that was forwarded, and half a message.
    assert_eq!(read(&message(134, &[])), None);
    let mut forwarded = message(135, &[]);
    forwarded[7] = 254;
    assert_eq!(read(&forwarded), None);
    assert_eq!(read(&message(135, &[])[..63]), None);
}

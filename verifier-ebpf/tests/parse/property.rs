//! Of any bytes.

use proptest::prelude::*;
use verifier_ebpf::parse::{Start, describe, first_look, neighbour};
use verifier_ebpf::plain::Field as _;
use verifier_ebpf::record::{Class, Direction, PacketRecord, Tap};

use super::packets::*;

fn any_probe_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![any_probe_frame_of_four(), any_probe_frame_of_six()]
}

/// Of IPv6 within, without, or both; in front of them the frame, which IPv4 within needs as well.
fn any_probe_frame_of_six() -> impl Strategy<Value = Vec<u8>> {
    (0usize..11, 0usize..4, 0usize..4, 0u8..5).prop_map(|(shape, inner, outer, carrier)| {
        let packet = bare_probes6(EXTENSIONS[inner]).swap_remove(shape).1;
        match carrier {
            0 => ethernet6(0x10, &packet),
            1 | 2 => encapsulate6(&ethernet6(0x10, &packet), EXTENSIONS[outer]),
            3 => six_in_four(&packet),
            _ => encapsulate6(&ethernet(0x10, &bare_probes(0).swap_remove(shape % 9).1), EXTENSIONS[outer]),
        }
    })
}

fn any_probe_frame_of_four() -> impl Strategy<Value = Vec<u8>> {
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
                    prop_assert!(first_look(&frame[..], Start::Ethernet, tap, Direction::Egress, &CONFIG).candidate());
                }
            }
            let seen = first_look(&frame[..], Start::Ethernet, Tap::Underlay, Direction::Egress, &CONFIG).candidate();
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

    #[test]
    fn without_a_frame_the_families_are_told_apart_by_the_packet(frame in any_frame()) {
        let packet = frame.get(14..).unwrap_or_default();
        let mut record = PacketRecord::ZERO;
        let described = describe(packet, Start::Ip, &CONFIG, &mut record);
        let seen = first_look(packet, Start::Ip, Tap::Underlay, Direction::Ingress, &CONFIG);
        prop_assert!(described.is_err() || seen.candidate());
        // What looks for a neighbour is no probe.
        let mut discovery = PacketRecord::ZERO;
        prop_assert!(!neighbour(packet, Some(&mut discovery)) || described.is_err());
    }
}

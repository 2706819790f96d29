use super::*;
use crate::probe::result::{Endpoint, Outcome, PairKind, Size};
use alloc::vec;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 65, 0, last])
}

fn probe(id: u64, transport: Transport, to: u8, src_port: u16) -> Probe {
    let end = |last| Endpoint {
        node: "n".into(),
        pod: None,
        ip: ip(last),
    };
    Probe {
        id,
        seq: 2,
        from: end(1),
        to: end(to),
        pair: PairKind::PodToRemotePod,
        transport,
        size: Size::Small,
        src_port,
        dst_port: 9,
        length_bytes: 68,
    }
}

fn sent(id: u64, mono_ns: u64) -> Event {
    Event::Sent {
        id,
        at: UnixNs(mono_ns + 7),
        mono_ns,
    }
}

fn unreachable(id_low: Option<u32>, from: u8, icmp_code: u8) -> Event {
    Event::IcmpError {
        quote: Quote {
            transport: Transport::Udp,
            to: ip(9),
            src_port: Some(62_000),
            id_low,
        },
        from: ip(from),
        icmp_type: 3,
        icmp_code,
        mtu: None,
        mono_ns: SECOND + 20,
    }
}

fn reply(id: u64, mono_ns: u64) -> Event {
    Event::Reply {
        id,
        seq: 2,
        from: ip(9),
        mono_ns,
    }
}

fn one() -> Session {
    Session::new([probe(5, Transport::Udp, 9, 62_000)], SessionOptions::default())
}

fn outcome_after(events: impl IntoIterator<Item = Event>, mono_ns: u64) -> Option<(Outcome, bool)> {
    let mut session = one();
    for event in events {
        session.handle(event);
    }
    session.result(5, mono_ns).map(|r| (r.outcome, r.provisional))
}

#[test]
fn silence_is_a_loss_at_the_deadline_and_final_four_seconds_later() {
    let at = |mono_ns| outcome_after([sent(5, SECOND)], mono_ns);
    assert_eq!(at(2 * SECOND - 1), None);
    assert_eq!(at(2 * SECOND), Some((Outcome::Lost, true)));
    assert_eq!(at(6 * SECOND - 1), Some((Outcome::Lost, true)));
    assert_eq!(at(6 * SECOND), Some((Outcome::Lost, false)));

    let mut session = one();
    session.handle(sent(5, SECOND));
    assert_eq!(session.next_deadline(SECOND), Some(2 * SECOND));
    assert_eq!(session.next_deadline(2 * SECOND), Some(6 * SECOND));
    assert!(!session.finished(6 * SECOND - 1) && session.finished(6 * SECOND));
}

#[test]
fn an_answer_settles_at_once_and_a_second_one_is_a_duplicate() {
    let mut session = one();
    session.handle(sent(5, SECOND));
    session.handle(reply(5, SECOND + 30));
    session.handle(reply(5, SECOND + 40));
    let result = session.result(5, SECOND + 50).unwrap();
    assert_eq!(
        result.outcome,
        Outcome::Answered {
            rtt_ns: 30,
            answered_by: ip(9)
        }
    );
    assert!(!result.provisional && session.finished(SECOND + 50));
    assert_eq!(session.counters().duplicates, 1);
}

#[test]
fn a_port_unreachable_proves_delivery_only_from_the_pod_itself() {
    let from_pod = outcome_after([sent(5, SECOND), unreachable(Some(5), 9, 3)], SECOND + 30);
    assert_eq!(from_pod, Some((Outcome::Delivered { rtt_ns: 20 }, false)));
    let from_router = outcome_after([sent(5, SECOND), unreachable(Some(5), 8, 3)], SECOND + 30);
    assert!(matches!(from_router, Some((Outcome::Rejected { icmp_code: 3, .. }, false))));
}

#[test]
fn of_ipv6_a_port_unreachable_has_another_number() {
    let pod = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 9]);
    let outcome = |icmp_type, icmp_code, from| {
        let mut probe = probe(5, Transport::Udp, 9, 62_000);
        probe.to.ip = pod;
        let mut session = Session::new([probe], SessionOptions::default());
        session.handle(sent(5, SECOND));
        session.handle(Event::IcmpError {
            quote: Quote {
                transport: Transport::Udp,
                to: pod,
                src_port: Some(62_000),
                id_low: Some(5),
            },
            from,
            icmp_type,
            icmp_code,
            mtu: None,
            mono_ns: SECOND + 20,
        });
        session.result(5, SECOND + 30).unwrap().outcome
    };
    assert_eq!(outcome(1, 4, pod), Outcome::Delivered { rtt_ns: 20 });
    let router = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
    assert!(matches!(outcome(1, 4, router), Outcome::Rejected { icmp_type: 1, .. }));
    // The numbers of ICMP are none of ICMPv6.
    assert!(matches!(outcome(3, 3, pod), Outcome::Rejected { icmp_type: 3, .. }));
}

#[test]
fn a_late_host_unreachable_turns_a_loss_into_a_rejection() {
    let mut session = one();
    session.handle(sent(5, SECOND));
    assert_eq!(session.result(5, 3 * SECOND).map(|r| r.outcome), Some(Outcome::Lost));
    session.handle(unreachable(Some(5), 1, 1));
    assert!(matches!(
        session.result(5, 4 * SECOND).map(|r| r.outcome),
        Some(Outcome::Rejected {
            icmp_type: 3,
            icmp_code: 1,
            ..
        })
    ));
}

#[test]
fn a_refusal_is_inconclusive_until_something_better_comes() {
    let refused = Event::Refused {
        id: 5,
        reason: "stale".into(),
    };
    let (outcome, provisional) = outcome_after([refused.clone(), sent(5, SECOND)], 2 * SECOND).unwrap();
    assert!(outcome.inconclusive() && provisional);
    let (outcome, _) = outcome_after([refused, sent(5, SECOND), unreachable(None, 9, 3)], 2 * SECOND).unwrap();
    assert!(outcome.passed());
}

#[test]
fn an_error_that_quotes_only_ports_is_not_guessed() {
    let two = [probe(5, Transport::Udp, 9, 62_000), probe(6, Transport::Udp, 9, 62_000)];
    let mut session = Session::new(two, SessionOptions::default());
    session.handle(sent(5, SECOND));
    session.handle(sent(6, SECOND));
    assert_eq!(session.handle(unreachable(None, 9, 3)), None);
    assert_eq!(session.counters().unmatched_errors, 1);
    assert_eq!(session.handle(unreachable(Some(6), 9, 3)), Some(6));
}

#[test]
fn replies_that_belong_to_nothing_are_counted() {
    let incarnated = probe((9 << 32) | 5, Transport::Udp, 9, 62_000);
    let tcp = probe((9 << 32) | 6, Transport::Tcp, 9, 63_000);
    let mut session = Session::new([incarnated, tcp], SessionOptions::default());
    session.handle(reply((8 << 32) | 5, SECOND));
    session.handle(reply((9 << 32) | 77, SECOND));
    session.handle(Event::Reply {
        id: (9 << 32) | 5,
        seq: 1,
        from: ip(9),
        mono_ns: SECOND,
    });
    let tcp_reply = |id_low, src_port| Event::TcpReply {
        id_low,
        reset: true,
        src_port,
        from: ip(9),
        mono_ns: SECOND,
    };
    assert_eq!(session.handle(tcp_reply(5, 63_000)), None);
    assert_eq!(session.handle(tcp_reply(6, 63_001)), None);
    assert_eq!(session.handle(tcp_reply(6, 63_000)), Some((9 << 32) | 6));
    session.handle(Event::Forged);
    session.handle(Event::Truncated);
    let counters = *session.counters();
    assert_eq!((counters.other_incarnation, counters.unknown), (1, 4));
    assert_eq!((counters.forged, counters.truncated, counters.total()), (1, 1, 7));
    assert_eq!(counters.plus(counters).total(), 14);
}

#[test]
fn a_listening_port_acknowledges_the_syn_without_its_padding() {
    let mut large = probe((9 << 32) | 5_000, Transport::Tcp, 9, 63_000);
    large.length_bytes = 1_450;
    let answer = |reset, id_low| {
        let mut session = Session::new([large.clone()], SessionOptions::default());
        session.handle(Event::TcpReply {
            id_low,
            reset,
            src_port: 63_000,
            from: ip(9),
            mono_ns: SECOND,
        })
    };
    assert_eq!(answer(true, 5_000), Some(large.id));
    assert_eq!(answer(false, 5_000 - 1_410), Some(large.id));
    assert_eq!(answer(true, 5_000 - 1_410), None);
}

#[test]
fn closing_gives_every_probe_a_result() {
    let mut session = Session::new(
        [probe(5, Transport::Udp, 9, 62_000), probe(6, Transport::Icmp, 9, 1)],
        SessionOptions::default(),
    );
    session.handle(sent(5, SECOND));
    let (results, _) = session.close(SECOND + 1, UnixNs(SECOND), "the visit was cut short");
    assert_eq!(results[0].outcome, Outcome::Lost);
    assert!(results[0].provisional);
    assert!(matches!(&results[1].outcome, Outcome::NotSent { of_dataplane: false, why, .. } if why.contains("cut short")));
}

fn any_event() -> impl Strategy<Value = Event> {
    let id = prop_oneof![Just(5_u64), Just(6), Just(7), Just(1 << 32)];
    let from = 8_u8..11;
    let mono = 0_u64..5 * SECOND;
    prop_oneof![
        (id.clone(), mono.clone()).prop_map(|(id, mono_ns)| sent(id, mono_ns)),
        (id.clone(), 0_i32..3, any::<bool>(), mono.clone()).prop_map(|(id, errno, of_dataplane, mono_ns)| Event::NotSent {
            id,
            at: UnixNs(mono_ns),
            mono_ns,
            errno: Some(errno),
            why: "why".into(),
            of_dataplane,
        }),
        (id.clone(), 1_u32..3, from.clone(), mono.clone()).prop_map(|(id, seq, from, mono_ns)| Event::Reply {
            id,
            seq,
            from: ip(from),
            mono_ns
        }),
        (5_u32..9, from.clone(), mono.clone()).prop_map(|(id_low, from, mono_ns)| Event::TcpReply {
            id_low,
            reset: id_low % 2 == 0,
            src_port: 63_000,
            from: ip(from),
            mono_ns
        }),
        (proptest::option::of(5_u32..9), from, 0_u8..5).prop_map(|(id_low, from, code)| unreachable(id_low, from, code)),
        (id, 0_u8..3).prop_map(|(id, reason)| Event::Refused {
            id,
            reason: vec!["stale", "version", "unknown-key"][usize::from(reason)].into()
        }),
        Just(Event::Forged),
        Just(Event::Truncated),
        Just(Event::BadChecksum),
    ]
}

proptest! {
    #[test]
    fn the_order_of_events_does_not_change_the_outcome(
        (events, shuffled) in proptest::collection::vec(any_event(), 0..24).prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle())),
        mono_ns in 0_u64..12 * SECOND,
    ) {
        let run = |events: Vec<Event>| {
            let probes = [
                probe(5, Transport::Udp, 9, 62_000),
                probe(6, Transport::Udp, 9, 62_000),
                probe(7, Transport::Tcp, 9, 63_000),
            ];
            let mut session = Session::new(probes, SessionOptions::default());
            for event in events {
                session.handle(event);
            }
            (session.results(mono_ns), session.finished(mono_ns), session.close(mono_ns, UnixNs(1), "closed"))
        };
        prop_assert_eq!(run(events), run(shuffled));
    }
}

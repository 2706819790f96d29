//! The same of IPv6: what differs are the numbers of ICMP, who may fragment, how raw sockets deliver, and neighbour discovery.

use super::*;
use std::net::TcpListener;
use verifier_core::probe::config::smallest_bytes;

fn small(transport: Transport) -> u32 {
    smallest_bytes(transport, B6.into())
}

fn reflector(ns: &TestNs) -> Reflector {
    Reflector::start(ns, B6, |request| vec![reply(request, keys().signing().key)])
}

fn write(ns: &TestNs, path: &'static str, value: &str) {
    let value = value.to_owned();
    ns.netns().run_in(move || std::fs::write(path, value)).unwrap().unwrap();
}

#[tokio::test]
async fn a_healthy_pair_answers_every_transport_and_size_in_both_families_at_once() {
    if !root() {
        return;
    }
    let pair = Pair::new("healthy6");
    let _reflectors = (Reflector::honest(&pair.b), reflector(&pair.b));
    for ping_sockets in ["1 0", "0 2147483647"] {
        // Raw ICMPv6 sockets the first time, datagram ones the second; one setting rules both families.
        write(&pair.a, "/proc/sys/net/ipv4/ping_group_range", ping_sockets);
        let mut batch = Batch::new()
            .add(Transport::Udp, B, SMALL_BYTES, 1)
            .add(Transport::Icmp, B, SMALL_BYTES, 1)
            .add(Transport::Tcp, B, 40, 1);
        for transport in [Transport::Udp, Transport::Icmp, Transport::Tcp] {
            batch = batch
                .add(transport, B6, small(transport), 3)
                .add(transport, B6, small(transport) + 1, 1)
                .add(transport, B6, 1_500, 1);
        }
        let run = visit(&pair.a, batch, &RunOptions::default()).await;
        assert_eq!(run.results.len(), 18);
        for result in &run.results {
            assert!(answered(result), "{ping_sockets}: {result:?}");
        }
        assert_eq!((run.gaps, run.counters), (Vec::new(), SessionCounters::default()));
    }
}

#[tokio::test]
async fn a_listening_tcp_port_answers_too() {
    if !root() {
        return;
    }
    let pair = Pair::new("listening6");
    let open = || TcpListener::bind((B6, ProbeConfig::default().tcp_port));
    let _listener = pair.b.netns().open_in("a listener", open).unwrap();
    let batch = Batch::new().add(Transport::Tcp, B6, 60, 1).add(Transport::Tcp, B6, 1_200, 1);
    let run = visit(&pair.a, batch, &quick()).await;
    assert!(run.results.iter().all(answered), "{run:?}");
}

#[tokio::test]
async fn a_closed_udp_port_proves_delivery_and_does_not_spoil_the_next_send() {
    if !root() {
        return;
    }
    let pair = Pair::new("closed6");
    // Six in a burst is what the kernel's limit of ICMP errors per destination allows (icmpv6_xrlim_allow).
    let run = visit(&pair.a, Batch::new().add(Transport::Udp, B6, small(Transport::Udp), 6), &quick()).await;
    for result in &run.results {
        assert!(
            matches!(result.outcome, Outcome::Delivered { .. }) && !result.provisional,
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn what_the_kernel_will_not_send_is_the_dataplanes() {
    if !root() {
        return;
    }
    let pair = Pair::new("unsent6");
    let at = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    pair.a.ip("-6 route add blackhole fd78::/64");
    pair.a.ip("-6 route add unreachable fd79::/64");
    pair.a.ip("-6 route add prohibit fd7a::/64");
    for transport in [Transport::Udp, Transport::Icmp, Transport::Tcp] {
        let bytes = small(transport);
        let batch = Batch::new()
            .add(transport, B6, 1_501, 1)
            .add(transport, at("2001:db8::1"), bytes, 1)
            .add(transport, at("fd78::1"), bytes, 1)
            .add(transport, at("fd79::1"), bytes, 1)
            .add(transport, at("fd7a::1"), bytes, 1);
        let run = visit(&pair.a, batch, &quick()).await;
        let found: Vec<_> = run
            .results
            .iter()
            .map(|result| match &result.outcome {
                Outcome::NotSent {
                    errno, of_dataplane: true, ..
                } => *errno,
                other => panic!("{transport:?}: {other:?}"),
            })
            .collect();
        assert_eq!(
            found,
            [libc::EMSGSIZE, libc::ENETUNREACH, libc::EINVAL, libc::EHOSTUNREACH, libc::EACCES].map(Some),
            "{transport:?}"
        );
        assert_eq!(run.counters.total(), 0);
    }
}

#[tokio::test]
async fn a_source_address_that_is_nowhere_is_the_dataplanes_and_ends_of_two_families_are_nobodys() {
    if !root() {
        return;
    }
    let pair = Pair::new("source6");
    let mut batch = Batch::new();
    for transport in [Transport::Udp, Transport::Icmp, Transport::Tcp] {
        batch = batch.add(transport, B6, small(transport), 1);
    }
    for probe in &mut batch.0 {
        probe.from.ip = "fd77::99".parse().unwrap();
    }
    let run = visit(&pair.a, batch, &quick()).await;
    for result in &run.results {
        assert!(
            matches!(
                &result.outcome,
                Outcome::NotSent {
                    errno: Some(libc::EADDRNOTAVAIL),
                    of_dataplane: true,
                    ..
                }
            ),
            "{result:?}"
        );
    }
    let mut mixed = Batch::new().add(Transport::Udp, B6, small(Transport::Udp), 1);
    mixed.0[0].from.ip = A.into();
    let run = visit(&pair.a, mixed, &quick()).await;
    assert!(run.results[0].outcome.inconclusive(), "{run:?}");
}

#[tokio::test]
async fn silence_is_a_loss_and_a_dead_neighbour_is_heard_of_later() {
    if !root() {
        return;
    }
    let pair = Pair::new("silence6");
    pair.a.ip("-6 route add fd79::/64 via fd77::2");
    pair.b.ip("-6 route add fd79::/64 via fd77::1");
    let all = |to: &str| {
        let to: Ipv6Addr = to.parse().unwrap();
        [Transport::Udp, Transport::Icmp, Transport::Tcp]
            .into_iter()
            .fold(Batch::new(), |batch, transport| batch.add(transport, to, small(transport), 1))
    };
    // Routed to B, which has a route back and does not forward: silence. Without a route it would tell.
    let run = visit(&pair.a, all("fd79::1"), &quick()).await;
    for result in &run.results {
        assert_eq!(result.outcome, Outcome::Lost);
    }
    let options = RunOptions {
        late: Duration::from_secs(4),
        ..quick()
    };
    let run = visit(&pair.a, all("fd77::66"), &options).await;
    for result in &run.results {
        assert!(
            matches!(&result.outcome, Outcome::Rejected { icmp_type: 1, icmp_code: 3, rejected_by, .. } if *rejected_by == IpAddr::from(A6)),
            "{result:?}"
        );
        assert!(!result.provisional);
    }
    assert_eq!(run.counters.total(), 0, "{:?}", run.counters);
}

#[tokio::test]
async fn a_remembered_path_mtu_neither_refuses_nor_hides_and_the_limit_is_found() {
    if !root() {
        return;
    }
    let pair = Pair::new("mtu6");
    let c = TestNs::new("probed-far6");
    pair.b.ip(&format!("link add eth1 type veth peer name eth0 netns {}", name(&c)));
    pair.b.ip("addr add fd78::1/64 dev eth1 nodad");
    pair.b.ip("link set eth1 mtu 1300 up");
    c.ip("link set lo up");
    c.ip("addr add fd78::2/64 dev eth0 nodad");
    c.ip("link set eth0 up");
    c.ip("-6 route add default via fd78::1");
    pair.a.ip("-6 route add fd78::/64 via fd77::2");
    write(&pair.b, "/proc/sys/net/ipv6/conf/all/forwarding", "1");
    let far: Ipv6Addr = "fd78::2".parse().unwrap();
    wait_for(&pair.a, far);
    let large = || {
        Batch::new()
            .add(Transport::Udp, far, 1_500, 1)
            .add(Transport::Icmp, far, 1_500, 1)
            .add(Transport::Tcp, far, 1_500, 1)
    };
    // The second time the sender's kernel remembers what the router said.
    for _ in 0..2 {
        let run = visit(&pair.a, large(), &quick()).await;
        for result in &run.results {
            assert!(
                matches!(&result.outcome, Outcome::Rejected { icmp_type: 2, icmp_code: 0, mtu: Some(1_300), rejected_by } if *rejected_by == IpAddr::from(B6)),
                "{result:?}"
            );
        }
    }
    let passing = Batch::new().add(Transport::Icmp, far, small(Transport::Icmp), 1).0.remove(0);
    let failed = large().0.remove(1);
    let mut ids = verifier_core::probe::IdSource::new(&"node".into(), 5);
    let found = search::largest_passing(&passing, &failed, &pair.a.netns(), &keys(), &quick(), &mut ids).await;
    assert_eq!((found.largest_bytes, found.exact), (Some(1_300), true));
}

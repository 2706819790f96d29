//! Visits on the real kernel, in namespaces of their own.
//!
//! What is real: namespaces, veths, routes, the kernel's ICMP echo, its RST of a closed TCP port, its port-unreachable, its MTU checks. What
//! is a stand-in: the reflector. Here a thread with a UDP socket answers with `wire::into_reply`, which is the function that the eBPF
//! reflector uses, so this proves that what such an answer looks like is understood, and not that the eBPF program gives it. That is
//! proved where the programs are attached.

use super::*;
use crate::{
    probe::keys::WireKey,
    programmed::testing::{TestNs, root},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    thread::{self, JoinHandle},
};
use verifier_core::probe::{Endpoint, PairKind, Size, Transport, config::SMALL_BYTES};
use verifier_ebpf::{
    siphash::SipKey,
    wire::{Header, Kind, into_reply},
};

mod ipv6;

const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// Two namespaces, joined: `10.77.0.1/24` and `fd77::1/64` in the first, `10.77.0.2/24` and `fd77::2/64` in the second, all on `eth0`.
struct Pair {
    a: TestNs,
    b: TestNs,
}

fn name(ns: &TestNs) -> &str {
    ns.path().file_name().unwrap().to_str().unwrap()
}

impl Pair {
    fn new(tag: &str) -> Self {
        let (a, b) = (TestNs::new(&format!("probe-{tag}")), TestNs::new(&format!("probed-{tag}")));
        a.ip(&format!("link add eth0 type veth peer name eth0 netns {}", name(&b)));
        for (ns, address, address6) in [(&a, A, A6), (&b, B, B6)] {
            ns.ip("link set lo up");
            ns.ip(&format!("addr add {address}/24 dev eth0"));
            ns.ip(&format!("addr add {address6}/64 dev eth0 nodad"));
            ns.ip("link set eth0 up");
        }
        wait_for(&a, B);
        wait_for(&a, B6);
        Self { a, b }
    }
}

/// Waits until packets from `ns` reach `to`: the kernel gives a device that just got its carrier a queue up to a second later
/// (net/core/link_watch.c), and drops what is sent before.
fn wait_for(ns: &TestNs, to: impl Into<IpAddr>) {
    let to = to.into();
    let reached = ns.netns().run_in(|| {
        (0..200).any(|_| {
            let refused = TcpStream::connect_timeout(&(to, 1).into(), Duration::from_millis(50));
            refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        })
    });
    assert!(reached.unwrap(), "{to} is not reached");
}

fn keys() -> ProbeKeys {
    ProbeKeys::new(WireKey {
        id: 3,
        key: SipKey::from_bytes([7; 16]),
    })
}

/// Quick: nothing is waited for that a test does not look at.
fn quick() -> RunOptions {
    RunOptions {
        deadline: Duration::from_millis(700),
        late: Duration::ZERO,
        port_wait: Duration::from_millis(100),
        ..RunOptions::default()
    }
}

struct Batch(Vec<Probe>);

impl Batch {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, transport: Transport, to: impl Into<IpAddr>, length_bytes: u32, count: u32) -> Self {
        let config = ProbeConfig::default();
        let to = to.into();
        let from = if to.is_ipv4() { IpAddr::from(A) } else { A6.into() };
        for seq in 0..count {
            let turn = self.0.len() as u64;
            let end = |ip| Endpoint {
                node: "node".into(),
                pod: None,
                ip,
            };
            let (src_port, dst_port) = match transport {
                Transport::Udp => (config.udp_sources.first, config.udp_port),
                Transport::Icmp => (config.icmp_identifier(false, to), 0),
                Transport::Tcp => (config.tcp_sources.pick(turn), config.tcp_port),
            };
            self.0.push(Probe {
                id: (5 << 32) | (0x1234_0000 + turn),
                seq,
                from: end(from),
                to: end(to),
                pair: PairKind::PodToRemotePod,
                transport,
                size: Size::Small,
                src_port,
                dst_port,
                length_bytes,
            });
        }
        self
    }
}

fn reply(request: &[u8; 40], key: SipKey) -> Vec<u8> {
    let mut reply = *request;
    into_reply(&mut reply, key);
    reply.to_vec()
}

/// Answers in a namespace until it is dropped; the function makes the answers to a request.
struct Reflector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    fn start(ns: &TestNs, at: impl Into<IpAddr>, answers: impl Fn(&[u8; 40]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let at = at.into();
        let socket = ns
            .netns()
            .open_in("the reflector", || UdpSocket::bind((at, ProbeConfig::default().udp_port)))
            .unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 9_000];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                for answer in buffer[..length].first_chunk().map(&answers).into_iter().flatten() {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn honest(ns: &TestNs) -> Self {
        Self::start(ns, B, |request| vec![reply(request, keys().signing().key)])
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn answered(result: &ProbeResult) -> bool {
    matches!(&result.outcome, Outcome::Answered { answered_by, rtt_ns } if *answered_by == result.probe.to.ip && *rtt_ns > 0)
        && !result.provisional
}

async fn visit(ns: &TestNs, batch: Batch, options: &RunOptions) -> ProbeRun {
    run(batch.0, &ns.netns(), &keys(), options).await
}

#[tokio::test]
async fn a_healthy_pair_answers_every_transport_and_size() {
    if !root() {
        return;
    }
    let pair = Pair::new("healthy");
    let _reflector = Reflector::honest(&pair.b);
    for ping_sockets in ["1 0", "0 2147483647"] {
        // Datagram ICMP sockets are allowed the second time; the first time it must be a raw one.
        let range = ping_sockets.to_owned();
        let written = pair
            .a
            .netns()
            .run_in(move || std::fs::write("/proc/sys/net/ipv4/ping_group_range", range));
        written.unwrap().unwrap();
        let batch = Batch::new()
            .add(Transport::Udp, B, SMALL_BYTES, 3)
            .add(Transport::Udp, B, 1_500, 1)
            .add(Transport::Icmp, B, SMALL_BYTES, 3)
            .add(Transport::Icmp, B, 1_500, 1)
            .add(Transport::Tcp, B, 40, 3)
            .add(Transport::Tcp, B, 1_500, 1);
        let run = visit(&pair.a, batch, &RunOptions::default()).await;
        assert_eq!(run.results.len(), 12);
        for result in &run.results {
            assert!(answered(result), "{result:?}");
        }
        assert_eq!((run.gaps, run.counters), (Vec::new(), SessionCounters::default()));
    }
}

#[tokio::test]
async fn a_listening_tcp_port_answers_too() {
    if !root() {
        return;
    }
    let pair = Pair::new("listening");
    let open = || TcpListener::bind((B, ProbeConfig::default().tcp_port));
    let _listener = pair.b.netns().open_in("a listener", open).unwrap();
    let batch = Batch::new().add(Transport::Tcp, B, 40, 1).add(Transport::Tcp, B, 1_200, 1);
    let run = visit(&pair.a, batch, &quick()).await;
    assert!(run.results.iter().all(answered), "{run:?}");
}

#[tokio::test]
async fn a_closed_udp_port_proves_delivery_and_does_not_spoil_the_next_send() {
    if !root() {
        return;
    }
    let pair = Pair::new("closed");
    // Six in a burst is what the kernel's limit of ICMP errors per destination allows (icmpv4_xrlim_allow).
    let run = visit(&pair.a, Batch::new().add(Transport::Udp, B, SMALL_BYTES, 6), &quick()).await;
    for result in &run.results {
        assert!(
            matches!(result.outcome, Outcome::Delivered { .. }) && !result.provisional,
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn what_the_kernel_will_not_send_is_the_dataplanes_or_the_probers() {
    if !root() {
        return;
    }
    let pair = Pair::new("unsent");
    let nowhere = Ipv4Addr::new(203, 0, 113, 1);
    let blackhole = Ipv4Addr::new(10, 78, 0, 1);
    pair.a.ip("route add blackhole 10.78.0.0/24");
    for transport in [Transport::Udp, Transport::Icmp, Transport::Tcp] {
        let batch = Batch::new()
            .add(transport, B, 1_501, 1)
            .add(transport, nowhere, SMALL_BYTES, 1)
            .add(transport, blackhole, SMALL_BYTES, 1);
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
            [Some(libc::EMSGSIZE), Some(libc::ENETUNREACH), Some(libc::EINVAL)],
            "{transport:?}"
        );
        assert_eq!(run.counters.total(), 0);
    }
}

#[tokio::test]
async fn a_source_address_that_is_nowhere_is_the_dataplanes_and_a_taken_port_is_not() {
    if !root() {
        return;
    }
    let pair = Pair::new("source");
    let mut elsewhere = Batch::new().add(Transport::Udp, B, SMALL_BYTES, 1).add(Transport::Tcp, B, 40, 1);
    for probe in &mut elsewhere.0 {
        probe.from.ip = Ipv4Addr::new(10, 77, 0, 99).into();
    }
    let run = visit(&pair.a, elsewhere, &quick()).await;
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

    let take = || UdpSocket::bind((A, ProbeConfig::default().udp_sources.first));
    let taken = pair.a.netns().open_in("the port", take).unwrap();
    let run = visit(&pair.a, Batch::new().add(Transport::Udp, B, SMALL_BYTES, 1), &quick()).await;
    assert!(run.results[0].outcome.inconclusive(), "{run:?}");
    assert!(run.gaps[0].why.contains("another program holds"), "{run:?}");

    // One that becomes free in time is waited for.
    let patient = RunOptions {
        port_wait: Duration::from_secs(10),
        ..quick()
    };
    let freed = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        drop(taken);
    };
    let (run, ()) = tokio::join!(visit(&pair.a, Batch::new().add(Transport::Udp, B, SMALL_BYTES, 1), &patient), freed);
    assert!(run.results[0].outcome.passed(), "{run:?}");
}

#[tokio::test]
async fn silence_is_a_loss_and_a_dead_neighbour_is_heard_of_later() {
    if !root() {
        return;
    }
    let pair = Pair::new("silence");
    // Routed to B, which has nothing there and does not forward: silence.
    pair.a.ip("route add 10.79.0.0/24 via 10.77.0.2");
    let silent = Ipv4Addr::new(10, 79, 0, 1);
    let dead = Ipv4Addr::new(10, 77, 0, 66);
    let all = |to| {
        Batch::new()
            .add(Transport::Udp, to, SMALL_BYTES, 1)
            .add(Transport::Icmp, to, SMALL_BYTES, 1)
            .add(Transport::Tcp, to, 40, 1)
    };
    let run = visit(&pair.a, all(silent), &quick()).await;
    for result in &run.results {
        assert_eq!(result.outcome, Outcome::Lost);
    }

    let (updates, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let options = RunOptions {
        late: Duration::from_secs(4),
        updates: Some(updates),
        ..quick()
    };
    let run = visit(&pair.a, all(dead), &options).await;
    for result in &run.results {
        assert!(
            matches!(&result.outcome, Outcome::Rejected { icmp_type: 3, icmp_code: 1, rejected_by, .. } if *rejected_by == IpAddr::from(A)),
            "{result:?}"
        );
        assert!(!result.provisional);
    }
    // First a provisional loss, then what was heard.
    drop(options);
    let mut told = Vec::new();
    while let Some(result) = heard.recv().await {
        told.push((result.outcome == Outcome::Lost, result.provisional));
    }
    assert_eq!(told, [[(true, true); 3], [(false, false); 3]].concat());
}

#[tokio::test]
async fn forged_truncated_and_repeated_replies_are_counted_and_not_believed() {
    if !root() {
        return;
    }
    let pair = Pair::new("forged");
    let reflector = Reflector::start(&pair.b, B, |request| {
        let other_key = SipKey::from_bytes([8; 16]);
        let mut stale = Header::decode(request).unwrap();
        stale.kind = Kind::Reply;
        stale.probe_id = (4 << 32) | 1;
        vec![
            reply(request, other_key),
            request.to_vec(),
            request[..12].to_vec(),
            stale.encode(keys().signing().key).to_vec(),
        ]
    });
    let run = visit(&pair.a, Batch::new().add(Transport::Udp, B, SMALL_BYTES, 2), &quick()).await;
    for result in &run.results {
        assert_eq!(result.outcome, Outcome::Lost);
    }
    assert_eq!(
        (run.counters.forged, run.counters.truncated, run.counters.other_incarnation),
        (4, 2, 2)
    );
    drop(reflector);

    let _twice = Reflector::start(&pair.b, B, |request| vec![reply(request, keys().signing().key); 2]);
    // The second reply to the first probe must find its socket open: a probe into silence keeps it so.
    pair.a.ip("route add 10.79.0.0/24 via 10.77.0.2");
    let batch = Batch::new()
        .add(Transport::Udp, B, SMALL_BYTES, 1)
        .add(Transport::Udp, Ipv4Addr::new(10, 79, 0, 1), SMALL_BYTES, 1);
    let run = visit(&pair.a, batch, &quick()).await;
    assert!(answered(&run.results[0]), "{run:?}");
    assert_eq!(run.counters.duplicates, 1);
}

#[tokio::test]
async fn a_namespace_that_goes_away_says_nothing_about_forwarding() {
    if !root() {
        return;
    }
    let pair = Pair::new("gone");
    let _reflector = Reflector::honest(&pair.b);
    pair.a.ip("route add 10.79.0.0/24 via 10.77.0.2");
    let (updates, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let options = RunOptions {
        updates: Some(updates),
        ..quick()
    };
    let batch = Batch::new()
        .add(Transport::Udp, B, SMALL_BYTES, 1)
        .add(Transport::Udp, Ipv4Addr::new(10, 79, 0, 1), SMALL_BYTES, 1);
    let ns = pair.a.netns();
    let removed = async {
        assert!(answered(&heard.recv().await.unwrap()));
        drop(pair.a);
    };
    let keys = keys();
    let (run, ()) = tokio::join!(super::run(batch.0.clone(), &ns, &keys, &options), removed);
    assert!(answered(&run.results[0]));
    assert!(run.results[1].outcome.inconclusive() && !run.results[1].provisional, "{run:?}");
    assert_eq!(run.gaps.len(), 1);
}

#[tokio::test]
async fn a_remembered_path_mtu_neither_refuses_nor_hides_and_the_limit_is_found() {
    if !root() {
        return;
    }
    let pair = Pair::new("mtu");
    let c = TestNs::new("probed-far");
    pair.b.ip(&format!("link add eth1 type veth peer name eth0 netns {}", name(&c)));
    pair.b.ip("addr add 10.78.0.1/24 dev eth1");
    pair.b.ip("link set eth1 mtu 1300 up");
    c.ip("link set lo up");
    c.ip("addr add 10.78.0.2/24 dev eth0");
    c.ip("link set eth0 up");
    c.ip("route add default via 10.78.0.1");
    pair.a.ip("route add 10.78.0.0/24 via 10.77.0.2");
    let forward = pair.b.netns().run_in(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"));
    forward.unwrap().unwrap();
    let far = Ipv4Addr::new(10, 78, 0, 2);
    wait_for(&pair.a, far);
    let large = || {
        Batch::new()
            .add(Transport::Udp, far, 1_500, 1)
            .add(Transport::Icmp, far, 1_500, 1)
            .add(Transport::Tcp, far, 1_500, 1)
    };
    for _ in 0..2 {
        let run = visit(&pair.a, large(), &quick()).await;
        for result in &run.results {
            assert!(
                matches!(&result.outcome, Outcome::Rejected { icmp_type: 3, icmp_code: 4, mtu: Some(1_300), rejected_by } if *rejected_by == IpAddr::from(B)),
                "{result:?}"
            );
        }
    }

    let small = Batch::new().add(Transport::Icmp, far, SMALL_BYTES, 1).0.remove(0);
    let failed = large().0.remove(1);
    let mut ids = verifier_core::probe::IdSource::new(&"node".into(), 5);
    let found = search::largest_passing(&small, &failed, &pair.a.netns(), &keys(), &quick(), &mut ids).await;
    assert_eq!((found.largest_bytes, found.exact), (Some(1_300), true));
}

#[tokio::test]
async fn visits_to_one_namespace_follow_one_another() {
    if !root() {
        return;
    }
    let pair = Pair::new("turns");
    let _reflector = Reflector::honest(&pair.b);
    let batch = |shift: u64| {
        let mut batch = Batch::new()
            .add(Transport::Udp, B, SMALL_BYTES, 3)
            .add(Transport::Icmp, B, SMALL_BYTES, 3);
        batch.0.iter_mut().for_each(|probe| probe.id += shift << 16);
        batch
    };
    let options = quick();
    let runs = tokio::join!(
        visit(&pair.a, batch(0), &options),
        visit(&pair.a, batch(1), &options),
        visit(&pair.a, batch(2), &options)
    );
    let mut all = ProbeRun::default();
    for run in [runs.0, runs.1, runs.2] {
        all.merge(run);
    }
    assert_eq!(all.results.len(), 18);
    assert!(all.results.iter().all(answered), "{all:?}");
    assert_eq!(all.counters.total(), 0);
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_a_gap() {
    if !root() {
        return;
    }
    let pair = Pair::new("absent");
    let ns = pair.a.netns();
    drop(pair.a);
    let batch = Batch::new().add(Transport::Icmp, B, SMALL_BYTES, 2);
    let run = super::run(batch.0, &ns, &keys(), &quick()).await;
    assert!(
        run.results
            .iter()
            .all(|result| result.outcome.passed() || result.outcome.inconclusive()),
        "{run:?}"
    );
    assert_eq!(run.gaps.len(), 1);
    assert!(super::run(Vec::new(), &ns, &keys(), &quick()).await.results.is_empty());
}

#[test]
fn a_plan_is_split_by_the_pod_it_starts_from() {
    let mut batch = Batch::new().add(Transport::Udp, B, SMALL_BYTES, 3).0;
    batch[1].from.pod = Some(PodRef::new("default", "pod"));
    let split = by_source(batch);
    assert_eq!(split[&None].len(), 2);
    assert_eq!(split[&Some(PodRef::new("default", "pod"))].len(), 1);
}

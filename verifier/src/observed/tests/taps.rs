//! Attaching and detaching, and what a tap records.

use super::*;

fn reflects(mode: Option<Mode>, tag: &str) {
    let pair = Pair::new(tag);
    let (mut observer, mut ring) = observer(Options::default(), mode);
    let netns = pair.node.netns();
    let report = observer.sync_taps(&netns, std::slice::from_ref(&pair.device));
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(observer.taps().len(), 1);

    let prober = pair.udp(&pair.node, "10.9.0.1:20300");
    prober.send_to(&signed(&request(0x1234, 3)), ("10.9.0.2", PROBE_PORT)).unwrap();
    let mut answer = [0; 200];
    let (length, from) = prober.recv_from(&mut answer).expect("no answer from the reflector");
    assert_eq!(from.to_string(), format!("10.9.0.2:{PROBE_PORT}"));
    let reply = Header::decode_verified(&answer[..length], SipKey::from_bytes(KEY.secret)).unwrap();
    assert_eq!((reply.kind, reply.probe_id, reply.sequence), (Kind::Reply, 0x1234, 3));

    let hops = hops(&mut ring, 2);
    let seen: Vec<(u8, u8, u8)> = hops
        .iter()
        .map(|hop| (hop.direction, hop.packet.class, hop.packet.probe[5]))
        .collect();
    assert_eq!(
        seen,
        [
            (Direction::Egress as u8, Class::Udp as u8, Kind::Request as u8),
            (Direction::Ingress as u8, Class::Udp as u8, Kind::Reply as u8)
        ]
    );
    let hop = crate::observed::convert::hop(&hops[0], &NodeName::from("a"), |_| Some("cali0".to_owned())).unwrap();
    assert_eq!((hop.probe, hop.seq, hop.ifindex), (0x1234, 3, pair.device.index));
    assert_eq!(
        (hop.inner.src_port, hop.inner.dst_port, hop.inner.length_bytes),
        (20_300, PROBE_PORT, 68)
    );
    assert_eq!(observer.counters().unwrap().reflected.values().sum::<u64>(), 1);

    // Foreign programs are seen; ours are not foreign.
    let links = Tables::open(&netns).unwrap().links().seen().cloned().unwrap();
    assert_eq!(foreign_hooks(&netns, None, &links), Evidence::complete(vec![]));

    // Nothing of ours is left on the interface.
    drop(observer);
    let left = filters(&pair.node);
    assert!(!left.contains("dpv_"), "{left}");
    prober.send_to(&signed(&request(0x1235, 0)), ("10.9.0.2", PROBE_PORT)).unwrap();
    assert!(prober.recv_from(&mut answer).is_err(), "answered without a reflector");
}

fn filters(ns: &TestNs) -> String {
    let mut text = String::new();
    for direction in ["ingress", "egress"] {
        let output = ns
            .netns()
            .run_in(|| {
                Command::new("tc")
                    .args(["filter", "show", "dev", "cali0", direction])
                    .output()
                    .unwrap()
            })
            .unwrap();
        text += &String::from_utf8_lossy(&output.stdout);
    }
    text
}

/// How many filters carry a name; tc prints it more than once on a line.
fn ours(ns: &TestNs, name: &str) -> usize {
    filters(ns).lines().filter(|line| line.contains(name)).count()
}

#[test]
fn a_request_is_seen_and_answered_and_detaching_leaves_nothing() {
    if able() {
        reflects(None, "tcx");
    }
}

#[test]
fn the_same_through_clsact() {
    if able() {
        reflects(Some(Mode::Clsact), "clsact");
    }
}

#[test]
fn what_an_earlier_process_left_in_clsact_is_replaced() {
    if !able() {
        return;
    }
    let pair = Pair::new("left");
    let netns = pair.node.netns();
    let (mut first, _ring) = observer(Options::default(), Some(Mode::Clsact));
    assert!(first.sync_taps(&netns, std::slice::from_ref(&pair.device)).failed.is_empty());
    // As after `kill -9`: nobody removes the filters.
    std::mem::forget(first);
    assert_eq!(ours(&pair.node, "dpv_reflector"), 1);
    let (mut second, _ring) = observer(Options::default(), Some(Mode::Clsact));
    assert!(second.sync_taps(&netns, std::slice::from_ref(&pair.device)).failed.is_empty());
    assert_eq!(ours(&pair.node, "dpv_reflector"), 1);
    assert_eq!(ours(&pair.node, "dpv_wl_ingress"), 1);
}

#[test]
fn an_interface_that_vanishes_leaves_nothing_half_attached() {
    if !able() {
        return;
    }
    let pair = Pair::new("gone");
    let (mut observer, _ring) = observer(Options::default(), None);
    let netns = pair.node.netns();
    let missing = Interface {
        index: 4711,
        name: "cali-none".to_owned(),
        kind: TapKind::Workload,
    };
    let report = observer.sync_taps(&netns, &[missing, pair.device.clone()]);
    assert!(
        matches!(report.failed[..], [crate::observed::taps::TapError::Vanished { .. }]),
        "{:?}",
        report.failed
    );
    assert_eq!(report.attached, std::slice::from_ref(&pair.device));

    // The same name with another index is another interface.
    pair.node.ip("link del cali0");
    pair.node.ip("link add cali0 type veth peer name other0");
    let index = netns.run_in(|| nix::net::if_::if_nametoindex("cali0").unwrap()).unwrap();
    let new = Interface {
        index,
        ..pair.device.clone()
    };
    assert_ne!(new.index, pair.device.index);
    let report = observer.sync_taps(&netns, std::slice::from_ref(&new));
    assert_eq!((report.detached, report.attached), (vec![pair.device.clone()], vec![new]));
}

#[test]
fn a_foreign_filter_is_named() {
    if !able() {
        return;
    }
    let pair = Pair::new("foreign");
    pair.node.run("tc", "qdisc add dev cali0 clsact");
    pair.node.run("tc", "filter add dev cali0 egress protocol ip u32 match u32 0 0");
    let netns = pair.node.netns();
    let links = Tables::open(&netns).unwrap().links().seen().cloned().unwrap();
    let hooks = foreign_hooks(&netns, None, &links);
    assert!(hooks.is_complete(), "{:?}", hooks.gaps());
    let seen: Vec<_> = hooks
        .seen()
        .unwrap()
        .iter()
        .map(|hook| (hook.device.as_str(), hook.point, hook.program.as_str()))
        .collect();
    assert!(seen.contains(&("cali0", HookPoint::TcEgress, "u32")), "{seen:?}");
}

/// Not a test of its own: what the next test runs as another process and kills. It attaches and says so.
#[test]
fn child_that_attaches_and_waits() {
    let Some(path) = std::env::var_os("DPV_TEST_CHILD_NETNS") else {
        return;
    };
    let netns = crate::programmed::netns::Netns::open(path).unwrap();
    let index = netns.run_in(|| nix::net::if_::if_nametoindex("cali0").unwrap()).unwrap();
    let (mut observer, _ring) = observer(Options::default(), None);
    let device = Interface {
        index,
        name: "cali0".to_owned(),
        kind: TapKind::Workload,
    };
    assert!(observer.sync_taps(&netns, &[device]).failed.is_empty());
    println!("attached");
    // Ends with the pipe that the parent holds, or by the parent's signal.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

#[test]
fn links_vanish_with_the_process_however_it_dies() {
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
    };
    if !able() {
        return;
    }
    let pair = Pair::new("killed");
    let programs = || {
        pair.node
            .netns()
            .run_in(|| {
                aya::programs::SchedClassifier::query_tcx("cali0", aya::programs::TcAttachType::Egress)
                    .unwrap()
                    .1
                    .len()
            })
            .unwrap()
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "observed::tests::taps::child_that_attaches_and_waits", "--nocapture"])
        .env("DPV_TEST_CHILD_NETNS", pair.node.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("attached")), "the child did not attach");
    assert_eq!(programs(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(3);
    while programs() > 0 {
        assert!(Instant::now() < deadline, "programs without an owner");
    }
}

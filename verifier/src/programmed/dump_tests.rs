//! Dumps of a real kernel, set up by `ip` and `bridge`, and a race with a table that changes.

use super::{
    dump::Tables,
    state::{Want, look, node_state},
    testing::{TestNs, root},
};
use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use verifier_core::{
    names::PodRef,
    programmed::{LinkKind, NUD_PERMANENT, NetconfScope, RouteKind, RuleAction, TABLE_MAIN},
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node as Calico shapes it, with one pod whose host-side device is `cali1`.
fn node_and_pod() -> (TestNs, TestNs) {
    let (node, pod) = (TestNs::new("node"), TestNs::new("pod"));
    let pod_name = pod.path().file_name().unwrap().to_str().unwrap().to_string();
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name up0",
        "link set eth0 up",
        "link set up0 up",
        "addr add 10.0.0.1/24 dev eth0",
        "link add vxlan.calico address 66:b3:68:28:39:8e type vxlan id 4096 dstport 4789 local 10.0.0.1 dev eth0 nolearning",
        "link set vxlan.calico mtu 1450 up",
        "addr add 10.244.0.0/32 dev vxlan.calico",
        "route add 10.244.1.0/26 via 10.244.1.0 dev vxlan.calico onlink",
        "route add blackhole 10.244.0.0/26 proto 80",
        "route add 10.9.0.0/16 table 77 metric 5 nexthop via 10.0.0.2 weight 2 nexthop via 10.0.0.3",
        "neigh add 10.244.1.0 lladdr 66:00:00:00:00:02 dev vxlan.calico nud permanent",
        "rule add from 10.244.0.0/26 fwmark 0x10/0xf0 iif eth0 priority 100 lookup 77 suppress_prefixlength 8",
        "rule add ipproto tcp dport 80 priority 101 goto 200",
        "rule add not to 10.1.0.0/16 priority 200 prohibit",
    ] {
        node.ip(line);
    }
    node.ip(&format!("link add cali1 type veth peer name eth0 netns {pod_name}"));
    node.ip("link set cali1 address ee:ee:ee:ee:ee:ee up");
    node.ip("route add 10.244.0.5/32 dev cali1");
    for line in [
        "link set lo up",
        "link set eth0 up",
        "addr add 10.244.0.5/32 dev eth0",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1 dev eth0",
    ] {
        pod.ip(line);
    }
    node.run(
        "bridge",
        "fdb append 66:00:00:00:00:02 dev vxlan.calico dst 10.0.0.2 self permanent",
    );
    node.run(
        "sysctl",
        "-qw net.ipv4.ip_forward=1 net.ipv4.conf.cali1.proxy_arp=1 net.ipv4.conf.eth0.rp_filter=1",
    );
    (node, pod)
}

fn wanted() -> super::WantedPod {
    super::WantedPod {
        pod: PodRef::new("default", "p"),
        device: "cali1".into(),
        addresses: vec![ip("10.244.0.5")],
    }
}

#[test]
fn every_table_of_a_node_is_read() {
    if !root() {
        return;
    }
    let (node, _pod) = node_and_pod();
    let state = look(&node.netns(), &Want::default(), &mut super::pods::PodFinder::default()).unwrap();

    let links = state.links.all().unwrap();
    let tunnel = links.iter().find(|l| l.name == "vxlan.calico").unwrap();
    let eth0 = links.iter().find(|l| l.name == "eth0").unwrap();
    assert_eq!(tunnel.mac.unwrap().to_string(), "66:b3:68:28:39:8e");
    assert_eq!((tunnel.mtu, tunnel.up), (1450, true));
    assert_eq!(
        tunnel.kind,
        LinkKind::Vxlan {
            vni: 4096,
            port: 4789,
            local: Some(ip("10.0.0.1")),
            lower: Some(eth0.index),
            learning: false,
            flow_based: false
        }
    );
    assert!(tunnel.counters.contains_key("rx_dropped"));
    assert!(
        links
            .iter()
            .any(|l| l.name == "cali1" && l.kind == LinkKind::Veth && l.link_netnsid.is_some())
    );
    assert!(links.iter().any(|l| l.name == "lo" && l.kind == LinkKind::Loopback));

    let addresses = state.addresses.all().unwrap();
    assert!(
        addresses
            .iter()
            .any(|a| a.index == tunnel.index && a.ip.to_string() == "10.244.0.0/32")
    );

    let routes = state.routes.all().unwrap();
    let block = routes.iter().find(|r| r.dst.to_string() == "10.244.1.0/26").unwrap();
    assert_eq!((block.table, block.protocol, block.kind), (TABLE_MAIN, 3, RouteKind::Unicast));
    assert_eq!(block.next_hops.len(), 1);
    assert_eq!(block.next_hops[0].gateway, Some(ip("10.244.1.0")));
    assert_eq!(block.next_hops[0].oif, Some(tunnel.index));
    assert!(block.next_hops[0].onlink && !block.next_hops[0].dead);
    let hole = routes.iter().find(|r| r.kind == RouteKind::Blackhole).unwrap();
    assert_eq!((hole.protocol, hole.next_hops.len()), (80, 0));
    let multi = routes.iter().find(|r| r.table == 77).unwrap();
    assert_eq!(multi.priority, 5);
    assert_eq!(multi.next_hops.iter().map(|h| h.weight).collect::<Vec<_>>(), [2, 1]);
    assert!(
        routes
            .iter()
            .any(|r| r.kind == RouteKind::Local && r.dst.to_string() == "10.0.0.1/32")
    );
    assert!(routes.iter().any(|r| r.dst.addr().is_ipv6()));

    let rules: Vec<_> = state.rules.all().unwrap().iter().filter(|r| !r.v6).collect();
    assert_eq!(
        rules.iter().map(|r| r.priority).collect::<Vec<_>>(),
        [0, 100, 101, 200, 32766, 32767]
    );
    assert_eq!(rules[1].fwmark, Some((0x10, 0xf0)));
    assert_eq!(rules[1].iif.as_deref(), Some("eth0"));
    assert_eq!(rules[1].suppress_prefix_length, Some(8));
    assert_eq!(rules[1].action, RuleAction::Table(77));
    assert_eq!((rules[2].action, rules[2].ip_protocol), (RuleAction::Goto(200), Some(6)));
    assert_eq!(rules[2].unknown, ["destination ports"]);
    assert!(rules[3].invert && rules[3].action == RuleAction::Prohibit);
    assert!(rules[4].unknown.is_empty() && rules[4].fwmark.is_none());

    let neighbors = state.neighbors.all().unwrap();
    let vtep = neighbors.iter().find(|n| n.ip == ip("10.244.1.0")).unwrap();
    assert_eq!(
        (vtep.index, vtep.state, vtep.mac.unwrap().to_string()),
        (tunnel.index, NUD_PERMANENT, "66:00:00:00:00:02".into())
    );

    let fdb = state.fdb.all().unwrap();
    let entry = fdb.iter().find(|e| e.index == tunnel.index && e.dst.is_some()).unwrap();
    assert_eq!(
        (entry.dst, entry.state & NUD_PERMANENT, entry.flags),
        (Some(ip("10.0.0.2")), NUD_PERMANENT, 2)
    );
    let mut tables = Tables::open(&node.netns()).unwrap();
    assert!(tables.fdb_of(tunnel.index).all().unwrap().contains(entry));

    let netconf = state.netconf.all().unwrap();
    let all = netconf.iter().find(|n| n.scope == NetconfScope::All && !n.v6).unwrap();
    assert_eq!(all.forwarding, Some(true));
    let of_eth0 = netconf.iter().find(|n| n.scope == NetconfScope::Link(eth0.index) && !n.v6).unwrap();
    assert_eq!(of_eth0.rp_filter, Some(1));
}

#[test]
fn a_pod_is_found_by_its_veth_then_remembered_then_unknown() {
    if !root() {
        return;
    }
    let (node, pod) = node_and_pod();
    let ns = node.netns();
    let want = Want {
        pods: vec![wanted()],
        ..Want::default()
    };
    let mut finder = super::pods::PodFinder::default();
    let state = look(&ns, &want, &mut finder).unwrap();
    let inside = state.pods[&wanted().pod].all().unwrap();
    assert_eq!(inside.netns_inum, pod.netns().inum());
    assert_eq!(inside.host_veth.as_deref(), Some("cali1"));
    assert!(inside.routes.all().unwrap().iter().any(|r| r.dst.prefix_len() == 0));
    assert!(inside.counters.contains_key("UdpInCsumErrors"));

    // Renamed: neither by name nor by counterpart, but its address stands in a namespace paired with the node's.
    node.ip("link set cali1 down");
    node.ip("link set cali1 name cali2");
    let state = look(&ns, &want, &mut super::pods::PodFinder::default()).unwrap();
    let inside = state.pods[&wanted().pod].all().unwrap();
    assert_eq!(inside.host_veth.as_deref(), Some("cali2"));

    // Gone: remembered by who saw it before, and not found by who did not.
    node.ip("link del cali2");
    let state = look(&ns, &want, &mut finder).unwrap();
    let inside = state.pods[&wanted().pod].all().unwrap();
    assert_eq!((inside.netns_inum, inside.host_veth.as_deref()), (pod.netns().inum(), None));
    let state = look(&ns, &want, &mut super::pods::PodFinder::default()).unwrap();
    assert!(state.pods[&wanted().pod].all().is_err());

    // The namespace vanishes as well.
    drop(pod);
    let state = look(&ns, &want, &mut finder).unwrap();
    assert!(state.pods[&wanted().pod].all().is_err());
}

#[test]
fn a_pod_of_another_node_with_the_same_address_is_not_taken() {
    if !root() {
        return;
    }
    let (_other, _pod) = node_and_pod();
    let node = TestNs::new("lonely");
    let want = Want {
        pods: vec![wanted()],
        ..Want::default()
    };
    let state = look(&node.netns(), &want, &mut super::pods::PodFinder::default()).unwrap();
    assert!(state.pods[&wanted().pod].all().is_err());
}

#[test]
fn a_namespace_that_vanishes_during_a_visit_is_that_pods_gap() {
    if !root() {
        return;
    }
    let (node, pod) = node_and_pod();
    let ns = node.netns();
    let mut finder = super::pods::PodFinder::default();
    let links = Tables::open(&ns).unwrap().links();
    let links = links.all().unwrap();
    let place = finder
        .find(&ns, links, &[wanted()])
        .unwrap()
        .remove(&wanted().pod)
        .unwrap()
        .unwrap();
    // Found, and gone before it is entered.
    drop(pod);
    assert!(super::pods::read_pod(&ns, links, &place).unwrap_err().vanished());
}

#[tokio::test]
async fn one_look_from_async_code() {
    if !root() {
        return;
    }
    let (node, _pod) = node_and_pod();
    let want = Want {
        pods: vec![wanted()],
        ..Want::default()
    };
    let state = node_state(&node.netns(), &want).await;
    assert!(state.all().unwrap().pods[&wanted().pod].is_complete());
}

/// A table of many datagrams that changes all the time: whatever comes back complete contains every route that never changed.
#[test]
fn a_dump_under_churn_is_whole_or_says_so() {
    if !root() {
        return;
    }
    let node = TestNs::new("churn");
    node.ip("link set lo up");
    node.routes(4000);
    let ns = node.netns();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                node.batch("route add blackhole 10.255.0.0/24\nroute del blackhole 10.255.0.0/24\n".repeat(200));
            }
        });
        let mut tables = Tables::open(&ns).unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        let (mut whole, mut partial) = (0, 0);
        while Instant::now() < deadline {
            let evidence = tables.routes();
            match evidence.all() {
                Ok(routes) => {
                    whole += 1;
                    let stable = routes.iter().filter(|r| r.dst.to_string().starts_with("10.1")).count();
                    assert_eq!(stable, 4000);
                }
                Err(gaps) => {
                    partial += 1;
                    assert!(gaps[0].why.contains("changed"), "{}", gaps[0].why);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        eprintln!("{whole} whole, {partial} partial, {} retries", tables.retries);
        assert!(whole + partial > 0);
    });
}

/// `cargo test -p verifier --release -- --ignored --nocapture dump_speed`
#[test]
#[ignore = "a measurement"]
fn dump_speed() {
    if !root() {
        return;
    }
    let node = TestNs::new("speed");
    node.ip("link set lo up");
    node.routes(20_000);
    let ns = node.netns();
    let mut tables = Tables::open(&ns).unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let started = Instant::now();
        assert!(tables.routes().all().unwrap().len() >= 20_000);
        ours.push(started.elapsed());
        let started = Instant::now();
        node.quiet("ip", "-4 route show table all");
        theirs.push(started.elapsed());
    }
    ours.sort();
    theirs.sort();
    eprintln!("20,000 routes, median of 9: ours {:?}, ip route show {:?}", ours[4], theirs[4]);
}

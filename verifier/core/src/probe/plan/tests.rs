use super::*;
use crate::{
    intent::{Claim, Dataplane, Encapsulation, ExpectedTunnel, ExpectedWorkload, Peer, PodPhase, Provenance, RemotePod, Setting, Settings},
    names::UnixNs,
    probe::config::SMALL_BYTES,
};
use alloc::format;
use core::net::IpAddr;
use proptest::prelude::*;

fn known<T>(value: T) -> Setting<T> {
    Setting::Known {
        value,
        from: Provenance::BuiltIn,
    }
}

fn address(node: usize, pod: usize) -> IpAddr {
    IpAddr::from([10, 65 + (node / 256) as u8, (node % 256) as u8, 1 + pod as u8])
}

fn pod(node: usize, pod: usize) -> PodRef {
    PodRef::new("default", format!("pod-{node}-{pod}"))
}

/// Node `me` of `nodes` nodes with `pods` pods each.
fn intent(me: usize, nodes: usize, pods: usize) -> NodeIntent {
    let name = |node: usize| NodeName::from(format!("node-{node}"));
    let block = |node: usize| ipnet::IpNet::new(address(node, 0), 24).unwrap().trunc();
    let peer = |node: usize| Peer {
        host_ip: Some(IpAddr::from([192, 168, 0, node as u8])),
        tunnel_ip: Some(address(node, 200)),
        vtep_mac: None,
        host_ip6: None,
        tunnel_ip6: None,
        vtep_mac6: None,
        prefixes: [(block(node), Encapsulation::Vxlan)].into(),
        arriving: Vec::new(),
        pods: (0..pods)
            .map(|i| RemotePod {
                pod: pod(node, i),
                ip: address(node, i),
                other_ip: None,
                phase: PodPhase::Running,
                uid: 0,
                known_since: None,
            })
            .collect(),
        agent_port: None,
    };
    NodeIntent {
        node: name(me),
        host_ip: Some(IpAddr::from([192, 168, 0, me as u8])),
        host_ip6: None,
        settings: Settings {
            calico_version: None,
            dataplane: known(Dataplane::Iptables),
            vxlan_port: known(4789),
            vxlan_vni: known(4096),
            vxlan_mtu: None,
            interface_prefixes: known(Vec::new()),
            device_route_protocol: known(3),
            route_sync_disabled: known(false),
            route_refresh_seconds: known(90),
            remove_external_routes: known(true),
            other: BTreeMap::new(),
        },
        pools: Vec::new(),
        blocks: [block(me)].into(),
        tunnels: [ExpectedTunnel {
            device: "vxlan.calico".into(),
            encapsulation: Encapsulation::Vxlan,
            mac: None,
            address: Some(address(me, 200)),
            local: None,
            vni: Some(4096),
            port: Some(4789),
            mtu: Some(1450),
            required: true,
        }]
        .into(),
        routes: Vec::new(),
        neighbors: Vec::new(),
        fdb: Vec::new(),
        sets: Vec::new(),
        workloads: (0..pods)
            .map(|i| {
                let workload = ExpectedWorkload {
                    pod: pod(me, i),
                    addresses: [address(me, i)].into(),
                    device: format!("cali{i}"),
                    phase: PodPhase::Running,
                    ready: true,
                    terminating: false,
                    sandbox_pending: false,
                    created: None,
                    uid: 0,
                    known_since: None,
                    controller: None,
                    safe_to_delete: false,
                };
                (pod(me, i), workload)
            })
            .collect(),
        peers: (0..nodes).filter(|node| *node != me).map(|node| (name(node), peer(node))).collect(),
        claim: Claim::default(),
        contradictions: Vec::new(),
        gaps: Vec::new(),
        generation: 1,
        read_at: UnixNs(0),
    }
}

fn address6(node: usize, pod: usize) -> IpAddr {
    IpAddr::from([0xfd00, 0x10, 0x244, node as u16, 0, 0, 0, 1 + pod as u16])
}

/// The same with IPv6 beside IPv4: a pool, tunnel addresses, and an address of each family for every pod.
fn dual(me: usize, nodes: usize, pods: usize) -> NodeIntent {
    let mut intent = intent(me, nodes, pods);
    intent.pools = ["10.64.0.0/10", "fd00:10:244::/48"]
        .map(|pool| (pool.parse().unwrap(), "VXLAN Always".into()))
        .into();
    let host = |node: usize| Some(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1 + node as u16]));
    intent.host_ip6 = host(me);
    let v4 = intent.tunnels[0].clone();
    intent.tunnels.push(ExpectedTunnel {
        device: "vxlan-v6.calico".into(),
        address: Some(address6(me, 200)),
        mtu: Some(1430),
        ..v4
    });
    for (at, workload) in intent.workloads.values_mut().enumerate() {
        workload.addresses.push(address6(me, at));
    }
    for node in (0..nodes).filter(|node| *node != me) {
        let peer = intent.peers.get_mut(&NodeName::from(format!("node-{node}"))).unwrap();
        peer.host_ip6 = host(node);
        peer.tunnel_ip6 = Some(address6(node, 200));
        let block = ipnet::IpNet::new(address6(node, 0), 64).unwrap().trunc();
        peer.prefixes.push((block, Encapsulation::Vxlan));
        for (at, pod) in peer.pods.iter_mut().enumerate() {
            pod.other_ip = Some(address6(node, at));
        }
    }
    intent
}

fn ids() -> IdSource {
    IdSource::new(&"node-0".into(), 1)
}

fn well_formed(plan: &Plan, intent: &NodeIntent) {
    let mut lows = BTreeSet::new();
    for probe in &plan.probes {
        assert!(lows.insert(probe.id as u32));
        assert_ne!(probe.from.ip, probe.to.ip);
        assert_eq!(probe.from.node, intent.node);
        assert_ne!(probe.src_port, 0);
        let remote = matches!(probe.pair, PairKind::PodToRemotePod | PairKind::HostToRemotePod);
        assert_eq!(remote, probe.to.node != intent.node);
        let host = matches!(probe.pair, PairKind::HostToLocalPod | PairKind::HostToRemotePod);
        assert_eq!(host, probe.from.pod.is_none());
        assert_eq!(probe.from.ip.is_ipv4(), probe.to.ip.is_ipv4());
        let longer = if probe.is_ipv6() { 20 } else { 0 };
        match (probe.size, probe.transport) {
            (Size::Small, Transport::Tcp) => assert_eq!(probe.length_bytes, 40 + longer),
            (Size::Small, _) => assert_eq!(probe.length_bytes, SMALL_BYTES + longer),
            _ => assert!(probe.length_bytes > 1_000),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_round_is_bounded_whatever_the_cluster(
        nodes in 1_usize..60, pods in 0_usize..30, round in any::<u32>(), k in 1_u32..6, all_up_to in 0_u32..8, local in 0_u32..6,
    ) {
        let options = PlanOptions {
            peers_per_round: k, all_peers_up_to: all_up_to, local_pods_per_round: local, ..PlanOptions::default()
        };
        let intent = intent(0, nodes, pods);
        let plan = plan_round(&intent, u64::from(round), &options, &mut ids());
        prop_assert!(plan.probes.len() as u64 <= options.max_probes_per_round());
        well_formed(&plan, &intent);
        // Of a second family the first one's probes do not change, but for the largest: that a tunnel takes more is every pod's.
        let both = dual(0, nodes, pods);
        let twice = plan_round(&both, u64::from(round), &options, &mut ids());
        prop_assert!(twice.probes.len() as u64 <= options.max_probes_per_round());
        well_formed(&twice, &both);
        let first = twice.probes.iter().filter(|p| !p.is_ipv6());
        prop_assert!(first.map(|p| (p.id, &p.to, p.src_port)).eq(plan.probes.iter().map(|p| (p.id, &p.to, p.src_port))));
    }

    #[test]
    fn every_peer_and_every_local_pod_gets_its_turn(nodes in 2_usize..30, pods in 1_usize..12, first in any::<u32>()) {
        let options = PlanOptions::default();
        let intent = intent(1, nodes, pods);
        let mut ids = ids();
        let first = u64::from(first);
        let mut peers = BTreeSet::new();
        let mut local = BTreeSet::new();
        for round in first..first + options.rounds_to_cover(nodes).max(pods as u64) {
            for probe in plan_round(&intent, round, &options, &mut ids).probes {
                if probe.pair == PairKind::PodToRemotePod {
                    peers.insert(probe.to.node);
                } else if probe.pair == PairKind::HostToLocalPod {
                    local.insert(probe.to.pod);
                }
            }
        }
        prop_assert_eq!(peers.len(), nodes - 1);
        prop_assert_eq!(local.len(), pods);
    }

    #[test]
    fn a_full_plan_tests_every_peer_and_every_pod(nodes in 2_usize..12, pods in 1_usize..12) {
        let options = PlanOptions::default();
        let intent = intent(0, nodes, pods);
        let plan = plan_full(&intent, &options, &mut ids());
        well_formed(&plan, &intent);
        prop_assert_eq!(&plan.gaps, &Vec::new());
        for peer in intent.peers.keys() {
            for port in 0..8 {
                let sent = plan.probes.iter().filter(|p| {
                    p.pair == PairKind::PodToRemotePod && &p.to.node == peer && p.transport == Transport::Udp
                        && p.size == Size::Small && p.src_port == 62_000 + port
                });
                prop_assert!(sent.count() >= 3);
            }
            prop_assert!(plan.probes.iter().any(|p| p.pair == PairKind::HostToRemotePod && &p.to.node == peer && p.from.ip == address(0, 200)));
        }
        for pod in intent.workloads.keys() {
            for (pair, transport) in [Transport::Udp, Transport::Icmp, Transport::Tcp].into_iter().flat_map(|t| {
                [(PairKind::PodToRemotePod, t), (PairKind::HostToLocalPod, t)]
            }) {
                let tested = plan.probes.iter().any(|p| {
                    let end = if pair == PairKind::HostToLocalPod { &p.to.pod } else { &p.from.pod };
                    p.pair == pair && p.transport == transport && end.as_ref() == Some(pod)
                });
                prop_assert!(tested, "{}: {:?} {:?}", pod, pair, transport);
            }
        }
    }
}

#[test]
fn a_full_plan_of_two_families_tests_each_as_the_other() {
    let intent = dual(0, 3, 3);
    let plan = plan_full(&intent, &PlanOptions::default(), &mut ids());
    well_formed(&plan, &intent);
    assert_eq!(plan.gaps, []);
    let of = |v6: bool| {
        let probes = plan.probes.iter().filter(|p| p.is_ipv6() == v6);
        let kind = |p: &Probe| (p.pair, p.transport, p.size, p.from.pod.clone(), p.to.pod.clone(), p.seq);
        probes.map(kind).collect::<Vec<_>>()
    };
    assert_eq!(of(false), of(true));
    let hosts: BTreeSet<IpAddr> = plan
        .probes
        .iter()
        .filter(|p| p.pair == PairKind::HostToRemotePod && p.is_ipv6())
        .map(|p| p.from.ip)
        .collect();
    assert_eq!(hosts, [address6(0, 200)].into());
}

#[test]
fn rounds_take_turns_with_the_ports_of_ipv6() {
    let (intent, options) = (dual(0, 2, 2), PlanOptions::default());
    let mut ids = ids();
    let mut ports = BTreeSet::new();
    for round in 0..4 {
        let plan = plan_round(&intent, round, &options, &mut ids);
        let small =
            |p: &&Probe| p.is_ipv6() && p.pair == PairKind::PodToRemotePod && (p.transport, p.size) == (Transport::Udp, Size::Small);
        let used: Vec<u16> = plan.probes.iter().filter(small).map(|p| p.src_port).collect();
        assert_eq!(used.len(), usize::from(IPV6_PORTS_PER_ROUND));
        ports.extend(used);
    }
    assert_eq!(ports.len(), usize::from(options.config.udp_sources.count));
}

#[test]
fn no_family_is_sent_what_the_smaller_tunnel_of_the_other_made_pods_for() {
    let intent = dual(0, 2, 1);
    let plan = plan_full(&intent, &PlanOptions::default(), &mut ids());
    let large: BTreeSet<u32> = plan.probes.iter().filter(|p| p.size == Size::Mtu).map(|p| p.length_bytes).collect();
    assert_eq!(large, [1_430].into());
}

#[test]
fn only_pools_make_a_family_worth_probing() {
    let families = |change: fn(&mut NodeIntent)| {
        let mut intent = dual(0, 2, 1);
        change(&mut intent);
        let plan = plan_full(&intent, &PlanOptions::default(), &mut ids());
        let families: BTreeSet<bool> = plan.probes.iter().map(Probe::is_ipv6).collect();
        (families, plan.gaps)
    };
    // An address that a second CNI plugin gave, of which Calico knows nothing.
    assert_eq!(families(|i| i.pools.truncate(1)), ([false].into(), Vec::new()));
    assert_eq!(families(|i| drop(i.pools.remove(0))), ([true].into(), Vec::new()));
    let bare = |intent: &mut NodeIntent| {
        for peer in intent.peers.values_mut() {
            peer.prefixes.iter_mut().for_each(|prefix| prefix.1 = Encapsulation::None);
        }
    };
    let (found, gaps) = families(|i| i.workloads.values_mut().for_each(|w| w.addresses.truncate(1)));
    assert_eq!(found, [false, true].into(), "the host still is a source");
    assert!(gaps[0].why.contains("no running pod with an IPv6 address"), "{gaps:?}");
    let (_, gaps) = families(|i| i.tunnels[1].address = None);
    assert!(gaps[0].why.contains("no IPv6 tunnel address"), "{gaps:?}");

    // Without encapsulation the host sends with its own address of the family.
    let mut intent = dual(0, 2, 1);
    bare(&mut intent);
    let plan = plan_full(&intent, &PlanOptions::default(), &mut ids());
    let host = |p: &&Probe| p.pair == PairKind::HostToRemotePod && p.is_ipv6();
    assert!(plan.probes.iter().filter(host).all(|p| Some(p.from.ip) == intent.host_ip6));
    assert!(plan.probes.iter().any(|p| host(&p)));
}

#[test]
fn attempts_of_one_kind_lie_apart() {
    let plan = plan_full(&intent(0, 3, 2), &PlanOptions::default(), &mut ids());
    assert!(plan.probes.is_sorted_by_key(|probe| probe.seq));
    assert_eq!(plan.probes.last().map(|probe| probe.seq), Some(2));
}

#[test]
fn the_mtu_is_the_least_that_the_path_is_meant_to_carry() {
    let intent = intent(0, 2, 1);
    let large = |options: &PlanOptions| {
        let plan = plan_round(&intent, 0, options, &mut ids());
        let sizes: BTreeSet<u32> = plan
            .probes
            .iter()
            .filter(|p| p.size == Size::Mtu && p.pair == PairKind::PodToRemotePod)
            .map(|p| p.length_bytes)
            .collect();
        sizes
    };
    let mut options = PlanOptions::default();
    assert_eq!(large(&options), [1_450].into());
    options.mtus.pods.insert(pod(0, 0), 1_400);
    assert_eq!(large(&options), [1_400].into());
    options.mtus.pods.insert(pod(0, 0), 9_000);
    assert_eq!(large(&options), [1_450].into());
}

#[test]
fn a_tunnel_of_each_family_leaves_pods_what_the_narrower_does() {
    let mut intent = intent(0, 2, 1);
    let mut second = intent.tunnels[0].clone();
    second.device = String::from("vxlan-v6.calico");
    second.mtu = Some(1_430);
    second.local = Some("fd00::1".parse().unwrap());
    intent.tunnels.push(second);
    let plan = plan_full(&intent, &PlanOptions::default(), &mut ids());
    let large = |pair: PairKind| {
        let of = plan
            .probes
            .iter()
            .filter(|p| p.size == Size::Mtu && p.pair == pair && p.to.ip.is_ipv4());
        of.map(|p| p.length_bytes).collect::<BTreeSet<u32>>()
    };
    assert_eq!(large(PairKind::HostToRemotePod), [1_430].into());
    assert_eq!(large(PairKind::PodToRemotePod), [1_430].into());
}

#[test]
fn of_a_tunnel_that_is_gone_the_pods_still_tell() {
    let mut intent = intent(0, 2, 1);
    let mut second = intent.tunnels[0].clone();
    second.device = String::from("vxlan-v6.calico");
    second.mtu = None;
    intent.tunnels.push(second);
    let mut options = PlanOptions::default();
    options.mtus.pods.insert(pod(0, 0), 1_430);
    let large = |options: &PlanOptions| {
        let plan = plan_full(&intent, options, &mut ids());
        let of = plan
            .probes
            .iter()
            .filter(|p| p.size == Size::Mtu && p.pair == PairKind::HostToRemotePod);
        of.map(|p| p.length_bytes).collect::<BTreeSet<u32>>()
    };
    assert_eq!(large(&options), [1_430].into());
    // Where the device is there it says so itself, and an old pod says nothing of new ones.
    options.mtus.tunnels.insert("vxlan-v6.calico".into(), 1_440);
    options.mtus.pods.insert(pod(0, 0), 1_400);
    assert_eq!(large(&options), [1_440].into());
}

#[test]
fn without_encapsulation_no_more_is_sent_than_a_pod_was_made_for() {
    // Across one subnet it goes as it is, to the others through a tunnel: that tunnel decided the pods' MTU.
    let mut intent = intent(0, 2, 1);
    for peer in intent.peers.values_mut() {
        peer.prefixes.iter_mut().for_each(|prefix| prefix.1 = Encapsulation::None);
    }
    let mut options = PlanOptions::default();
    options.mtus.underlay_bytes = Some(1_500);
    let from_host = |intent: &NodeIntent, options: &PlanOptions| {
        let plan = plan_full(intent, options, &mut ids());
        let large = |p: &&Probe| p.size == Size::Mtu && p.pair == PairKind::HostToRemotePod;
        plan.probes.iter().filter(large).map(|p| p.length_bytes).collect::<BTreeSet<u32>>()
    };
    assert_eq!(from_host(&intent, &options), [1_450].into());
    // No tunnel anywhere: what the pods beside it have.
    intent.tunnels.clear();
    assert_eq!(from_host(&intent, &options), [1_500].into());
    options.mtus.pods.insert(pod(0, 0), 1_400);
    assert_eq!(from_host(&intent, &options), [1_400].into());
}

#[test]
fn what_cannot_be_probed_is_a_gap() {
    let plan = |change: fn(&mut NodeIntent)| {
        let mut intent = intent(0, 2, 2);
        change(&mut intent);
        plan_full(&intent, &PlanOptions::default(), &mut ids())
    };
    let no_pods = plan(|i| i.workloads.clear());
    assert!(no_pods.gaps[0].why.contains("node-0 has no running pod"));
    assert!(no_pods.probes.iter().all(|p| p.pair == PairKind::HostToRemotePod));

    let no_remote = plan(|i| i.peers.values_mut().for_each(|p| p.pods.clear()));
    assert!(no_remote.gaps[0].why.contains("node-1 has no running pod"));

    let no_tunnel = plan(|i| i.tunnels[0].address = None);
    assert!(no_tunnel.gaps[0].why.contains("tunnel address"));
    assert!(!no_tunnel.probes.iter().any(|p| p.pair == PairKind::HostToRemotePod));

    let no_mtu = plan(|i| i.tunnels[0].mtu = None);
    assert!(no_mtu.gaps[0].why.contains("MTU"));

    let duplicate = plan(|i| {
        let taken = address(0, 0);
        i.peers.values_mut().flat_map(|p| &mut p.pods).for_each(|p| p.ip = taken);
    });
    assert!(duplicate.gaps.iter().any(|g| g.why.contains("of its own")));
}

#[test]
fn a_pod_that_ends_or_does_not_run_is_not_probed() {
    let mut intent = intent(0, 2, 3);
    intent.workloads.get_mut(&pod(0, 0)).unwrap().terminating = true;
    intent.workloads.get_mut(&pod(0, 1)).unwrap().phase = PodPhase::Pending;
    let plan = plan_full(&intent, &PlanOptions::default(), &mut ids());
    assert!(plan.probes.iter().all(|p| p.from.pod.is_none() || p.from.pod == Some(pod(0, 2))));
}

#[test]
fn a_failure_is_confirmed_with_new_ids_and_fresh_tcp_ports() {
    let mut ids = ids();
    let config = ProbeConfig::default();
    let plan = plan_full(&intent(0, 2, 1), &PlanOptions::default(), &mut ids);
    let tcp = plan.probes.iter().find(|p| p.transport == Transport::Tcp).unwrap();
    let udp = plan.probes.iter().find(|p| p.transport == Transport::Udp).unwrap();
    let again = plan_confirm(&[tcp.clone(), udp.clone()], 3, 5, &config, &mut ids);
    assert_eq!(again.len(), 5);
    assert_ne!(again[0].src_port, tcp.src_port);
    assert_eq!(again[1].src_port, udp.src_port);
    let all: BTreeSet<u64> = plan.probes.iter().chain(&again).map(|p| p.id).collect();
    assert_eq!(all.len(), plan.probes.len() + 5);
    let step = resized(udp, 700, 1, &config, &mut ids);
    assert_eq!((step.size, step.length_bytes, step.seq), (Size::Bytes(700), 700, 1));
}

#[test]
fn a_borrowed_address_is_tested_by_whoever_has_a_route_of_its_own_to_it() {
    let mut intent = intent(0, 3, 2);
    let peer_name = NodeName::from("node-1");
    let peer = intent.peers.get_mut(&peer_name).unwrap();
    let borrowed = address(2, 40);
    peer.pods[1].ip = borrowed;
    peer.prefixes.push((ipnet::IpNet::from(borrowed), Encapsulation::Vxlan));
    let plan = plan_full(&intent, &PlanOptions::default(), &mut ids());
    let to: BTreeSet<IpAddr> = plan.probes.iter().filter(|p| p.to.node == peer_name).map(|p| p.to.ip).collect();
    assert_eq!(to, [address(1, 0), borrowed].into());
}

#[test]
fn a_pod_by_each_route_to_a_peer_is_tested() {
    let mut intent = intent(0, 3, 5);
    let peer_name = NodeName::from("node-1");
    let peer = intent.peers.get_mut(&peer_name).unwrap();
    let second = ipnet::IpNet::new(address(9, 0), 24).unwrap().trunc();
    peer.prefixes.push((second, Encapsulation::None));
    peer.pods[3].ip = address(9, 3);
    peer.pods[4].ip = address(9, 4);
    let plan = plan_full(&intent, &PlanOptions::default(), &mut ids());
    let between_pods = plan
        .probes
        .iter()
        .filter(|p| p.to.node == peer_name && p.pair == PairKind::PodToRemotePod);
    let to: BTreeSet<IpAddr> = between_pods.map(|p| p.to.ip).collect();
    assert!(to.contains(&address(9, 3)), "{to:?}");
    assert!(to.iter().any(|ip| !second.contains(ip)), "{to:?}");
}

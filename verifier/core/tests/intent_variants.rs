//! Encapsulations, owners, families, settings and versions besides the plain VXLAN cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::{calico_node, felix, pod, routes, version, worked_example};
use verifier_core::intent::{Cluster, Dataplane, Encapsulation, NodeIntent, Provenance, Setting};

const CP: &str = "kind-control-plane";
const W: &str = "kind-worker";
const W2: &str = "kind-worker2";

fn with(base: Vec<Value>, changes: &[Value]) -> Cluster {
    let mut all = base;
    for change in changes {
        let same = |v: &Value| v["kind"] == change["kind"] && v["metadata"]["name"] == change["metadata"]["name"];
        all.retain(|v| !same(v));
        all.push(change.clone());
    }
    support::cluster(&all)
}

fn required(intent: &NodeIntent) -> Vec<String> {
    let remote_or_block = |r: &String| !r.starts_with('?') && !r.contains(" dev cali");
    routes(intent).into_iter().filter(remote_or_block).collect()
}

/// The worked example on IPIP or bare pools.
fn encapsulated(ipip: &str) -> Vec<Value> {
    let mut all = worked_example("Never");
    for value in &mut all {
        match value["kind"].as_str().unwrap() {
            "IPPool" => value["spec"]["ipipMode"] = json!(ipip),
            "Node" => {
                let tunnel = value["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"].clone();
                value["metadata"]["annotations"]["projectcalico.org/IPv4IPIPTunnelAddr"] = tunnel;
            }
            _ => {}
        }
    }
    all
}

#[test]
fn ipip_is_birds_unless_felix_was_told() {
    let cluster = with(encapsulated("Always"), &[]);
    let intent = cluster.node_intent(&CP.into()).unwrap();
    assert_eq!(
        required(&intent),
        [
            "10.244.110.128/26 via 172.18.0.4 dev tunl0 proto bird onlink",
            "10.244.110.140/32 via 172.18.0.3 dev tunl0 proto bird onlink",
            "10.244.162.128/26 via 172.18.0.3 dev tunl0 proto bird onlink",
            "blackhole 10.244.82.0/26 proto bird",
        ]
    );
    assert_eq!((intent.neighbors.len(), intent.fdb.len()), (0, 0));
    assert_eq!(
        (intent.tunnels[0].device.as_str(), intent.tunnels[0].encapsulation),
        ("tunl0", Encapsulation::Ipip)
    );
    assert_eq!(intent.sets[0].name, "all-hosts-net");
    assert_eq!(intent.sets[0].members.len(), 3);

    for (change, owner) in [
        (felix("default", &json!({"programClusterRoutes": "Enabled"})), " proto 80 "),
        (
            felix("default", &json!({"programClusterRoutes": "EnabledNoEncapOnly"})),
            " proto bird ",
        ),
    ] {
        let intent = with(encapsulated("Always"), &[change]).node_intent(&CP.into()).unwrap();
        assert!(required(&intent)[0].contains(owner), "{:?}", required(&intent));
    }
    // 3.33 changed who does it when nobody says.
    let newer = with(encapsulated("Always"), &[version("v3.33.0")]);
    // The image's tag outranks the cluster's version; without a tag the cluster's counts.
    assert!(required(&newer.node_intent(&CP.into()).unwrap())[0].contains("bird"));
    let mut untagged = calico_node(CP, &json!([]));
    untagged["spec"]["containers"][0]["image"] = json!("calico/node@sha256:00");
    let newer = with(encapsulated("Always"), &[version("v3.33.0"), untagged]);
    assert_eq!(
        required(&newer.node_intent(&CP.into()).unwrap())[0],
        "10.244.110.128/26 via 172.18.0.4 dev tunl0 proto 80 onlink"
    );
}

#[test]
fn without_bird_nobody_programs_what_felix_does_not() {
    let env = json!([{"name": "CALICO_NETWORKING_BACKEND", "value": "vxlan"}]);
    let cluster = with(encapsulated("Always"), &[calico_node(CP, &env)]);
    assert_eq!(required(&cluster.node_intent(&CP.into()).unwrap()), [] as [&str; 0]);
}

#[test]
fn bare_pools_by_bird_and_by_felix() {
    let cluster = with(encapsulated("Never"), &[]);
    let intent = cluster.node_intent(&CP.into()).unwrap();
    assert_eq!(required(&intent)[0], "10.244.110.128/26 via 172.18.0.4 dev PARENT proto bird");
    assert!(intent.tunnels.is_empty());
    assert_eq!(intent.peers[&W2.into()].prefixes[0].1, Encapsulation::None);

    let far = support::node(W2, "172.19.0.4/16", None);
    let cluster = with(encapsulated("Never"), &[far]);
    // Where BGP's next hop leads is the underlay's business.
    assert_eq!(
        required(&cluster.node_intent(&CP.into()).unwrap())[0],
        "10.244.110.128/26 proto bird"
    );

    let own = felix("default", &json!({"programClusterRoutes": "Enabled"}));
    let cluster = with(encapsulated("Never"), &[own]);
    assert_eq!(
        required(&cluster.node_intent(&CP.into()).unwrap()),
        [
            "10.244.110.128/26 via 172.18.0.4 dev PARENT proto 80 onlink",
            "10.244.110.140/32 via 172.18.0.3 dev PARENT proto 80 onlink",
            "10.244.162.128/26 via 172.18.0.3 dev PARENT proto 80 onlink",
            "blackhole 10.244.82.0/26 proto 80",
        ]
    );
}

#[test]
fn cross_subnet_tunnels_to_other_subnets_and_never_matches_without_a_mask() {
    let far = support::node(W2, "172.19.0.4/16", Some("10.244.110.128"));
    let cluster = with(worked_example("CrossSubnet"), &[far]);
    let intent = cluster.node_intent(&CP.into()).unwrap();
    assert_eq!(
        required(&intent)[0],
        "10.244.110.128/26 via 10.244.110.128 dev vxlan.calico onlink mtu 1450"
    );
    assert!(required(&intent)[2].contains("dev PARENT proto 80 onlink"));
    assert_eq!(intent.peers[&W.into()].prefixes[1].1, Encapsulation::None);

    let unmasked = support::node(CP, "172.18.0.2", Some("10.244.82.0"));
    let cluster = with(worked_example("CrossSubnet"), &[unmasked]);
    assert!(
        required(&cluster.node_intent(&CP.into()).unwrap())
            .iter()
            .all(|r| r.contains("vxlan.calico") || r.contains("blackhole"))
    );
}

#[test]
fn a_borrowed_tunnel_address_has_its_own_route_from_3_29_2_on() {
    // worker's tunnel address lies in worker2's block.
    let changes = |v: &str| {
        let mut agent = calico_node(CP, &json!([]));
        agent["spec"]["containers"][0]["image"] = json!(format!("calico/node:{v}"));
        vec![
            agent,
            support::node(W, "172.18.0.3/16", Some("10.244.110.150")),
            support::block("10.244.110.128/26", W2, &[(0, W2), (12, W), (22, W)]),
        ]
    };
    let of = |v: &str| {
        let intent = with(worked_example("Always"), &changes(v)).node_intent(&CP.into()).unwrap();
        routes(&intent)
            .into_iter()
            .filter(|r| r.contains("10.244.110.150/32"))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("v3.28.5"), [] as [&str; 0]);
    assert_eq!(of("v3.29.2"), ["10.244.110.150/32 dev vxlan.calico scope link"]);
    assert_eq!(of("v3.31.7"), ["10.244.110.150/32 dev vxlan.calico scope link mtu 1450"]);
    assert_eq!(of("latest"), ["10.244.110.150/32 dev vxlan.calico scope link mtu 1450"]);
}

#[test]
fn spurious_tunnel_routes_are_accepted_where_they_occur() {
    let spurious = |v: &str| {
        let mut agent = calico_node(CP, &json!([]));
        agent["spec"]["containers"][0]["image"] = json!(format!("calico/node:{v}"));
        let intent = with(worked_example("Always"), &[agent]).node_intent(&CP.into()).unwrap();
        routes(&intent).into_iter().filter(|r| r.starts_with('?')).count()
    };
    assert_eq!(["v3.29.7", "v3.30.0", "v3.31.7", "v3.32.0"].map(spurious), [0, 2, 2, 0]);
}

#[test]
fn ipv6_has_its_own_device_neighbours_and_entries() {
    let dual = |name: &str, n: u8| {
        let mut node = support::node(name, &format!("172.18.0.{n}/16"), Some(&format!("10.244.{n}.0")));
        node["metadata"]["annotations"]["projectcalico.org/IPv6Address"] = json!(format!("fd00::{n}/64"));
        node["metadata"]["annotations"]["projectcalico.org/IPv6VXLANTunnelAddr"] = json!(format!("fd01::{n}00"));
        node
    };
    let mut six = support::block("fd01::300/122", "node-1", &[(0, "node-1")]);
    six["metadata"]["name"] = json!("fd01---300-122");
    let mut own = support::block("fd01::200/122", "worker-a", &[(0, "worker-a")]);
    own["metadata"]["name"] = json!("fd01---200-122");
    let cluster = support::cluster(&[
        dual("worker-a", 2),
        dual("node-1", 3),
        support::pool("four", "10.244.0.0/16", "Always", "Never"),
        support::pool("six", "fd01::/64", "Always", "Never"),
        six,
        own,
        version("v3.30.7"),
    ]);
    let intent = cluster.node_intent(&"worker-a".into()).unwrap();
    let lines = routes(&intent);
    assert!(
        lines.contains(&"fd01::300/122 via fd01::300 dev vxlan-v6.calico onlink".into()),
        "{lines:?}"
    );
    assert!(lines.contains(&"blackhole fd01::200/122 proto 80".into()), "{lines:?}");
    let devices: Vec<_> = intent.tunnels.iter().map(|t| t.device.as_str()).collect();
    assert_eq!(devices, ["vxlan.calico", "vxlan-v6.calico"]);
    assert_eq!(intent.tunnels[1].mac.unwrap().to_string(), "66:58:ad:a7:c1:7a");
    let neighbors: Vec<_> = intent.neighbors.iter().map(|n| format!("{} {}", n.ip, n.mac)).collect();
    assert_eq!(neighbors, ["10.244.3.0 66:b3:68:28:39:8e", "fd01::300 66:24:ac:63:df:6c"]);
    assert_eq!(intent.fdb[1].dst, "fd00::3".parse::<std::net::IpAddr>().unwrap());
    // Its packets are sent and watched as IPv4's are.
    assert!(!intent.gaps.iter().any(|gap| gap.why.contains("fd01::/64")), "{:?}", intent.gaps);
    assert_eq!(intent.host_ip6, Some("fd00::2".parse().unwrap()));
    assert_eq!(intent.peers[&"node-1".into()].tunnel_ip6, Some("fd01::300".parse().unwrap()));
}

#[test]
fn what_a_peer_sends_arrives_as_the_pool_of_its_destination_has_it() {
    let pools = |second: (&str, &str)| {
        let cluster = support::cluster(&[
            support::node("worker-a", "172.18.0.2/16", Some("10.244.2.0")),
            support::node("near", "172.18.0.3/16", Some("10.244.3.0")),
            support::node("far", "172.19.0.4/16", Some("10.244.4.0")),
            support::pool("one", "10.244.0.0/16", "Always", "Never"),
            support::pool("two", "10.245.0.0/16", second.0, second.1),
            support::block("10.244.3.0/26", "near", &[]),
            support::block("10.245.2.0/26", "worker-a", &[]),
            version("v3.30.7"),
        ]);
        cluster.node_intent(&"worker-a".into()).unwrap()
    };
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let intent = pools(("Never", "Never"));
    let near = "near".into();
    assert_eq!(intent.encapsulation_to(&near, ip("10.244.3.7")), Encapsulation::Vxlan);
    // From a pod of the second pool there in the tunnel, and back without it; a host's own address is in no pool.
    assert_eq!(
        intent.encapsulation_back(&near, ip("10.245.2.7"), ip("10.244.3.7")),
        Encapsulation::None
    );
    assert_eq!(
        intent.encapsulation_back(&near, ip("10.244.2.7"), ip("10.244.3.7")),
        Encapsulation::Vxlan
    );
    assert_eq!(
        intent.encapsulation_back(&near, ip("172.18.0.2"), ip("10.244.3.7")),
        Encapsulation::None
    );

    let intent = pools(("CrossSubnet", "Never"));
    for (peer, carried) in [("near", Encapsulation::None), ("far", Encapsulation::Vxlan)] {
        let back = intent.encapsulation_back(&peer.into(), ip("10.245.2.7"), ip("10.244.3.7"));
        assert_eq!(back, carried, "{peer}");
    }
    // Pools that do not differ: as they go, so they come.
    assert!(pools(("Always", "Never")).peers.values().all(|peer| peer.arriving.is_empty()));
}

#[test]
fn settings_carry_who_set_them() {
    let changes = [
        felix(
            "default",
            &json!({"vxlanVNI": 1, "vxlanPort": 5000, "routeRefreshInterval": "1m", "deviceRouteProtocol": 42, "interfacePrefix": "eni"}),
        ),
        felix(&format!("node.{CP}"), &json!({"vxlanPort": 6000})),
        calico_node(
            CP,
            &json!([
                {"name": "FELIX_VXLANVNI", "value": "7"},
                {"name": "FELIX_REMOVEEXTERNALROUTES", "value": "no"},
                {"name": "FELIX_VXLANMTU", "valueFrom": {"configMapKeyRef": {"name": "calico-config", "key": "veth_mtu"}}},
                {"name": "felix_nftablesMode", "value": "Enabled"},
            ]),
        ),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "calico-config", "namespace": "calico-system"},
               "data": {"veth_mtu": "1440"}}),
    ];
    let cluster = with(worked_example("Always"), &changes);
    let intent = cluster.node_intent(&CP.into()).unwrap();
    let settings = &intent.settings;
    let known = |value: u32, from| Setting::Known { value, from };
    let port = |value: u16, from| Setting::Known { value, from };
    assert_eq!(settings.vxlan_vni, known(7, Provenance::Environment));
    assert_eq!(settings.vxlan_port, port(6000, Provenance::NodeConfiguration));
    assert_eq!(settings.route_refresh_seconds, known(60, Provenance::DefaultConfiguration));
    assert_eq!(settings.vxlan_mtu, Some(known(1440, Provenance::Environment)));
    assert_eq!(settings.dataplane.value(), Some(&Dataplane::Nftables));
    assert_eq!(settings.remove_external_routes, known_bool(false, Provenance::Environment));
    assert_eq!(settings.route_sync_disabled, known_bool(false, Provenance::BuiltIn));
    assert_eq!(settings.calico_version, Some((3, 31, 7)));
    assert_eq!(intent.gaps, []);
    assert_eq!(
        required(&intent)[0],
        "10.244.110.128/26 via 10.244.110.128 dev vxlan.calico proto 42 onlink mtu 1440"
    );
    // The interface's name follows the environment alone.
    let names: Vec<_> = intent.workloads.values().map(|w| w.device.as_str()).collect();
    assert_eq!(names, ["cali3d5d6ab04b5"]);
    // Another node is not concerned by this one's.
    let other = cluster.node_intent(&W.into()).unwrap();
    assert_eq!(other.settings.vxlan_port, port(5000, Provenance::DefaultConfiguration));
    assert_eq!(other.settings.vxlan_vni, known(1, Provenance::DefaultConfiguration));
}

const fn known_bool(value: bool, from: Provenance) -> Setting<bool> {
    Setting::Known { value, from }
}

#[test]
fn what_cannot_be_resolved_is_unresolved_and_a_gap() {
    let secret = json!([{"name": "FELIX_VXLANVNI", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
    let intent = with(worked_example("Always"), &[calico_node(CP, &secret)])
        .node_intent(&CP.into())
        .unwrap();
    assert!(matches!(intent.settings.vxlan_vni, Setting::Unresolved { .. }));
    assert_eq!(intent.tunnels[0].vni, None);
    assert!(intent.gaps.iter().any(|g| g.why.contains("FELIX_VXLANVNI")), "{:?}", intent.gaps);
    // The rest is known.
    assert_eq!(intent.settings.vxlan_port.value(), Some(&4789));

    // A whole map of variables that was not given may set anything.
    let mut agent = calico_node(CP, &json!([{"name": "FELIX_VXLANPORT", "value": "4790"}]));
    agent["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "more"}}]);
    let intent = with(worked_example("Always"), &[agent]).node_intent(&CP.into()).unwrap();
    assert_eq!(intent.settings.vxlan_port.value(), Some(&4790));
    assert!(matches!(intent.settings.vxlan_vni, Setting::Unresolved { .. }));

    // Calico's own optional map holds the API server's address and nothing else.
    let mut agent = calico_node(CP, &json!([]));
    agent["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "kubernetes-services-endpoint", "optional": true}}]);
    let intent = with(worked_example("Always"), &[agent]).node_intent(&CP.into()).unwrap();
    assert_eq!(intent.gaps, []);
}

#[test]
fn without_route_sync_nothing_is_demanded_of_felix() {
    let off = felix("default", &json!({"routeSyncDisabled": true}));
    let intent = with(worked_example("Always"), &[off]).node_intent(&CP.into()).unwrap();
    assert_eq!(required(&intent), [] as [&str; 0]);
    // The CNI plugin still makes the pods' routes.
    assert!(intent.routes.iter().any(|r| r.required));
}

#[test]
fn ebpf_has_no_forwarding_entries_and_a_flow_based_device() {
    let bpf = felix("default", &json!({"bpfEnabled": true}));
    let intent = with(worked_example("Always"), &[bpf]).node_intent(&CP.into()).unwrap();
    assert_eq!((intent.fdb.len(), intent.neighbors.len()), (0, 2));
    assert_eq!(
        (intent.tunnels[0].vni, intent.tunnels[0].local, intent.tunnels[0].mtu),
        (None, None, None)
    );
}

#[test]
fn which_pods_are_workloads_and_which_may_be_deleted() {
    let mut stat = pod("kube-system", "kube-proxy-x", CP, "10.244.82.7");
    stat["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
    stat["metadata"]["ownerReferences"] = json!([{"kind": "Node", "name": CP, "controller": true}]);
    let mut host = pod("kube-system", "host", CP, "172.18.0.2");
    host["spec"]["hostNetwork"] = json!(true);
    let mut done = pod("default", "done", CP, "10.244.82.8");
    done["status"]["phase"] = json!("Succeeded");
    let mut bare = pod("default", "bare", CP, "");
    bare["metadata"]["ownerReferences"] = Value::Null;
    bare["status"] = json!({"phase": "Running", "podIPs": null});
    bare["metadata"]["annotations"] = json!({"cni.projectcalico.org/podIP": "10.244.82.9/32"});
    let cluster = with(
        worked_example("Always"),
        &[
            stat,
            host,
            done,
            bare,
            support::block("10.244.82.0/26", CP, &[(0, CP), (5, CP), (7, CP), (9, CP)]),
        ],
    );
    let intent = cluster.node_intent(&CP.into()).unwrap();
    let seen: Vec<_> = intent
        .workloads
        .values()
        .map(|w| (w.pod.name.as_str(), w.controller.as_deref(), w.safe_to_delete, w.addresses.len()))
        .collect();
    assert_eq!(
        seen,
        [
            ("bare", None, false, 1),
            ("coredns-abc", Some("StatefulSet/web"), true, 1),
            ("kube-proxy-x", Some("Node/kind-control-plane"), false, 1),
        ]
    );
    assert_eq!(intent.contradictions, []);
}

#[test]
fn pods_instead_of_blocks() {
    let source = felix("default", &json!({"routeSource": "WorkloadIPs"}));
    let intent = with(worked_example("Always"), &[source]).node_intent(&CP.into()).unwrap();
    let remote: Vec<_> = routes(&intent).into_iter().filter(|r| !r.starts_with('?')).collect();
    assert_eq!(
        remote,
        [
            "10.244.110.140/32 via 10.244.162.128 dev vxlan.calico onlink",
            "10.244.82.5/32 dev cali3d5d6ab04b5 scope link",
        ]
    );
    assert_eq!(
        intent.peers[&W.into()].prefixes,
        [("10.244.110.140/32".parse().unwrap(), Encapsulation::Vxlan)]
    );
}

#[test]
fn claims_and_peers_of_cordoned_and_unready_nodes() {
    let mut sick = support::node(W, "172.18.0.3/16", Some("10.244.162.128"));
    sick["spec"]["unschedulable"] = json!(true);
    sick["status"]["conditions"] = json!([
        {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"},
        {"type": "NetworkUnavailable", "status": "True", "reason": "CalicoIsDown"},
    ]);
    let mut agent = calico_node(W, &json!([]));
    agent["status"]["containerStatuses"][0]["ready"] = json!(false);
    let cluster = with(worked_example("Always"), &[sick, agent]);
    assert!(cluster.node_intent(&CP.into()).unwrap().peers.contains_key(&W.into()));
    let claim = cluster.node_intent(&W.into()).unwrap().claim;
    assert_eq!(
        (claim.ready, claim.network_unavailable, claim.unschedulable),
        (None, Some(true), true)
    );
    assert_eq!(claim.network_reason.as_deref(), Some("CalicoIsDown"));
    assert_eq!(claim.calico_node.as_deref(), Some("Running (not ready)"));
}

#[test]
fn an_unknown_node_is_an_error_that_names_the_known() {
    let error = support::cluster(&worked_example("Always"))
        .node_intent(&"kind-worker3".into())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "node kind-worker3 is not among the Node objects (kind-control-plane, kind-worker, kind-worker2): use the name that `kubectl get \
         nodes` prints"
    );
}

#[test]
fn the_stored_form_is_preferred_to_the_aggregated() {
    use verifier_core::intent::objects::{Group, Objects};
    let stored = support::object(&felix("default", &json!({"vxlanVNI": 1})));
    let aggregated = support::object(&felix("default", &json!({"vxlanVNI": 2})));
    for order in [[0, 1], [1, 0]] {
        let mut objects = Objects::default();
        for at in order {
            let (group, object) = [(Group::Stored, &stored), (Group::Aggregated, &aggregated)][at];
            objects.insert(group, object.clone()).unwrap();
        }
        assert_eq!(objects.iter().collect::<Vec<_>>(), [&stored]);
        // Twice the same is once; twice with other contents is a conflict.
        objects.insert(Group::Stored, stored.clone()).unwrap();
        assert!(objects.insert(Group::Stored, aggregated.clone()).is_err());
    }
}

#[test]
fn conformance_knows_blocks_loans_and_tunnels() {
    use verifier_core::intent::ConformanceTable;
    let cluster = support::cluster(&worked_example("Always"));
    let table = ConformanceTable::of(&cluster.node_intent(&CP.into()).unwrap());
    let owner = |ip: &str| {
        let owned = table.owner_of(ip.parse().unwrap());
        owned.map(|o| (o.peer.as_ref().map(ToString::to_string), o.host_ip.to_string()))
    };
    let of = |name: &str, ip: &str| Some((Some(name.to_owned()), ip.to_owned()));
    assert_eq!(owner("10.244.110.130"), of(W2, "172.18.0.4"));
    assert_eq!(owner("10.244.110.140"), of(W, "172.18.0.3"));
    assert_eq!(owner("10.244.162.128"), of(W, "172.18.0.3"));
    assert_eq!(owner("10.244.82.9"), Some((None, "172.18.0.2".to_owned())));
    assert_eq!(owner("8.8.8.8"), None);
    // The borrower has its loan outside its own blocks.
    let table = ConformanceTable::of(&cluster.node_intent(&W.into()).unwrap());
    assert_eq!(table.owner_of("10.244.110.140".parse().unwrap()).unwrap().peer, None);
    assert_eq!((table.vni, table.port), (Some(4096), Some(4789)));
}

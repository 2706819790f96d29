//! Whatever order changes come in, the cluster and every node's intent are what a whole set of objects gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use verifier_core::{
    intent::{
        Cluster, NodeIntent,
        objects::{Change, Group, Object, ObjectKey, Objects},
    },
    names::{NodeName, UnixNs},
};

const NODES: [&str; 4] = ["a", "b", "c", "d"];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NODES.to_vec())
}

/// Few addresses, so that they collide: inside the blocks, beside them, in no pool.
fn tunnel_ip() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["10.0.0.0", "10.0.0.64", "10.0.0.128", "10.0.1.0", "172.31.0.1"]).prop_map(String::from)
}

fn cidr() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "10.0.0.0/26",
        "10.0.0.64/26",
        "10.0.0.128/26",
        "10.0.0.0/24",
        "10.0.1.0/32",
        "10.1.0.0/26",
    ])
}

fn node() -> impl Strategy<Value = Value> {
    let host = prop::option::weighted(0.9, (1..6_u8, prop::sample::select(vec!["/24", "/30", ""])));
    let tunnel = prop::option::weighted(0.8, tunnel_ip());
    let ipip = prop::option::weighted(0.5, tunnel_ip());
    let v6 = prop::option::weighted(0.3, (1..4_u8, prop::option::of(1..4_u8)));
    (name(), host, tunnel, ipip, v6, any::<bool>(), any::<bool>()).prop_map(|(name, host, tunnel, ipip, v6, bad, ready)| {
        let mut annotations = json!({});
        if let Some((host, mask)) = host {
            annotations["projectcalico.org/IPv4Address"] = json!(format!("192.168.0.{host}{mask}"));
        }
        if let Some(tunnel) = tunnel {
            annotations["projectcalico.org/IPv4VXLANTunnelAddr"] = json!(tunnel);
        }
        if let Some(ipip) = ipip {
            annotations["projectcalico.org/IPv4IPIPTunnelAddr"] = json!(ipip);
        }
        if let Some((host, tunnel)) = v6 {
            annotations["projectcalico.org/IPv6Address"] = json!(format!("fd00::{host}/64"));
            if let Some(tunnel) = tunnel {
                annotations["projectcalico.org/IPv6VXLANTunnelAddr"] = json!(format!("fd01::{tunnel}"));
            }
        }
        if bad {
            annotations["projectcalico.org/VXLANTunnelMACAddr"] = json!("not a mac");
        }
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": annotations},
               "status": {"conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}})
    })
}

fn block() -> impl Strategy<Value = Value> {
    (
        cidr(),
        prop::option::weighted(0.9, name()),
        prop::collection::vec((0..64_usize, name()), 0..4),
    )
        .prop_map(|(cidr, owner, taken)| {
            let taken: BTreeMap<usize, &str> = taken.into_iter().collect();
            let taken: Vec<_> = taken.into_iter().collect();
            let mut block = support::block(cidr, owner.unwrap_or_default(), &taken);
            if owner.is_none() {
                block["spec"]["affinity"] = Value::Null;
            }
            block
        })
}

fn pod() -> impl Strategy<Value = Value> {
    let ip = prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "10.0.0.65", "10.0.0.64", "10.0.1.0", "10.1.0.3", ""]);
    let phase = prop::sample::select(vec!["Running", "Running", "Pending", "Succeeded"]);
    (0..6_u8, name(), ip, phase, any::<bool>()).prop_map(|(n, node, ip, phase, terminating)| {
        let mut pod = support::pod("default", &format!("p{n}"), node, ip);
        pod["status"]["phase"] = json!(phase);
        if terminating {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pod
    })
}

fn pool() -> impl Strategy<Value = Value> {
    let mode = prop::sample::select(vec![
        ("Always", "Never"),
        ("CrossSubnet", "Never"),
        ("Never", "Always"),
        ("Never", "CrossSubnet"),
        ("Never", "Never"),
    ]);
    let which = prop::sample::select(vec![("one", "10.0.0.0/16"), ("two", "10.1.0.0/16"), ("six", "fd01::/64")]);
    (which, mode).prop_map(|((name, cidr), (vxlan, ipip))| support::pool(name, cidr, vxlan, ipip))
}

fn configuration() -> impl Strategy<Value = Value> {
    let spec = prop::sample::select(vec![
        json!({}),
        json!({"routeSource": "WorkloadIPs"}),
        json!({"vxlanEnabled": false}),
        json!({"programClusterRoutes": "Enabled"}),
        json!({"bpfEnabled": true}),
        json!({"externalNodesList": ["192.168.0.2", "10.9.0.0/24"]}),
        json!({"deviceRouteProtocol": 42}),
        json!({"vxlanVNI": 7}),
        json!({"vxlanPort": 8472}),
    ]);
    let which = prop::sample::select(vec!["default", "node.a", "node.b"]);
    (which, spec).prop_map(|(name, spec)| support::felix(name, &spec))
}

fn agent() -> impl Strategy<Value = Value> {
    let env = prop::sample::select(vec![
        json!([]),
        json!([{"name": "FELIX_VXLANVNI", "value": "7"}]),
        json!([{"name": "FELIX_ROUTESYNCDISABLED", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
        json!([{"name": "CALICO_NETWORKING_BACKEND", "value": "vxlan"}, {"name": "FELIX_ROUTESOURCE", "value": "WorkloadIPs"}]),
    ]);
    (name(), env).prop_map(|(node, env)| support::calico_node(node, &env))
}

fn any_object() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => node(),
        4 => block(),
        4 => pod(),
        2 => (cidr(), name()).prop_map(|(cidr, node)| support::affinity(cidr, node)),
        2 => pool(),
        1 => configuration(),
        1 => agent(),
        1 => prop::sample::select(vec!["v3.28.0", "v3.29.7", "v3.30.7", "v3.31.7", "v3.33.0"]).prop_map(support::version),
    ]
}

/// An object that comes, changes or goes.
fn change() -> impl Strategy<Value = (Value, bool)> {
    (any_object(), prop::bool::weighted(0.2))
}

fn comparable(mut intent: NodeIntent) -> NodeIntent {
    intent.generation = 0;
    intent.read_at = UnixNs(0);
    intent
}

/// What differs, part by part; empty if nothing does.
fn difference(got: &NodeIntent, want: &NodeIntent) -> String {
    let mut out = String::new();
    macro_rules! part {
        ($($field:ident),*) => {$(
            if got.$field != want.$field {
                out += &format!("{}:\n  got  {:?}\n  want {:?}\n", stringify!($field), got.$field, want.$field);
            }
        )*};
    }
    part!(
        host_ip,
        host_ip6,
        settings,
        pools,
        blocks,
        tunnels,
        routes,
        neighbors,
        fdb,
        sets,
        workloads,
        peers,
        claim,
        contradictions,
        gaps
    );
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_equals_all_at_once(changes in prop::collection::vec(change(), 1..40)) {
        let mut objects: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut cluster = Cluster::default();
        let mut held: BTreeMap<NodeName, NodeIntent> = BTreeMap::new();
        for (value, delete) in changes {
            let object = support::object(&value);
            let key = object.key();
            let change = if delete {
                objects.remove(&key);
                Change::Delete(key)
            } else {
                objects.insert(key, object.clone());
                Change::Upsert(object)
            };
            let effects = cluster.apply(change, UnixNs(1));
            let mut all = Objects::default();
            for object in objects.values() {
                all.insert(Group::Stored, object.clone()).unwrap();
            }
            let whole = Cluster::compile(all);
            held.retain(|node, _| whole.nodes().any(|n| n == node));
            for node in whole.nodes() {
                let expected = comparable(whole.node_intent(node).unwrap());
                prop_assert_eq!(difference(&comparable(cluster.node_intent(node).unwrap()), &expected), "", "in full, of {}", node);
                if let Some(intent) = held.get_mut(node) {
                    let before = comparable(intent.clone());
                    cluster.refresh(intent, &effects).unwrap();
                    let after = comparable(intent.clone());
                    prop_assert_eq!(difference(&after, &expected), "", "refreshed, of {}, by {:?}", node, effects);
                    let touched = effects.nodes().is_none_or(|nodes| nodes.contains(node));
                    prop_assert!(touched || before == after, "{node} changed and was not named in {effects:?}");
                } else {
                    held.insert(node.clone(), cluster.node_intent(node).unwrap());
                }
            }
        }
    }

    #[test]
    fn the_order_of_objects_does_not_matter(values in prop::collection::vec(any_object(), 1..30), seed in any::<u64>()) {
        // One object per name, else the last would win and the order matter by right.
        let unique: BTreeMap<ObjectKey, Object> = values.iter().map(support::object).map(|o| (o.key(), o)).collect();
        let mut shuffled: Vec<Object> = unique.values().cloned().collect();
        let mut state = seed | 1;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        let mut one = Cluster::default();
        for object in unique.into_values() {
            one.apply(Change::Upsert(object), UnixNs(0));
        }
        let mut other = Cluster::default();
        for object in shuffled {
            other.apply(Change::Upsert(object), UnixNs(0));
        }
        for node in one.nodes() {
            prop_assert_eq!(comparable(one.node_intent(node).unwrap()), comparable(other.node_intent(node).unwrap()));
        }
    }
}

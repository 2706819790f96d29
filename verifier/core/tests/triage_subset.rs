//! Subset discovery on generated clusters with noise: fifty with a planted cause, ten with none. Precision and recall are printed, and must
//! stay above what is asserted at the end.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; outside of functions marked as tests the lint does not see that it is one"
)]

use std::collections::{BTreeMap, BTreeSet};
use verifier_core::{
    evidence::Evidence,
    names::{NodeName, PodRef, UnixNs},
    triage::{ClusterFacts, NodeFacts, PodFacts, discover, traits},
};

/// SplitMix64: the same clusters on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const NOW_S: u64 = 1_800_000_000;
const DAEMONS: &[&str] = &["security-agent", "gpu-plugin", "storage-driver", "mesh-agent"];

/// A cluster: what each node is, and which DaemonSets reach it.
fn cluster(random: &mut Random) -> ClusterFacts {
    let count = 16 + random.below(225);
    let (zones, pools) = (2 + random.below(3), 2 + random.below(4));
    let mut facts = ClusterFacts::unread(UnixNs(NOW_S * 1_000_000_000));
    let (mut nodes, mut pods) = (BTreeMap::new(), Vec::new());
    for i in 0..count {
        let name = format!("node-{i}");
        let (zone, pool) = (random.below(zones), random.below(pools));
        // Pools mostly have one kernel; some of their nodes were not upgraded yet.
        let kernel = if random.one_in(5) { random.below(3) } else { pool % 3 };
        let mut labels = BTreeMap::from([
            ("kubernetes.io/hostname".to_owned(), name.clone()),
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("topology.kubernetes.io/zone".to_owned(), format!("zone-{zone}")),
            ("pool".to_owned(), format!("pool-{pool}")),
            ("node.kubernetes.io/instance-type".to_owned(), format!("m{}", random.below(3))),
            ("serial".to_owned(), format!("{:x}", random.next())),
        ]);
        if random.one_in(3) {
            labels.insert("team".to_owned(), format!("team-{}", random.below(4)));
        }
        let node = NodeFacts {
            labels,
            // Two subnets in each zone.
            address: format!("10.{zone}.{}.{}/24", random.below(2), 1 + i % 250).parse().ok(),
            created_at: Some(UnixNs((NOW_S - 3600 - random.below(300 * 86_400)) * 1_000_000_000)),
            info: BTreeMap::from([
                ("kernelVersion".to_owned(), format!("6.8.0-{kernel}")),
                ("osImage".to_owned(), format!("Image {}", random.below(3))),
                ("architecture".to_owned(), "amd64".to_owned()),
            ]),
            ..NodeFacts::default()
        };
        let rest = DAEMONS
            .iter()
            .filter(|_| random.below(10) < 4)
            .map(|d| (*d).to_owned())
            .collect::<Vec<_>>();
        for daemon in rest.into_iter().chain(["kube-proxy".to_owned()]) {
            pods.push(pod(&name, "DaemonSet", &daemon));
        }
        for _ in 0..4 {
            pods.push(pod(&name, "Deployment", &format!("app-{}", random.below(30))));
        }
        nodes.insert(NodeName::from(name), node);
    }
    facts.nodes = Evidence::complete(nodes);
    facts.pods = Evidence::complete(pods);
    facts
}

fn pod(node: &str, kind: &str, owner: &str) -> PodFacts {
    PodFacts {
        pod: PodRef::new("default", format!("{owner}-{node}")),
        node: Some(NodeName::from(node)),
        owner: Some((kind.to_owned(), owner.to_owned())),
        app: None,
        phase: "Running".to_owned(),
        ready: Some(true),
        deleting: false,
        containers: Vec::new(),
    }
}

/// A cause: how triage would put it, and the nodes that have it.
fn planted(random: &mut Random, facts: &ClusterFacts) -> (String, BTreeSet<NodeName>) {
    let nodes = facts.nodes.seen().unwrap();
    let some = nodes.values().nth(random.below(nodes.len() as u64) as usize).unwrap();
    let with = |test: &dyn Fn(&NodeFacts) -> bool| {
        nodes
            .iter()
            .filter(|(_, n)| test(n))
            .map(|(name, _)| name.clone())
            .collect::<BTreeSet<_>>()
    };
    let runs = |daemon: &str| -> BTreeSet<NodeName> {
        let of = facts
            .pods
            .seen()
            .unwrap()
            .iter()
            .filter(|p| p.owner == Some(("DaemonSet".to_owned(), daemon.to_owned())));
        of.filter_map(|p| p.node.clone()).collect()
    };
    let label = |key: &str| {
        let value = some.labels[key].clone();
        (format!("label {key} is {value}"), with(&|n| n.labels.get(key) == Some(&value)))
    };
    match random.below(9) {
        0 => label("topology.kubernetes.io/zone"),
        1 => label("pool"),
        2 => label("node.kubernetes.io/instance-type"),
        3 => {
            let net = some.address.unwrap().trunc();
            (format!("subnet is {net}"), with(&|n| n.address.unwrap().trunc() == net))
        }
        4 => {
            let kernel = some.info["kernelVersion"].clone();
            (format!("kernelVersion is {kernel}"), with(&|n| n.info["kernelVersion"] == kernel))
        }
        5 => {
            let image = some.info["osImage"].clone();
            (format!("osImage is {image}"), with(&|n| n.info["osImage"] == image))
        }
        6 => {
            // The youngest third: threshold by threshold, which one triage names may be the neighbour of ours.
            let mut ages: Vec<UnixNs> = nodes.values().filter_map(|n| n.created_at).collect();
            ages.sort();
            let from = ages[ages.len() * 2 / 3];
            ("age of the node is less than".to_owned(), with(&|n| n.created_at >= Some(from)))
        }
        7 => {
            let daemon = DAEMONS[random.below(DAEMONS.len() as u64) as usize];
            (format!("runs DaemonSet default/{daemon} is yes"), runs(daemon))
        }
        _ => {
            let daemon = DAEMONS[random.below(DAEMONS.len() as u64) as usize];
            let there = runs(daemon);
            let lack = nodes.keys().filter(|n| !there.contains(*n)).cloned().collect();
            (format!("runs DaemonSet default/{daemon} is no"), lack)
        }
    }
}

#[test]
fn fifty_clusters_with_noise() {
    let mut random = Random(20_261_128);
    let (mut right, mut wrong, mut in_three, mut silent) = (0, 0, 0, 0);
    let mut missed = Vec::new();
    let mut cases = 0;
    while cases < 50 {
        let facts = cluster(&mut random);
        let total = facts.nodes.seen().unwrap().len();
        let (says, nodes) = planted(&mut random, &facts);
        if nodes.len() < 4 || nodes.len() * 10 > total * 7 {
            continue;
        }
        cases += 1;
        // Noise: one in ten that should ail does not, one in thirty that should not does.
        let affected: BTreeSet<NodeName> = facts
            .nodes
            .seen()
            .unwrap()
            .keys()
            .filter(|name| {
                if nodes.contains(*name) {
                    !random.one_in(10)
                } else {
                    random.one_in(30)
                }
            })
            .cloned()
            .collect();
        let found = discover(&traits(&facts), &affected);
        let is_it = |s: &&verifier_core::triage::Separator| std::iter::once(&s.says).chain(&s.same).any(|text| text.starts_with(&says));
        let claimed: Vec<_> = found.separators.iter().filter(|s| s.is_claimed()).collect();
        in_three += usize::from(claimed.iter().take(3).any(is_it));
        match claimed.first() {
            Some(first) if is_it(first) => right += 1,
            Some(first) => {
                wrong += 1;
                missed.push(format!("{says} of {total} nodes: claimed {}", first.says));
            }
            None => {
                silent += 1;
                missed.push(format!("{says} of {total} nodes: nothing claimed"));
            }
        }
    }
    // Clusters in which nothing but chance decides who ails: nothing may be claimed.
    let mut chance_claims = 0;
    for _ in 0..10 {
        let facts = cluster(&mut random);
        let affected = facts.nodes.seen().unwrap().keys().filter(|_| random.one_in(5)).cloned().collect();
        let found = discover(&traits(&facts), &affected);
        chance_claims += usize::from(found.separators.first().is_some_and(|s| s.is_claimed()));
    }
    let precision = f64::from(right) / (f64::from(right) + f64::from(wrong) + chance_claims as f64);
    let recall = f64::from(right) / 50.0;
    println!(
        "subset discovery: precision {precision:.3}, recall {recall:.3} ({right} first and right, {in_three} among the first three, {wrong} first and wrong, {silent} nothing claimed, of 50; {chance_claims} claims in 10 clusters of chance)"
    );
    println!("{}", missed.join("\n"));
    assert!(precision >= 0.9, "precision {precision}");
    assert!(recall >= 0.9, "recall {recall}");
}

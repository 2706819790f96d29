//! What intent costs in a large cluster: `cargo run --release -p verifier-core --example intent_cost -- [NODES] [PODS_PER_NODE]`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};
use verifier_core::{
    intent::{
        Cluster,
        objects::{Change, Object},
        synthetic,
    },
    names::{NodeName, UnixNs},
};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u32>().unwrap());
    let nodes = arguments.next().unwrap_or(5000);
    let pods = arguments.next().unwrap_or(50);
    let objects = synthetic::synthetic(nodes, pods);
    println!("{} objects", objects.len());

    let start = Instant::now();
    let mut cluster = Cluster::compile(objects);
    println!("compile            {:>12.3?}", start.elapsed());

    let own = NodeName(synthetic::node_name(nodes / 2));
    let full: Vec<Duration> = (0..9)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(cluster.node_intent(&own).unwrap());
            start.elapsed()
        })
        .collect();
    println!("one node, in full  {:>12.3?}", median(full));

    let mut intent = cluster.node_intent(&own).unwrap();
    println!("{} routes, {} peers", intent.routes.len(), intent.peers.len());
    let mut measure = |what: &str, change: &mut dyn FnMut(u32) -> Object| {
        let times: Vec<Duration> = (0..201)
            .map(|round| {
                let change = Change::Upsert(change(round));
                let start = Instant::now();
                let effects = cluster.apply(change, UnixNs(u64::from(round)));
                cluster.refresh(&mut intent, &effects).unwrap();
                start.elapsed()
            })
            .collect();
        println!("{what:<18} {:>12.3?}", median(times));
    };
    let toggled = |n: u32, i: u32, round: u32| {
        let Object::Pod(mut pod) = synthetic::pod(n, i) else {
            unreachable!()
        };
        if round.is_multiple_of(2) {
            pod.status.phase = "Pending".into();
        }
        Object::Pod(pod)
    };
    measure("remote pod", &mut |round| toggled(nodes / 3, 3, round));
    measure("own pod", &mut |round| toggled(nodes / 2, 3, round));
    measure("remote block", &mut |round| synthetic::block(nodes / 3, pods - round % 2));
    measure("own block", &mut |round| synthetic::block(nodes / 2, pods - round % 2));
    measure("remote node", &mut |round| {
        let Object::Node(mut node) = synthetic::node(nodes / 3) else {
            unreachable!()
        };
        if round.is_multiple_of(2) {
            node.metadata.annotations.remove("projectcalico.org/IPv4VXLANTunnelAddr");
        }
        Object::Node(node)
    });
    measure("heartbeat of a node", &mut |_| synthetic::node(nodes / 3));
}

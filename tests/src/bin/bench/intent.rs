//! What intent costs in a large cluster, of synthetic objects: everything for one node, and one object that changes.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use verifier_core::intent::Cluster;
use verifier_core::intent::objects::{Change, Object};
use verifier_core::intent::synthetic;
use verifier_core::names::{NodeName, UnixNs};
use verifier_tests::lab::Stage;

use crate::row::{Figure, Row, median};

const NODES: u32 = 5_000;
const PODS_PER_NODE: u32 = 50;

const FULL_ROUNDS: usize = 5;
const UPDATE_ROUNDS: u32 = 201;

const FULL_AIM_MS: f64 = 300.0;
const UPDATE_AIM_US: f64 = 50.0;

/// The rows.
pub(crate) fn rows(_stage: &mut Stage) -> Result<Vec<Row>> {
    let own = NodeName(synthetic::node_name(NODES / 2));
    let (mut full, mut one_node) = (Vec::new(), Vec::new());
    let mut cluster = None;
    for _ in 0..FULL_ROUNDS {
        // The last one goes first: two of them at once are more than an agent ever holds.
        drop(cluster.take());
        let objects = synthetic::synthetic(NODES, PODS_PER_NODE);
        let began = Instant::now();
        let compiled = Cluster::compile(objects);
        let indexed = Instant::now();
        black_box(compiled.node_intent(&own).context("intent of a node")?);
        one_node.push(indexed.elapsed().as_secs_f64() * 1e3);
        full.push(began.elapsed().as_secs_f64() * 1e3);
        cluster = Some(compiled);
    }
    let cluster = cluster.as_mut().context("no cluster was made")?;
    let updates = updates(cluster, &own)?;
    Ok(vec![
        row(
            "intent of 5,000 nodes x 50 pods, from all objects",
            "ms",
            "<= 300 ms",
            FULL_AIM_MS,
            full,
        ),
        row("intent, of which one node's, from the index", "ms", "shown", FULL_AIM_MS, one_node),
        row("intent, one pod elsewhere changes", "us", "<= 50 us", UPDATE_AIM_US, updates),
    ])
}

/// Microseconds of each update: a pod of another node that comes and goes.
fn updates(cluster: &mut Cluster, own: &NodeName) -> Result<Vec<f64>> {
    let mut intent = cluster.node_intent(own).context("intent of a node")?;
    let mut took = Vec::new();
    for round in 0..UPDATE_ROUNDS {
        let mut object = synthetic::pod(NODES / 3, 3);
        if let Object::Pod(pod) = &mut object
            && round.is_multiple_of(2)
        {
            pod.status.phase = "Pending".into();
        }
        let change = Change::Upsert(object);
        let began = Instant::now();
        let effects = cluster.apply(change, UnixNs(u64::from(round)));
        cluster.refresh(&mut intent, &effects).context("refreshing the intent of a node")?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

fn row(name: &str, unit: &'static str, aim: &'static str, limit: f64, trials: Vec<f64>) -> Row {
    let value = median(&trials);
    Row {
        name: name.to_owned(),
        unit,
        reference: "the aim",
        aim,
        figure: Figure::Measured {
            value,
            against: Some(limit),
            met: value <= limit,
        },
        trials,
    }
}

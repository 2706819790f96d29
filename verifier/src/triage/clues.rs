//! What the logs of calico-node say on affected nodes: the end of a few of them, through the catalogue of known lines.

use crate::{
    kubernetes::logs::{self, Wanted},
    logs::{Catalogue, Kind, Summary},
};
use kube::Client;
use std::io::Cursor;
use verifier_core::{
    evidence::{Evidence, Gap},
    names::NodeName,
    triage::{Clue, ClusterFacts, PodFacts},
};

/// Of how many nodes logs are read: a fault of many nodes shows on a few.
const NODES_MAX: usize = 5;
/// How many lines of each container.
const LINES: i64 = 3000;
/// How many clues of one log.
const CLUES_MAX: usize = 5;

/// Reads them.
pub async fn read(client: &Client, facts: &ClusterFacts, affected: &[NodeName]) -> Evidence<Vec<Clue>> {
    let catalogue = match Catalogue::built_in() {
        Ok(catalogue) => catalogue,
        Err(error) => return Evidence::unavailable("triage/logs", error.to_string()),
    };
    let (mut clues, mut gaps) = (Vec::new(), Vec::new());
    // Where there is no calico-node, there is no log of it to be missed.
    let with_log: Vec<(&NodeName, &PodFacts)> = affected
        .iter()
        .filter_map(|node| Some((node, facts.calico_node_on(node)?)))
        .collect();
    for (node, pod) in with_log.iter().copied().take(NODES_MAX) {
        for wanted in wanted(pod) {
            match logs::read(client, &pod.pod, &wanted).await {
                Ok(log) => {
                    gaps.extend(
                        log.cut
                            .iter()
                            .map(|why| Gap::new("triage/logs", format!("{}: {why}", wanted.name(&pod.pod)))),
                    );
                    clues.extend(of_log(&catalogue, node, &wanted.name(&pod.pod), &log.bytes));
                }
                Err(why) => gaps.push(Gap::new("triage/logs", format!("{}: {why}", wanted.name(&pod.pod)))),
            }
        }
    }
    if with_log.len() > NODES_MAX {
        gaps.push(Gap::new(
            "triage/logs",
            format!(
                "the logs of {NODES_MAX} of {} affected nodes were read: see the others with `verifier logs`",
                with_log.len()
            ),
        ));
    }
    Evidence::partial(clues, gaps)
}

/// The main container, and the one before it if that ended.
fn wanted(pod: &PodFacts) -> Vec<Wanted> {
    let main = pod.containers.iter().filter(|c| !c.init && c.state != "not started");
    main.flat_map(|c| {
        let of = |previous: bool| Wanted {
            container: c.name.clone(),
            previous,
            lines: LINES,
            ..Wanted::default()
        };
        let mut all = vec![of(false)];
        if c.restarts > 0 {
            all.push(of(true));
        }
        all
    })
    .collect()
}

/// What tells of a fault in one log, the most frequent first.
fn of_log(catalogue: &Catalogue, node: &NodeName, source: &str, bytes: &[u8]) -> Vec<Clue> {
    let mut summary = Summary::default();
    // Reading from memory does not fail.
    if summary.read(catalogue, &mut Cursor::new(bytes)).is_err() {
        return Vec::new();
    }
    let mut found: Vec<Clue> = summary
        .known
        .iter()
        .filter_map(|(id, seen)| {
            let signature = catalogue.get(id).filter(|s| s.kind == Kind::Fault)?;
            Some(Clue {
                node: node.clone(),
                source: source.to_owned(),
                signature: signature.id.clone(),
                meaning: signature.meaning.clone(),
                count: seen.count,
            })
        })
        .collect();
    found.sort_by(|a, b| (b.count, &a.signature).cmp(&(a.count, &b.signature)));
    found.truncate(CLUES_MAX);
    found
}

//! Asking every agent for its verdict, judging the cluster, and writing what is the controller's to write. What that is, the core decides.

use super::Shared;
use crate::{
    agent::{
        api::{REPORT, ReportAnswer},
        client::Client,
        peers::{agent_address, one_line},
    },
    clock,
    kubernetes::{nodes, results::WriteError},
    supervisor::{Shutdown, TaskResult},
};
use futures_util::{StreamExt as _, stream};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};
use tokio::time::MissedTickBehavior;
use verifier_core::{
    evidence::Evidence,
    intent::Claim,
    names::{NodeName, UnixNs},
    report::{
        oversee::{Act, Known, Seen, Steady, agree, oversee, tainted},
        publish::{HEARTBEAT_MIN_SECONDS, HEARTBEATS_MISSED},
        standing::{Forwarding, Standing},
    },
    verdict::{NodeReport, Policy, judge_cluster},
};

/// Agents that are asked at once.
const ASKED_MAX: usize = 64;
/// Nodes that are written at once.
const WRITTEN_MAX: usize = 8;
/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one node's writing may take.
const WRITE_PATIENCE: Duration = Duration::from_secs(15);

/// What the cluster's objects say of a node.
struct Expected {
    address: Option<IpAddr>,
    claim: Claim,
}

/// What came of one judgement, for metrics.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Nodes by what is known of each.
    pub nodes: BTreeMap<NodeName, Forwarding>,
    /// Nodes for which nobody speaks.
    pub silent: usize,
}

/// Judges until asked to stop; only while this controller leads.
///
/// # Errors
/// None: who cannot be asked is unknown, and what cannot be written is tried again.
pub async fn run(shared: Arc<Shared>, mut shutdown: Shutdown) -> TaskResult {
    let mut ticker = tokio::time::interval(shared.interval);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complained = BTreeMap::new();
    let mut steady = Steady::default();
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let Some(leading_since) = shared.leading_since() else {
            shared.metrics.round(None);
            // What was said before somebody else led says nothing of how long it is so.
            steady = Steady::default();
            continue;
        };
        tokio::select! {
            () = once(&shared, leading_since, &mut steady, &mut complained) => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

async fn once(shared: &Arc<Shared>, leading_since: UnixNs, steady: &mut Steady, complained: &mut BTreeMap<NodeName, String>) {
    let expected = expected(shared);
    if expected.is_empty() {
        return;
    }
    let heartbeat_ns = shared.heartbeat.as_secs().max(HEARTBEAT_MIN_SECONDS) * 1_000_000_000;
    let reports = ask(shared, &expected, heartbeat_ns).await;
    let policy = Policy {
        report_transients: false,
        ..Policy::default()
    };
    let cluster = tokio::task::block_in_place(|| judge_cluster(&reports, &policy));
    let objects = match shared.results.all().await {
        Ok(objects) => objects,
        Err(error) => {
            complain(complained, &NodeName::from(""), &error);
            shared.metrics.write_failed();
            return;
        }
    };
    complained.remove(&NodeName::from(""));
    let now = clock::unix_now();
    let age = shared
        .source
        .behind_since()
        .map_or(0, |since: UnixNs| now.since_ns(since) / 1_000_000_000);
    let mut round = Round::default();
    let mut work = Vec::new();
    for (node, expected) in &expected {
        let report = reports.get(node).and_then(Evidence::seen);
        let own = report.map(|report| Standing::of_report(report, age));
        let claim = report.map_or(&expected.claim, |report| &report.claim);
        let Some(all) = Standing::of_cluster(&cluster, node, claim, now, age, env!("CARGO_PKG_VERSION")) else {
            continue;
        };
        let known = objects.get(node).and_then(Option::as_ref);
        let act = oversee(
            &Seen {
                known,
                own: own.as_ref(),
                cluster: &all,
                cluster_since: steady.note(node, &all, now),
                leading_since,
            },
            now,
            heartbeat_ns,
        );
        if own.is_none() && !known.is_some_and(|known| fresh(known, now, heartbeat_ns)) {
            round.silent += 1;
        }
        round.nodes.insert(node.clone(), all.forwarding);
        work.push((node.clone(), act, own, all, claim.clone()));
    }
    taint(shared, &round, complained).await;
    shared.metrics.round(Some(round));
    let written: Vec<(NodeName, Result<bool, WriteError>)> = stream::iter(work)
        .map(|(node, act, own, all, claim)| {
            let shared = Arc::clone(shared);
            async move {
                // Whoever lost the lead meanwhile writes nothing more.
                if shared.leading_since().is_none() {
                    return (node, Ok(false));
                }
                let writing = write(&shared, &node, act, own, all, &claim, heartbeat_ns);
                let done = match tokio::time::timeout(WRITE_PATIENCE, writing).await {
                    Ok(done) => done,
                    Err(_) => Err(WriteError {
                        what: format!("write the verdict on {node}"),
                        why: format!("the API server did not answer within {} s", WRITE_PATIENCE.as_secs()),
                    }),
                };
                (node, done)
            }
        })
        .buffer_unordered(WRITTEN_MAX)
        .collect()
        .await;
    for (node, done) in written {
        match done {
            Ok(wrote) => {
                complained.remove(&node);
                if wrote {
                    shared.metrics.written();
                }
            }
            Err(error) => {
                shared.metrics.write_failed();
                complain(complained, &node, &error);
            }
        }
    }
    steady.keep(|node| expected.contains_key(node));
    complained.retain(|node, _| node.as_str().is_empty() || expected.contains_key(node));
}

fn fresh(known: &Known, now: UnixNs, heartbeat_ns: u64) -> bool {
    known.speaker == verifier_core::report::standing::Speaker::Agent && now.since_ns(known.judged_at) <= heartbeat_ns * HEARTBEATS_MISSED
}

/// Once for each node and reason.
fn complain(complained: &mut BTreeMap<NodeName, String>, node: &NodeName, error: &WriteError) {
    let words = error.to_string();
    if complained.get(node) != Some(&words) {
        tracing::warn!(%node, %error, "a verdict is not in the API; it is tried again");
        complained.insert(node.clone(), words);
    }
}

/// The expected set: every Node object.
fn expected(shared: &Shared) -> BTreeMap<NodeName, Expected> {
    let known = shared.cluster();
    let Some(cluster) = &known.cluster else { return BTreeMap::new() };
    let of = |node: &NodeName| Expected {
        address: cluster.host_address(node),
        claim: cluster.claim_of(node),
    };
    cluster.nodes().map(|node| (node.clone(), of(node))).collect()
}

/// Every node's verdict on itself; a node whose agent does not answer is unavailable, and so is a verdict that nobody renews.
async fn ask(shared: &Shared, expected: &BTreeMap<NodeName, Expected>, heartbeat_ns: u64) -> BTreeMap<NodeName, Evidence<NodeReport>> {
    let (agents, port) = (shared.agents(), shared.agent_port);
    let whom: Vec<(NodeName, Option<IpAddr>)> = expected.iter().map(|(node, of)| (node.clone(), of.address)).collect();
    let asked: Vec<(NodeName, Evidence<NodeReport>)> = stream::iter(whom)
        .map(|(node, ip)| {
            let agents = agents.clone();
            async move {
                let answer = ask_one(&agents, &node, ip, port, heartbeat_ns).await;
                (node, answer)
            }
        })
        .buffer_unordered(ASKED_MAX)
        .collect()
        .await;
    asked.into_iter().collect()
}

async fn ask_one(agents: &Client, node: &NodeName, ip: Option<IpAddr>, port: u16, heartbeat_ns: u64) -> Evidence<NodeReport> {
    let unavailable = |why: String| Evidence::unavailable(format!("agent/{node}"), why);
    let Some(ip) = ip else {
        let why = "the Node has no address: neither Calico's annotation projectcalico.org/IPv4Address nor an InternalIP";
        return unavailable(why.to_owned());
    };
    let evidence = match agents.get::<ReportAnswer>(agent_address(ip, port), REPORT, PATIENCE).await {
        Ok(answer) => answer.value.report,
        Err(error) => return unavailable(one_line(&error)),
    };
    let age_ns = evidence.seen().map_or(0, |report| clock::unix_now().since_ns(report.taken_at));
    if age_ns > heartbeat_ns * HEARTBEATS_MISSED {
        return unavailable(format!(
            "its verdict is {} s old: the agent answers and judges no more",
            age_ns / 1_000_000_000
        ));
    }
    evidence
}

/// Writes what was decided; whether anything was.
async fn write(
    shared: &Shared,
    node: &NodeName,
    act: Act,
    own: Option<Standing>,
    all: Standing,
    claim: &Claim,
    heartbeat_ns: u64,
) -> Result<bool, WriteError> {
    let now = clock::unix_now();
    let standing = match act {
        Act::Leave => return Ok(false),
        Act::Silent { why } => Standing::silent(node, claim, &why, now, env!("CARGO_PKG_VERSION")),
        Act::Stead => all,
        // What the agent says, with what corrects it: as the agent itself will write it from now on.
        Act::Settle(settled) => {
            shared.results.settle(node, Some(&settled)).await?;
            match own {
                Some(own) => agree(own, Some(&settled), now, heartbeat_ns),
                None => return Ok(true),
            }
        }
        Act::Withdraw => {
            shared.results.settle(node, None).await?;
            match own {
                Some(own) => own,
                None => return Ok(true),
            }
        }
    };
    let stands = shared.results.read(node).await?;
    let wrote = shared.results.publish(&standing, &stands).await?;
    if let Some(error) = wrote.event_refused {
        tracing::warn!(%error, "no event was written");
    }
    if wrote.transition {
        tracing::info!(%node, forwarding = %standing.forwarding, reason = standing.reason(), "a node's condition changed");
    }
    Ok(true)
}

/// Taints what does not forward, where that was asked for.
async fn taint(shared: &Shared, round: &Round, complained: &mut BTreeMap<NodeName, String>) {
    if !shared.taint {
        return;
    }
    for (node, wanted) in tainted(&round.nodes) {
        match nodes::taint(shared.source.client(), node.as_str(), wanted).await {
            Ok(true) => tracing::info!(%node, tainted = wanted, "a node's taint changed"),
            Ok(false) => {}
            Err(error) => {
                shared.metrics.write_failed();
                complain(complained, &node, &error);
            }
        }
    }
}

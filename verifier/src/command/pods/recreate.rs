//! `verifier pods --recreate`: stale pods are evicted, so that their controllers make new ones, and each new one is proven to work.
//!
//! Which, and when, `verifier_core::verdict::recreate` decides. Without `--yes` nothing is changed. Pods go by the Eviction API only, with
//! their uid as precondition: what came under the same name meanwhile is not meant.

use super::{Asking, list::table};
use crate::{
    cli::{self, PodsOutput},
    clock,
    command::{Exit, Failure, Stdout, validate::wanted},
    config::{self, IntentSource},
    kubernetes::{client::chain, kinds::Scope},
};
use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use verifier_core::{
    intent::{
        Cluster, LeftOut,
        objects::{Object, Objects, Pod},
    },
    names::{NodeName, PodRef},
    verdict::{
        PodVerdict,
        recreate::{Action, Answer, Limits, Outcome, Planned, Recreations, Step, plan},
    },
};

/// Schema of the JSON output.
const SCHEMA: &str = "dataplane-verifier/recreation/v1";
/// Time between two looks at what is under way.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long one eviction may take to be answered.
const EVICT_PATIENCE: Duration = Duration::from_secs(15);
/// New pods that do not work after which no further pod is touched.
const FAILURES_MAX: usize = 1;

/// Looks twice, says what would be done, and with `--yes` does it.
///
/// # Errors
/// The input is not usable, or the API server does not answer.
pub async fn run(args: &cli::Pods, asking: &Asking) -> Result<Exit, Failure> {
    let source = config::intent_source(&args.intent, Scope::Cluster).await?;
    let objects = config::load_objects(&source).await?;
    let cluster = Cluster::compile(objects.clone());
    let wanted = wanted(&cluster, &args.nodes)?;
    let mut samples = vec![asking.round(&cluster, &wanted).await];
    tokio::time::sleep(args.recreate.between_samples).await;
    samples.push(asking.round(&cluster, &wanted).await);
    let static_pods: BTreeSet<PodRef> = cluster
        .left_out()
        .filter(|(_, _, reason)| *reason == LeftOut::Static)
        .map(|(pod, ..)| pod.clone())
        .collect();
    let planned = plan(&samples, &static_pods);
    let mut outcomes = Vec::new();
    let chosen: Vec<&Planned> = planned.iter().filter(|one| one.action == Action::Recreate).collect();
    if args.recreate.yes && !chosen.is_empty() {
        let client = config::plain_client(&args.intent.kubernetes).await?;
        let mut work = Work::new(&client, &source, asking, &objects, &chosen);
        outcomes = work.go(limits(&args.recreate)).await;
    }
    let text = match args.output {
        PodsOutput::Json => json_text(&planned, &outcomes, args.recreate.yes)?,
        PodsOutput::Name => chosen.iter().map(|one| format!("{}\n", one.report.pod)).collect(),
        PodsOutput::Text | PodsOutput::Wide => text(&planned, &outcomes, args.recreate.yes),
    };
    Stdout.write(&text)?;
    Ok(exit(&planned, &outcomes, &samples))
}

fn limits(args: &cli::RecreateArgs) -> Limits {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Limits {
        in_flight_max: usize::try_from(args.max_in_flight).unwrap_or(1),
        eviction_ms: ms(args.eviction_timeout),
        replacement_ms: ms(args.replacement_timeout),
        failures_max: FAILURES_MAX,
    }
}

/// 0 if no pod is stale any more, 3 if of some node it is not known.
fn exit(planned: &[Planned], outcomes: &[(PodRef, Outcome)], samples: &[verifier_core::verdict::ClusterReport]) -> Exit {
    let mended = |pod: &PodRef| {
        outcomes
            .iter()
            .any(|(done, outcome)| done == pod && matches!(outcome, Outcome::Replaced { .. } | Outcome::Gone))
    };
    if planned.iter().any(|one| !mended(&one.report.pod)) {
        return Exit::Findings;
    }
    match samples.last() {
        Some(report) if planned.is_empty() => super::exit(report),
        _ => Exit::Verified,
    }
}

/// What a pod was, and what its controller had, before anything was touched.
struct Before {
    uid: String,
    owner: Option<(String, String)>,
}

struct Work<'a> {
    client: &'a Client,
    source: &'a IntentSource,
    asking: &'a Asking,
    before: BTreeMap<PodRef, Before>,
    /// Uids of all pods that were there: whatever is not among them is new.
    known: BTreeSet<String>,
    /// New pods that were taken for somebody's replacement.
    taken: BTreeMap<String, PodRef>,
}

impl<'a> Work<'a> {
    fn new(client: &'a Client, source: &'a IntentSource, asking: &'a Asking, objects: &Objects, chosen: &[&Planned]) -> Self {
        let mut before = BTreeMap::new();
        let mut known = BTreeSet::new();
        for pod in pods(objects) {
            known.insert(pod.metadata.uid.clone());
            let name = PodRef::new(pod.metadata.namespace.as_str(), pod.metadata.name.as_str());
            if chosen.iter().any(|one| one.report.pod == name) {
                let uid = pod.metadata.uid.clone();
                before.insert(name, Before { uid, owner: owner(pod) });
            }
        }
        Self {
            client,
            source,
            asking,
            before,
            known,
            taken: BTreeMap::new(),
        }
    }

    async fn go(&mut self, limits: Limits) -> Vec<(PodRef, Outcome)> {
        let mut recreations = Recreations::new(limits, self.before.keys().cloned());
        while !recreations.finished() {
            let steps = recreations.steps(now_ms());
            let mut verify = Vec::new();
            for step in steps {
                match step {
                    Step::Evict(pod) => {
                        let answer = self.evict(&pod).await;
                        tracing::info!(%pod, ?answer, "eviction asked for");
                        recreations.answered(&pod, answer, now_ms());
                    }
                    Step::Verify(pod) => verify.push(pod),
                }
            }
            if !verify.is_empty() {
                self.verify(&verify, &mut recreations).await;
            }
            if !recreations.finished() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        recreations.outcomes()
    }

    async fn evict(&self, pod: &PodRef) -> Answer {
        let Some(before) = self.before.get(pod) else { return Answer::Gone };
        let api: Api<ApiPod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": before.uid}},
        });
        let params = PostParams::default();
        let asked = api.create_subresource::<Value, Value>("eviction", &pod.name, &params, &eviction);
        match tokio::time::timeout(EVICT_PATIENCE, asked).await {
            Ok(answered) => answer(answered),
            Err(_) => Answer::NotNow {
                retry_after_ms: None,
                why: format!("the API server did not answer within {} s", EVICT_PATIENCE.as_secs()),
            },
        }
    }

    /// Looks for the replacements of these pods, and asks the agents of their nodes about them.
    async fn verify(&mut self, evicted: &[PodRef], recreations: &mut Recreations) {
        let objects = match config::load_objects(self.source).await {
            Ok(objects) => objects,
            Err(failure) => {
                for pod in evicted {
                    recreations.not_yet(pod, failure.to_string());
                }
                return;
            }
        };
        let mut found: BTreeMap<PodRef, (PodRef, NodeName)> = BTreeMap::new();
        for old in evicted {
            let Some(owner_of_old) = self.before.get(old).and_then(|before| before.owner.clone()) else {
                recreations.not_yet(old, "its controller is not known".to_owned());
                continue;
            };
            let new = pods(&objects).find(|pod| {
                let uid = &pod.metadata.uid;
                owner(pod).as_ref() == Some(&owner_of_old)
                    && pod.metadata.namespace == old.namespace
                    && pod.metadata.deletion_timestamp.is_none()
                    && !self.known.contains(uid)
                    && self.taken.get(uid).is_none_or(|of| of == old)
            });
            match new {
                None => recreations.not_yet(old, "no new pod of its controller was seen".to_owned()),
                Some(new) => {
                    self.taken.insert(new.metadata.uid.clone(), old.clone());
                    let name = PodRef::new(new.metadata.namespace.as_str(), new.metadata.name.as_str());
                    if new.spec.node_name.is_empty() || new.status.phase != "Running" {
                        recreations.not_yet(old, format!("the new pod {name} is {}", new.status.phase));
                    } else {
                        found.insert(old.clone(), (name, NodeName(new.spec.node_name.clone())));
                    }
                }
            }
        }
        if found.is_empty() {
            return;
        }
        let nodes: BTreeSet<NodeName> = found.values().map(|(_, node)| node.clone()).collect();
        let report = self.asking.round(&Cluster::compile(objects), &nodes).await;
        for (old, (new, _)) in found {
            match report.pods.iter().find(|pod| pod.pod == new) {
                Some(pod) if pod.verdict == PodVerdict::Fresh => recreations.fresh(&old, new),
                Some(pod) => {
                    let causes: Vec<&str> = pod.causes.iter().map(|cause| cause.code.as_str()).collect();
                    let why = pod.why.clone().unwrap_or_else(|| causes.join(", "));
                    recreations.not_yet(&old, format!("the new pod {new} is not fresh: {why}"));
                }
                None => recreations.not_yet(&old, format!("no agent knows the new pod {new} yet")),
            }
        }
    }
}

fn pods(objects: &Objects) -> impl Iterator<Item = &Pod> {
    objects.iter().filter_map(|object| match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    })
}

fn owner(pod: &Pod) -> Option<(String, String)> {
    let owners = &pod.metadata.owner_references;
    let owner = owners.iter().find(|owner| owner.controller).or_else(|| owners.first())?;
    Some((owner.kind.clone(), owner.name.clone()))
}

fn now_ms() -> u64 {
    clock::monotonic_ns() / 1_000_000
}

/// What the API server's answer means.
fn answer(answered: Result<Value, kube::Error>) -> Answer {
    let error = match answered {
        Ok(_) => return Answer::Accepted,
        Err(error) => error,
    };
    let not_now = |why: String| Answer::NotNow { retry_after_ms: None, why };
    match error {
        kube::Error::Api(status) if status.code == 429 => Answer::NotNow {
            retry_after_ms: status.details.as_ref().map(|details| u64::from(details.retry_after_seconds) * 1000),
            why: status.message.clone(),
        },
        kube::Error::Api(status) => match status.code {
            // 409: the precondition on its uid failed.
            404 | 409 => Answer::Gone,
            401 | 500..=599 if !status.message.contains("more than one PodDisruptionBudget") => {
                not_now(format!("{} {}", status.code, status.message))
            }
            403 => Answer::Refused {
                why: "not permitted: grant create on pods/eviction (overlays/recreate does)".to_owned(),
            },
            _ => Answer::Refused {
                why: status.message.clone(),
            },
        },
        other => not_now(chain(&other)),
    }
}

fn action_words(action: &Action) -> (&'static str, &str) {
    match action {
        Action::Recreate => ("recreate", ""),
        Action::Wait { why } => ("wait", why),
        Action::ByHand { why } => ("needs a person", why),
    }
}

fn outcome_words(outcome: &Outcome) -> (&'static str, String) {
    match outcome {
        Outcome::Replaced { by } => ("replaced", format!("by {by}, which works")),
        Outcome::Gone => ("gone", "it was not there any more".to_owned()),
        Outcome::RefusedUntilDeadline { why, asked } => ("refused", format!("asked {asked} times: {why}")),
        Outcome::Refused { why } => ("refused", why.clone()),
        Outcome::NotReplaced { why } => ("NOT REPLACED", why.clone()),
        Outcome::NotTouched => ("not touched", "another new pod did not work".to_owned()),
    }
}

fn text(planned: &[Planned], outcomes: &[(PodRef, Outcome)], yes: bool) -> String {
    if planned.is_empty() {
        return "No pod is stale.\n".to_owned();
    }
    let header = ["NAMESPACE", "NAME", "NODE", "CAUSE", "ACTION", "WHY"];
    let rows = planned.iter().map(|one| {
        let codes: Vec<&str> = one.report.causes.iter().map(|cause| cause.code.as_str()).collect();
        let (action, why) = match outcomes.iter().find(|(pod, _)| *pod == one.report.pod) {
            Some((_, outcome)) => outcome_words(outcome),
            None => {
                let (action, why) = action_words(&one.action);
                (action, why.to_owned())
            }
        };
        vec![
            one.report.pod.namespace.clone(),
            one.report.pod.name.clone(),
            one.report.node.to_string(),
            codes.join(", "),
            action.to_owned(),
            why,
        ]
    });
    let mut out = table(&header, rows);
    if !yes && planned.iter().any(|one| one.action == Action::Recreate) {
        out.push_str("\nNothing was changed: say --yes to have it done.\n");
    }
    out
}

fn json_text(planned: &[Planned], outcomes: &[(PodRef, Outcome)], yes: bool) -> Result<String, Failure> {
    let pods: Vec<Value> = planned
        .iter()
        .map(|one| {
            let (action, why) = action_words(&one.action);
            let outcome = outcomes.iter().find(|(pod, _)| *pod == one.report.pod).map(|(_, outcome)| {
                let (what, why) = outcome_words(outcome);
                json!({"what": what, "why": why})
            });
            json!({
                "namespace": one.report.pod.namespace,
                "name": one.report.pod.name,
                "node": one.report.node,
                "controller": one.report.controller,
                "causes": one.report.causes.iter().map(|cause| cause.code).collect::<Vec<_>>(),
                "action": action,
                "why": why,
                "outcome": outcome,
            })
        })
        .collect();
    let value = json!({"schema": SCHEMA, "dry_run": !yes, "pods": pods});
    let text = serde_json::to_string_pretty(&value);
    let mut text = text.context("cannot write the plan as JSON").map_err(Failure::internal)?;
    text.push('\n');
    Ok(text)
}

/// Pods are read from the API: manifests do not change when a pod is evicted.
pub fn check(args: &cli::Pods) -> Result<(), Failure> {
    if args.recreate.yes && args.intent.intent.is_some() {
        return Err(Failure::usage(anyhow!(
            "--yes needs the cluster's API for what it changes: leave --intent out"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> Answer {
        let status = kube::core::Status {
            code,
            message: message.to_owned(),
            ..kube::core::Status::default()
        };
        answer(Err(kube::Error::Api(Box::new(status))))
    }

    #[test]
    fn what_the_server_says_to_an_eviction_has_a_meaning() {
        assert_eq!(answer(Ok(json!({}))), Answer::Accepted);
        assert_eq!(refused(404, "x"), Answer::Gone);
        assert_eq!(refused(409, "Precondition failed: UID"), Answer::Gone);
        assert!(matches!(refused(429, "disruption budget"), Answer::NotNow { .. }));
        assert!(matches!(refused(503, "away"), Answer::NotNow { .. }));
        assert!(matches!(refused(403, "no"), Answer::Refused { why } if why.contains("pods/eviction")));
        let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        assert!(matches!(refused(500, two), Answer::Refused { .. }));
    }
}

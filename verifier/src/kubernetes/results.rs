//! A verdict in the cluster's API: the object `NodeDataplane`, the node's condition, an event. What is said, and when, the core decides.
//!
//! Everything is written by server-side apply, so that each writer owns its fields and no others. The order is object, condition, event: what
//! fails leaves the rest to be written again, except the event, which is said once or, if the server refuses it, not at all (and counted).

use super::{
    client::Trouble,
    crd::{CONDITION, CauseStatus, MANAGER, NodeDataplane, NodeDataplaneStatus, SETTLER, SettledStatus, StalePodStatus},
};
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference},
        events::v1::Event as ApiEvent,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::ResourceExt as _,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use verifier_core::{
    intent::objects::rfc3339 as read_time,
    names::{NodeName, UnixNs},
    report::{
        CauseJson,
        oversee::{Known, Settled},
        publish::{Condition, Event},
        rfc3339,
        standing::{Forwarding, Speaker, Standing},
    },
};

/// Why something was not written: what, and what the server said. One line, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {what}: {why}")]
pub struct WriteError {
    /// What was tried: `read nodes/node-a`.
    pub what: String,
    /// What came of it, with what to do.
    pub why: String,
}

impl WriteError {
    /// What an error of the client means for `verb` on `resource`.
    pub fn new(verb: &str, resource: &str, name: &str, error: &kube::Error) -> Self {
        let why = match Trouble::of(error) {
            Trouble::Forbidden => format!("not permitted: grant {verb} on {resource} to this service account (deploy/ does)"),
            Trouble::Unauthenticated => "the API server does not accept our token (401): it expired or its account was deleted".to_owned(),
            Trouble::NotFound if resource.starts_with("nodedataplanes") => {
                "the API server does not serve it (404): apply what `verifier crd` prints".to_owned()
            }
            Trouble::NotFound => "there is no such object (404)".to_owned(),
            Trouble::Conflict => "somebody else changed it in between (409)".to_owned(),
            Trouble::Expired => "what was known of it is too old (410)".to_owned(),
            Trouble::TooMany => "the API server asks to wait (429)".to_owned(),
            Trouble::Away { why } => why,
        };
        let what = format!("{verb} {resource} {name}");
        Self { what, why }
    }
}

/// What stands in the API about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stands {
    /// Its object, as far as it matters; none if there is none, or nothing in it.
    pub known: Option<Known>,
    /// Whether there is an object.
    pub object: bool,
    /// Since when it says what it says.
    pub since: Option<String>,
    /// Its condition, and since when.
    pub condition: Option<(Condition, String)>,
    /// Uid of the Node.
    pub uid: String,
}

/// What is written of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The object.
    pub object: bool,
    /// The condition.
    pub condition: bool,
    /// Events.
    pub events: bool,
}

/// Writes verdicts.
#[derive(Clone)]
pub struct Results {
    client: Client,
    /// What of them.
    pub wanted: Wanted,
    /// Which program writes, for events: `dataplane-verifier.io/agent`.
    reporter: &'static str,
    /// Which of its instances: the pod's name.
    instance: String,
}

/// What came of writing: an event that was refused is no reason to write the rest again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrote {
    /// Whether the condition changed.
    pub transition: bool,
    /// Why an event was not written.
    pub event_refused: Option<WriteError>,
}

impl Results {
    /// A writer; `instance` is the pod it runs in, or the machine.
    pub fn new(client: Client, wanted: Wanted, reporter: &'static str, instance: &str) -> Self {
        Self {
            client,
            wanted,
            reporter,
            instance: instance.chars().take(128).collect(),
        }
    }

    fn objects(&self) -> Api<NodeDataplane> {
        Api::all(self.client.clone())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// What stands there of one node.
    ///
    /// # Errors
    /// It could not be read, or there is no such Node.
    pub async fn read(&self, node: &NodeName) -> Result<Stands, WriteError> {
        let name = node.as_str();
        let object = match self.wanted.object {
            true => {
                let got = self.objects().get_opt(name).await;
                got.map_err(|error| WriteError::new("get", "nodedataplanes.dataplane-verifier.io", name, &error))?
            }
            false => None,
        };
        let got = self.nodes().get(name).await;
        let node = got.map_err(|error| WriteError::new("get", "nodes", name, &error))?;
        Ok(Stands {
            known: object.as_ref().and_then(known),
            object: object.is_some(),
            since: object.and_then(|object| object.status?.since),
            condition: condition(&node),
            uid: node.uid().unwrap_or_default(),
        })
    }

    /// All objects, by node.
    ///
    /// # Errors
    /// They could not be listed.
    pub async fn all(&self) -> Result<BTreeMap<NodeName, Option<Known>>, WriteError> {
        let listed = super::nodes::list_all(&self.objects()).await;
        let objects = listed.map_err(|error| WriteError::new("list", "nodedataplanes.dataplane-verifier.io", "of all nodes", &error))?;
        Ok(objects.iter().map(|object| (NodeName(object.name_any()), known(object))).collect())
    }

    /// Writes a standing: the object always, condition and event on a transition.
    ///
    /// # Errors
    /// Object or condition could not be written.
    pub async fn publish(&self, standing: &Standing, stands: &Stands) -> Result<Wrote, WriteError> {
        if self.wanted.object {
            self.put_object(&standing.node, stands).await?;
            let same = stands
                .known
                .as_ref()
                .is_some_and(|known| known.forwarding == standing.forwarding && known.cause == standing.cause);
            let since = stands.since.clone().filter(|_| same);
            self.put_status(&standing.node, &status(standing, since), MANAGER).await?;
        }
        let next = Condition::of(standing);
        let before = stands.condition.as_ref().map(|(condition, _)| condition);
        let transition = before != Some(&next);
        let mut wrote = Wrote {
            transition,
            event_refused: None,
        };
        if transition && self.wanted.condition {
            let kept = stands.condition.as_ref().filter(|(condition, _)| condition.status == next.status);
            let since = kept.map_or_else(|| rfc3339(standing.judged_at), |(_, since)| since.clone());
            self.put_condition(standing, &next, &since).await?;
        }
        if self.wanted.events
            && let Some(event) = verifier_core::report::publish::event(before, standing)
        {
            wrote.event_refused = self.say(&standing.node, &stands.uid, standing.judged_at, event).await.err();
        }
        Ok(wrote)
    }

    /// Writes what the controller settled, or takes it back.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn settle(&self, node: &NodeName, settled: Option<&Settled>) -> Result<(), WriteError> {
        let status = match settled {
            Some(settled) => json!({ "settled": settled_status(settled) }),
            None => json!({}),
        };
        self.apply_status(node, status, SETTLER).await
    }

    /// Makes the object where there is none. It goes when its Node goes.
    async fn put_object(&self, node: &NodeName, stands: &Stands) -> Result<(), WriteError> {
        if stands.object {
            return Ok(());
        }
        let object = json!({
            "apiVersion": "dataplane-verifier.io/v1alpha1",
            "kind": "NodeDataplane",
            "metadata": {
                "name": node,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": stands.uid}],
            },
            "spec": {"nodeName": node},
        });
        let done = self.objects().patch(node.as_str(), &forced(MANAGER), &Patch::Apply(object)).await;
        done.map_err(|error| WriteError::new("create", "nodedataplanes.dataplane-verifier.io", node.as_str(), &error))?;
        Ok(())
    }

    async fn put_status(&self, node: &NodeName, status: &NodeDataplaneStatus, manager: &str) -> Result<(), WriteError> {
        self.apply_status(node, json!(status), manager).await
    }

    async fn apply_status(&self, node: &NodeName, status: Value, manager: &str) -> Result<(), WriteError> {
        let object = json!({
            "apiVersion": "dataplane-verifier.io/v1alpha1",
            "kind": "NodeDataplane",
            "metadata": {"name": node},
            "status": status,
        });
        let done = self
            .objects()
            .patch_status(node.as_str(), &forced(manager), &Patch::Apply(object))
            .await;
        done.map_err(|error| WriteError::new("patch", "nodedataplanes.dataplane-verifier.io/status", node.as_str(), &error))?;
        Ok(())
    }

    async fn put_condition(&self, standing: &Standing, next: &Condition, since: &str) -> Result<(), WriteError> {
        let node = standing.node.as_str();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node},
            "status": {"conditions": [{
                "type": CONDITION,
                "status": next.status,
                "reason": next.reason,
                "message": standing.condition_message(),
                "lastHeartbeatTime": whole_seconds(&rfc3339(standing.judged_at)),
                "lastTransitionTime": whole_seconds(since),
            }]},
        });
        let done = self.nodes().patch_status(node, &forced(MANAGER), &Patch::Apply(object)).await;
        done.map_err(|error| WriteError::new("patch", "nodes/status", node, &error))?;
        Ok(())
    }

    /// An event about a Node: those belong into the namespace `default`.
    async fn say(&self, node: &NodeName, uid: &str, at: UnixNs, event: Event) -> Result<(), WriteError> {
        let events: Api<ApiEvent> = Api::namespaced(self.client.clone(), "default");
        let object = ApiEvent {
            metadata: ObjectMeta {
                // The server refuses a prefix that ends in a dot.
                generate_name: Some(format!("{node}-")),
                namespace: Some("default".to_owned()),
                ..ObjectMeta::default()
            },
            event_time: jiff::Timestamp::from_nanosecond(i128::from(at.0)).ok().map(MicroTime),
            action: Some("Judge".to_owned()),
            type_: Some(event.kind.to_owned()),
            reason: Some(event.reason),
            note: Some(event.note.chars().take(1000).collect()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_string()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(self.reporter.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..ApiEvent::default()
        };
        let done = events.create(&PostParams::default(), &object).await;
        done.map_err(|error| WriteError::new("create", "events.events.k8s.io in default", "", &error))?;
        Ok(())
    }
}

/// Conflicts between our own programs are decided by who wrote last; nobody else owns these fields.
fn forced(manager: &str) -> PatchParams {
    PatchParams::apply(manager).force()
}

/// A condition's times have no fraction.
fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

/// What an object says, as far as others act on it; none where nobody of us wrote a status.
pub fn known(object: &NodeDataplane) -> Option<Known> {
    let status = object.status.as_ref()?;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(Known {
        // A time that cannot be read is as old as can be: nothing stands on it.
        judged_at: status.judged_at.as_deref().and_then(read_time).unwrap_or(UnixNs(0)),
        speaker: if status.written_by == Speaker::Controller.as_str() {
            Speaker::Controller
        } else {
            Speaker::Agent
        },
        forwarding: Forwarding::parse(&status.forwarding),
        cause: some(&status.cause),
        settled: status.settled.as_ref().map(|settled| Settled {
            corrects: (Forwarding::parse(&settled.corrects_forwarding), some(&settled.corrects_cause)),
            forwarding: Forwarding::parse(&settled.forwarding),
            cause: some(&settled.cause),
            message: settled.message.clone(),
            judged_at: read_time(&settled.judged_at).unwrap_or(UnixNs(0)),
        }),
    })
}

fn condition(node: &Node) -> Option<(Condition, String)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == CONDITION)?;
    let since = found
        .last_transition_time
        .as_ref()
        .map_or_else(String::new, |time| time.0.to_string());
    let condition = Condition {
        status: found.status.clone(),
        reason: found.reason.clone().unwrap_or_default(),
    };
    Some((condition, since))
}

fn settled_status(settled: &Settled) -> SettledStatus {
    SettledStatus {
        corrects_forwarding: settled.corrects.0.to_string(),
        corrects_cause: settled.corrects.1.clone().unwrap_or_default(),
        forwarding: settled.forwarding.to_string(),
        cause: settled.cause.clone().unwrap_or_default(),
        message: settled.message.clone(),
        judged_at: rfc3339(settled.judged_at),
    }
}

/// A standing as the object has it. `since` is kept while the verdict stays what it was.
pub fn status(standing: &Standing, since: Option<String>) -> NodeDataplaneStatus {
    let judged_at = rfc3339(standing.judged_at);
    NodeDataplaneStatus {
        claimed: standing.claimed.clone(),
        forwarding: standing.forwarding.to_string(),
        contradicts_claim: standing.contradicts_claim,
        cause: standing.cause.clone().unwrap_or_default(),
        message: standing.message.clone(),
        stale_pods: i32::try_from(standing.stale_count).unwrap_or(i32::MAX),
        since: Some(since.unwrap_or_else(|| judged_at.clone())),
        judged_at: Some(judged_at),
        intent_age_seconds: i64::try_from(standing.intent_age_seconds).unwrap_or(i64::MAX),
        written_by: standing.speaker.as_str().to_owned(),
        version: standing.version.clone(),
        settled: None,
        causes: standing.causes.iter().map(cause).collect(),
        pods: standing
            .stale
            .iter()
            .map(|(pod, cause)| StalePodStatus {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                cause: cause.clone(),
            })
            .collect(),
        unknown: standing.unknown.clone(),
    }
}

fn cause(cause: &CauseJson) -> CauseStatus {
    // The words of the report's own JSON.
    let word = |value: Value| value.as_str().map_or_else(String::new, str::to_owned);
    CauseStatus {
        code: cause.code.as_str().to_owned(),
        class: word(json!(cause.class)),
        severity: word(json!(cause.severity)),
        subject: cause.subject.clone(),
        hop: cause.hop.clone(),
        remedy: cause.remedy.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verifier_core::intent::Claim;

    fn standing() -> Standing {
        Standing {
            forwarding: Forwarding::Degraded,
            cause: Some("route-missing".to_owned()),
            speaker: Speaker::Agent,
            ..Standing::silent(&"node-a".into(), &Claim::default(), "x", UnixNs(1_700_000_000_123_000_000), "1")
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut object = NodeDataplane::new("node-a", Default::default());
        assert_eq!(known(&object), None);
        object.status = Some(status(&standing(), None));
        let read = known(&object).unwrap();
        assert_eq!(
            (read.forwarding, read.cause.as_deref()),
            (Forwarding::Degraded, Some("route-missing"))
        );
        assert_eq!((read.speaker, read.judged_at), (Speaker::Agent, UnixNs(1_700_000_000_123_000_000)));
        let settled = Settled {
            corrects: (Forwarding::True, None),
            forwarding: Forwarding::False,
            cause: Some("node-cut-off".to_owned()),
            message: "m".to_owned(),
            judged_at: UnixNs(1_700_000_000_000_000_000),
        };
        object.status.as_mut().unwrap().settled = Some(settled_status(&settled));
        assert_eq!(known(&object).unwrap().settled, Some(settled));
    }

    #[test]
    fn since_is_kept_while_the_verdict_is_the_same() {
        assert_eq!(status(&standing(), Some("then".to_owned())).since.as_deref(), Some("then"));
        let fresh = status(&standing(), None);
        assert_eq!(fresh.since, fresh.judged_at);
    }

    #[test]
    fn a_refusal_names_what_to_grant() {
        let refused = kube::Error::Api(
            kube::core::Status {
                code: 403,
                ..kube::core::Status::default()
            }
            .into(),
        );
        let error = WriteError::new("patch", "nodes/status", "node-a", &refused).to_string();
        assert!(error.contains("grant patch on nodes/status"), "{error}");
        assert_eq!(whole_seconds("2026-11-28T10:00:00.123Z"), "2026-11-28T10:00:00Z");
        assert_eq!(whole_seconds("2026-11-28T10:00:00Z"), "2026-11-28T10:00:00Z");
    }
}

//! `NodeDataplane`: the verdict on one node as an object of the API.
//!
//! The type is the definition: `verifier crd` prints the CustomResourceDefinition that follows from it, and `deploy/` holds what it printed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who writes: the field manager of every change.
pub const MANAGER: &str = "dataplane-verifier";
/// The node condition.
pub const CONDITION: &str = "DataplaneForwarding";
/// Label of the canary pods, on every node and with the value `true`.
pub const CANARY_LABEL: &str = "dataplane-verifier.io/canary";
/// Who writes what only the controller says.
pub const SETTLER: &str = "dataplane-verifier-controller";

/// Whose dataplane it is.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "dataplane-verifier.io",
    version = "v1alpha1",
    kind = "NodeDataplane",
    plural = "nodedataplanes",
    singular = "nodedataplane",
    shortname = "ndp",
    category = "calico",
    status = "NodeDataplaneStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "What a node's dataplane was found to do, beside what the cluster claims of the node.",
    printcolumn = r#"{"name":"CLAIMED","type":"string","description":"What the cluster says of the node","jsonPath":".status.claimed"}"#,
    printcolumn = r#"{"name":"FORWARDING","type":"string","description":"What was found","jsonPath":".status.forwarding"}"#,
    printcolumn = r#"{"name":"CAUSE","type":"string","description":"Root cause","jsonPath":".status.cause"}"#,
    printcolumn = r#"{"name":"STALE PODS","type":"integer","description":"Pods that look Running and lost their network","jsonPath":".status.stalePods"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","description":"Age of the verdict","jsonPath":".status.judgedAt"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeDataplaneSpec {
    /// The Node.
    pub node_name: String,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDataplaneStatus {
    /// What the cluster says of the node, in short: `Ready, calico-node Running`.
    pub claimed: String,
    /// What was found: `True`, `Degraded`, `False`, `Unknown`.
    pub forwarding: String,
    /// Whether the claim is healthy and the fact is not.
    pub contradicts_claim: bool,
    /// Code of the first root cause; empty where there is none.
    pub cause: String,
    /// In one sentence, what is wrong, or why it is not known.
    pub message: String,
    /// Pods that look Running and lost their network.
    pub stale_pods: i32,
    /// When the verdict was made, RFC 3339.
    pub judged_at: Option<String>,
    /// Since when the verdict is this one, RFC 3339.
    pub since: Option<String>,
    /// How old the objects of the cluster were when it was made, in seconds.
    pub intent_age_seconds: i64,
    /// Who wrote this: `agent`, or `controller` where the agent is silent.
    pub written_by: String,
    /// Version of the program that judged.
    pub version: String,
    /// What all nodes together say, where it differs from what this node's agent says of itself. The controller writes it; the fields above
    /// follow it as long as it is fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<SettledStatus>,
    /// Root causes, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<CauseStatus>,
    /// Stale pods, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<StalePodStatus>,
    /// Checks that could not be made, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// What all nodes together say of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettledStatus {
    /// What the node's agent said, and what this corrects.
    pub corrects_forwarding: String,
    /// The cause that it named; empty for none.
    pub corrects_cause: String,
    /// What it is: `True`, `Degraded`, `False`.
    pub forwarding: String,
    /// Code of the cause; empty for none.
    pub cause: String,
    /// In one sentence.
    pub message: String,
    /// When that was judged, RFC 3339.
    pub judged_at: String,
}

/// One root cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CauseStatus {
    /// Stable code: see `verifier explain`.
    pub code: String,
    /// `datastore`, `not-programmed`, `not-forwarded`.
    pub class: String,
    /// `error`, `warning`.
    pub severity: String,
    /// What exactly.
    pub subject: String,
    /// Last point where the packet was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
    /// What to do.
    pub remedy: String,
}

/// One stale pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StalePodStatus {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Code of what makes it stale.
    pub cause: String,
}

/// The definition, as it is applied to a cluster.
pub fn definition() -> CustomResourceDefinition {
    NodeDataplane::crd()
}

/// The same as YAML.
///
/// # Errors
/// None in practice: the definition is made of texts and numbers.
pub fn yaml() -> Result<String, serde_yaml_ng::Error> {
    // By way of a value, whose keys are in order: the same text from every build.
    let value = serde_yaml_ng::to_value(definition())?;
    serde_yaml_ng::to_string(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_cluster_scoped_with_status_and_columns() {
        let crd = definition();
        assert_eq!(crd.spec.scope, "Cluster");
        let version = crd.spec.versions.first().unwrap();
        assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()));
        let columns = version.additional_printer_columns.as_ref().unwrap();
        let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["CLAIMED", "FORWARDING", "CAUSE", "STALE PODS", "AGE"]);
        assert_eq!(yaml().unwrap(), yaml().unwrap());
    }
}

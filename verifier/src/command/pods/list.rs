//! How pods are listed.

use crate::{cli::PodsOutput, command::Failure};
use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use verifier_core::{
    intent::{Cluster, LeftOut},
    names::{NodeName, PodRef},
    report::{JsonReport, PodJson, SCHEMA},
    verdict::{ClusterReport, PodVerdict, UnknownCheck},
};

/// A pod of which nothing is said, and why.
#[derive(Debug, Serialize)]
pub struct LeftOutJson {
    /// Namespace.
    namespace: String,
    /// Name.
    name: String,
    /// Its node; none while it has none.
    node: Option<NodeName>,
    /// `host-network`, `finished`, `not-scheduled`, `static`.
    reason: LeftOut,
    /// In words.
    why: &'static str,
}

/// What `verifier pods` prints.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// Schema of the report.
    schema: &'static str,
    /// Pods, in order of namespace and name.
    pods: Vec<PodJson>,
    /// Pods of which nothing is said.
    left_out: Vec<LeftOutJson>,
    /// What could not be verified, and why.
    unknown: Vec<UnknownCheck>,
}

impl Listing {
    /// Of a report. Pods that the report has and that are left out stand only among the latter.
    pub fn new(report: &ClusterReport, cluster: &Cluster, wanted: &BTreeSet<NodeName>, stale: bool) -> Self {
        let of_wanted = |node: &NodeName| wanted.is_empty() || wanted.contains(node);
        let left_out: Vec<LeftOutJson> = cluster
            .left_out()
            .filter(|(_, node, _)| of_wanted(node))
            .map(|(pod, node, reason)| LeftOutJson {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                node: (!node.as_str().is_empty()).then(|| node.clone()),
                reason,
                why: reason.why(),
            })
            .collect();
        let absent: BTreeSet<PodRef> = cluster.left_out().map(|(pod, ..)| pod.clone()).collect();
        let json = JsonReport::new(report);
        Self {
            schema: SCHEMA,
            pods: json
                .pods
                .into_iter()
                .filter(|pod| !stale || pod.verdict == PodVerdict::Stale)
                .filter(|pod| !absent.contains(&PodRef::new(pod.namespace.as_str(), pod.name.as_str())))
                .collect(),
            left_out,
            unknown: json.unknown,
        }
    }

    /// In the wanted format.
    ///
    /// # Errors
    /// It cannot be written as JSON: a fault of this program.
    pub fn render(&self, output: PodsOutput) -> Result<String, Failure> {
        match output {
            PodsOutput::Text => Ok(self.table(false)),
            PodsOutput::Wide => Ok(self.table(true)),
            PodsOutput::Name => Ok(self.pods.iter().map(|pod| format!("{}/{}\n", pod.namespace, pod.name)).collect()),
            PodsOutput::Json => {
                let mut text = serde_json::to_string_pretty(self)
                    .context("cannot write the pods as JSON")
                    .map_err(Failure::internal)?;
                text.push('\n');
                Ok(text)
            }
        }
    }

    fn table(&self, wide: bool) -> String {
        let mut header = vec!["NAMESPACE", "NAME", "NODE", "IP", "NETWORK", "CAUSE"];
        if wide {
            header.extend(["CONTROLLER", "MADE ANEW IF DELETED", "EVIDENCE"]);
        }
        let rows = self.pods.iter().map(|pod| {
            let codes: Vec<&str> = pod.causes.iter().map(|cause| cause.code.as_str()).collect();
            let mut row = vec![
                pod.namespace.clone(),
                pod.name.clone(),
                pod.node.to_string(),
                pod.ip.clone().unwrap_or_else(|| "-".to_owned()),
                verdict(pod.verdict).to_owned(),
                if codes.is_empty() {
                    pod.why.clone().unwrap_or_else(|| "-".to_owned())
                } else {
                    codes.join(", ")
                },
            ];
            if wide {
                row.push(pod.controller.clone().unwrap_or_else(|| "none (bare pod)".to_owned()));
                row.push(if pod.safe_to_delete { "yes" } else { "no" }.to_owned());
                row.push(evidence(pod));
            }
            row
        });
        let mut out = if self.pods.is_empty() {
            "No such pod.\n".to_owned()
        } else {
            table(&header, rows)
        };
        let mut by_reason: BTreeMap<LeftOut, Vec<String>> = BTreeMap::new();
        for pod in &self.left_out {
            by_reason
                .entry(pod.reason)
                .or_default()
                .push(format!("{}/{}", pod.namespace, pod.name));
        }
        if !by_reason.is_empty() {
            out.push_str("\nLeft out:\n");
        }
        for (reason, pods) in by_reason {
            let shown = if wide { pods.len() } else { 5 };
            let more = pods.len().saturating_sub(shown);
            out.push_str(&format!(
                "  {} ({}): {}{}\n",
                reason.why(),
                pods.len(),
                pods.iter().take(shown).cloned().collect::<Vec<_>>().join(", "),
                if more > 0 {
                    format!(" and {more} more, see -o wide")
                } else {
                    String::new()
                }
            ));
        }
        if !self.unknown.is_empty() {
            out.push_str("\nNot verified:\n");
            for check in &self.unknown {
                out.push_str(&format!("  {}: {}\n", check.check, check.why));
            }
        }
        out
    }
}

/// Columns without lines.
pub(in crate::command) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

fn verdict(verdict: PodVerdict) -> &'static str {
    match verdict {
        PodVerdict::Fresh => "fresh",
        PodVerdict::Stale => "STALE",
        PodVerdict::PolicyBlocked => "policy-blocked",
        PodVerdict::Unknown => "unknown",
    }
}

/// What the accounts say of its first cause, nearest to the kernel first.
fn evidence(pod: &PodJson) -> String {
    let first = pod.causes.first().map(|cause| &cause.evidence);
    first
        .and_then(|e| e.programmed.clone().or_else(|| e.observed.clone()).or_else(|| e.intent.clone()))
        .or_else(|| pod.why.clone())
        .unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use verifier_core::{
        intent::objects::{Group, Object, Objects, Pod},
        verdict::{PodReport, Verdict},
    };

    fn object(name: &str, node: &str, change: impl FnOnce(&mut Pod)) -> Object {
        let mut pod = Pod::default();
        pod.metadata.namespace = "default".to_owned();
        pod.metadata.name = name.to_owned();
        pod.spec.node_name = node.to_owned();
        pod.status.phase = "Running".to_owned();
        change(&mut pod);
        Object::Pod(pod)
    }

    fn report(name: &str, verdict: PodVerdict) -> PodReport {
        PodReport {
            pod: PodRef::new("default", name),
            node: NodeName::from("node-a"),
            ip: None,
            verdict,
            causes: Vec::new(),
            controller: None,
            safe_to_delete: false,
            why: None,
            terminating: false,
        }
    }

    fn listing(stale: bool) -> Listing {
        let mut objects = Objects::default();
        for object in [
            object("proxy", "node-a", |pod| pod.spec.host_network = true),
            object("done", "node-a", |pod| pod.status.phase = "Succeeded".to_owned()),
            object("waiting", "", |pod| pod.status.phase = "Pending".to_owned()),
            object("static", "node-a", |pod| {
                pod.metadata
                    .annotations
                    .insert("kubernetes.io/config.mirror".to_owned(), "x".to_owned());
            }),
            object("web", "node-a", |_| {}),
        ] {
            assert!(objects.insert(Group::Stored, object).is_ok());
        }
        let cluster = Cluster::compile(objects);
        let report = ClusterReport {
            verdict: Verdict::Forwarding,
            causes: Vec::new(),
            nodes: Vec::new(),
            pods: vec![
                report("gone", PodVerdict::Stale),
                report("static", PodVerdict::Fresh),
                report("web", PodVerdict::Fresh),
            ],
            calico: (None, 90),
            loss: BTreeMap::new(),
            unknown: Vec::new(),
        };
        Listing::new(&report, &cluster, &BTreeSet::new(), stale)
    }

    #[test]
    fn each_pod_left_out_has_its_reason() {
        let reasons: Vec<(String, LeftOut)> = listing(false).left_out.into_iter().map(|p| (p.name, p.reason)).collect();
        assert_eq!(
            reasons,
            [
                ("done".to_owned(), LeftOut::Finished),
                ("proxy".to_owned(), LeftOut::HostNetwork),
                ("static".to_owned(), LeftOut::Static),
                ("waiting".to_owned(), LeftOut::NotScheduled),
            ]
        );
    }

    #[test]
    fn names_are_for_scripts() {
        let names = |stale| match listing(stale).render(PodsOutput::Name) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        };
        assert_eq!(names(false), "default/gone\ndefault/web\n");
        assert_eq!(names(true), "default/gone\n");
    }

    #[test]
    fn a_table_names_what_it_leaves_out() {
        let text = listing(false).table(true);
        assert!(text.trim_start().starts_with("NAMESPACE"), "{text}");
        assert!(text.contains("STALE"), "{text}");
        assert!(
            text.contains("it has completed, and its network is gone with it (1): default/done"),
            "{text}"
        );
    }
}

//! `verifier status`: the verdicts as they stand in the cluster's API, one line for each node; or one node's for node-problem-detector.

use super::{Exit, Failure, Stdout, pods::table};
use crate::{
    cli::{self, PlainOutput},
    clock, config,
    kubernetes::{
        crd::{NodeDataplane, NodeDataplaneStatus},
        nodes::list_all,
        results::{WriteError, known},
    },
};
use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, core::ResourceExt};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use verifier_core::{names::UnixNs, report::standing::Forwarding};

/// Schema of the JSON output.
const SCHEMA: &str = "dataplane-verifier/status/v1";
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest line that node-problem-detector takes, in bytes.
const NPD_LINE_MAX: usize = 80;

/// One node of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    node: String,
    status: Option<NodeDataplaneStatus>,
    /// What counts: a verdict that is too old, or that is not there, is none.
    forwarding: Forwarding,
    age_seconds: Option<u64>,
    why: String,
}

impl Row {
    fn new(node: String, object: Option<&NodeDataplane>, now: UnixNs, max_age: Duration) -> Self {
        let Some(known) = object.and_then(known) else {
            return Self {
                node,
                status: None,
                forwarding: Forwarding::Unknown,
                age_seconds: None,
                why: "no verdict was written: is the agent running there?".to_owned(),
            };
        };
        let age_seconds = now.since_ns(known.judged_at) / 1_000_000_000;
        let status = object.and_then(|object| object.status.clone());
        let message = status.as_ref().map_or_else(String::new, |status| status.message.clone());
        let old = age_seconds > max_age.as_secs();
        Self {
            node,
            status,
            forwarding: if old { Forwarding::Unknown } else { known.forwarding },
            age_seconds: Some(age_seconds),
            why: if old {
                format!("the verdict is {age_seconds} s old: do agent and controller run?")
            } else {
                message
            },
        }
    }

    fn cause(&self) -> &str {
        let cause = self.status.as_ref().map_or("", |status| status.cause.as_str());
        if cause.is_empty() { "-" } else { cause }
    }
}

/// Reads, prints.
///
/// # Errors
/// The API server does not answer, or a node is not there.
pub fn run(args: &cli::Status) -> Result<Exit, Failure> {
    let read = config::runtime()?.block_on(async {
        let client = config::client(&args.kubernetes).await?;
        match tokio::time::timeout(PATIENCE, read(&client)).await {
            Ok(read) => read.map_err(Failure::unverified),
            Err(_) => Err(Failure::unverified(anyhow!(
                "the API server did not answer within {} s",
                PATIENCE.as_secs()
            ))),
        }
    });
    if args.npd {
        return npd(read, args);
    }
    let rows = rows(read?, args)?;
    let text = match args.output {
        PlainOutput::Text => text(&rows),
        PlainOutput::Json => json(&rows)?,
    };
    Stdout.write(&text)?;
    Ok(exit(&rows))
}

type Objects = (BTreeSet<String>, BTreeMap<String, NodeDataplane>);

/// The expected set is the Nodes; a node without an object stands in the table as unknown.
async fn read(client: &Client) -> Result<Objects, WriteError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let objects: Api<NodeDataplane> = Api::all(client.clone());
    let listed = list_all(&nodes).await;
    let nodes = listed.map_err(|error| WriteError::new("list", "nodes", "of the cluster", &error))?;
    let listed = list_all(&objects).await;
    let objects = listed.map_err(|error| WriteError::new("list", "nodedataplanes.dataplane-verifier.io", "of all nodes", &error))?;
    Ok((
        nodes.iter().map(ResourceExt::name_any).collect(),
        objects.into_iter().map(|object| (object.name_any(), object)).collect(),
    ))
}

fn rows((nodes, objects): Objects, args: &cli::Status) -> Result<Vec<Row>, Failure> {
    if let Some(unknown) = args.nodes.iter().find(|name| !nodes.contains(*name)) {
        return Err(Failure::usage(anyhow!(
            "the cluster has no node {unknown:?}: use a name that `kubectl get nodes` prints"
        )));
    }
    let now = clock::unix_now();
    let wanted = nodes.into_iter().filter(|name| args.nodes.is_empty() || args.nodes.contains(name));
    Ok(wanted
        .map(|name| {
            let object = objects.get(&name);
            Row::new(name, object, now, args.max_age)
        })
        .collect())
}

fn exit(rows: &[Row]) -> Exit {
    let any = |wanted: fn(&Row) -> bool| rows.iter().any(wanted);
    let stale = |row: &Row| row.status.as_ref().is_some_and(|status| status.stale_pods > 0);
    if any(|row| matches!(row.forwarding, Forwarding::False | Forwarding::Degraded)) || rows.iter().any(stale) {
        Exit::Findings
    } else if rows.is_empty() || any(|row| row.forwarding == Forwarding::Unknown) {
        Exit::Unverified
    } else {
        Exit::Verified
    }
}

fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    // The headline case first: the claim is healthy and the fact is not.
    for row in rows {
        let contradicts = row.status.as_ref().is_some_and(|status| status.contradicts_claim);
        if contradicts && row.forwarding != Forwarding::Unknown {
            out.push_str(&row.why);
            out.push('\n');
        }
    }
    if !out.is_empty() {
        out.push('\n');
    }
    let header = ["NODE", "CLAIMED", "FORWARDING", "CAUSE", "STALE PODS", "AGE"];
    let cells = rows.iter().map(|row| {
        let status = row.status.as_ref();
        vec![
            row.node.clone(),
            status.map_or_else(|| "-".to_owned(), |status| status.claimed.clone()),
            row.forwarding.to_string(),
            row.cause().to_owned(),
            status.map_or_else(|| "-".to_owned(), |status| status.stale_pods.to_string()),
            row.age_seconds.map_or_else(|| "-".to_owned(), |age| format!("{age}s")),
        ]
    });
    out.push_str(&table(&header, cells));
    let unknown: Vec<&Row> = rows.iter().filter(|row| row.forwarding == Forwarding::Unknown).collect();
    if !unknown.is_empty() {
        out.push_str("\nNot known:\n");
    }
    for row in unknown {
        out.push_str(&format!("  {}: {}\n", row.node, row.why));
    }
    out
}

fn json(rows: &[Row]) -> Result<String, Failure> {
    let nodes: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.node,
                "forwarding": row.forwarding.as_str(),
                "age_seconds": row.age_seconds,
                "why": row.why,
                "status": row.status,
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({"schema": SCHEMA, "nodes": nodes}));
    let mut text = text.context("cannot write the status as JSON").map_err(Failure::internal)?;
    text.push('\n');
    Ok(text)
}

/// One line and the exit status of a plugin: 0 well, 1 not, 2 not known. A failure is not known too, and never 1.
fn npd(read: Result<Objects, Failure>, args: &cli::Status) -> Result<Exit, Failure> {
    let found = read.and_then(|read| rows(read, args));
    let (code, line) = match &found {
        Ok(rows) => match rows.as_slice() {
            [row] => npd_line(row),
            _ => (2, "name one node with --node".to_owned()),
        },
        Err(failure) => (2, failure.to_string()),
    };
    Stdout.write(&format!("{}\n", short(&line)))?;
    Ok(Exit::Plugin(code))
}

fn npd_line(row: &Row) -> (u8, String) {
    match row.forwarding {
        Forwarding::True => (0, "forwards pod traffic".to_owned()),
        Forwarding::Degraded => (1, format!("forwards only in part: {}", row.cause())),
        Forwarding::False => (1, format!("does not forward: {}", row.cause())),
        Forwarding::Unknown => (2, format!("not known: {}", row.why)),
    }
}

fn short(line: &str) -> String {
    let mut out = String::new();
    for letter in line.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + letter.len_utf8() > NPD_LINE_MAX {
            break;
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitCode;
    use verifier_core::report::rfc3339;

    const NOW: UnixNs = UnixNs(1_700_000_000_000_000_000);

    fn row(forwarding: &str, age_seconds: u64, stale_pods: i32) -> Row {
        let mut object = NodeDataplane::new("node-a", Default::default());
        object.status = Some(NodeDataplaneStatus {
            claimed: "Ready".to_owned(),
            forwarding: forwarding.to_owned(),
            contradicts_claim: forwarding == "False",
            cause: if forwarding == "True" { "" } else { "route-missing" }.to_owned(),
            message: "node-a claims to be healthy (Ready) and does not forward pod traffic.".to_owned(),
            stale_pods,
            judged_at: Some(rfc3339(UnixNs(NOW.0 - age_seconds * 1_000_000_000))),
            ..NodeDataplaneStatus::default()
        });
        Row::new("node-a".to_owned(), Some(&object), NOW, Duration::from_secs(180))
    }

    #[test]
    fn the_worst_decides_and_bad_wins_over_not_known() {
        assert_eq!(exit(&[row("True", 5, 0)]), Exit::Verified);
        assert_eq!(exit(&[row("True", 5, 1)]), Exit::Findings);
        assert_eq!(exit(&[row("Degraded", 5, 0), row("Unknown", 5, 0)]), Exit::Findings);
        assert_eq!(exit(&[row("True", 5, 0), row("Unknown", 5, 0)]), Exit::Unverified);
        assert_eq!(exit(&[]), Exit::Unverified);
    }

    #[test]
    fn a_verdict_that_is_too_old_or_not_there_is_none() {
        let old = row("True", 181, 0);
        assert_eq!(exit(std::slice::from_ref(&old)), Exit::Unverified);
        assert!(text(&[old]).contains("181 s old"));
        let none = Row::new("node-b".to_owned(), None, NOW, Duration::from_secs(180));
        assert_eq!(npd_line(&none).0, 2);
    }

    #[test]
    fn a_contradiction_is_the_first_line() {
        let text = text(&[row("True", 5, 0), row("False", 5, 0)]);
        assert!(text.starts_with("node-a claims to be healthy"), "{text}");
        assert!(text.contains("FORWARDING") && text.contains("route-missing"), "{text}");
    }

    #[test]
    fn a_plugin_says_one_short_line() {
        assert_eq!(npd_line(&row("True", 5, 0)).0, 0);
        assert_eq!(npd_line(&row("False", 5, 0)), (1, "does not forward: route-missing".to_owned()));
        assert_eq!(npd_line(&row("Unknown", 5, 0)).0, 2);
        assert!(short(&"ä\n".repeat(200)).len() <= NPD_LINE_MAX);
        assert_eq!(ExitCode::from(Exit::Plugin(2)), ExitCode::from(2));
    }
}

//! `verifier triage`: which branch of the runbook applies, what the affected nodes have in common, and what comes next. It runs none of it.

use super::{Exit, Failure, Stdout, collect::Asking};
use crate::{
    cli::{self, PlainOutput},
    clock, config,
    triage::{self, clues},
};
use anyhow::anyhow;
use serde_json::{Value, json};
use verifier_core::{
    evidence::Evidence,
    intent::objects::rfc3339,
    names::{NodeName, UnixNs},
    triage::{ClusterFacts, Triage, text, triage as decide},
};

/// Schema of the JSON output.
const SCHEMA: &str = "dataplane-verifier/triage/v1";

/// Reads, asks, decides, prints.
///
/// # Errors
/// The cluster cannot be read, or the output cannot be written.
pub fn run(args: &cli::Triage) -> Result<Exit, Failure> {
    let now = match &args.at {
        Some(text) => rfc3339(text).ok_or_else(|| Failure::usage(anyhow!("--at: {text:?} is not a time like 2026-01-31T12:00:00Z")))?,
        None => clock::unix_now(),
    };
    let window_ns = u64::try_from(args.since.as_nanos()).unwrap_or(u64::MAX);
    let found = config::runtime()?.block_on(facts_and_triage(args, now, window_ns))?;
    if found.nodes == 0 && !found.unknown.is_empty() {
        let why = found.unknown.first().map_or_else(String::new, |gap| format!(": {}", gap.why));
        return Err(Failure::unverified(anyhow!("the Nodes of the cluster could not be read{why}")));
    }
    Stdout.write(&match args.output {
        PlainOutput::Text => text(&found),
        PlainOutput::Json => {
            let mut value = json!(found);
            if let Value::Object(object) = &mut value {
                object.insert("schema".to_owned(), json!(SCHEMA));
            }
            format!("{value:#}\n")
        }
    })?;
    Ok(match found.exit_status() {
        0 => Exit::Verified,
        1 => Exit::Findings,
        _ => Exit::Unverified,
    })
}

async fn facts_and_triage(args: &cli::Triage, now: UnixNs, window_ns: u64) -> Result<Triage, Failure> {
    let client = match &args.intent.intent {
        Some(_) => None,
        None => Some(config::client(&args.intent.kubernetes).await?),
    };
    let mut facts = match (&client, &args.intent.intent) {
        (None, Some(path)) => triage::from_files(path, now).map_err(Failure::usage)?,
        (Some(client), _) => triage::from_api(client, now).await,
        (None, None) => return Err(Failure::internal(anyhow!("neither files nor an API"))),
    };
    if args.key_file.is_some() {
        ask_agents(args, &mut facts).await?;
    }
    with_clues(client.as_ref(), &mut facts, window_ns).await;
    Ok(decide(&facts, window_ns))
}

/// Reads the logs of affected nodes, where they can be read.
pub(super) async fn with_clues(client: Option<&kube::Client>, facts: &mut ClusterFacts, window_ns: u64) {
    let affected: Vec<NodeName> = decide(facts, window_ns).affected.into_keys().collect();
    facts.clues = match client {
        Some(client) => clues::read(client, facts, &affected).await,
        None if affected.is_empty() => Evidence::complete(Vec::new()),
        None => Evidence::unavailable("triage/logs", "logs are read through the API only: see `verifier logs FILE`"),
    };
}

/// What the agents say of each node.
async fn ask_agents(args: &cli::Triage, facts: &mut ClusterFacts) -> Result<(), Failure> {
    let Some(key_file) = &args.key_file else { return Ok(()) };
    let asking = Asking {
        intent: &args.intent,
        key_file,
        netns: args.netns.as_deref(),
        port: args.agent_port,
        timeout: args.timeout,
    };
    let snapshot = asking.snapshot(&[]).await?;
    triage::add_agents(facts, &snapshot.judge(), &snapshot.nodes);
    Ok(())
}

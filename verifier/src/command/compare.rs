//! `verifier compare`: in what nodes differ, as they are now or as a snapshot has them.

use super::{Exit, Failure, Stdout, collect::Asking};
use crate::{
    cli::{self, PlainOutput},
    config,
    report::snapshot::ClusterSnapshot,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use verifier_core::{
    compare::{self, Comparison, Difference, Profile},
    evidence::Evidence,
    names::NodeName,
};

/// Schema of the JSON output.
const SCHEMA: &str = "dataplane-verifier/compare/v1";

/// Reads, compares, prints.
///
/// # Errors
/// A snapshot cannot be read, the agents cannot be asked, a node is in none, or the output cannot be written.
pub fn run(args: &cli::Compare) -> Result<Exit, Failure> {
    let mut profiles: BTreeMap<NodeName, Profile> = BTreeMap::new();
    let mut gone = Vec::new();
    for snapshot in snapshots(args)? {
        for (name, snapshot) in snapshot.nodes {
            match snapshot {
                Evidence::Complete { value } | Evidence::Partial { value, .. } => {
                    profiles.insert(name, compare::profile(&value));
                }
                Evidence::Unavailable { gap } => gone.push(format!("{name}: {}: {}", gap.source, gap.why)),
            }
        }
    }
    let found = if args.majority {
        compare::majority(&profiles)
    } else {
        let names: Vec<NodeName> = args.nodes.iter().map(|n| NodeName::from(n.as_str())).collect();
        let known = profiles.keys().cloned().collect();
        let get = |name: &NodeName| profiles.get(name).ok_or_else(|| config::unknown_node(name, &known));
        match names.as_slice() {
            [first, second] => compare::pair((first, get(first)?), (second, get(second)?)),
            _ => return Err(Failure::usage(anyhow::anyhow!("name two nodes, or use --majority"))),
        }
    };
    let text = match args.output {
        PlainOutput::Text => text(&found, &gone, args),
        PlainOutput::Json => {
            let mut value = json!(found);
            if let Value::Object(object) = &mut value {
                object.insert("schema".to_owned(), json!(SCHEMA));
                object.insert("unavailable".to_owned(), json!(gone));
            }
            format!("{value:#}\n")
        }
    };
    Stdout.write(&text)?;
    Ok(if !found.differences.is_empty() || !found.undecided.is_empty() {
        Exit::Findings
    } else if found.unknown.is_empty() && gone.is_empty() && found.compared > 0 {
        Exit::Verified
    } else {
        Exit::Unverified
    })
}

/// What the files hold; without files, what the agents say now.
fn snapshots(args: &cli::Compare) -> Result<Vec<ClusterSnapshot>, Failure> {
    if !args.snapshots.is_empty() {
        return args.snapshots.iter().map(|path| ClusterSnapshot::read(path)).collect();
    }
    let asking = Asking {
        intent: &args.intent,
        key_file: args
            .key_file
            .as_deref()
            .ok_or_else(|| Failure::usage(anyhow::anyhow!("name a file with --snapshot, or --key-file to ask the agents")))?,
        netns: args.netns.as_deref(),
        port: args.agent_port,
        timeout: args.timeout,
    };
    Ok(vec![config::runtime()?.block_on(asking.snapshot(&args.nodes))?])
}

fn text(found: &Comparison, gone: &[String], args: &cli::Compare) -> String {
    let mut out = format!(
        "{} facts compared, {} differ\n",
        found.compared,
        found.differences.len() + found.undecided.len()
    );
    let usual = match args.nodes.first() {
        Some(node) if !args.majority => node.clone(),
        _ => "most".to_owned(),
    };
    for difference in &found.differences {
        out.push_str(&block(difference, &usual));
    }
    if !found.undecided.is_empty() {
        out.push_str("\nNo majority: any of these may be the odd one.\n");
        for difference in &found.undecided {
            out.push_str(&block(difference, ""));
        }
    }
    let unknown = found
        .unknown
        .iter()
        .flat_map(|(node, gaps)| gaps.iter().map(move |gap| format!("{node}: {}: {}", gap.source, gap.why)));
    let lines: Vec<String> = unknown.chain(gone.iter().cloned()).collect();
    if !lines.is_empty() {
        out.push_str("\nCould not be compared:\n");
        for line in lines {
            out.push_str(&format!("  {line}\n"));
        }
    }
    out
}

fn block(difference: &Difference, usual: &str) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing of the kind".to_owned());
    let mut out = format!("\n{}\n", difference.key);
    if !usual.is_empty() {
        let count = if difference.usual_nodes > 1 {
            format!(" ({})", difference.usual_nodes)
        } else {
            String::new()
        };
        out.push_str(&format!("  {usual}{count}: {}\n", value(&difference.usual)));
    }
    for (odd, nodes) in &difference.odd {
        let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
        out.push_str(&format!("  {}: {}\n", names.join(", "), value(odd)));
    }
    out
}

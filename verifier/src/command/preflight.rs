//! `verifier preflight`: what this machine lacks, what that disables, how to get it.

use super::{Exit, Failure, say};
use crate::{
    cli::{PlainOutput, Preflight},
    config,
    preflight::{self, Check, State},
};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;

/// Tries everything and prints what came of it. Ends with [`Exit::Unverified`] if something essential is missing.
///
/// # Errors
/// The namespace cannot be opened.
pub fn run(args: &Preflight) -> Result<Exit, Failure> {
    let netns = config::open_netns(args.netns.as_deref())?;
    let checks = preflight::run(&netns);
    say(&match args.output {
        PlainOutput::Text => text(&checks),
        PlainOutput::Json => format!("{:#}\n", json!({ "schema": "dataplane-verifier/preflight/v1", "checks": checks })),
    })?;
    let fit = checks.iter().all(|check| check.present() || !check.essential);
    Ok(if fit { Exit::Verified } else { Exit::Unverified })
}

fn text(checks: &[Check]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for check in checks {
        let state = match &check.state {
            State::Present => "present".to_owned(),
            State::Missing { why } => format!("MISSING: {why}"),
            State::Unknown { why } => format!("UNKNOWN: {why}"),
        };
        table.add_row([check.name, if check.essential { "essential" } else { "optional" }, &state]);
    }
    let mut out = table.trim_fmt();
    out.push('\n');
    let lacking: Vec<&Check> = checks.iter().filter(|check| !check.present()).collect();
    if lacking.is_empty() {
        out.push_str("\nNothing is missing.\n");
    }
    for check in lacking {
        out.push_str(&format!(
            "\n{}\n  disables: {}\n  remedy:   {}\n",
            check.name, check.disables, check.remedy
        ));
    }
    out
}

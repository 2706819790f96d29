//! `verifier gather`: everything that a verdict is made from in one archive, so that somebody else can judge it again.

mod api;

use super::{
    Exit, Failure, Stdout, collect,
    validate::{targets, wanted},
};
use crate::{
    agent::client::Client,
    cli::{self, Output},
    clock, config, host, logs,
    report::{
        self,
        archive::{Archive, Manifest, SCHEMA, SNAPSHOT},
        snapshot::ClusterSnapshot,
    },
};
use anyhow::Context as _;
use std::{io, path::Path};
use verifier_core::{evidence::Evidence, report::rfc3339, verdict::Policy};

/// Asks the agents, reads what was named, writes the archive, and says what is in it.
///
/// # Errors
/// The input is not usable, or the archive cannot be written.
pub fn run(args: &cli::Gather) -> Result<Exit, Failure> {
    let cluster = config::read_intent(&args.intent)?;
    let nodes = wanted(&cluster, &args.nodes)?;
    let keyring = config::read_keys(&args.peers.key_file)?;
    let netns = config::open_netns(args.peers.netns.as_deref())?;
    let client = Client::new(keyring.signing(), netns);
    let targets = targets(&cluster, &nodes, args.peers.agent_port);
    let runtime = config::runtime()?;
    let snapshots = runtime.block_on(collect::rounds(&client, targets, args.timeout));
    let snapshot = ClusterSnapshot::new(Policy::default(), snapshots);
    let cluster_part = runtime.block_on(api::collect(args, &snapshot, &nodes))?;

    // Written beside its place, and moved there when it is whole: who finds the archive can rely on it.
    let next = args.out.with_extension(format!("{}.new", std::process::id()));
    let now = clock::unix_now();
    let manifest = Manifest {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at: rfc3339(now),
        ..Manifest::default()
    };
    let cannot = || format!("cannot write {}", args.out.display());
    let written = Archive::create(&next, manifest, now.0 / 1_000_000_000, args.max_mib << 20)
        .with_context(cannot)
        .map_err(Failure::usage)
        .and_then(|archive| fill(archive, args, &snapshot, &cluster_part))
        .and_then(|manifest| {
            std::fs::rename(&next, &args.out).with_context(cannot).map_err(Failure::usage)?;
            Ok(manifest)
        });
    if written.is_err()
        && let Err(error) = std::fs::remove_file(&next)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "a part of an archive is left behind");
    }
    let manifest = written?;
    let mut text = format!("{}\n", args.out.display());
    for entry in &manifest.entries {
        let blotted = if entry.redacted_lines > 0 {
            format!(", {} lines redacted", entry.redacted_lines)
        } else {
            String::new()
        };
        text.push_str(&format!("  {}  {} bytes{blotted}: {}\n", entry.name, entry.bytes, entry.what));
    }
    for (title, all) in [("Could not be had", &manifest.missing), ("Not tried", &manifest.not_tried)] {
        if !all.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
        }
        for missing in all {
            text.push_str(&format!("  {}: {}\n", missing.what, missing.why));
        }
    }
    Stdout.write(&text)?;
    Ok(if manifest.missing.is_empty() {
        Exit::Verified
    } else {
        Exit::Unverified
    })
}

fn fill(mut archive: Archive, args: &cli::Gather, snapshot: &ClusterSnapshot, cluster: &api::ClusterPart) -> Result<Manifest, Failure> {
    let whole = |error: io::Error| Failure::usage(anyhow::Error::new(error).context("cannot write the archive"));
    archive
        .add(
            SNAPSHOT,
            "the snapshot: `verifier replay` judges it again",
            snapshot.text()?.as_bytes(),
        )
        .map_err(whole)?;
    for (node, evidence) in &snapshot.nodes {
        for gap in evidence.gaps() {
            archive.missing(format!("snapshot of {node}"), format!("{}: {}", gap.source, gap.why));
        }
    }
    let verdict = snapshot.judge();
    for (name, output) in [("report.txt", Output::Text), ("report.json", Output::Json)] {
        let text = report::render(&verdict, output, false)?;
        archive.add(name, "the report at the time", text.as_bytes()).map_err(whole)?;
    }
    for (node, evidence) in &snapshot.nodes {
        if let Some(state) = evidence.seen().and_then(|s| s.programmed.seen()) {
            let mut text = String::new();
            for change in &state.journal {
                let line = serde_json::to_string(change)
                    .context("cannot write the journal")
                    .map_err(Failure::internal)?;
                text.push_str(&line);
                text.push('\n');
            }
            let name = format!("nodes/{node}/journal.jsonl");
            archive
                .add(&name, "what changed in the kernel, and when", text.as_bytes())
                .map_err(whole)?;
        }
    }
    if let Some(root) = &args.host_root {
        match host::evidence(root, clock::unix_now()) {
            Evidence::Complete { value } | Evidence::Partial { value, .. } => {
                let text = serde_json::to_vec_pretty(&value)
                    .context("cannot write the host account")
                    .map_err(Failure::internal)?;
                archive
                    .add("host.json", "the account of the host this ran on", &text)
                    .map_err(whole)?;
            }
            Evidence::Unavailable { gap } => archive.missing("host.json", gap.why),
        }
    }
    for (number, path) in args.logs.iter().enumerate() {
        let what = path.display().to_string();
        match logs::open(path, args.max_mib << 18) {
            Ok(mut source) => {
                if source.skipped.bytes > 0 {
                    archive.missing(
                        what.clone(),
                        format!("its first {} bytes: only the end is taken along", source.skipped.bytes),
                    );
                }
                archive.add_log(&log_name(number, path), &what, &mut source.input).map_err(whole)?;
            }
            Err(error) => archive.missing(what, error.to_string()),
        }
    }
    cluster.add_to(&mut archive)?;
    archive.finish().map_err(whole)
}

/// A name inside the archive that no path can escape from.
fn log_name(number: usize, path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let safe: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .collect();
    format!("logs/{number}-{safe}")
}

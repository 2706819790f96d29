//! `verifier logs`: what lines mean.

use super::{Exit, Failure, Stdout};
use crate::{
    cli::{self, PlainOutput},
    logs::{self, Catalogue, Kind, Seen, Signature, Summary},
};
use anyhow::Context as _;
use serde_json::json;
use std::path::Path;

/// Schema of the JSON output.
const SCHEMA: &str = "dataplane-verifier/logs/v1";

/// Reads, counts, prints.
///
/// # Errors
/// No file can be read, or the report cannot be written.
pub fn run(args: &cli::Logs) -> Result<Exit, Failure> {
    let catalogue = Catalogue::built_in().map_err(Failure::internal)?;
    let mut summary = Summary::default();
    let mut gaps: Vec<String> = Vec::new();
    let mut read = 0;
    for path in &args.files {
        match one(path, args.last_mib << 20, &catalogue, &mut summary) {
            Ok(skipped) if skipped > 0 => {
                gaps.push(format!(
                    "{}: the first {} MiB were not read, see --last-mib",
                    path.display(),
                    skipped >> 20
                ));
                read += 1;
            }
            Ok(_) => read += 1,
            Err(error) => gaps.push(format!("{}: {error:#}", path.display())),
        }
    }
    if read == 0 {
        return Err(Failure::usage(anyhow::anyhow!("no log could be read: {}", gaps.join("; "))));
    }
    if !summary.is_whole() {
        gaps.push(format!(
            "{} lines cut, {} with bytes that are no text, {} bytes of holes, {} unknown lines not kept",
            summary.cut, summary.not_text, summary.holes_bytes, summary.unknown_more
        ));
    }
    let found = found(&catalogue, &summary);
    let text = match args.output {
        PlainOutput::Text => text(&found, &summary, &gaps, args.benign),
        PlainOutput::Json => {
            let known: Vec<_> = found.iter().map(|(s, seen)| json!({ "signature": s, "seen": seen })).collect();
            format!(
                "{:#}\n",
                json!({ "schema": SCHEMA, "lines": summary.lines, "known": known, "unknown": summary.unknown, "unknown_more": summary.unknown_more, "gaps": gaps })
            )
        }
    };
    Stdout.write(&text)?;
    Ok(if found.iter().any(|(signature, _)| signature.kind == Kind::Fault) {
        Exit::Findings
    } else if summary.unknown.is_empty() && gaps.is_empty() {
        Exit::Verified
    } else {
        Exit::Unverified
    })
}

/// Bytes that were skipped.
fn one(path: &Path, last_bytes: u64, catalogue: &Catalogue, summary: &mut Summary) -> anyhow::Result<u64> {
    let mut source = logs::open(path, last_bytes).context("cannot open it")?;
    summary.read(catalogue, &mut source.input).context("reading stopped")?;
    Ok(source.skipped.bytes)
}

/// What was seen, worst first, then most often.
fn found<'a>(catalogue: &'a Catalogue, summary: &'a Summary) -> Vec<(&'a Signature, &'a Seen)> {
    let mut found: Vec<(&Signature, &Seen)> = summary
        .known
        .iter()
        .filter_map(|(id, seen)| catalogue.get(id).map(|signature| (signature, seen)))
        .collect();
    found.sort_by_key(|(signature, seen)| (signature.kind, std::cmp::Reverse(seen.count), signature.id.clone()));
    found
}

fn text(found: &[(&Signature, &Seen)], summary: &Summary, gaps: &[String], benign: bool) -> String {
    let mut out = format!("{} lines\n", summary.lines);
    let sections = [
        (Kind::Fault, "Something is wrong"),
        (Kind::Clue, "Points at what is wrong"),
        (Kind::Misleading, "Looks worse, or better, than it is"),
        (Kind::Marker, "Moments worth knowing"),
        (Kind::Benign, "Means nothing"),
    ];
    for (kind, title) in sections {
        let of: Vec<_> = found.iter().filter(|(signature, _)| signature.kind == kind).collect();
        if of.is_empty() {
            continue;
        }
        if kind == Kind::Benign && !benign {
            let lines: u64 = of.iter().map(|(_, seen)| seen.count).sum();
            out.push_str(&format!("\n{title}: {lines} lines of {} kinds (--benign lists them)\n", of.len()));
            continue;
        }
        out.push_str(&format!("\n{title}:\n"));
        for (signature, seen) in of {
            out.push_str(&format!("  {} x {} ({})\n", seen.count, signature.id, signature.component));
            out.push_str(&format!("    {}\n", seen.example));
            if let (Some(first), Some(last)) = (&seen.first, &seen.last)
                && seen.count > 1
            {
                out.push_str(&format!("    from {first} to {last}\n"));
            }
            out.push_str(&format!("    means  {}\n    next   {}\n", signature.meaning, signature.next));
            if let Some(cause) = signature.cause {
                out.push_str(&format!("    cause  {cause} (`verifier explain {cause}`)\n"));
            }
            if !signature.incidents.is_empty() {
                out.push_str(&format!("    seen   {}\n", signature.incidents.join(", ")));
            }
        }
    }
    if !summary.unknown.is_empty() {
        out.push_str("\nErrors that this program does not know:\n");
        let mut unknown: Vec<&Seen> = summary.unknown.values().collect();
        unknown.sort_by_key(|seen| std::cmp::Reverse(seen.count));
        for seen in unknown {
            out.push_str(&format!("  {} x {}\n", seen.count, seen.example));
        }
    }
    if !gaps.is_empty() {
        out.push_str("\nCould not be read whole:\n");
        for gap in gaps {
            out.push_str(&format!("  {gap}\n"));
        }
    }
    out
}

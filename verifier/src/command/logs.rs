//! `verifier logs`: what lines mean.

use super::{Exit, Failure, Stdout};
use crate::{
    cli::{self, PlainOutput},
    clock, config,
    kubernetes::logs as pod_logs,
    logs::{self, Catalogue, Kind, Seen, Signature, Summary},
};
use anyhow::Context as _;
use serde_json::json;
use std::{io::Cursor, path::Path};
use verifier_core::names::{PodRef, UnixNs};

/// Schema of the JSON output.
const SCHEMA: &str = "dataplane-verifier/logs/v1";

/// What was read of all sources.
#[derive(Default)]
struct Reading {
    summary: Summary,
    /// Sources of which something was read.
    sources: Vec<String>,
    gaps: Vec<String>,
}

/// Reads, counts, prints.
///
/// # Errors
/// No log can be read, or the report cannot be written.
pub fn run(args: &cli::Logs) -> Result<Exit, Failure> {
    let catalogue = Catalogue::built_in().map_err(Failure::internal)?;
    let mut reading = Reading::default();
    let mut pods = Vec::new();
    for path in &args.files {
        match as_pod(path) {
            Some(pod) => pods.push(pod),
            None => reading.file(path, args.last_mib << 20, &catalogue),
        }
    }
    if !pods.is_empty() {
        config::runtime()?.block_on(reading.pods(&pods, args, &catalogue))?;
    }
    let Reading {
        summary,
        sources,
        mut gaps,
    } = reading;
    if sources.is_empty() {
        return Err(Failure::usage(anyhow::anyhow!("no log could be read: {}", gaps.join("; "))));
    }
    if summary.lines == 0 {
        // A pipe whose writer failed looks like this.
        gaps.push("there is not one line in it: that proves nothing".to_owned());
    }
    if !summary.is_whole() {
        gaps.push(format!(
            "{} lines cut, {} with bytes that are no text, {} bytes of holes, {} unknown lines not kept",
            summary.cut, summary.not_text, summary.holes_bytes, summary.unknown_more
        ));
    }
    gaps.extend(summary.clock(clock::unix_now()));
    let found = found(&catalogue, &summary);
    let text = match args.output {
        PlainOutput::Text => text(&found, (&summary, &sources), &gaps, args.benign),
        PlainOutput::Json => {
            let known: Vec<_> = found.iter().map(|(s, seen)| json!({ "signature": s, "seen": seen })).collect();
            format!(
                "{:#}\n",
                json!({ "schema": SCHEMA, "sources": sources, "lines": summary.lines, "known": known, "unknown": summary.unknown, "unknown_more": summary.unknown_more, "gaps": gaps })
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

/// A name that is no file's and reads as `NAMESPACE/POD`.
fn as_pod(path: &Path) -> Option<PodRef> {
    let text = path.to_str()?;
    let dns = |part: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        !part.is_empty() && part.chars().all(inside) && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
    };
    let is_log = |part: &str| [".log", ".gz", ".txt", ".json"].iter().any(|end| part.ends_with(end));
    let pod: PodRef = text.parse().ok()?;
    (dns(&pod.namespace) && dns(&pod.name) && !is_log(&pod.name) && !path.exists()).then_some(pod)
}

impl Reading {
    fn file(&mut self, path: &Path, last_bytes: u64, catalogue: &Catalogue) {
        let name = path.display();
        let mut source = match logs::open(path, last_bytes).context("cannot open it") {
            Ok(source) => source,
            Err(error) => return self.gaps.push(format!("{name}: {error:#}")),
        };
        if let Err(error) = self.summary.read(catalogue, &mut source.input) {
            // What was counted until then stands.
            self.gaps.push(format!("{name}: reading stopped: {error}"));
        }
        if source.skipped.bytes > 0 {
            let mib = source.skipped.bytes >> 20;
            self.gaps.push(format!("{name}: the first {mib} MiB were not read, see --last-mib"));
        }
        self.gaps.extend(source.disturbed().map(|why| format!("{name}: {why}")));
        self.sources.push(name.to_string());
    }

    /// Every container of the pods, the one of now and the one before it.
    async fn pods(&mut self, pods: &[PodRef], args: &cli::Logs, catalogue: &Catalogue) -> Result<(), Failure> {
        let client = config::client(&args.kubernetes).await?;
        for pod in pods {
            let facts = match pod_logs::pod(&client, pod).await {
                Ok(facts) => facts,
                Err(why) => {
                    self.gaps.push(format!("{pod}: {why}, and no file of that name"));
                    continue;
                }
            };
            let wanted: Vec<_> = pod_logs::all_of(&facts)
                .into_iter()
                .filter(|wanted| args.containers.is_empty() || args.containers.contains(&wanted.container))
                .collect();
            if wanted.is_empty() {
                let names: Vec<&str> = facts.containers.iter().map(|c| c.name.as_str()).collect();
                self.gaps.push(format!(
                    "{pod}: none of its containers ({}) has a log that was asked for",
                    names.join(", ")
                ));
            }
            for wanted in wanted {
                let wanted = pod_logs::Wanted {
                    bytes_max: usize::try_from(args.last_mib << 20).unwrap_or(usize::MAX),
                    ..wanted
                };
                let name = wanted.name(pod);
                match pod_logs::read(&client, pod, &wanted).await {
                    Ok(log) => {
                        self.gaps.extend(log.cut.iter().map(|why| format!("{name}: {why}")));
                        self.gaps
                            .extend(rotated_away(&log.bytes, &facts, &wanted).map(|why| format!("{name}: {why}")));
                        if let Err(error) = self.summary.read(catalogue, &mut Cursor::new(&log.bytes)) {
                            self.gaps.push(format!("{name}: reading stopped: {error}"));
                        }
                        self.sources.push(name);
                    }
                    Err(why) => self.gaps.push(format!("{name}: {why}")),
                }
            }
        }
        Ok(())
    }
}

/// The kubelet gives the newest file of a log only: if its first line is much younger than the container, the rest was rotated away.
fn rotated_away(bytes: &[u8], pod: &verifier_core::triage::PodFacts, wanted: &pod_logs::Wanted) -> Option<String> {
    /// A container that says nothing for so long is none of Calico's.
    const SILENT_NS: u64 = 120_000_000_000;
    let started: UnixNs = pod
        .containers
        .iter()
        .find(|c| c.name == wanted.container && !wanted.previous)?
        .started_at?;
    let first = logs::first_time(bytes)?;
    (first.since_ns(started) > SILENT_NS).then(|| {
        let minutes = first.since_ns(started) / 60_000_000_000;
        format!("its first {minutes} min were rotated away on the node: see /var/log/pods there")
    })
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

fn text(found: &[(&Signature, &Seen)], (summary, sources): (&Summary, &[String]), gaps: &[String], benign: bool) -> String {
    let mut out = format!("{} lines of {}\n", summary.lines, sources.join("; "));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_what_reads_as_one_and_is_no_file() {
        for pod in ["kube-system/calico-node-abcde", "a/b.c"] {
            assert_eq!(as_pod(Path::new(pod)).map(|pod| pod.to_string()).as_deref(), Some(pod));
        }
        for file in [
            "-",
            "cni.log",
            "/no/such",
            "no/such.log",
            "a/b/c",
            "A/b",
            "a/-b",
            "src/lib.rs",
            "../x",
        ] {
            assert_eq!(as_pod(Path::new(file)), None, "{file}");
        }
    }
}

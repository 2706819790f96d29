//! The report as text, for a person. The headline case comes first: the claim is healthy and the fact is not.

use super::{
    explain::class,
    headline::{claim_words, headlines},
    json::NOT_VERIFIED,
    rfc3339,
};
use crate::verdict::{CauseCode, ClusterReport, Consequence, Finding, PodVerdict, Scope, Severity, Verdict};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No escape sequences.
    Plain,
    /// ANSI colours.
    Ansi,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_string(),
            Self::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }

    fn verdict(self, verdict: Verdict, width: usize) -> String {
        let (code, text) = match verdict {
            Verdict::Forwarding => ("32", "forwarding"),
            Verdict::Unknown => ("33", "unknown"),
            Verdict::Degraded => ("31", "DEGRADED"),
            Verdict::NotForwarding => ("1;31", "NOT FORWARDING"),
        };
        self.paint(code, &format!("{text:width$}"))
    }
}

/// The whole report.
pub fn text(report: &ClusterReport, style: Style) -> String {
    let mut out = String::new();
    for line in headlines(report) {
        out.push_str(&style.paint("1", &line));
        out.push('\n');
    }
    if !out.is_empty() {
        out.push('\n');
    }
    let width = report.nodes.iter().map(|n| n.name.as_str().len()).max().unwrap_or(0);
    for node in &report.nodes {
        out.push_str(&format!(
            "{:width$}  {}  claimed: {}\n",
            node.name.as_str(),
            style.verdict(node.verdict, 14),
            claim_words(&node.claimed)
        ));
        if let Some(why) = &node.why {
            out.push_str(&format!("{:width$}  {why}\n", ""));
        }
        for cause in &node.causes {
            lines(&mut out, cause, report, style);
        }
    }
    if !report.causes.is_empty() {
        out.push_str("\nOf no single node:\n");
        for cause in &report.causes {
            lines(&mut out, cause, report, style);
        }
    }
    pods(&mut out, report, style);
    if !report.unknown.is_empty() {
        out.push_str("\nCould not be verified:\n");
        for unknown in &report.unknown {
            out.push_str(&format!("  {}: {}\n", unknown.check, unknown.why));
        }
    }
    let lossy: Vec<String> = report
        .loss
        .iter()
        .filter(|(_, l)| l.total() > 0)
        .map(|(n, l)| format!("{n} {}", l.total()))
        .collect();
    if !lossy.is_empty() {
        out.push_str(&format!(
            "\nRecords lost on the way (they weaken what could be claimed): {}\n",
            lossy.join(", ")
        ));
    }
    out.push_str(&format!("\nNot verified by this program: {}.\n", NOT_VERIFIED.join(", ")));
    out
}

fn lines(out: &mut String, f: &Finding, report: &ClusterReport, style: Style) {
    for line in cause_lines(f, report.calico, style) {
        out.push_str("    ");
        out.push_str(&line);
        out.push('\n');
    }
}

/// A cause as lines: what, where, what the accounts say, what follows, what to do.
pub fn cause_lines(f: &Finding, calico: (Option<(u16, u16, u16)>, u32), style: Style) -> Vec<String> {
    let json = super::CauseJson::new(f, calico);
    let colour = match f.severity {
        Severity::Error => "1;31",
        Severity::Warning => "33",
        Severity::Info => "36",
    };
    let mut out = Vec::new();
    let mut head = format!("{}  {} ({})", style.paint(colour, f.code.as_str()), json.title, class(json.class));
    if f.severity == Severity::Warning {
        head.push_str(", nothing fails yet");
    }
    out.push(head);
    let mut field = |name: &str, text: String| out.push(format!("  {name:11} {text}"));
    let mut subject = f.subject.clone();
    if let Some(peer) = &f.peer {
        subject.push_str(&format!("  (peer {peer})"));
    }
    field("subject", subject);
    match (&f.hop, &f.expected_next) {
        (Some(hop), Some(next)) => field("place", format!("last seen at {hop}, missed at {next}")),
        (Some(hop), None) => field("place", format!("last seen at {hop}")),
        (None, Some(next)) => field("place", format!("nothing was sent; missed at {next}")),
        (None, None) => {}
    }
    for (name, text) in [
        ("intent", &f.evidence.intent),
        ("programmed", &f.evidence.programmed),
        ("observed", &f.evidence.observed),
    ] {
        if let Some(text) = text {
            field(name, text.clone());
        }
    }
    if let Some(text) = &f.evidence.host {
        field("host", text.clone());
    }
    if let Some(chain) = chain(f) {
        field("chain", chain);
    }
    let follows = follows(&f.consequences);
    if !follows.is_empty() {
        field("follows", follows);
    }
    if let Some(since) = f.since {
        field("since", rfc3339(since));
    }
    field(
        "calico",
        if f.transient {
            format!("{} (may be transient)", json.calico_repairs.note)
        } else {
            json.calico_repairs.note.clone()
        },
    );
    field("remedy", json.remedy);
    if let Some(persist) = json.persist {
        field("persist", persist);
    }
    out
}

/// How what follows from a machine's cause follows from it, root first: `kernel-upgraded > kernel-module-missing > …`.
pub(super) fn chain(f: &Finding) -> Option<String> {
    if f.code.cause().scope != Scope::Host {
        return None;
    }
    let codes = |c: &Consequence| match c {
        Consequence::Cause { code, .. } => Some(*code),
        Consequence::Probes { .. } => None,
    };
    let mut rest: BTreeSet<CauseCode> = f.consequences.iter().filter_map(codes).collect();
    let mut links = alloc::vec![f.code.to_string()];
    let mut last = alloc::vec![f.code];
    while !rest.is_empty() {
        let next: Vec<CauseCode> = rest
            .iter()
            .copied()
            .filter(|code| {
                last.iter()
                    .any(|l| l.cause().explains.contains(code) || l.cause().explains_at_peers.contains(code))
            })
            .collect();
        if next.is_empty() {
            break;
        }
        rest.retain(|code| !next.contains(code));
        links.push(next.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        last = next;
    }
    if f.consequences.iter().any(|c| matches!(c, Consequence::Probes { .. })) {
        links.push("probes fail".to_string());
    }
    (links.len() > 1).then(|| links.join(" > "))
}

fn follows(all: &[Consequence]) -> String {
    let mut codes: BTreeMap<CauseCode, u32> = BTreeMap::new();
    let mut pairs = 0;
    for c in all {
        match c {
            Consequence::Cause { code, .. } => *codes.entry(*code).or_default() += 1,
            Consequence::Probes { .. } => pairs += 1,
        }
    }
    let mut parts: Vec<String> = codes
        .into_iter()
        .map(|(c, n)| if n > 1 { format!("{n} x {c}") } else { c.to_string() })
        .collect();
    if pairs > 0 {
        let of_endpoints = if pairs == 1 { "pair" } else { "pairs" };
        parts.push(format!("failing probes between {pairs} {of_endpoints} of endpoints"));
    }
    parts.join(", ")
}

fn pods(out: &mut String, report: &ClusterReport, style: Style) {
    if report.pods.is_empty() {
        return;
    }
    let count = |v: PodVerdict| report.pods.iter().filter(|p| p.verdict == v).count();
    out.push_str(&format!(
        "\nPods: {} fresh, {} stale, {} policy-blocked, {} unknown\n",
        count(PodVerdict::Fresh),
        count(PodVerdict::Stale),
        count(PodVerdict::PolicyBlocked),
        count(PodVerdict::Unknown)
    ));
    for pod in report.pods.iter().filter(|p| p.verdict != PodVerdict::Fresh) {
        let (colour, word) = match pod.verdict {
            PodVerdict::Stale => ("1;31", "STALE"),
            PodVerdict::PolicyBlocked => ("36", "policy-blocked"),
            _ => ("33", "unknown"),
        };
        let controller = pod.controller.as_deref().unwrap_or("no controller");
        let safe = if pod.safe_to_delete {
            "safe to delete"
        } else {
            "not safe to delete: nothing makes a new one"
        };
        out.push_str(&format!(
            "  {} on {}  {}  {controller}, {safe}\n",
            pod.pod,
            pod.node,
            style.paint(colour, word)
        ));
        if let Some(why) = &pod.why {
            out.push_str(&format!("    {why}\n"));
        }
        for cause in &pod.causes {
            lines(out, cause, report, style);
        }
    }
}

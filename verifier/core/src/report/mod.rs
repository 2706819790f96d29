//! The report: what a person or a pipeline reads. Pure: a [`ClusterReport`](crate::verdict::ClusterReport) in, a value or text out.

mod explain;
mod headline;
mod json;
pub mod oversee;
pub mod publish;
pub mod standing;
mod text;
mod time;

pub use explain::{explain, explain_all};
pub use headline::{claim_words, contradicts, headline_of, headlines};
pub use json::{CauseJson, ClaimJson, JsonReport, NodeJson, PodJson, SCHEMA};
pub use text::{Style, cause_lines, text};
pub use time::rfc3339;

use crate::verdict::{ClusterReport, PodVerdict, Severity, Verdict};

/// Exit status of a report (design, Contracts): 0 all verified and forwarding, 1 something is degraded, not forwarding or stale, 3 something could
/// not be verified. 1 wins over 3.
pub fn exit_status(report: &ClusterReport) -> u8 {
    let bad = |v: Verdict| matches!(v, Verdict::Degraded | Verdict::NotForwarding);
    let stale = report.pods.iter().any(|p| p.verdict == PodVerdict::Stale);
    let cluster = report.causes.iter().any(|c| c.severity == Severity::Error);
    if bad(report.verdict) || report.nodes.iter().any(|n| bad(n.verdict)) || stale || cluster {
        1
    } else if report.nodes.is_empty() || report.nodes.iter().any(|n| n.verdict == Verdict::Unknown) {
        3
    } else {
        0
    }
}

//! Triage as text for a person: what is affected, which branch, what they share, what to do, what is not known.

use super::{Separator, Triage, change_line};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// How many recent changes are listed; the rest is counted.
const CHANGES_MAX: usize = 15;
/// How many of them are Nodes.
const NODE_CHANGES_MAX: usize = 3;
/// How many names stand in a line.
const NAMES_MAX: usize = 12;

/// The whole of it.
pub fn text(triage: &Triage) -> String {
    let mut out = headline(triage);
    for applies in &triage.branches {
        let names: Vec<&str> = applies.nodes.iter().map(|n| n.as_str()).collect();
        let on = if names.is_empty() {
            "the cluster".to_string()
        } else {
            listed(&names)
        };
        out.push_str(&format!(
            "\nBranch {}: {on}\n  means  {}\n",
            applies.branch.as_str(),
            applies.branch.meaning()
        ));
        for why in &applies.why {
            out.push_str(&format!("  why    {why}\n"));
        }
    }
    if !triage.subset.separators.is_empty() {
        out.push_str(&format!(
            "\nWhat the affected nodes have that the healthy have not ({} ways to part them were tried):\n",
            triage.subset.tried
        ));
        for separator in &triage.subset.separators {
            out.push_str(&block(separator));
        }
    } else if !triage.affected.is_empty() && triage.affected.len() < triage.nodes {
        out.push_str("\nNothing that is known parts the affected nodes from the healthy.\n");
    }
    let mut wrong: Vec<_> = triage.notes.iter().collect();
    wrong.sort_by_key(|note| !note.wrong);
    if !wrong.is_empty() {
        out.push_str("\nAlso:\n");
        for note in wrong {
            out.push_str(&format!("  {} {}: {}\n", if note.wrong { "!" } else { "-" }, note.about, note.says));
        }
    }
    if !triage.changes.is_empty() {
        out.push_str("\nChanged lately, the latest first:\n");
        // Nodes come and go by the dozen; what was done to a pool must not be lost among them.
        let mut nodes = 0;
        let few = triage.changes.iter().filter(|change| {
            nodes += usize::from(change.is_of_a_node());
            !change.is_of_a_node() || nodes <= NODE_CHANGES_MAX
        });
        let shown: Vec<_> = few.take(CHANGES_MAX).collect();
        for change in &shown {
            out.push_str(&format!("  {}\n", change_line(change)));
        }
        let more = triage.changes.len() - shown.len();
        if more > 0 {
            out.push_str(&format!("  and {more} more\n"));
        }
    }
    if !triage.steps.is_empty() {
        out.push_str("\nNext, in this order (commands to review; none of them was run):\n");
        for (at, step) in triage.steps.iter().enumerate() {
            out.push_str(&format!("\n  {}. {}\n     {}\n", at + 1, step.title, step.why));
            if let Some(only_if) = &step.only_if {
                out.push_str(&format!("     only if: {only_if}\n"));
            }
            for command in &step.commands {
                out.push_str(&format!("       {command}\n"));
            }
        }
    }
    if !triage.unknown.is_empty() {
        out.push_str("\nNot known:\n");
        for gap in &triage.unknown {
            out.push_str(&format!("  {}: {}\n", gap.source, gap.why));
        }
    }
    out
}

fn headline(triage: &Triage) -> String {
    let names: Vec<&str> = triage.affected.keys().map(|n| n.as_str()).collect();
    match (triage.nodes, names.len()) {
        (0, _) => "No node is known.\n".to_string(),
        (n, 0) if triage.unknown.is_empty() => format!("None of {n} nodes has a complaint.\n"),
        (n, 0) => format!("None of {n} nodes has a complaint, as far as could be read: see below what could not.\n"),
        (n, few) => format!("{few} of {n} nodes are affected: {}\n", listed(&names)),
    }
}

fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMES_MAX);
    let some = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{some}, and {more} more") } else { some }
}

fn block(s: &Separator) -> String {
    let claim = if s.is_claimed() {
        format!("chance {}.{:04} %", s.chance_ppm / 10_000, s.chance_ppm % 10_000)
    } else {
        "may be chance".to_string()
    };
    let mut out = format!(
        "  {}\n     {} of {} affected, {} of {} healthy; F1 {}.{:03}, {claim}\n",
        s.says,
        s.affected_with,
        s.affected_with + s.affected_without,
        s.healthy_with,
        s.healthy_with + s.healthy_without,
        s.score_permille / 1000,
        s.score_permille % 1000,
    );
    if !s.same.is_empty() {
        out.push_str(&format!("     true of the same nodes: {}\n", s.same.join("; ")));
    }
    out
}

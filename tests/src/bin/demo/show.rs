//! What a person sees. On a terminal with colour and a line that tells what is going on; elsewhere plain text, in order.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use verifier_tests::fabric::{Encapsulation, Fabric};
use verifier_tests::faults::Fault;
use verifier_tests::lab::Stage;
use verifier_tests::lab::judge::blame_text;
use verifier_tests::lab::report::{Cause, Report, culprit};

use crate::scene::{Played, Verified};

/// Text is broken at this column.
const WIDTH: usize = 110;

/// Width of the labels in front of it.
const LABEL: usize = 16;

/// Where and how it is shown.
#[derive(Debug)]
pub(crate) struct Show {
    colour: bool,
    progress: bool,
}

impl Show {
    /// As standard output and error are.
    pub(crate) fn new() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: std::io::stdout().is_terminal() && !no_color,
            progress: std::io::stderr().is_terminal(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn good(&self, text: &str) -> String {
        self.paint("1;32", text)
    }

    fn bad(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What is going on, until [`Show::idle`].
    pub(crate) fn busy(&self, what: &str) {
        if self.progress {
            eprint!("\r\x1b[K… {what}");
            // Only for the eye; nothing is lost if it fails.
            let _ = std::io::stderr().flush();
        }
    }

    /// Nothing is going on that needs telling.
    pub(crate) fn idle(&self) {
        if self.progress {
            eprint!("\r\x1b[K");
        }
    }

    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.idle();
        eprintln!("{} {error:#}", self.bad("demo:"));
    }

    pub(crate) fn listed(&self, fault: &Fault) {
        println!("{:40} {}", fault.name, fault.description);
    }

    pub(crate) fn listed_as(&self, name: &str, description: &str) {
        println!("{name:40} {description}");
    }

    pub(crate) fn announce_as(&self, name: &str, description: &str) {
        println!(
            "\n{} {}",
            self.paint("1;36", &format!("[story] {name}")),
            self.dim(&dashes(name, 1, 1))
        );
        self.line("what we do", description);
    }

    /// A case with a chain of causes: the claim, the chain root first, how its remedy lasts.
    pub(crate) fn story(&self, report: &Report, node: &str, chain: &[&str], wrong: &[String]) {
        if let Some(of) = report.nodes.iter().find(|of| of.name == node) {
            let ready = if of.claimed.ready == Some(true) { "Ready" } else { "not Ready" };
            let running = of.claimed.calico_node.as_deref().unwrap_or("unknown");
            self.line("cluster claims", &format!("{node} {ready}, its calico-node {running}"));
            let stale: Vec<String> = report
                .pods
                .iter()
                .filter(|pod| pod.verdict == "stale")
                .map(|pod| format!("{}/{}", pod.namespace, pod.name))
                .collect();
            self.line("really", &format!("{node} is {}; stale: {}", of.verdict, stale.join(", ")));
            if let Some(cause) = of.causes.first() {
                self.line("chain", cause.chain.as_deref().unwrap_or("none was found"));
                self.cause(cause);
            }
        }
        if wrong.is_empty() {
            println!(
                "  {} {}",
                self.good(&format!("{:LABEL$}", "RIGHT")),
                self.dim("that chain, root first, and no other root")
            );
        } else {
            println!(
                "  {} expected {} on {node}",
                self.bad(&format!("{:LABEL$}", "WRONG")),
                chain.join(" > ")
            );
            wrong.iter().for_each(|what| self.line("", &format!("- {what}")));
        }
    }

    pub(crate) fn raised(&self, fabric: &Fabric, took: Duration) {
        let spec = fabric.spec();
        let encapsulation = match spec.encapsulation {
            Encapsulation::Vxlan => format!("VXLAN {} on UDP {}", spec.vni, spec.port),
            other => other.to_string(),
        };
        println!(
            "{} {} nodes, {} pods, {encapsulation}, as Calico {} would program it ({})",
            self.paint("1", "The fabric:"),
            fabric.nodes().len(),
            fabric.pods().len(),
            spec.calico_version,
            time(took)
        );
    }

    pub(crate) fn agents_ready(&self, stage: &Stage, took: Duration) {
        println!(
            "{} one on each of {} nodes, ready in {}",
            self.paint("1", "The agents:"),
            stage.agents().len(),
            time(took)
        );
    }

    pub(crate) fn healthy(&self, report: &Report, took: Duration) {
        let gaps = match report.unknown.len() {
            0 => String::new(),
            count => format!("; {count} checks could not be made"),
        };
        println!(
            "{} {} nodes forwarding, {} pods fresh, no finding{gaps} (validate took {})",
            self.good("Healthy:"),
            report.nodes.len(),
            report.pods.len(),
            time(took)
        );
    }

    pub(crate) fn announce(&self, fault: &Fault, number: usize, of: usize) {
        println!(
            "\n{} {}",
            self.paint("1;36", &format!("[{number}/{of}] {}", fault.name)),
            self.dim(&dashes(fault.name, number, of))
        );
        self.line("what we do", fault.description);
    }

    /// One labelled text, broken into lines.
    fn line(&self, label: &str, text: &str) {
        let mut first = true;
        for part in wrap(text, WIDTH - LABEL - 2) {
            let label = if first { label } else { "" };
            println!("  {} {part}", self.dim(&format!("{label:LABEL$}")));
            first = false;
        }
    }

    pub(crate) fn played(&self, fault: &Fault, played: &Played) {
        let (report, detected, validated, wrong) = match &played.result {
            Verified::Skipped(why) => {
                self.line("skipped", why);
                return;
            }
            Verified::Judged {
                report,
                detected,
                validated,
                wrong,
            } => (report, detected, validated, wrong),
        };
        self.line("cluster claims", &claims(report, played));
        self.line("really", &reality(report));
        match played.root() {
            Some((blamed, cause)) => {
                self.line("to blame", &culprit(&blamed, cause));
                self.cause(cause);
            }
            None if played.expected.code.is_none() => self.line("root cause", "none, and none is right"),
            None => self.line("root cause", &self.bad("not found")),
        }
        match detected {
            Some(took) => self.line("detected in", &format!("{}; validate took {}", time(*took), time(*validated))),
            None => self.line("validate took", &time(*validated)),
        }
        if wrong.is_empty() {
            println!(
                "  {} {}",
                self.good(&format!("{:LABEL$}", "RIGHT")),
                self.dim("that root, that class, that place, and no other root")
            );
        } else {
            let wanted = played.expected.code.as_deref().unwrap_or("no cause");
            println!(
                "  {} expected {wanted} on {}",
                self.bad(&format!("{:LABEL$}", "WRONG")),
                blame_text(&played.expected.blame)
            );
            wrong.iter().for_each(|what| self.line("", &format!("- {what}")));
            self.line("again", &format!("cargo xtask demo --only {} --keep", fault.name));
        }
    }

    pub(crate) fn mended(&self, took: Duration) {
        self.line("mended", &format!("healthy again, and proven so by validate, after {}", time(took)));
    }

    fn cause(&self, cause: &Cause) {
        let place = match (&cause.hop, &cause.expected_next) {
            (None, None) => "-".to_owned(),
            (hop, next) => format!(
                "{}  (next expected: {})",
                hop.as_deref().unwrap_or("nothing was sent"),
                next.as_deref().unwrap_or("-")
            ),
        };
        self.line("last seen at", &place);
        self.line(
            "root cause",
            &format!("{} ({}, {})", self.paint("1;33", &cause.code), cause.class, cause.severity),
        );
        for (account, said) in [
            ("intent", &cause.evidence.intent),
            ("programmed", &cause.evidence.programmed),
            ("observed", &cause.evidence.observed),
            ("host", &cause.evidence.host),
        ] {
            if let Some(said) = said {
                self.line(account, said);
            }
        }
        self.line("what follows", &consequences(cause));
        self.line("remedy", &cause.remedy);
        if let Some(persist) = cause.persist.as_ref().filter(|_| cause.chain.is_some()) {
            self.line("to keep it", persist);
        }
        self.line("Calico repairs", &repairs(cause));
    }

    pub(crate) fn summary(&self, played: &[Played], of: usize, took: Duration) {
        println!("\n{}", self.paint("1", "Summary"));
        let head = ["#", "fault", "root cause", "class", "to blame", "detected"].map(str::to_owned);
        let rows: Vec<[String; 6]> = played.iter().enumerate().map(|(index, one)| cells(index + 1, one)).collect();
        let widths: [usize; 6] =
            std::array::from_fn(|column| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0));
        let line = |row: &[String; 6]| {
            let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ")
        };
        println!("  {}", self.dim(&line(&head)));
        for (row, one) in rows.iter().zip(played) {
            let mark = match &one.result {
                Verified::Skipped(_) => self.dim("skipped"),
                Verified::Judged { wrong, .. } if wrong.is_empty() => self.good("right"),
                Verified::Judged { .. } => self.bad("WRONG"),
            };
            println!("  {}  {mark}", line(row));
        }
        let right = played.iter().filter(|one| one.is_right() && one.is_judged()).count();
        let skipped = played.iter().filter(|one| !one.is_judged()).count();
        let wrong = played.iter().filter(|one| !one.is_right()).count();
        let closing = format!(
            "{right} of {of} verdicts right, {wrong} wrong, {skipped} skipped, {} not played, in {}",
            of - played.len(),
            time(took)
        );
        println!(
            "\n{}",
            if wrong == 0 && played.len() == of {
                self.good(&closing)
            } else {
                self.bad(&closing)
            }
        );
    }

    pub(crate) fn kept(&self, with_fault: bool) {
        let what = if with_fault {
            "The fabric stands, with the fault in it"
        } else {
            "The fabric stands"
        };
        println!("{what}: cargo xtask lab validate | trace pod-a1 pod-b1 | mend | down");
    }

    pub(crate) fn struck(&self, logs: Option<&Path>) {
        let left = match logs {
            Some(directory) => format!("nothing is left behind but the agents' logs in {}", directory.display()),
            None => "nothing is left behind".to_owned(),
        };
        println!("{}", self.dim(&format!("The fabric is gone, and {left}.")));
    }
}

/// What the verifier said, in the columns of the summary.
fn cells(number: usize, one: &Played) -> [String; 6] {
    let (code, class, blamed) = match one.root() {
        Some((blamed, cause)) => (cause.code.clone(), cause.class.clone(), culprit(&blamed, cause)),
        None if one.expected.code.is_none() => ("none".to_owned(), "-".to_owned(), "-".to_owned()),
        None => ("not found".to_owned(), "-".to_owned(), "-".to_owned()),
    };
    let detected = match &one.result {
        Verified::Judged { detected: Some(took), .. } => time(*took),
        _ => "-".to_owned(),
    };
    [number.to_string(), one.name.to_owned(), code, class, blamed, detected]
}

fn dashes(name: &str, number: usize, of: usize) -> String {
    let used = format!("[{number}/{of}] {name} ").chars().count();
    "─".repeat(WIDTH.saturating_sub(used))
}

/// What a person would read off `kubectl get nodes,pods`.
fn claims(report: &Report, played: &Played) -> String {
    let concerned: Vec<String> = report
        .nodes
        .iter()
        .filter(|node| {
            played
                .root()
                .is_none_or(|(blamed, cause)| blamed.to_string() == node.name || cause.node.as_deref() == Some(&node.name))
        })
        .map(|node| {
            let ready = match node.claimed.ready {
                Some(true) => "Ready",
                Some(false) => "NotReady",
                None => "of unknown readiness",
            };
            let agent = node.claimed.calico_node.as_deref().unwrap_or("not known");
            let restarts = node
                .claimed
                .restarts
                .map(|count| format!(" ({count} restarts)"))
                .unwrap_or_default();
            format!("{} {ready}, its calico-node {agent}{restarts}", node.name)
        })
        .collect();
    let nodes = if concerned.is_empty() {
        "all nodes Ready".to_owned()
    } else {
        concerned.join("; ")
    };
    format!("{nodes}; every pod Running")
}

/// What the report says of nodes and pods, the unremarkable ones counted.
fn reality(report: &Report) -> String {
    let mut said: Vec<String> = report
        .nodes
        .iter()
        .filter(|node| node.verdict != "forwarding")
        .map(|node| format!("{} is {}", node.name, node.verdict))
        .collect();
    let forwarding = report.nodes.len() - said.len();
    said.push(format!("{forwarding} of {} nodes forwarding", report.nodes.len()));
    said.extend(
        report
            .pods
            .iter()
            .filter(|pod| pod.verdict != "fresh")
            .map(|pod| format!("{} is {}", pod.key(), pod.verdict)),
    );
    said.join(", ")
}

/// Deviations that follow are counted by their code, failing probes by their ends.
fn consequences(cause: &Cause) -> String {
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut pairs = 0;
    for consequence in &cause.consequences {
        match consequence.get("code").and_then(|code| code.as_str()) {
            Some(code) => *codes.entry(code).or_default() += 1,
            None => pairs += 1,
        }
    }
    let mut told: Vec<String> = codes.iter().map(|(code, count)| format!("{count} x {code}")).collect();
    if pairs > 0 {
        let of_endpoints = if pairs == 1 { "pair" } else { "pairs" };
        told.push(format!("probes between {pairs} {of_endpoints} of endpoints fail"));
    }
    if told.is_empty() {
        "nothing yet".to_owned()
    } else {
        told.join(", ")
    }
}

fn repairs(cause: &Cause) -> String {
    let note = cause.calico_repairs.get("note").and_then(|note| note.as_str());
    note.or(cause.calico_repairs.as_str())
        .map_or_else(|| cause.calico_repairs.to_string(), str::to_owned)
}

fn time(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

/// Lines of at most so many characters, broken at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(last) = lines.last_mut() else { break };
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces() {
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
        assert_eq!(wrap("", 6), [""]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
    }
}

//! `verifier explain CODE`, and the pages under `docs/causes`: everything the cause table knows of a cause, as Markdown.

use crate::verdict::{Cause, CauseCode, Class, Scope, Severity, table};
use alloc::{format, string::String, vec::Vec};

/// The page of one cause.
pub fn explain(code: CauseCode) -> String {
    let c = code.cause();
    let mut out = format!("# {}\n\n{}.\n\n", c.code, c.title);
    out.push_str(&format!(
        "Class {}, severity {}, concerns {}.\n\n",
        class(c.class),
        severity(c.severity),
        scope(c.scope)
    ));
    section(&mut out, "What it means", c.meaning);
    section(&mut out, "What decides it", c.detected);
    section(&mut out, "Remedy", c.remedy);
    section(&mut out, "How it survives a reboot", c.persist.unwrap_or_else(|| lasts(c)));
    section(&mut out, "How to verify", c.verify);
    out.push_str("## Does Calico repair it\n\n");
    // One line for each behaviour that some version has.
    let versions = [(3, 27, 0), (3, 29, 0), (3, 30, 0), (3, 31, 7), (3, 32, 0), (3, 32, 1)];
    let mut last = String::new();
    for v in versions {
        let note = c.repairs.by(Some(v), 90).note;
        if note != last {
            out.push_str(&format!("- from v{}.{}.{}: {note}\n", v.0, v.1, v.2));
            last = note;
        }
    }
    out.push('\n');
    if c.hold_off_seconds > 0 {
        out.push_str(&format!(
            "A known transient looks the same for up to {} s; until then the continuous verdict calls it transient.\n\n",
            c.hold_off_seconds
        ));
    }
    codes(&mut out, "What follows from it", c.explains);
    codes(&mut out, "What follows from it at other nodes", c.explains_at_peers);
    let roots: Vec<CauseCode> = table::all().filter(|r| r.explains.contains(&code)).map(|r| r.code).collect();
    codes(&mut out, "What it can follow from", &roots);
    out.push_str("## Real incidents\n\n");
    if c.incidents.is_empty() {
        out.push_str("No public one is known to this project.\n");
    }
    for incident in c.incidents {
        out.push_str(&format!("- {incident}\n"));
    }
    out.push('\n');
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// One line for each cause: code, class, title.
pub fn explain_all() -> String {
    let width = table::all().map(|c: &Cause| c.code.as_str().len()).max().unwrap_or(0);
    table::all()
        .map(|c| format!("{:width$}  {:14}  {}\n", c.code, class(c.class), c.title))
        .collect()
}

/// Why nothing needs to be done for the remedy to last, where the table says nothing.
const fn lasts(cause: &Cause) -> &'static str {
    match (cause.class, cause.scope) {
        (Class::Datastore, _) | (_, Scope::Cluster) => "By itself: what was corrected lies in the datastore.",
        (_, Scope::Fabric) => "It lies in the network between the nodes: nothing on a node keeps it.",
        (Class::None, _) => "There is nothing to keep: it is no fault.",
        (Class::NotProgrammed, _) => {
            "Felix and the CNI plugin program it anew at every start; what undid it is a cause of its own, and its page says how that stays away."
        }
        (Class::NotForwarded, _) => "By itself, unless what brought it about comes back: find that first.",
    }
}

fn section(out: &mut String, title: &str, text: &str) {
    out.push_str(&format!("## {title}\n\n{text}\n\n"));
}

fn codes(out: &mut String, title: &str, all: &[CauseCode]) {
    if all.is_empty() {
        return;
    }
    out.push_str(&format!("## {title}\n\n"));
    for code in all {
        out.push_str(&format!("- `{code}`: {}\n", code.cause().title));
    }
    out.push('\n');
}

pub(super) const fn class(class: Class) -> &'static str {
    match class {
        Class::Datastore => "datastore",
        Class::NotProgrammed => "not-programmed",
        Class::NotForwarded => "not-forwarded",
        Class::None => "no fault",
    }
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

const fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Node => "a whole node",
        Scope::Pair => "one node's way to one peer",
        Scope::Pod => "one pod",
        Scope::Host => "the machine under a node",
        Scope::Fabric => "the network between nodes",
        Scope::Cluster => "the cluster's objects",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_says_all_there_is_to_say() {
        for cause in table::all() {
            let page = explain(cause.code);
            for title in [
                "What it means",
                "What decides it",
                "Remedy",
                "How it survives a reboot",
                "How to verify",
                "Does Calico repair it",
                "Real incidents",
            ] {
                let (_, rest) = page.split_once(&format!("## {title}\n\n")).unwrap_or_default();
                assert!(rest.lines().next().is_some_and(|line| line.len() > 10), "{}: {title}", cause.code);
            }
        }
    }

    #[test]
    fn causes_of_the_machine_have_incidents_and_say_how_the_remedy_lasts() {
        for cause in table::all().filter(|cause| cause.scope == Scope::Host) {
            assert!(cause.persist.is_some_and(|text| text.len() > 10), "{}", cause.code);
            assert!(!cause.incidents.is_empty(), "{}", cause.code);
        }
        for incident in table::all().flat_map(|cause| cause.incidents) {
            // Repository and number, sometimes with a word before or behind; or the commit that mended it.
            let number = incident
                .split('#')
                .nth(1)
                .is_some_and(|n| n.chars().next().is_some_and(|c| c.is_ascii_digit()));
            let commit = incident
                .split(" commit ")
                .nth(1)
                .is_some_and(|hash| hash.chars().all(|c| c.is_ascii_hexdigit()));
            assert!((number || commit) && incident.contains('/'), "{incident}");
        }
    }
}

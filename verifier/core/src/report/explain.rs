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
    if let Some(persist) = c.persist {
        section(&mut out, "How it survives a reboot", persist);
    }
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
    if !c.incidents.is_empty() {
        out.push_str("## Real incidents\n\n");
        for incident in c.incidents {
            out.push_str(&format!("- {incident}\n"));
        }
        out.push('\n');
    }
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

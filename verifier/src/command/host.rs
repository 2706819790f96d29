//! `verifier host`: what is wrong with the machine under a node. Reads files, sends nothing, changes nothing.

use super::{Exit, Failure, Stdout};
use crate::{
    cli::{self, PlainOutput},
    clock, config, host,
};
use anyhow::{Context as _, anyhow};
use serde_json::json;
use verifier_core::{
    host::{HostAccount, HostContext, check},
    names::NodeName,
    report::{CauseJson, Style, cause_lines},
    verdict::{self, Finding, Severity, UnknownCheck},
};

/// Schema of the JSON output.
const SCHEMA: &str = "dataplane-verifier/host/v1";
/// Without manifests Calico's part can only be told in general.
const REFRESH_SECONDS_DEFAULT: u32 = 90;

/// Looks, judges, prints.
///
/// # Errors
/// The input is not usable, or the report cannot be written.
pub fn run(args: &cli::Host, color: bool) -> Result<Exit, Failure> {
    let context = context(args)?;
    let account = host::read(&args.root, clock::unix_now())
        .with_context(|| format!("cannot open the root {}", args.root.display()))
        .map_err(Failure::usage)?;
    let found = check(&account, &context);
    let causes = verdict::roots(found.findings);
    let calico = (context.calico, REFRESH_SECONDS_DEFAULT);
    let text = match args.output {
        PlainOutput::Text => text(&account, &causes, &found.unknown, calico, color),
        PlainOutput::Json => {
            let causes: Vec<CauseJson> = causes.iter().map(|cause| CauseJson::new(cause, calico)).collect();
            let value = json!({ "schema": SCHEMA, "causes": causes, "unknown": found.unknown, "account": account });
            format!("{value:#}\n")
        }
    };
    Stdout.write(&text)?;
    Ok(if causes.iter().any(|cause| cause.severity == Severity::Error) {
        Exit::Findings
    } else if found.unknown.is_empty() {
        Exit::Verified
    } else {
        Exit::Unverified
    })
}

fn context(args: &cli::Host) -> Result<HostContext, Failure> {
    let node = args.node.as_deref().map(NodeName::from);
    let mut context = match (&args.intent, &node) {
        (Some(path), Some(node)) => {
            let cluster = config::read_manifests(path)?;
            match cluster.node_intent(node) {
                Ok(intent) => HostContext::of(&intent),
                Err(_) => return Err(config::unknown_node(node, &cluster.nodes().cloned().collect())),
            }
        }
        _ => HostContext::default(),
    };
    context.node = node;
    if let Some(text) = &args.calico_version {
        let parts = version(text)?;
        context.calico = Some((parts.0, parts.1, parts.2));
    }
    if let Some(text) = &args.kubernetes_version {
        let parts = version(text)?;
        context.kubernetes = Some((parts.0, parts.1));
    }
    Ok(context)
}

/// `v1.31`, `1.31.4`.
fn version(text: &str) -> Result<(u16, u16, u16), Failure> {
    let numbers: Result<Vec<u16>, _> = text.trim_start_matches('v').splitn(3, '.').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([major, minor]) => Ok((*major, *minor, 0)),
        Ok([major, minor, patch]) => Ok((*major, *minor, *patch)),
        _ => Err(Failure::usage(anyhow!("{text:?} is not a version like 3.31.7 or 1.31"))),
    }
}

fn text(
    account: &HostAccount,
    causes: &[Finding],
    unknown: &[UnknownCheck],
    calico: (Option<(u16, u16, u16)>, u32),
    color: bool,
) -> String {
    let style = if color { Style::Ansi } else { Style::Plain };
    let or = |text: Option<&str>| text.filter(|t| !t.is_empty()).unwrap_or("unknown").to_owned();
    let mut out = format!(
        "{}: {}, kernel {}\n",
        account.root,
        or(account.os.seen().map(|os| os.name.as_str())),
        or(account.kernel.seen().map(|kernel| kernel.release.as_str())),
    );
    if causes.is_empty() {
        out.push_str(if unknown.is_empty() {
            "\nNothing is wrong with what was read.\n"
        } else {
            "\nNo cause was found, and not everything could be read: that is no verdict that this machine is well.\n"
        });
    }
    for cause in causes {
        out.push('\n');
        for line in cause_lines(cause, calico, style) {
            out.push_str(&line);
            out.push('\n');
        }
    }
    if !unknown.is_empty() {
        out.push_str("\nCould not be verified:\n");
        for check in unknown {
            out.push_str(&format!("  {}: {}\n", check.check, check.why));
        }
    }
    out.push_str("\nThis says what the machine brings along, not whether packets pass: `verifier validate` does.\n");
    out
}

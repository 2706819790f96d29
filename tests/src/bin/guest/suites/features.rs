//! What the verifier finds on this kernel (`verifier preflight`), against what the list of kernels says: each check must be
//! passed, or failed, as it stands there.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use verifier_tests::lab::program;

use crate::plan::Plan;
use crate::say::{Cases, Verdict};

#[derive(Debug, Deserialize)]
struct Preflight {
    checks: Vec<Check>,
}

/// One check, as `verifier preflight --output json` shows it.
#[derive(Debug, Deserialize)]
struct Check {
    name: String,
    state: String,
    #[serde(default)]
    why: Option<String>,
}

pub(crate) fn play(plan: &Plan, cases: &Cases) -> Result<()> {
    let output = Command::new(program::path()?)
        .args(["preflight", "--output", "json"])
        .output()
        .context("running verifier preflight")?;
    let Preflight { checks } = serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("verifier preflight ({}): {}", output.status, program::last_lines(&said, 5))
    })?;
    if let Some(unknown) = plan.absent.iter().find(|name| !checks.iter().any(|check| check.name == **name)) {
        bail!(
            "tests/vm/kernels.toml calls {unknown:?} absent on {}, and preflight has no such check",
            plan.kernel
        );
    }
    for check in &checks {
        cases.tell(&check.name, &verdict(check, plan.lacks(&check.name)), Duration::ZERO);
    }
    Ok(())
}

fn verdict(check: &Check, must_be_absent: bool) -> Verdict {
    let why = check.why.clone().unwrap_or_default();
    match (check.state.as_str(), must_be_absent) {
        ("present", false) => Verdict::Passed(None),
        ("missing", true) => Verdict::Passed(Some(format!("absent, as listed: {why}"))),
        ("present", true) => {
            Verdict::Failed("it is there, and should be absent on this kernel: its fallback is not tested any more".to_owned())
        }
        (state, _) => Verdict::Failed(format!("{state}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_must_be_as_listed() {
        let check = |state: &str| Check {
            name: "tcx".to_owned(),
            state: state.to_owned(),
            why: None,
        };
        assert!(matches!(verdict(&check("present"), false), Verdict::Passed(None)));
        assert!(matches!(verdict(&check("missing"), true), Verdict::Passed(Some(_))));
        for (state, absent) in [("present", true), ("missing", false), ("unknown", true), ("unknown", false)] {
            assert!(matches!(verdict(&check(state), absent), Verdict::Failed(_)), "{state} {absent}");
        }
    }
}

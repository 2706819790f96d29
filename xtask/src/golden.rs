//! `cargo xtask golden`: the snapshots and reports of `verifier/tests/golden`, made anew.

use std::ffi::OsString;
use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::Outcome;
use crate::cli::GoldenArguments;
use crate::run::{Profile, become_binary, binary, build_host};
use crate::workspace::Workspace;

/// Where they lie.
const DIRECTORY: &str = "verifier/tests/golden";
const SNAPSHOT: &str = ".json.gz";

/// Statuses with which `verifier replay` says that it judged, whatever the verdict.
const JUDGED: &[i32] = &[0, 1, 3];

pub(crate) fn run(workspace: &Workspace, arguments: &GoldenArguments) -> Outcome {
    if arguments.replay {
        return replay(workspace, &arguments.only);
    }
    let mut words: Vec<OsString> = vec!["--golden".into(), workspace.root.join(DIRECTORY).into()];
    for name in &arguments.only {
        words.extend(["--only".into(), name.into()]);
    }
    become_binary(workspace, Profile::Dev, "demo", &words)
}

/// Writes each report anew from its snapshot: after a deliberate change of what the judge says. The difference is for a person to read.
fn replay(workspace: &Workspace, only: &[String]) -> Outcome {
    build_host(workspace, Profile::Dev)?;
    let directory = workspace.root.join(DIRECTORY);
    let mut judged = 0;
    for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry.with_context(|| format!("listing {}", directory.display()))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(SNAPSHOT)) else {
            continue;
        };
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let output = Command::new(binary(workspace, Profile::Dev, "verifier"))
            .args(["replay", "--output", "json"])
            .arg(&path)
            .output()
            .context("running verifier replay")?;
        if !output.status.code().is_some_and(|status| JUDGED.contains(&status)) {
            bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let report = directory.join(format!("{name}.report.json"));
        fs::write(&report, &output.stdout).with_context(|| format!("writing {}", report.display()))?;
        judged += 1;
    }
    report_count(judged)
}

fn report_count(judged: usize) -> Result<ExitCode> {
    if judged == 0 {
        bail!("no golden snapshot of that name below {DIRECTORY}");
    }
    println!("{judged} reports written below {DIRECTORY}: read what changed");
    Ok(ExitCode::SUCCESS)
}

//! The fault catalogue, played by the very program `demo`, which says its verdicts in the guest's protocol.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use verifier_tests::lab::program;

use crate::plan::Suite;

pub(crate) fn play(suite: &Suite) -> Result<()> {
    demo(suite, &[], suite.only.iter().map(String::as_str))
}

/// One run of it.
pub(super) fn demo<'n>(suite: &Suite, arguments: &[&str], only: impl Iterator<Item = &'n str>) -> Result<()> {
    let demo = program::path()?.with_file_name("demo");
    let mut command = Command::new(demo);
    command
        .args(["--results", &suite.name, "--rounds", &suite.rounds.to_string()])
        .args(arguments);
    for name in only {
        command.args(["--only", name]);
    }
    let status = command.status().context("running the demo")?;
    // Status 1 is also a wrong verdict, which was said as a failed case.
    ensure!(matches!(status.code(), Some(0 | 1)), "the demo ended with {status}");
    Ok(())
}

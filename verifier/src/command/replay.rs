//! `verifier replay`: judges a snapshot again.

use super::{Exit, Failure, Stdout};
use crate::{
    cli::Replay,
    report::{self, snapshot::ClusterSnapshot},
};

/// Reads, judges, prints.
///
/// # Errors
/// The snapshot cannot be read or the report not written.
pub fn run(args: &Replay, color: bool) -> Result<Exit, Failure> {
    let report = ClusterSnapshot::read(&args.file)?.judge();
    Stdout.write(&report::render(&report, args.output, color)?)?;
    Ok(report::exit(&report))
}

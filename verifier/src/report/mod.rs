//! Effects of the report stage: rendering and writing. What stands in a report is decided by `verifier_core::report`.

pub mod archive;
pub mod junit;
pub mod snapshot;
pub mod trace;

use crate::{
    cli::Output,
    command::{Exit, Failure},
};
use anyhow::{Context as _, anyhow};
use std::{fs, io::Write as _, path::Path};
use verifier_core::{
    report::{self, JsonReport, Style},
    verdict::ClusterReport,
};

/// Exit status of a report.
pub fn exit(report: &ClusterReport) -> Exit {
    match report::exit_status(report) {
        0 => Exit::Verified,
        1 => Exit::Findings,
        _ => Exit::Unverified,
    }
}

/// The report as text of the wanted format.
///
/// # Errors
/// It cannot be written in that format: a fault of this program.
pub fn render(report: &ClusterReport, output: Output, color: bool) -> Result<String, Failure> {
    match output {
        Output::Text => Ok(report::text(report, if color { Style::Ansi } else { Style::Plain })),
        Output::Json => json(report),
        Output::Junit => junit::render(report).map_err(Failure::internal),
    }
}

/// The JSON report, one object.
fn json(report: &ClusterReport) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(&JsonReport::new(report))
        .context("cannot write the report as JSON")
        .map_err(Failure::internal)?;
    text.push('\n');
    Ok(text)
}

/// Writes a file as a whole: a reader sees the old one or the new one. A name that ends in `.gz` asks for compression.
///
/// # Errors
/// It cannot be written.
pub fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        let name = path.file_name().ok_or_else(|| anyhow!("it names no file"))?;
        let mut next = name.to_owned();
        next.push(format!(".{}.new", std::process::id()));
        let next = path.with_file_name(next);
        let mut file = fs::File::create(&next)?;
        if path.extension().is_some_and(|extension| extension == "gz") {
            file.write_all(&archive::compressed(text.as_bytes())?)?;
        } else {
            file.write_all(text.as_bytes())?;
        }
        file.sync_all()?;
        fs::rename(&next, path)?;
        Ok(())
    };
    write().map_err(|error: anyhow::Error| Failure::usage(error.context(format!("cannot write {}", path.display()))))
}

//! Golden snapshots: what the verifier saw of each fault on the real kernel, with the report that is right.
//!
//! `cargo xtask golden` plays the catalogue and keeps a snapshot only where the verdict on it was right by the catalogue's own
//! expectation: that is what anchors the files to a kernel. From then on they are judged again by tests that need no privileges.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use verifier::cli::Output;
use verifier::report::{render, snapshot::ClusterSnapshot};

/// What `NAME` becomes for a snapshot.
const SNAPSHOT: &str = "json.gz";
/// What `NAME` becomes for its report.
const REPORT: &str = "report.json";
/// The name of the fabric without a fault.
pub const HEALTHY: &str = "healthy";

/// A directory of golden files, being written.
#[derive(Clone, Debug)]
pub struct Golden {
    directory: PathBuf,
}

impl Golden {
    /// Below this directory, which must be there.
    ///
    /// # Errors
    /// It is no directory.
    pub fn new(directory: PathBuf) -> Result<Self> {
        ensure!(directory.is_dir(), "{} is no directory", directory.display());
        Ok(Self { directory })
    }

    /// Where `validate` may put its snapshot until it is known to be right.
    #[must_use]
    pub fn draft(&self) -> PathBuf {
        self.directory.join(format!("draft.{}.{SNAPSHOT}", std::process::id()))
    }

    /// Keeps the draft, whose verdict was right, under this name, with its report beside it.
    ///
    /// # Errors
    /// Judged again it does not give what `validate` said, or a file cannot be written.
    pub fn keep(&self, name: &str, said: &Value) -> Result<()> {
        let draft = self.draft();
        let report = replayed(&draft)?;
        let again: Value = serde_json::from_str(&report).context("reading the replayed report")?;
        ensure!(again == *said, "{name}: replaying its snapshot does not give what validate said");
        let kept = self.directory.join(format!("{name}.{SNAPSHOT}"));
        fs::rename(&draft, &kept).with_context(|| format!("writing {}", kept.display()))?;
        let path = self.directory.join(format!("{name}.{REPORT}"));
        fs::write(&path, report).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes a draft that was not kept.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn discard(&self) -> Result<()> {
        let draft = self.draft();
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", draft.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The JSON report of a snapshot, as `verifier replay` prints it.
fn replayed(snapshot: &Path) -> Result<String> {
    let failed = |failure: verifier::command::Failure| failure.error;
    let report = ClusterSnapshot::read(snapshot).map_err(failed)?.judge();
    render(&report, Output::Json, false).map_err(failed)
}

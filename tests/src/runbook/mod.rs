//! States of a cluster for each branch of the runbook, as the objects that the API would hold: a healthy cluster, and one change each.
//!
//! Everything is valid for a real API server, so that the same states can be put into one.

mod cases;
mod judge;
mod objects;

pub use cases::{CASES, Case};
pub use judge::{differences, shift};
pub use objects::{Cluster, NOW};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

/// Writes what kubectl would print of a cluster into a directory: one typed list of each kind, empty ones too.
///
/// # Errors
/// A file cannot be written.
pub fn write(cluster: &Cluster, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    for (version, kind, items) in cluster.lists() {
        let list = json!({ "apiVersion": version, "kind": format!("{kind}List"), "items": items });
        let name = format!("{}-{}.json", kind.to_lowercase(), version.replace('/', "-"));
        let text = serde_json::to_string(&list).context("encoding a list")?;
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What names an object.
#[must_use]
pub fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

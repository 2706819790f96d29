//! What `kubectl get … -o json` and `-o yaml` would print about a fabric, as a directory of files.
//!
//! The forms are mixed on purpose, because people's directories are: a `List` of nodes, a `List`
//! of several kinds (pods together with the IPAM blocks they live in, so that both change in one
//! rename), a multi-document YAML, a single object.

mod config;
mod ipam;
mod nodes;
mod pods;

use std::{
    fs,
    io::{ErrorKind, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::fabric::State;

/// A moment that all objects agree on: manifests of one fabric are the same bytes each time.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// The files and their contents.
pub fn render(state: &State) -> Result<Vec<(&'static str, String)>> {
    let mut workloads = pods::pods(state);
    workloads.extend(ipam::blocks(state));
    workloads.extend(ipam::affinities(state));
    Ok(vec![
        ("nodes.json", list(nodes::nodes(state))?),
        ("workloads.json", list(workloads)?),
        ("calico.yaml", documents(&config::objects(state))?),
        ("calico-node.yaml", documents(&[config::daemon_set(state)])?),
    ])
}

/// Writes all files, each with one rename.
pub fn write(state: &State, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for (name, text) in render(state)? {
        let path = dir.join(name);
        let unchanged = fs::read_to_string(&path).is_ok_and(|old| old == text);
        if !unchanged {
            write_atomically(&path, &text)?;
        }
    }
    Ok(())
}

/// Removes the files that [`write`] wrote, and the directory if nothing else is in it.
pub fn remove(dir: &Path) -> Result<()> {
    for name in ["nodes.json", "workloads.json", "calico.yaml", "calico-node.yaml"] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {}", path.display())),
        }
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", dir.display())),
    }
}

/// Puts `text` at `path` with a rename: a reader sees the old or the new file, never half of one.
pub fn write_atomically(path: &Path, text: &str) -> Result<()> {
    // A leading dot keeps readers of the directory from taking it for a manifest.
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no file name", path.display()))?;
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = fs::File::create(&temporary).with_context(|| format!("create {}", temporary.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("replace {}", path.display()))
}

fn list(items: Vec<Value>) -> Result<String> {
    let list = json!({
        "apiVersion": "v1",
        "items": items,
        "kind": "List",
        "metadata": { "resourceVersion": "" },
    });
    let mut text = serde_json::to_string_pretty(&list).context("encode a List")?;
    text.push('\n');
    Ok(text)
}

fn documents(objects: &[Value]) -> Result<String> {
    let mut text = String::new();
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            text.push_str("---\n");
        }
        text.push_str(&serde_yaml_ng::to_string(object).context("encode YAML")?);
    }
    Ok(text)
}

/// A stable UID for an object.
fn uid(kind: &str, name: &str) -> String {
    use sha1::{Digest, Sha1};
    let hex = crate::fabric::plan::hex(&Sha1::digest(format!("{kind}/{name}")));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

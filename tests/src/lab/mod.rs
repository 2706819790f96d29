//! A fabric with agents on it: what the programs `lab`, `demo` and `bench`, and the suites, have in common.
//!
//! * [`Files`]: where the manifests, the key and the logs of one fabric lie;
//! * [`program`]: the binary `verifier`, built beside this one, and what it says;
//! * [`agents`]: one agent process on each node;
//! * [`watch`]: the continuous verdict, as all agents together give it;
//! * [`report`]: a report, read as its schema promises it;
//! * [`Turn`]: one program at a time.

pub mod agents;
pub mod judge;
pub mod program;
pub mod report;
pub mod stage;
mod turn;
pub mod watch;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use stage::Stage;
pub use turn::Turn;

/// First part of the namespaces' names of the lab. What `demo --keep` leaves, `lab` can work on.
pub const LAB_PREFIX: &str = "dpv";

/// The files of one fabric, all below one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// Below `target/NAME`. Made if it is missing.
    ///
    /// # Errors
    /// The target directory cannot be told from this program's own path, or the directory cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let directory = program::target_directory()?.join(name);
        std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Of the lab with this prefix; the one that `cargo xtask lab` and `demo` share has the default.
    ///
    /// # Errors
    /// As [`Files::new`].
    pub fn of_lab(prefix: &str) -> Result<Self> {
        Self::new(&if prefix == LAB_PREFIX {
            "lab".to_owned()
        } else {
            format!("lab-{prefix}")
        })
    }

    /// All of it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What `kubectl get … -o json` would print.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.directory.join("manifests")
    }

    /// The key that the agents share.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.directory.join("key")
    }

    /// The host's file system of a node, if a test made one: its agent then reads the host account too.
    #[must_use]
    pub fn host_root(&self, node: &str) -> PathBuf {
        self.directory.join(format!("host-{node}"))
    }

    /// What the agent of a node logs.
    #[must_use]
    pub fn log(&self, node: &str) -> PathBuf {
        self.directory.join(format!("agent-{node}.log"))
    }

    /// The process id of the agent of a node.
    #[must_use]
    pub fn pid(&self, node: &str) -> PathBuf {
        self.directory.join(format!("agent-{node}.pid"))
    }

    /// Removes the key and what tells of running agents.
    pub(crate) fn remove_all_but_logs(&self) -> Result<()> {
        let entries = std::fs::read_dir(&self.directory).with_context(|| format!("listing {}", self.directory.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("listing {}", self.directory.display()))?.path();
            if path == self.key() || path.extension().is_some_and(|extension| extension == "pid") {
                std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Removes all of it, the logs too.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.directory).with_context(|| format!("removing {}", self.directory.display()))
    }
}

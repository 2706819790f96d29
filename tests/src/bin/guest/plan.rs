//! What is to be played, as `cargo xtask vm` (`xtask/src/vm/image.rs`) wrote it into the initramfs.

use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

const PATH: &str = "/dpv/plan.json";

/// The plan of one boot.
#[derive(Debug, Deserialize)]
pub(crate) struct Plan {
    /// The kernel's name in the list.
    pub(crate) kernel: String,
    /// The machine is off after this, whatever happens.
    pub(crate) seconds: u64,
    pub(crate) suites: Vec<Suite>,
    /// Checks of `verifier preflight` that must fail here.
    pub(crate) absent: Vec<String>,
}

/// One suite of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) seconds: u64,
    /// Only these of its cases; all if there is none.
    pub(crate) only: Vec<String>,
    /// How often a healthy fabric is validated.
    pub(crate) rounds: usize,
}

impl Plan {
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read(PATH).with_context(|| format!("reading {PATH}"))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {PATH}"))
    }

    /// The suite of this name.
    pub(crate) fn suite(&self, name: &str) -> Result<&Suite> {
        let found = self.suites.iter().find(|suite| suite.name == name);
        found.with_context(|| format!("the plan has no suite {name}"))
    }

    /// Whether this kernel must lack the feature.
    pub(crate) fn lacks(&self, feature: &str) -> bool {
        self.absent.iter().any(|absent| absent == feature)
    }
}

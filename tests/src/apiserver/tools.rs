//! The two programs of a control plane: where they are, or why there is no suite on a real API server.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::lab::program;

/// Set to `required`, a test that would be skipped for want of a tool fails. CI sets it.
pub const REQUIRED: &str = "VERIFIER_APISERVER";

/// Both programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Built by `cargo xtask apiserver` from Kubernetes' published modules.
    pub kube_apiserver: PathBuf,
    /// Of Debian's package `etcd-server`, or any other.
    pub etcd: PathBuf,
}

impl Tools {
    /// Finds both.
    ///
    /// # Errors
    /// One is missing, with how to get it.
    pub fn find() -> Result<Self> {
        let kube_apiserver = program::target_directory()?.join("apiserver").join("kube-apiserver");
        if !kube_apiserver.is_file() {
            bail!("no kube-apiserver: `cargo xtask apiserver` builds it, and needs Go 1.26 or newer");
        }
        let Some(etcd) = on_path("etcd") else {
            bail!("no etcd: install Debian's package etcd-server");
        };
        Ok(Self { kube_apiserver, etcd })
    }

    /// Finds both, or says in one line `skipped: WHY` that a test has to be left out.
    ///
    /// # Errors
    /// One is missing and the environment says that it must not be.
    pub fn find_or_skip() -> Result<Option<Self>> {
        match Self::find() {
            Ok(tools) => Ok(Some(tools)),
            Err(error) if std::env::var(REQUIRED).is_ok_and(|value| value == "required") => Err(error),
            Err(error) => {
                println!("skipped: {error:#}");
                Ok(None)
            }
        }
    }
}

/// A program of this name on `PATH`, or where Debian puts daemons.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

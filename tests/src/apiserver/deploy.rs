//! `deploy/` in the cluster, as the README says it: `kubectl apply -k`, server side. There is no kubelet and no controller manager, so what a
//! workload's pod would be given (account, arguments, key) is taken from the objects as the server has them, and run here.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use serde_json::{Value, json};

use super::{ApiServer, Said, apply::Applier, tools};
use crate::manifests::write_atomically;

/// Where everything of the verifier lives.
pub const NAMESPACE: &str = "dataplane-verifier";
/// The Secret with the key, and the key of its data.
pub const KEY: (&str, &str) = ("dataplane-verifier-key", "key");
/// What the DaemonSet and the others mount the key as.
const KEY_ARGUMENT: &str = "--key-file=";

/// `kubectl`, in the name of who may do everything.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// Finds it, or says in one line `skipped: WHY`.
    ///
    /// # Errors
    /// It is not there, and the environment says that it must be.
    pub fn find_or_skip(server: &ApiServer) -> Result<Option<Self>> {
        let Some(program) = tools::on_path("kubectl") else {
            let why = "no kubectl: install Debian's package kubernetes-client";
            if std::env::var(tools::REQUIRED).is_ok_and(|value| value == "required") {
                bail!(why);
            }
            println!("skipped: {why}");
            return Ok(None);
        };
        Ok(Some(Self {
            program,
            kubeconfig: server.admin_kubeconfig(),
            cache: server.directory().join("kubectl"),
        }))
    }

    /// What a call says.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn say(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache);
        // Loopback is reached directly, whatever the environment says of the world outside.
        command
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .env_remove("KUBECONFIG");
        let output = command.args(arguments).stdin(Stdio::null()).output().context("running kubectl")?;
        Ok(Said::of(&output))
    }

    /// Standard output of a call.
    ///
    /// # Errors
    /// It cannot be run, or fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let said = self.say(arguments)?;
        if said.status != Some(0) {
            bail!("kubectl {}: {}", arguments.join(" "), said.stderr.trim());
        }
        Ok(said.stdout)
    }

    /// Applies a directory of `deploy/`: `base`, `overlays/taint`.
    ///
    /// # Errors
    /// The server refuses something.
    pub fn apply(&self, directory: &str) -> Result<()> {
        let path = directory_of(directory);
        let path = path.to_str().context("a path that is no text")?;
        self.run(&["apply", "--server-side", "-k", path]).map(|_| ())
    }

    /// The same with a change of one's own: a kustomization over that of `deploy/`, as people have theirs.
    ///
    /// # Errors
    /// The server refuses something.
    pub fn apply_changed(&self, directory: &str, patches: &str) -> Result<()> {
        let own = self
            .cache
            .with_file_name(format!("kustomization-of-{}", directory.replace('/', "-")));
        std::fs::create_dir_all(&own).with_context(|| format!("making {}", own.display()))?;
        // A kustomization takes no absolute paths.
        let base = std::fs::canonicalize(directory_of(directory)).with_context(|| format!("following {directory}"))?;
        let up = "../".repeat(own.components().count() - 1);
        let base = format!("{up}{}", base.strip_prefix("/").context("no absolute path")?.display());
        let text = format!("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [{base}]\npatches:\n{patches}");
        std::fs::write(own.join("kustomization.yaml"), text).context("writing a kustomization")?;
        let own = own.to_str().context("a path that is no text")?;
        self.run(&["apply", "--server-side", "-k", own]).map(|_| ())
    }
}

/// A directory of `deploy/`.
#[must_use]
pub fn directory_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// A workload of the namespace, as the server has it: what its pods are run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its ServiceAccount.
    pub account: String,
    /// The program's arguments, without where the key is mounted: that is a file of the test's.
    pub arguments: Vec<String>,
}

impl Workload {
    /// Reads one.
    ///
    /// # Errors
    /// It is not there, or has no container.
    pub fn read(server: &ApiServer, kind: &str, name: &str) -> Result<Self> {
        let (version, template) = match kind {
            "Job" => ("batch/v1", "/spec/template/spec"),
            "CronJob" => ("batch/v1", "/spec/jobTemplate/spec/template/spec"),
            _ => ("apps/v1", "/spec/template/spec"),
        };
        let named = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name, "namespace": NAMESPACE } });
        let applier = Applier::new(server.admin().clone());
        let object = server.block_on(applier.get(&named))?;
        let spec = object.pointer(template).with_context(|| format!("{kind} {name} has no template"))?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let arguments = spec["containers"][0]["args"].as_array();
        let arguments = arguments.with_context(|| format!("{kind} {name} has no arguments"))?;
        let words = arguments.iter().filter_map(text);
        Ok(Self {
            account: text(&spec["serviceAccountName"]).with_context(|| format!("{kind} {name} has no account"))?,
            arguments: words.filter(|word| !word.starts_with(KEY_ARGUMENT)).collect(),
        })
    }

    /// Its arguments, with the node's name in place of the variable that the kubelet puts in.
    #[must_use]
    pub fn on(&self, node: &str) -> Vec<String> {
        self.arguments.iter().map(|word| word.replace("$(NODE_NAME)", node)).collect()
    }

    /// A kubeconfig for its account.
    ///
    /// # Errors
    /// There is no such account.
    pub fn kubeconfig(&self, server: &ApiServer) -> Result<PathBuf> {
        server.kubeconfig_of(NAMESPACE, &self.account, server.port())
    }
}

/// The key as the Secret has it.
///
/// # Errors
/// There is no such Secret.
pub fn key(server: &ApiServer) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(server.admin().clone(), NAMESPACE);
    let secret = server.block_on(secrets.get(KEY.0)).context("reading the key's Secret")?;
    let data = secret
        .data
        .and_then(|mut data| data.remove(KEY.1))
        .context("a Secret without the key")?;
    String::from_utf8(data.0).context("a key that is no text")
}

/// Brings the Secret to where a program reads it, as the kubelet does.
///
/// # Errors
/// There is no such Secret, or the file cannot be written.
pub fn mount_key(server: &ApiServer, to: &Path) -> Result<()> {
    let text = key(server)?;
    // The new file has the old one's mode only if it is given it before its name.
    let partial = to.with_extension("partial");
    write_atomically(&partial, &text)?;
    std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o400)).context("closing the key to others")?;
    std::fs::rename(&partial, to).with_context(|| format!("replacing {}", to.display()))
}

//! From the command line to what a command works with: files are read, namespaces opened, names checked. Whatever is wrong with the input
//! is found here, before anything is attached or sent.

use crate::{
    agent::keys::Keyring,
    cli::{IntentArgs, KubernetesArgs},
    command::Failure,
    intent::FileSource,
    kubernetes::{Access, KubeSource, NotNow, connect, kinds::Scope},
    programmed::netns::{Netns, NetnsError},
};
use anyhow::{Context as _, anyhow};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use verifier_core::{
    evidence::Evidence,
    intent::{Cluster, objects::Objects},
    names::NodeName,
};

/// Opens the namespace that was named, or takes the one this program runs in.
///
/// # Errors
/// It does not exist, is none, or may not be entered.
pub fn open_netns(path: Option<&Path>) -> Result<Arc<Netns>, Failure> {
    let opened = match path {
        Some(path) => Netns::open(path),
        None => Netns::current(),
    };
    opened.map(Arc::new).map_err(|error| match error {
        NetnsError::Permission { .. } => Failure::unverified(error),
        _ => Failure::usage(error),
    })
}

/// Reads the key file.
///
/// # Errors
/// It is missing, readable by others, or no key file.
pub fn read_keys(path: &Path) -> Result<Keyring, Failure> {
    Keyring::read(path).map_err(Failure::usage)
}

/// Where intent comes from.
#[derive(Clone)]
pub enum IntentSource {
    /// Manifests.
    Files(PathBuf),
    /// The cluster's API.
    Kubernetes(KubeSource),
}

/// How long the API server may take to answer once.
const API_PATIENCE: Duration = Duration::from_secs(20);

/// The source that the command line names. Must run inside a runtime.
///
/// # Errors
/// No manifests are named, and there is no way to the API server.
pub async fn intent_source(args: &IntentArgs, scope: Scope) -> Result<IntentSource, Failure> {
    match &args.intent {
        Some(path) => Ok(IntentSource::Files(path.clone())),
        None => {
            // An agent follows for ever and says at once how old what it knows is; who reads once wants the answer.
            let client = match scope {
                Scope::Node(_) => plain_client(&args.kubernetes).await?,
                Scope::Cluster => client(&args.kubernetes).await?,
            };
            Ok(IntentSource::Kubernetes(KubeSource::new(client, scope)))
        }
    }
}

/// A client of the API server for who asks once. Must run inside a runtime.
///
/// # Errors
/// There is no way to it.
pub async fn client(args: &KubernetesArgs) -> Result<kube::Client, Failure> {
    client_that(args, NotNow::AskAgain).await
}

/// A client of the API server for who has pauses and deadlines of his own. Must run inside a runtime.
///
/// # Errors
/// There is no way to it.
pub async fn plain_client(args: &KubernetesArgs) -> Result<kube::Client, Failure> {
    client_that(args, NotNow::IsAnAnswer).await
}

async fn client_that(args: &KubernetesArgs, not_now: NotNow) -> Result<kube::Client, Failure> {
    let access = Access {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
    };
    connect(&access, not_now).await.map_err(Failure::usage)
}

/// Reads intent once: all manifests, or the whole cluster from its API.
///
/// # Errors
/// It cannot be read, or nothing that was read can be trusted.
pub fn read_intent(args: &IntentArgs) -> Result<Cluster, Failure> {
    let read = async { load(&intent_source(args, Scope::Cluster).await?).await };
    runtime()?.block_on(read)
}

/// Reads intent once from its source.
///
/// # Errors
/// It cannot be read, or nothing that was read can be trusted.
pub async fn load(source: &IntentSource) -> Result<Cluster, Failure> {
    load_objects(source).await.map(Cluster::compile)
}

/// Reads the objects once from their source.
///
/// # Errors
/// They cannot be read, or nothing that was read can be trusted.
pub async fn load_objects(source: &IntentSource) -> Result<Objects, Failure> {
    match source {
        IntentSource::Files(path) => read_files(path),
        IntentSource::Kubernetes(source) => match source.clone().load(API_PATIENCE).await {
            Evidence::Complete { value } | Evidence::Partial { value, .. } => Ok(value),
            Evidence::Unavailable { gap } => Err(Failure::unverified(anyhow!(gap.why))),
        },
    }
}

/// Reads all manifests.
///
/// # Errors
/// They cannot be read, or nothing that they say can be trusted.
pub fn read_manifests(path: &Path) -> Result<Cluster, Failure> {
    read_files(path).map(Cluster::compile)
}

fn read_files(path: &Path) -> Result<Objects, Failure> {
    let loaded = FileSource::new(path).load().map_err(Failure::usage)?;
    match loaded.objects {
        Evidence::Complete { value } | Evidence::Partial { value, .. } => Ok(value),
        Evidence::Unavailable { gap } => Err(Failure::usage(anyhow!(gap.why))),
    }
}

/// A runtime for one command: nothing in it needs more than one thread.
///
/// # Errors
/// The system has no resources for it.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::internal)
}

/// A node that intent does not name.
pub fn unknown_node(name: &NodeName, known: &BTreeSet<NodeName>) -> Failure {
    let some: Vec<&str> = known.iter().take(5).map(NodeName::as_str).collect();
    let more = if known.len() > some.len() { ", …" } else { "" };
    Failure::usage(anyhow!(
        "there is no node {name:?} in intent, which names {}{more}: use a name that `kubectl get nodes` prints",
        some.join(", "),
        name = name.as_str()
    ))
}

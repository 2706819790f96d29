//! `verifier agent`: the daemon of one node.

use super::{Exit, Failure};
use crate::{
    agent::{
        results,
        run::{self, Ended, Start},
    },
    cli,
    config::{self, IntentSource},
    kubernetes::{
        kinds::Scope,
        results::{Results, Wanted},
    },
    supervisor::Signals,
};
use anyhow::{Context as _, anyhow};
use std::{net::SocketAddr, sync::Arc};
use verifier_core::names::NodeName;

/// Runs until a signal comes.
///
/// # Errors
/// The input is not usable, the agent cannot start, or a task did not stop in time.
pub fn run(args: &cli::Agent) -> Result<Exit, Failure> {
    share_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::internal)?;
    runtime.block_on(async {
        // Before anything is attached to the kernel, so that cleaning up always runs.
        let signals = Signals::register()
            .context("cannot listen for signals")
            .map_err(Failure::internal)?;
        let start = start(args).await?;
        match run::run(start, signals).await {
            Ok(()) => Ok(Exit::Verified),
            Err(Ended::NotStarted(error)) => Err(Failure::unverified(error)),
            Err(hung @ Ended::Hung(_)) => Err(Failure::internal(hung)),
        }
    })
}

async fn start(args: &cli::Agent) -> Result<Start, Failure> {
    let node = NodeName::from(args.node.as_str());
    let source = config::intent_source(&args.intent, Scope::Node(node.clone())).await?;
    let results = results(args, &source).await?;
    let cluster = config::load(&source).await?;
    let intent = match cluster.node_intent(&node) {
        Ok(intent) => intent,
        Err(_) => return Err(config::unknown_node(&node, &cluster.nodes().cloned().collect())),
    };
    let ip = intent.host_ip.ok_or_else(|| {
        Failure::usage(anyhow!(
            "intent has no address of {node}: its Node lacks the annotation projectcalico.org/IPv4Address"
        ))
    })?;
    let keyring = config::read_keys(&args.key_file)?;
    crate::preflight::essentials(!args.no_ebpf).map_err(|missing| Failure::unverified(anyhow!(missing)))?;
    let netns = config::open_netns(args.netns.as_deref())?;
    Ok(Start {
        node,
        netns: Arc::clone(&netns),
        address: SocketAddr::new(ip, args.listen_port),
        intent: source,
        key_file: args.key_file.clone(),
        keyring,
        probe_interval: args.probe_interval,
        drain_timeout: args.drain_timeout,
        host_root: args.host_root.clone(),
        ebpf: !args.no_ebpf,
        results,
    })
}

/// What is written into the cluster's API, and with which client: intent's, or one of its own where intent comes from files.
async fn results(args: &cli::Agent, source: &IntentSource) -> Result<Option<results::Options>, Failure> {
    let wanted = Wanted {
        object: args.results.write_results,
        condition: args.results.write_condition,
        events: args.results.write_events,
    };
    if !wanted.object && !wanted.condition && !wanted.events {
        return Ok(None);
    }
    let client = match source {
        IntentSource::Kubernetes(source) => source.client().clone(),
        IntentSource::Files(_) => config::plain_client(&args.intent.kubernetes).await?,
    };
    Ok(Some(results::Options {
        results: Results::new(client, wanted, "dataplane-verifier.io/agent", &args.results.instance),
        heartbeat: args.results.heartbeat,
        source: source.clone(),
    }))
}

/// Lets all threads take memory from two arenas. glibc would give nearly every thread one of its own, each keeping what a burst of work
/// once took: fifteen megabytes for ten threads of which hardly two ever work at once. Before any thread is started.
fn share_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers; it changes how later allocations are made, not what was allocated. Nothing depends on its success.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

//! `verifier controller`: judges the cluster, and writes what no agent can write of itself.

use super::{Exit, Failure};
use crate::{
    agent::client::Client,
    cli, config, controller,
    kubernetes::{
        KubeSource,
        kinds::Scope,
        lease,
        results::{Results, Wanted},
    },
    supervisor::Signals,
};
use anyhow::Context as _;

/// Runs until a signal comes.
///
/// # Errors
/// The input is not usable, the address is taken, or a task did not stop in time.
pub fn run(args: &cli::Controller) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::internal)?;
    runtime.block_on(async {
        let signals = Signals::register()
            .context("cannot listen for signals")
            .map_err(Failure::internal)?;
        let start = start(args).await?;
        tracing::info!(identity = args.identity, listen = %args.listen, "controller started");
        match controller::run(start, signals).await {
            Ok(()) => Ok(Exit::Verified),
            Err(hung) => Err(Failure::internal(hung)),
        }
    })
}

async fn start(args: &cli::Controller) -> Result<controller::Start, Failure> {
    let keyring = config::read_keys(&args.key_file)?;
    let netns = config::open_netns(args.netns.as_deref())?;
    let client = config::plain_client(&args.kubernetes).await?;
    let listener = std::net::TcpListener::bind(args.listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .with_context(|| format!("cannot listen on {}: choose another with --listen", args.listen))
        .map_err(Failure::usage)?;
    let wanted = Wanted {
        object: true,
        condition: true,
        events: true,
    };
    Ok(controller::Start {
        results: Results::new(client.clone(), wanted, "dataplane-verifier.io/controller", &args.identity),
        source: KubeSource::new(client, Scope::Cluster),
        agents: Client::new(keyring.signing(), netns),
        key_file: args.key_file.clone(),
        agent_port: args.agent_port,
        listener,
        interval: args.interval,
        heartbeat: args.heartbeat,
        lease: lease::Name {
            namespace: args.namespace.clone(),
            name: args.lease.clone(),
            identity: args.identity.clone(),
        },
        taint: args.taint,
        drain_timeout: args.drain_timeout,
    })
}

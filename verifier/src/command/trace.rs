//! `verifier trace`: one probe (or many), hop by hop, as every node saw it.

use super::{Exit, Failure, Stdout};
use crate::{
    agent::{
        api::{TRACE, TraceAnswer, TraceRequest},
        client::{AskError, Client},
        peers::agent_address,
    },
    cli::{self, PlainOutput, TraceTransport},
    config,
    report::trace::{self as rendered, Trace},
};
use anyhow::anyhow;
use std::net::{IpAddr, SocketAddr};
use verifier_core::{
    intent::{Cluster, NodeIntent},
    names::{NodeName, PodRef},
    probe::Transport,
};

/// One end, as the manifests know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    node: Option<NodeName>,
    pod: Option<PodRef>,
    ip: IpAddr,
}

/// Resolves both ends, asks the source's agent, prints.
///
/// # Errors
/// An end is unknown, or the agent of the source does not answer.
pub fn run(args: &cli::Trace, color: bool) -> Result<Exit, Failure> {
    let cluster = config::read_intent(&args.intent)?;
    let from = end(&cluster, &args.src)?;
    let to = end(&cluster, &args.dst)?;
    let Some(node) = from.node.clone() else {
        return Err(Failure::usage(anyhow!(
            "{} belongs to no pod or node of the manifests, so nobody can send from it: name a pod or a node",
            args.src
        )));
    };
    let intent = cluster.node_intent(&node).map_err(Failure::usage)?;
    let request = TraceRequest {
        from: from.pod.clone(),
        to: to.ip,
        transport: match args.transport {
            TraceTransport::Udp => Transport::Udp,
            TraceTransport::Icmp => Transport::Icmp,
            TraceTransport::Tcp => Transport::Tcp,
        },
        length_bytes: args.size,
        count: args.count,
    };
    let keyring = config::read_keys(&args.peers.key_file)?;
    let netns = config::open_netns(args.peers.netns.as_deref())?;
    let address = address_of(&intent, args.peers.agent_port)?;
    let client = Client::new(keyring.signing(), netns);
    let asked = client.post::<TraceAnswer>(address, TRACE, &request, args.timeout);
    let answer = config::runtime()?.block_on(asked).map_err(|error| refused(&node, error))?.value;
    let trace = Trace::new(&intent, &answer);
    Stdout.write(&match args.output {
        PlainOutput::Text => rendered::text(&trace, color),
        PlainOutput::Json => rendered::json(&trace).map_err(Failure::internal)?,
    })?;
    Ok(trace.exit())
}

fn refused(node: &NodeName, error: AskError) -> Failure {
    let wrong_use = matches!(error, AskError::Refused { status: 422, .. });
    let error = anyhow::Error::new(error).context(format!("no trace from {node}"));
    if wrong_use {
        Failure::usage(error)
    } else {
        Failure::unverified(error)
    }
}

fn address_of(intent: &NodeIntent, port: u16) -> Result<SocketAddr, Failure> {
    let ip = intent.host_ip.ok_or_else(|| {
        Failure::usage(anyhow!(
            "the manifests have no address of {} (annotation projectcalico.org/IPv4Address), so its agent cannot be asked",
            intent.node
        ))
    })?;
    Ok(agent_address(ip, port))
}

/// A pod (`NAMESPACE/NAME`, or a name that only one pod has), a node, or an address.
fn end(cluster: &Cluster, text: &str) -> Result<End, Failure> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let pods = cluster.find_pods(|_, addresses| addresses.contains(&ip));
        return Ok(match pods.into_iter().next() {
            Some(found) => End {
                node: Some(found.node),
                pod: Some(found.pod),
                ip,
            },
            None => End {
                node: cluster.node_of_address(ip).cloned(),
                pod: None,
                ip,
            },
        });
    }
    let found = match text.parse::<PodRef>() {
        Ok(wanted) => cluster.find_pods(|pod, _| *pod == wanted),
        Err(_) => cluster.find_pods(|pod, _| pod.name == text),
    };
    match found.as_slice() {
        [one] => {
            let ip = one.addresses.iter().find(|ip| ip.is_ipv4()).or(one.addresses.first());
            let ip = *ip.ok_or_else(|| Failure::usage(anyhow!("{} has no address yet", one.pod)))?;
            Ok(End {
                node: Some(one.node.clone()),
                pod: Some(one.pod.clone()),
                ip,
            })
        }
        [] => host(cluster, text),
        several => {
            let names: Vec<String> = several.iter().take(4).map(|found| found.pod.to_string()).collect();
            Err(Failure::usage(anyhow!(
                "{text} is the name of several pods ({}): write NAMESPACE/NAME",
                names.join(", ")
            )))
        }
    }
}

/// The host of a node: its tunnel address, which is what its own packets to remote pods carry.
fn host(cluster: &Cluster, text: &str) -> Result<End, Failure> {
    let node = NodeName::from(text);
    let unknown = || {
        Failure::usage(anyhow!(
            "{text} is no pod with a network of its own, no node and no address in the manifests: write NAMESPACE/NAME as `kubectl get pods -A` prints it"
        ))
    };
    let intent = cluster.node_intent(&node).map_err(|_| unknown())?;
    let ip = intent.tunnels.iter().find_map(|tunnel| tunnel.address).or(intent.host_ip);
    Ok(End {
        node: Some(node),
        pod: None,
        ip: ip.ok_or_else(unknown)?,
    })
}

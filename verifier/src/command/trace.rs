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
    let v6 = family(args)?;
    let from = end(&cluster, &args.src, v6)?;
    let to = end(&cluster, &args.dst, v6)?;
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

/// Whether to send IPv6: an end that is an address says so by itself.
fn family(args: &cli::Trace) -> Result<bool, Failure> {
    let mut asked = args.ipv6.then_some(("--ipv6", true));
    for end in [&args.src, &args.dst] {
        let Ok(ip) = end.parse::<IpAddr>() else { continue };
        match asked {
            Some((other, v6)) if v6 != ip.is_ipv6() => {
                return Err(Failure::usage(anyhow!(
                    "{end} is not of the family of {other}: one packet is of one family"
                )));
            }
            _ => asked = Some((end, ip.is_ipv6())),
        }
    }
    Ok(asked.is_some_and(|(_, v6)| v6))
}

/// A pod (`NAMESPACE/NAME`, or a name that only one pod has), a node, or an address. Of a pod or node without an address of the wished
/// family the other is taken where IPv4 was wished, which is what nobody asks for in so many words.
fn end(cluster: &Cluster, text: &str, v6: bool) -> Result<End, Failure> {
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
            let wished = one.addresses.iter().find(|ip| ip.is_ipv6() == v6);
            let ip = wished.or(one.addresses.first().filter(|_| !v6));
            let what = if v6 { "IPv6 address" } else { "address yet" };
            let ip = *ip.ok_or_else(|| Failure::usage(anyhow!("{} has no {what}", one.pod)))?;
            Ok(End {
                node: Some(one.node.clone()),
                pod: Some(one.pod.clone()),
                ip,
            })
        }
        [] => host(cluster, text, v6),
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
fn host(cluster: &Cluster, text: &str, v6: bool) -> Result<End, Failure> {
    let node = NodeName::from(text);
    let unknown = || {
        Failure::usage(anyhow!(
            "{text} is no pod with a network of its own, no node and no address in the manifests: write NAMESPACE/NAME as `kubectl get pods -A` prints it"
        ))
    };
    let intent = cluster.node_intent(&node).map_err(|_| unknown())?;
    let mut tunnels = intent.tunnels.iter().filter_map(|tunnel| tunnel.address);
    let wished = tunnels.find(|ip| ip.is_ipv6() == v6).or_else(|| intent.host_ip_of(v6));
    let ip = wished.or(intent.host_ip.filter(|_| !v6));
    let ip = ip.ok_or_else(|| Failure::usage(anyhow!("{text} has no address of that family in the manifests")))?;
    Ok(End {
        node: Some(node),
        pod: None,
        ip,
    })
}

//! Sending a few probes and gathering every hop that any node saw of them.

use super::{
    api::{Declined, TraceAnswer, TraceRequest},
    probing::send,
    shared::{Shared, first_sent_ns, ids_of},
};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};
use verifier_core::{
    evidence::Evidence,
    intent::NodeIntent,
    names::NodeName,
    observed::{Drop, Hop},
    probe::{Endpoint, IdSource, PairKind, Probe, Size, Transport, config},
    verdict::RemoteEvidence,
};

/// Without an answer after this long a traced probe is lost.
const DEADLINE: Duration = Duration::from_millis(1000);
/// How long a peer may take to tell what it saw.
const EVIDENCE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a round that is under way is waited for.
const BUSY_PATIENCE: Duration = Duration::from_secs(15);
/// Probes a second: hops of one probe should not run into those of the next.
const PER_SECOND: u32 = 200;

/// Traces.
///
/// # Errors
/// The agent is not ready or busy, or the source is not on this node.
pub async fn run(shared: &Shared, request: &TraceRequest) -> Result<TraceAnswer, Declined> {
    let Some(intent) = shared.intent_now() else {
        return Err(Declined::NotReady {
            why: "there is no intent yet".to_owned(),
        });
    };
    let Ok(mut ids) = tokio::time::timeout(BUSY_PATIENCE, shared.ids.lock()).await else {
        return Err(Declined::Busy);
    };
    let probes = plan(shared, &intent, request, &mut ids)?;
    let mut options = shared.run_options(DEADLINE, Duration::ZERO);
    options.per_second = PER_SECOND;
    let current = shared.account.current();
    let sent = send(probes, &shared.settings.netns, &current.state, &shared.keys(), &options).await;
    drop(ids);
    shared.eyes.settle().await;
    let ids = ids_of(&sent.results);
    let everybody = intent.peers.keys().cloned().collect();
    let mut evidence = shared.peers.evidence(&intent, &everybody, &ids, EVIDENCE_PATIENCE).await;
    let own = shared
        .eyes
        .remote_evidence(&shared.window(), &ids, first_sent_ns(&sent.results), shared.taps_gap());
    evidence.insert(shared.settings.node.clone(), Evidence::complete(own));
    let mut answer = TraceAnswer {
        probes: sent.results,
        hops: Vec::new(),
        drops: Vec::new(),
        gaps: BTreeMap::new(),
    };
    for (node, evidence) in evidence {
        take(&mut answer, node, evidence);
    }
    Ok(answer)
}

fn take(answer: &mut TraceAnswer, node: NodeName, evidence: Evidence<RemoteEvidence>) {
    let mut gaps: Vec<String> = evidence.gaps().iter().map(|gap| gap.why.clone()).collect();
    if let Evidence::Complete { value } | Evidence::Partial { value, .. } = evidence {
        gaps.extend(value.hops.gaps().iter().chain(value.drops.gaps()).map(|gap| gap.why.clone()));
        let hops: &[Hop] = value.hops.seen().map_or(&[], Vec::as_slice);
        let drops: &[Drop] = value.drops.seen().map_or(&[], Vec::as_slice);
        answer.hops.extend(hops.iter().cloned());
        answer.drops.extend(drops.iter().cloned());
    }
    gaps.sort();
    gaps.dedup();
    if !gaps.is_empty() {
        answer.gaps.insert(node, gaps.join("; "));
    }
}

fn plan(shared: &Shared, intent: &NodeIntent, request: &TraceRequest, ids: &mut IdSource) -> Result<Vec<Probe>, Declined> {
    let to = destination(intent, request.to);
    let from = source(intent, request, &to)?;
    let pair = match (&from.pod, to.node == intent.node) {
        (Some(_), true) => PairKind::PodToLocalPod,
        (Some(_), false) => PairKind::PodToRemotePod,
        (None, true) => PairKind::HostToLocalPod,
        (None, false) => PairKind::HostToRemotePod,
    };
    let ports = &shared.settings.probes;
    let smallest = config::smallest_bytes(request.transport, to.ip);
    let length_bytes = request.length_bytes.unwrap_or(smallest).max(smallest);
    let probe = |seq| Probe {
        id: ids.next_id(),
        seq,
        from: from.clone(),
        to: to.clone(),
        pair,
        transport: request.transport,
        size: request.length_bytes.map_or(Size::Small, Size::Bytes),
        src_port: match request.transport {
            Transport::Udp => ports.udp_sources.pick(u64::from(seq)),
            Transport::Icmp => ports.icmp_identifier(from.pod.is_none(), to.ip),
            Transport::Tcp => ports.tcp_sources.pick(ids.next_tcp_turn()),
        },
        dst_port: match request.transport {
            Transport::Udp => ports.udp_port,
            Transport::Icmp => 0,
            Transport::Tcp => ports.tcp_port,
        },
        length_bytes,
    };
    Ok((0..request.count.clamp(1, 1000)).map(probe).collect())
}

/// Whom an address belongs to. One that intent does not know is taken for this node's own business.
fn destination(intent: &NodeIntent, ip: IpAddr) -> Endpoint {
    let local = intent.workloads.values().find(|workload| workload.addresses.contains(&ip));
    if let Some(workload) = local {
        return Endpoint {
            node: intent.node.clone(),
            pod: Some(workload.pod.clone()),
            ip,
        };
    }
    for (node, peer) in &intent.peers {
        let pod = peer.pods.iter().find(|pod| pod.addresses().any(|own| own == ip));
        let tunnel = [peer.tunnel_ip, peer.tunnel_ip6].contains(&Some(ip));
        let owned = tunnel || peer.prefixes.iter().any(|(prefix, _)| prefix.contains(&ip));
        if pod.is_some() || owned {
            return Endpoint {
                node: node.clone(),
                pod: pod.map(|pod| pod.pod.clone()),
                ip,
            };
        }
    }
    Endpoint {
        node: intent.node.clone(),
        pod: None,
        ip,
    }
}

fn source(intent: &NodeIntent, request: &TraceRequest, to: &Endpoint) -> Result<Endpoint, Declined> {
    let unfit = |why: String| Declined::Unfit { why };
    let (pod, ip) = match &request.from {
        Some(pod) => {
            let workload = intent
                .workloads
                .get(pod)
                .ok_or_else(|| unfit(format!("{pod} is not a pod of {}", intent.node)))?;
            let ip = workload.addresses.iter().find(|ip| ip.is_ipv4() == to.ip.is_ipv4());
            (
                Some(pod.clone()),
                ip.copied().ok_or_else(|| unfit(format!("{pod} has no address of that family")))?,
            )
        }
        None => {
            let v6 = to.ip.is_ipv6();
            let mut tunnels = intent.tunnels.iter().filter_map(|tunnel| tunnel.address);
            let tunnel = tunnels.find(|ip| ip.is_ipv6() == v6).filter(|_| to.node != intent.node);
            let ip = tunnel.or_else(|| intent.host_ip_of(v6));
            (
                None,
                ip.ok_or_else(|| unfit(format!("intent has no address of {} of that family", intent.node)))?,
            )
        }
    };
    Ok(Endpoint {
        node: intent.node.clone(),
        pod,
        ip,
    })
}

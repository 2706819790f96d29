//! What an agent costs in a cluster of 1,000 nodes with 30 pods each, and what it asks of the API server: a real one, with real objects.
//!
//! The node is real too, in a namespace of its own: tunnel, 999 routes, neighbours and FDB entries, 30 pods. The other 999 exist in the API
//! only, so its probes go nowhere; that is no part of the figures, except that the report in memory is the largest that there can be.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use verifier_tests::apiserver::{
    ApiServer,
    apply::Applier,
    relay::Relay,
    synthetic::{self, Size},
    tools::Tools,
};
use verifier_tests::fabric::{FabricSpec, Node, Phase, Pod, node, plan};
use verifier_tests::lab::agents::{Agent, Intent};
use verifier_tests::lab::{Files, Stage, program};
use verifier_tests::netns::{self, Netns};
use verifier_tests::nl::Rtnl;

use crate::PREFIX;
use crate::cost::rss_mib;
use crate::row::{Figure, Row, median};

const SIZE: Size = Size {
    nodes: 1_000,
    pods_per_node: 30,
};
/// The node whose agent is measured.
const OWN: u32 = 500;
/// How long the agent is watched at rest.
const WATCH: Duration = Duration::from_secs(20);
/// How long the last message of a burst of changes may take.
const SETTLE: Duration = Duration::from_secs(3);
/// How many objects change while bytes are counted.
const CHANGES: u32 = 200;
/// What `deploy/base` requests.
const RSS_AIM_MIB: f64 = 64.0;

/// What an agent reads, and no more.
const ROLES: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: bench-reader }
rules:
- { apiGroups: [\"\"], resources: [nodes, pods, configmaps], verbs: [list, watch] }
- { apiGroups: [apps], resources: [daemonsets], verbs: [list, watch] }
- { apiGroups: [crd.projectcalico.org], resources: [\"*\"], verbs: [list, watch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: bench-reader }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bench-reader }
subjects: [ { kind: ServiceAccount, namespace: default, name: reader } ]
";

/// The rows.
pub(crate) fn rows(stage: &mut Stage) -> Result<Vec<Row>> {
    let small = stage
        .agents()
        .iter()
        .map(|agent| rss_mib(agent.pid()))
        .collect::<Result<Vec<_>>>()?;
    let server = ApiServer::start(Tools::find()?)?;
    fill(&server)?;
    let relay = Relay::start(server.port())?;
    let files = Files::new("bench-kubernetes")?;
    program::make_key(&files.key())?;
    let intent = Intent::Cluster {
        kubeconfig: server.kubeconfig_of("default", "reader", relay.port())?,
        arguments: Vec::new(),
    };
    let measured = raise_node().and_then(|node| {
        let began = Instant::now();
        let mut agent = Agent::start(&files, &intent, &node.netns, &node.name, node.host_ip)?;
        let rows = measure(&server, &relay, &mut agent, &files, began, &small);
        let stopped = agent.stop();
        rows.and_then(|rows| stopped.map(|()| rows))
    });
    netns::delete_all(&format!("{PREFIX}-pod-large"))?;
    netns::delete_all(&format!("{PREFIX}-node-large"))?;
    files.remove()?;
    measured
}

fn measure(server: &ApiServer, relay: &Relay, agent: &mut Agent, files: &Files, began: Instant, small: &[f64]) -> Result<Vec<Row>> {
    agent.wait_ready(files)?;
    let ready_seconds = began.elapsed().as_secs_f64();
    let first_mib = mib(total(relay));
    let before = total(relay);
    sleep(WATCH);
    let rest_kib_per_minute = kib(total(relay) - before) * 60.0 / WATCH.as_secs_f64();
    let rss = rss_mib(agent.pid())?;
    let node_kib = per_change(server, relay, &|n| synthetic::node(n, SIZE).swap_remove(0))?;
    let pod_kib = per_change(server, relay, &|n| synthetic::pod(n, 7))?;
    let row = |name: &str, unit, reference, aim, value, against: Option<f64>, met| Row {
        name: format!("1,000 nodes x 30 pods, {name}"),
        unit,
        reference,
        aim,
        figure: Figure::Measured { value, against, met },
        trials: vec![value],
    };
    Ok(vec![
        row(
            "agent, resident memory",
            "MiB",
            "3 nodes x 2 pods",
            "<= 64 MiB",
            rss,
            Some(median(small)),
            rss <= RSS_AIM_MIB,
        ),
        row("agent, until it is ready", "s", "", "shown", ready_seconds, None, true),
        row("API bytes until the agent is ready", "MiB", "", "shown", first_mib, None, true),
        row("API bytes at rest", "KiB/min", "", "shown", rest_kib_per_minute, None, true),
        row("API bytes per change of a Node", "KiB", "", "shown", node_kib, None, true),
        row(
            "API bytes per change of a pod elsewhere",
            "KiB",
            "a Node's",
            "<= 0.1 of a Node's",
            pod_kib,
            Some(node_kib),
            pod_kib <= node_kib / 10.0,
        ),
    ])
}

/// KiB that pass for each of some objects of other nodes that get another annotation.
fn per_change(server: &ApiServer, relay: &Relay, object: &dyn Fn(u32) -> serde_json::Value) -> Result<f64> {
    let applier = Applier::new(server.admin().clone());
    let before = total(relay);
    for n in 0..CHANGES {
        let mut changed = object(n);
        changed["metadata"]["annotations"]["example.org/changed"] = "1".into();
        if let Some(fields) = changed.as_object_mut() {
            fields.remove("status");
        }
        server.block_on(applier.apply(&changed))?;
    }
    sleep(SETTLE);
    Ok(kib(total(relay) - before) / f64::from(CHANGES))
}

/// All objects. Of pods that no agent but their own reads the status is not written: it would cost a minute and change nothing.
fn fill(server: &ApiServer) -> Result<()> {
    let applier = Applier::new(server.admin().clone());
    server.block_on(async {
        applier.namespace("default").await?;
        applier.account("default", "reader").await?;
        applier.text(ROLES).await?;
        applier.serve(include_str!("../../../data/crds/crd.projectcalico.org.yaml")).await?;
        applier.create_all(synthetic::all_but_pods(SIZE), |_| true).await?;
        let own = synthetic::node_name(OWN);
        let is_read = |pod: &serde_json::Value| synthetic::is_canary(pod) || pod["spec"]["nodeName"] == own.as_str();
        applier.create_all(synthetic::pods(SIZE), is_read).await
    })
}

/// The node that is real.
fn raise_node() -> Result<Node> {
    let spec = FabricSpec {
        prefix: PREFIX.to_owned(),
        calico_version: "v3.31.7".to_owned(),
        ..FabricSpec::default()
    };
    let nodes: Vec<Node> = (0..SIZE.nodes).map(planned).collect();
    let own = nodes.get(OWN as usize).context("no such node")?.clone();
    let netns = Netns::create(&own.netns)?;
    netns.run(|| {
        node::program_sysctls()?;
        let mut nl = Rtnl::open()?;
        nl.set_up("lo", true)?;
        nl.add_veth(
            ("wire", None),
            (plan::UNDERLAY_DEVICE, Some(own.underlay_mac)),
            None,
            spec.underlay_mtu_bytes,
        )?;
        nl.add_address(plan::UNDERLAY_DEVICE, Ipv4Net::new(own.host_ip, 12)?)?;
        nl.set_up("wire", true)?;
        nl.set_up(plan::UNDERLAY_DEVICE, true)?;
        node::program_tunnel(&spec, &own, &nodes)
    })?;
    for i in 0..SIZE.pods_per_node {
        let pod = planned_pod(i);
        Netns::create(&pod.netns)?;
        node::program_pod(&spec, &netns, &pod)?;
    }
    Ok(own)
}

fn planned(n: u32) -> Node {
    let name = synthetic::node_name(n);
    let host_ip = synthetic::host(n);
    let [_, b, c, d] = host_ip.octets();
    Node {
        index: n as usize,
        letter: 'x',
        subnet: 0,
        netns: format!("{PREFIX}-node-large"),
        switch_port: String::new(),
        underlay_mac: [0x02, 0x00, 172, b, c, d],
        host_ip,
        tunnel_ip: synthetic::address(n, 0),
        vtep_mac: plan::vtep_mac(&name),
        blocks: vec![synthetic::block(n)],
        v6: None,
        name,
    }
}

fn planned_pod(i: u32) -> Pod {
    let name = synthetic::pod_name(OWN, i);
    Pod {
        namespace: "default".to_owned(),
        node: OWN as usize,
        number: i as usize,
        netns: format!("{PREFIX}-pod-large-{i}"),
        ip: synthetic::address(OWN, i + 1),
        ip6: None,
        host_device: plan::host_device("default", &name),
        container_id: String::new(),
        phase: Phase::Running,
        incarnation: 0,
        name,
    }
}

fn total(relay: &Relay) -> u64 {
    let (asked, answered) = relay.bytes();
    asked + answered
}

fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

fn mib(bytes: u64) -> f64 {
    kib(bytes) / 1024.0
}

//! The verifier against a real API server: what it reads of a cluster, what it writes into one, and with which permissions.
//!
//! Needs kube-apiserver (`cargo xtask apiserver` builds it) and etcd; without them every test says that it was skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod bad_input;
mod deployed;
mod installed;
mod outage;
mod recovery;
mod recreation;
mod scale;
mod source;
mod triage;

use std::{fs, path::Path, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _};
use kube::Client;
use serde_json::{Value, json};
use verifier::{intent::files, kubernetes::KubeSource, kubernetes::kinds::Scope};
use verifier_core::{
    evidence::Evidence,
    intent::{
        Cluster, NodeIntent,
        objects::{Object, Objects, Pod},
    },
    names::{NodeName, UnixNs},
};
use verifier_tests::{
    apiserver::{ApiServer, apply::Applier, tools::Tools},
    fabric::{FabricSpec, State},
};

/// Longer than any pause between two attempts of the source.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Calico's definitions as it stores.
pub(crate) const STORED: &str = include_str!("../../data/crds/crd.projectcalico.org.yaml");
/// The same as its API names them.
pub(crate) const AGGREGATED: &str = include_str!("../../data/crds/projectcalico.org.yaml");

/// A server; none if the test has to be skipped, which it says.
pub(crate) fn server() -> Option<ApiServer> {
    Tools::find_or_skip().unwrap().map(|tools| ApiServer::start(tools).unwrap())
}

/// Applies definitions and waits until they are served.
pub(crate) fn serve(server: &ApiServer, definitions: &str) {
    server.block_on(Applier::new(server.admin().clone()).serve(definitions)).unwrap();
}

/// Whether something becomes true in time.
pub(crate) fn eventually(within: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let began = std::time::Instant::now();
    loop {
        if is_true() {
            return true;
        }
        if began.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A fabric that stands nowhere: its plan is enough to write its manifests.
pub(crate) fn planned(spec: FabricSpec) -> State {
    let nodes = spec.node_plans().unwrap();
    let pods = spec.pod_plans(&nodes);
    State {
        spec,
        nodes,
        pods,
        pods_made: 0,
        overrides: Default::default(),
        manifests: None,
        undo: None,
    }
}

/// What files of these manifests say.
pub(crate) fn from_files(directory: &Path, objects: &[Value]) -> Objects {
    fs::create_dir_all(directory).unwrap();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    fs::write(directory.join("all.json"), list.to_string()).unwrap();
    let loaded = files::load(directory, UnixNs(1)).unwrap();
    fs::remove_dir_all(directory).unwrap();
    assert!(loaded.objects.is_complete(), "{:?}", loaded.objects.gaps());
    loaded.objects.all().unwrap().clone()
}

/// What the API says once.
pub(crate) fn from_api(server: &ApiServer, client: &Client, scope: Scope) -> Evidence<Objects> {
    server.block_on(KubeSource::new(client.clone(), scope).load(PATIENCE))
}

/// Intent of every node, without what tells only when and how often it was read.
pub(crate) fn intents(objects: Objects) -> Vec<NodeIntent> {
    let cluster = Cluster::compile(objects);
    let nodes: Vec<NodeName> = cluster.nodes().cloned().collect();
    nodes.iter().map(|node| intent(&cluster, node)).collect()
}

/// Intent of one node, as [`intents`].
pub(crate) fn intent(cluster: &Cluster, node: &NodeName) -> NodeIntent {
    let mut intent = NodeIntent {
        generation: 0,
        read_at: UnixNs(0),
        ..cluster.node_intent(node).unwrap()
    };
    // When a pod was created, and as which object, is the API server's to say.
    for workload in intent.workloads.values_mut() {
        (workload.created, workload.uid) = (None, 0);
    }
    for pod in intent.peers.values_mut().flat_map(|peer| &mut peer.pods) {
        pod.uid = 0;
    }
    intent
}

/// In what two intents differ, field by field; nothing if they are the same.
pub(crate) fn differences(is: &NodeIntent, should_be: &NodeIntent) -> Vec<String> {
    let fields = |intent: &NodeIntent| serde_json::to_value(intent).unwrap();
    let (is, should_be) = (fields(is), fields(should_be));
    let short = |value: &Value| value.to_string().chars().take(400).collect::<String>();
    let names = should_be.as_object().unwrap().keys();
    let differ = names.filter(|name| is[name.as_str()] != should_be[name.as_str()]);
    differ
        .map(|name| {
            format!(
                "{name} is {} and should be {}",
                short(&is[name.as_str()]),
                short(&should_be[name.as_str()])
            )
        })
        .collect()
}

/// The same of every node.
pub(crate) fn all_differences(is: &[NodeIntent], should_be: &[NodeIntent]) -> Vec<String> {
    assert_eq!(is.len(), should_be.len());
    is.iter()
        .zip(should_be)
        .flat_map(|(is, should_be)| differences(is, should_be))
        .collect()
}

/// A source that is followed.
pub(crate) struct Followed<'s> {
    server: &'s tokio::runtime::Handle,
    objects: Pin<Box<dyn Stream<Item = Evidence<Objects>> + Send>>,
    last: Option<Evidence<Objects>>,
}

impl<'s> Followed<'s> {
    pub(crate) fn new(server: &'s tokio::runtime::Handle, source: KubeSource) -> Self {
        Self {
            server,
            objects: source.watch().boxed(),
            last: None,
        }
    }

    /// Waits for evidence of which something holds, and returns it.
    pub(crate) fn wait_for(&mut self, what: &str, mut holds: impl FnMut(&Evidence<Objects>) -> bool) -> Evidence<Objects> {
        let began = std::time::Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let next = self
                .server
                .block_on(async { tokio::time::timeout(left, self.objects.next()).await });
            let Ok(next) = next else {
                panic!(
                    "{what}: not within {PATIENCE:?}; last: {:?}",
                    self.last.as_ref().map(Evidence::gaps)
                );
            };
            let next = next.expect("the source never ends");
            if holds(&next) {
                return next;
            }
            self.last = Some(next);
        }
    }
}

/// The pods of some objects.
pub(crate) fn pods(objects: &Objects) -> impl Iterator<Item = &Pod> {
    objects.iter().filter_map(|object| match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    })
}

/// All gaps in one text.
pub(crate) fn gaps(evidence: &Evidence<Objects>) -> String {
    let all: Vec<&str> = evidence.gaps().iter().map(|gap| gap.why.as_str()).collect();
    all.join("\n")
}

//! A fabric's manifests in the cluster: what its kubelets, Calico and the CNI plugin would have written, kept as it changes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    ApiServer,
    apply::{Applier, documents},
    synthetic,
};
use crate::{
    fabric::{Pod, State},
    manifests,
};

/// Where the fabric's pods and calico-node live.
const NAMESPACES: [&str; 2] = ["default", "kube-system"];

/// Brings the cluster up to what a fabric is. The CRDs must be there.
pub struct Mirror {
    applier: Applier,
    known: BTreeMap<String, Value>,
    with_canaries: bool,
}

impl Mirror {
    /// Nothing is in the cluster yet.
    ///
    /// # Errors
    /// The namespaces cannot be made.
    pub fn new(server: &ApiServer) -> Result<Self> {
        let applier = Applier::new(server.admin().clone());
        for namespace in NAMESPACES {
            server.block_on(applier.namespace(namespace))?;
        }
        Ok(Self {
            applier,
            known: BTreeMap::new(),
            with_canaries: false,
        })
    }

    /// The first pod of each node is a canary from now on: the one that other nodes' agents know of.
    #[must_use]
    pub fn with_canaries(mut self) -> Self {
        self.with_canaries = true;
        self
    }

    /// Writes what differs from last time. A pod that is being deleted is deleted with its grace period, as `kubectl delete` does, and
    /// stays until its time is over; one that is gone is removed at once, as its kubelet does.
    ///
    /// # Errors
    /// The server refuses something.
    pub fn sync(&mut self, server: &ApiServer, state: &State) -> Result<usize> {
        let mut wanted = BTreeMap::new();
        for (_, text) in manifests::render(state)? {
            for mut object in documents(&text)? {
                if self.with_canaries && is_first_of_its_node(&object, state) {
                    object["metadata"]["labels"][synthetic::CANARY] = "true".into();
                }
                wanted.insert(key(&object), object);
            }
        }
        let mut written = 0;
        for (key, object) in &wanted {
            if self.known.get(key) == Some(object) {
                continue;
            }
            written += 1;
            let is_going = object.pointer("/metadata/deletionTimestamp").is_some();
            let done = if is_going {
                server.block_on(self.applier.delete(object, false))
            } else {
                server.block_on(self.applier.apply(object))
            };
            done.with_context(|| format!("mirroring {key}"))?;
        }
        for (key, object) in self.known.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            written += 1;
            server
                .block_on(self.applier.delete(object, true))
                .with_context(|| format!("removing {key}"))?;
        }
        self.known = wanted;
        Ok(written)
    }
}

fn is_first_of_its_node(object: &Value, state: &State) -> bool {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    let first = |pod: &&Pod| pod.number == 1 && Some(pod.name.as_str()) == name;
    object["kind"] == "Pod" && state.pods.iter().any(|pod| first(&pod))
}

fn key(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

//! Objects from which the dataplane follows, as far as it matters that they changed; BGP peers, and where their passwords lie.

use super::lists::{Lists, typed};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde::Deserialize;
use std::collections::BTreeSet;
use verifier_core::{
    evidence::{Evidence, Gap},
    intent::objects::rfc3339,
    names::UnixNs,
    triage::{BgpPeerFacts, ClusterFacts, ObjectFacts},
};

use crate::kubernetes::client::Trouble;

/// Kinds whose changes are looked at.
const KINDS: &[(&str, &str)] = &[
    ("ippools", "IPPool"),
    ("felixconfigurations", "FelixConfiguration"),
    ("bgpconfigurations", "BGPConfiguration"),
    ("bgppeers", "BGPPeer"),
    ("globalnetworkpolicies", "GlobalNetworkPolicy"),
    ("calico networkpolicies", "NetworkPolicy (Calico)"),
    ("networkpolicies.networking.k8s.io", "NetworkPolicy"),
    ("hostendpoints", "HostEndpoint"),
    ("daemonsets.apps", "DaemonSet"),
    (
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
    ),
    (
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
    ),
    ("nodes", "Node"),
];
/// Without one of these kinds a change may go unnoticed that matters to all pods.
const NEEDED: usize = 7;
/// Namespaces that the manifests and the operator put Calico into.
const HOMES: &[&str] = &["calico-system", "kube-system", "tigera-operator", "calico-apiserver"];
/// Who writes to Nodes all the time.
const NODE_WRITERS: &[&str] = &[
    "kubelet",
    "kube-controller-manager",
    "calico-node",
    "Go-http-client",
    "dataplane-verifier",
];

#[derive(Deserialize)]
struct Bare {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    creation_timestamp: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
    #[serde(default)]
    managed_fields: Vec<Managed>,
}

#[derive(Deserialize)]
struct Managed {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    subresource: Option<String>,
    #[serde(default)]
    time: Option<String>,
}

fn at(text: Option<&String>) -> Option<UnixNs> {
    text.and_then(|text| rfc3339(text))
}

/// The objects with when they were last written to.
pub fn objects(lists: &Lists) -> Evidence<Vec<ObjectFacts>> {
    let (mut out, mut gaps) = (Vec::new(), Vec::new());
    for (index, (name, kind)) in KINDS.iter().enumerate() {
        let all = typed::<Bare>(lists, name);
        if index < NEEDED {
            gaps.extend_from_slice(all.gaps());
        }
        out.extend(all.seen().into_iter().flatten().map(|object| facts(kind, &object.metadata)));
    }
    Evidence::partial(out, gaps)
}

fn facts(kind: &str, meta: &Meta) -> ObjectFacts {
    let by_hand = |m: &&Managed| {
        let busy = kind == "Node" && NODE_WRITERS.iter().any(|writer| m.manager.starts_with(writer));
        m.subresource.as_deref().unwrap_or("").is_empty() && !busy
    };
    let last = meta
        .managed_fields
        .iter()
        .filter(by_hand)
        .filter_map(|m| Some((at(m.time.as_ref())?, &m.manager)))
        .max();
    ObjectFacts {
        kind: kind.to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone(),
        created_at: at(meta.creation_timestamp.as_ref()),
        changed_at: last.as_ref().map(|(at, _)| *at),
        changed_by: last.map(|(_, by)| by.clone()),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

#[derive(Deserialize)]
struct BgpPeer {
    metadata: Meta,
    #[serde(default)]
    spec: BgpPeerSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BgpPeerSpec {
    #[serde(default, rename = "peerIP")]
    peer_ip: Option<String>,
    #[serde(default)]
    password: Option<Password>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Password {
    #[serde(default)]
    secret_key_ref: Option<SecretKey>,
}

#[derive(Deserialize)]
struct SecretKey {
    #[serde(default)]
    name: String,
}

/// BGP peers.
pub fn bgp_peers(lists: &Lists) -> Evidence<Vec<BgpPeerFacts>> {
    typed::<BgpPeer>(lists, "bgppeers").map(|all| {
        let facts = all.into_iter().map(|peer| BgpPeerFacts {
            name: peer.metadata.name,
            address: peer.spec.peer_ip.as_deref().and_then(address),
            secret: peer.spec.password.and_then(|p| p.secret_key_ref).map(|key| key.name),
        });
        facts.collect()
    })
}

/// `10.0.0.1`, `10.0.0.1:180`, `[fd00::1]:179`.
fn address(text: &str) -> Option<std::net::IpAddr> {
    let socket = || text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
    text.parse().ok().or_else(socket)
}

/// Which of the Secrets that BGP peers name exist, and where. Only their metadata is asked for.
pub async fn secrets(client: &Client, facts: &ClusterFacts) -> Evidence<BTreeSet<(String, String)>> {
    let names: BTreeSet<&str> = facts
        .bgp_peers
        .seen()
        .into_iter()
        .flatten()
        .filter_map(|peer| peer.secret.as_deref())
        .collect();
    let homes: BTreeSet<&str> = HOMES.iter().copied().chain(facts.calico_namespace()).collect();
    let (mut found, mut gaps) = (BTreeSet::new(), Vec::new());
    for name in names {
        for home in &homes {
            let api: Api<Secret> = Api::namespaced(client.clone(), home);
            match api.get_metadata_opt(name).await {
                Ok(Some(_)) => {
                    found.insert(((*home).to_owned(), name.to_owned()));
                }
                Ok(None) => {}
                Err(error) => {
                    let why = format!(
                        "whether Secret {home}/{name} exists is not known: {}",
                        super::lists::refusal("secrets", &Trouble::of(&error))
                    );
                    gaps.push(Gap::new("triage/secrets", why));
                }
            }
        }
    }
    Evidence::partial(found, gaps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_no_change_and_a_kubelet_does_not_change_its_node() {
        let object = json!({ "metadata": {
            "name": "n", "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [
                { "manager": "kubectl-edit", "time": "2026-01-02T00:00:00Z" },
                { "manager": "kubelet", "time": "2026-01-03T00:00:00Z" },
                { "manager": "x", "subresource": "status", "time": "2026-01-04T00:00:00Z" },
            ],
        }});
        let bare: Bare = serde_json::from_value(object).unwrap();
        let node = facts("Node", &bare.metadata);
        assert_eq!(
            (node.changed_at, node.changed_by.as_deref()),
            (rfc3339("2026-01-02T00:00:00Z"), Some("kubectl-edit"))
        );
        assert_eq!(facts("IPPool", &bare.metadata).changed_at, rfc3339("2026-01-03T00:00:00Z"));
    }

    #[test]
    fn a_peers_address_may_have_a_port() {
        for text in ["10.0.0.1", "10.0.0.1:180", "[fd00::1]:179"] {
            assert!(address(text).is_some(), "{text}");
        }
        assert!(address("tor.example").is_none());
    }
}

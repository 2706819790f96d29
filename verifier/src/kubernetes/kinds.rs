//! Which kinds are read, from which API group, and which of their objects.

use super::{client::chain, crd::CANARY_LABEL};
use kube::{
    Client,
    core::{ApiResource, GroupVersionKind},
};
use std::collections::BTreeSet;
use verifier_core::{
    intent::objects::{Group, Kind},
    names::NodeName,
};

/// Calico's own group, as it stores.
const STORED: (&str, &str) = ("crd.projectcalico.org", "v1");
/// The group of its API, which newer clusters serve as CRDs.
const AGGREGATED: (&str, &str) = ("projectcalico.org", "v3");

/// Whose questions the objects answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One node's agent: its own pods, the canaries of all, and everything of the cluster that routes follow from.
    Node(NodeName),
    /// The controller and one-time commands: every pod.
    Cluster,
}

/// One list to read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The kind.
    pub kind: Kind,
    /// Its group.
    pub group: Group,
    /// How the API names it.
    pub resource: ApiResource,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
    /// Label selector.
    pub labels: Option<String>,
}

impl Read {
    /// For texts: `pods (spec.nodeName=node-a)`.
    pub fn name(&self) -> String {
        let plural = if self.resource.group.is_empty() {
            self.resource.plural.clone()
        } else {
            format!("{}.{}", self.resource.plural, self.resource.group)
        };
        let plural = match &self.namespace {
            Some(namespace) => format!("{plural} in {namespace}"),
            None => plural,
        };
        match self.fields.as_ref().or(self.labels.as_ref()) {
            Some(selector) => format!("{plural} ({selector})"),
            None => plural,
        }
    }
}

/// Calico's kinds, in the order in which they are read.
pub const CALICO: [Kind; 6] = [
    Kind::IpPool,
    Kind::IpamBlock,
    Kind::BlockAffinity,
    Kind::FelixConfiguration,
    Kind::BgpConfiguration,
    Kind::ClusterInformation,
];

/// What is read of Kubernetes' own kinds.
pub fn kubernetes(scope: &Scope) -> Vec<Read> {
    let read = |kind: Kind, plural: &str, fields: Option<String>, labels: Option<String>| {
        let (group, version) = if kind == Kind::DaemonSet { ("apps", "v1") } else { ("", "v1") };
        Read {
            kind,
            group: Group::Stored,
            resource: ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.as_str()), plural),
            namespace: None,
            fields,
            labels,
        }
    };
    let calico_node = Some("k8s-app=calico-node".to_owned());
    let mut reads = vec![
        read(Kind::Node, "nodes", None, None),
        read(Kind::DaemonSet, "daemonsets", None, calico_node),
    ];
    match scope {
        Scope::Node(node) => {
            reads.push(read(Kind::Pod, "pods", Some(format!("spec.nodeName={node}")), None));
            reads.push(read(Kind::Pod, "pods", None, Some(format!("{CANARY_LABEL}=true"))));
        }
        Scope::Cluster => reads.push(read(Kind::Pod, "pods", None, None)),
    }
    reads
}

/// The plural of one of Calico's kinds.
fn plural(kind: Kind) -> String {
    match kind {
        Kind::BlockAffinity => "blockaffinities".to_owned(),
        other => format!("{}s", other.as_str().to_lowercase()),
    }
}

/// Where one of Calico's kinds is read from, by the group that serves it.
fn calico_read(kind: Kind, group: Group) -> Read {
    let (name, version) = match group {
        Group::Stored => STORED,
        Group::Aggregated => AGGREGATED,
    };
    Read {
        kind,
        group,
        resource: ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(name, version, kind.as_str()), &plural(kind)),
        namespace: None,
        fields: None,
        labels: None,
    }
}

/// One ConfigMap that calico-node's environment refers to.
pub fn config_map(namespace: &str, name: &str) -> Read {
    Read {
        kind: Kind::ConfigMap,
        group: Group::Stored,
        resource: ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "ConfigMap"), "configmaps"),
        namespace: Some(namespace.to_owned()),
        fields: Some(format!("metadata.name={name}")),
        labels: None,
    }
}

/// What the cluster serves of Calico.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// What can be read.
    pub reads: Vec<Read>,
    /// Kinds that neither group serves.
    pub absent: Vec<Kind>,
}

/// Chooses a group for each kind, from the plurals that each group serves: the stored form where there is one.
pub fn choose(stored: &BTreeSet<String>, aggregated: &BTreeSet<String>) -> Served {
    let mut served = Served::default();
    for kind in CALICO {
        let plural = plural(kind);
        if stored.contains(&plural) {
            served.reads.push(calico_read(kind, Group::Stored));
        } else if aggregated.contains(&plural) {
            served.reads.push(calico_read(kind, Group::Aggregated));
        } else {
            served.absent.push(kind);
        }
    }
    served
}

/// Asks which of Calico's kinds the cluster serves.
///
/// # Errors
/// The API server does not answer, in one line.
pub async fn discover(client: &Client) -> Result<Served, String> {
    let stored = plurals(client, STORED).await?;
    let aggregated = plurals(client, AGGREGATED).await?;
    Ok(choose(&stored, &aggregated))
}

async fn plurals(client: &Client, (group, version): (&str, &str)) -> Result<BTreeSet<String>, String> {
    match client.list_api_group_resources(&format!("{group}/{version}")).await {
        Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
        // No such group: no CRD of it is installed. An aggregated server that is away answers 503 and is no reason to give up either: its
        // objects are the stored ones.
        Err(kube::Error::Api(status)) if status.code == 404 || (group == AGGREGATED.0 && status.code == 503) => Ok(BTreeSet::new()),
        Err(error) => Err(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> BTreeSet<String> {
        CALICO.into_iter().map(plural).collect()
    }

    #[test]
    fn the_stored_group_is_preferred_kind_by_kind() {
        let mut stored = all();
        stored.remove("ippools");
        let served = choose(&stored, &all());
        assert!(served.absent.is_empty());
        for read in served.reads {
            let (kind, group) = Kind::of(&read.resource.api_version, read.kind.as_str()).unwrap();
            assert_eq!((kind, group), (read.kind, read.group));
            assert_eq!(read.group == Group::Aggregated, kind == Kind::IpPool);
        }
    }

    #[test]
    fn no_calico_is_every_kind_absent() {
        assert_eq!(choose(&BTreeSet::new(), &BTreeSet::new()).absent, CALICO);
    }

    #[test]
    fn an_agent_reads_its_own_pods_and_the_canaries() {
        let reads = kubernetes(&Scope::Node("node-a".into()));
        let pods: Vec<String> = reads.iter().filter(|r| r.kind == Kind::Pod).map(Read::name).collect();
        assert_eq!(pods, ["pods (spec.nodeName=node-a)", "pods (dataplane-verifier.io/canary=true)"]);
        assert_eq!(kubernetes(&Scope::Cluster).len(), 3);
    }
}

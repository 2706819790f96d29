//! Lists of objects as values, from the API or from files. What each kind means is read elsewhere; here it is only had, or a gap.

use crate::kubernetes::client::{Trouble, chain};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde::Deserialize as _;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path, time::Duration};
use verifier_core::evidence::{Evidence, Gap};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// How long one list may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A kind that triage reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct What {
    /// Plural and group, as kubectl takes it.
    pub name: &'static str,
    /// API group; empty for the core.
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    namespace: Option<&'static str>,
}

const fn what(name: &'static str, group: &'static str, kind: &'static str) -> What {
    What {
        name,
        group,
        version: "v1",
        kind,
        namespace: None,
    }
}

impl What {
    /// Plural, as it stands in a path.
    fn plural(&self) -> &'static str {
        let name = self.name.rsplit(' ').next().unwrap_or(self.name);
        name.split('.').next().unwrap_or(name)
    }

    /// Path of its list.
    fn raw_path(&self) -> String {
        let home = self
            .namespace
            .map_or_else(String::new, |namespace| format!("/namespaces/{namespace}"));
        match self.group {
            "" => format!("/api/{}{home}/{}", self.version, self.plural()),
            group => format!("/apis/{group}/{}{home}/{}", self.version, self.plural()),
        }
    }
}

/// Calico's group, as it stores, and as its API serves.
const STORED: &str = "crd.projectcalico.org";
const AGGREGATED: (&str, &str) = ("projectcalico.org", "v3");

/// Everything that is read. Secrets are not: their names are asked for one by one.
pub const ALL: &[What] = &[
    what("nodes", "", "Node"),
    what("pods", "", "Pod"),
    what("events", "", "Event"),
    what("daemonsets.apps", "apps", "DaemonSet"),
    what("deployments.apps", "apps", "Deployment"),
    What {
        namespace: Some("kube-node-lease"),
        ..what("leases.coordination.k8s.io", "coordination.k8s.io", "Lease")
    },
    what("endpointslices.discovery.k8s.io", "discovery.k8s.io", "EndpointSlice"),
    what(
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
    ),
    what(
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
    ),
    what("networkpolicies.networking.k8s.io", "networking.k8s.io", "NetworkPolicy"),
    what("ippools", STORED, "IPPool"),
    what("felixconfigurations", STORED, "FelixConfiguration"),
    what("bgpconfigurations", STORED, "BGPConfiguration"),
    what("bgppeers", STORED, "BGPPeer"),
    what("globalnetworkpolicies", STORED, "GlobalNetworkPolicy"),
    what("calico networkpolicies", STORED, "NetworkPolicy"),
    what("hostendpoints", STORED, "HostEndpoint"),
];

/// What was had, by name of the kind.
pub type Lists = BTreeMap<&'static str, Evidence<Vec<Value>>>;

/// From the API, all at once.
pub async fn from_api(client: &Client) -> Lists {
    let mut asked: FuturesUnordered<_> = ALL.iter().map(|what| async move { (what.name, one(client, what).await) }).collect();
    let mut lists = Lists::new();
    while let Some((name, list)) = asked.next().await {
        lists.insert(name, list);
    }
    lists
}

async fn one(client: &Client, what: &What) -> Evidence<Vec<Value>> {
    let calico = what.group == STORED;
    let mut groups = vec![(what.group, what.version)];
    if calico {
        groups.push(AGGREGATED);
    }
    let source = format!("triage/{}", what.name);
    for (group, version) in groups {
        let listed = tokio::time::timeout(PATIENCE, pages(client, what, group, version)).await;
        return match listed {
            Ok(Ok(items)) => Evidence::complete(items),
            Ok(Err(Trouble::NotFound)) if calico => continue,
            Ok(Err(trouble)) => Evidence::unavailable(source, refusal(what.name, &trouble)),
            Err(_) => Evidence::unavailable(
                source,
                format!("the API server did not list {} within {} s", what.name, PATIENCE.as_secs()),
            ),
        };
    }
    // Neither group serves the kind, so there is no object of it.
    Evidence::complete(Vec::new())
}

async fn pages(client: &Client, what: &What, group: &str, version: &str) -> Result<Vec<Value>, Trouble> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, what.kind), what.plural());
    let api: Api<DynamicObject> = match what.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut items = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut params = ListParams::default().limit(PAGE);
        if let Some(token) = &token {
            params = params.continue_token(token);
        }
        let page = api.list(&params).await.map_err(|error| Trouble::of(&error))?;
        for object in page.items {
            items.push(serde_json::to_value(object).map_err(|error| Trouble::Away { why: chain(&error) })?);
        }
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(items);
        }
    }
}

/// Why a list could not be had, with what to do.
pub fn refusal(name: &str, trouble: &Trouble) -> String {
    match trouble {
        Trouble::Forbidden => {
            format!("not permitted to list {name}: grant `list`, or use an account that `kubectl auth can-i list {name} -A` says yes to")
        }
        Trouble::Unauthenticated => "the API server does not accept this account (401): its token expired".to_owned(),
        Trouble::NotFound => format!("the API server does not serve {name}"),
        Trouble::Away { why } => format!("{name} could not be listed: {why}"),
        other => format!("{name} could not be listed: {other:?}"),
    }
}

/// From what kubectl printed into files. A kind of which there is nothing is not known to have no objects.
///
/// # Errors
/// Nothing can be read there.
pub fn from_files(path: &Path) -> anyhow::Result<(Lists, std::collections::BTreeSet<(String, String)>)> {
    let mut found: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
    for file in crate::intent::manifests_at(path)? {
        let text = fs::read_to_string(&file).map_err(|error| anyhow::anyhow!("cannot read {}: {error}", file.display()))?;
        let bad = |why: String| {
            anyhow::anyhow!(
                "{} is not whole YAML or JSON ({why}): write it again with `kubectl get … -o yaml`",
                file.display()
            )
        };
        let mut documents = Vec::new();
        if file.extension().is_some_and(|e| e == "json") {
            for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
                documents.push(value.map_err(|error| bad(error.to_string()))?);
            }
        } else {
            for document in serde_yaml_ng::Deserializer::from_str(&text) {
                documents.push(Value::deserialize(document).map_err(|error| bad(error.to_string()))?);
            }
        }
        documents.into_iter().for_each(|value| sort(value, &mut found));
    }
    let mut lists = Lists::new();
    for what in ALL {
        let group_of = |version: &str| version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        let of_kind = found.iter().filter(|((version, kind), _)| {
            let group = group_of(version);
            kind == what.kind && (group == what.group || (what.group == STORED && group == AGGREGATED.0))
        });
        let items: Vec<&Vec<Value>> = of_kind.map(|(_, items)| items).collect();
        let list = if items.is_empty() {
            let ask = what.name.strip_prefix("calico ").unwrap_or(what.name);
            Evidence::unavailable(
                format!("triage/{}", what.name),
                format!(
                    "no {} in {}: add the output of `kubectl get {ask} -A -o json`; if there is none, that prints a list that does not say of what, and `kubectl get --raw {}` one that does",
                    what.kind,
                    path.display(),
                    what.raw_path()
                ),
            )
        } else {
            Evidence::complete(items.into_iter().flatten().cloned().collect())
        };
        lists.insert(what.name, list);
    }
    let secrets = found.get(&("v1".to_owned(), "Secret".to_owned()));
    let names = secrets.into_iter().flatten().filter_map(|secret| {
        let text = |pointer: &str| secret.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some((text("/metadata/namespace")?, text("/metadata/name")?))
    });
    Ok((lists, names.collect()))
}

/// Lists are taken apart; an empty typed one (`EventList`) says that there are none.
fn sort(value: Value, found: &mut BTreeMap<(String, String), Vec<Value>>) {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return;
    };
    let Some(of) = kind.strip_suffix("List").map(str::to_owned) else {
        found.entry((version, kind)).or_default().push(value);
        return;
    };
    if !of.is_empty() {
        found.entry((version.clone(), of.clone())).or_default();
    }
    let Some(Value::Array(items)) = value.get("items") else { return };
    for item in items {
        let mut item = item.clone();
        if let Value::Object(map) = &mut item
            && !of.is_empty()
        {
            // Items of a typed list may leave out what they are.
            map.entry("apiVersion").or_insert_with(|| Value::String(version.clone()));
            map.entry("kind").or_insert_with(|| Value::String(of.clone()));
        }
        sort(item, found);
    }
}

/// Each value as a typed object; those that do not fit are gaps.
pub fn typed<T: serde::de::DeserializeOwned>(lists: &Lists, name: &'static str) -> Evidence<Vec<T>> {
    let Some(list) = lists.get(name) else {
        return Evidence::unavailable(format!("triage/{name}"), "was not asked for");
    };
    let mut gaps: Vec<Gap> = list.gaps().to_vec();
    let Some(values) = list.seen() else {
        return Evidence::Unavailable {
            gap: gaps.pop().unwrap_or_else(|| Gap::new(format!("triage/{name}"), "was not read")),
        };
    };
    let mut out = Vec::with_capacity(values.len());
    for value in values {
        match T::deserialize(value) {
            Ok(object) => out.push(object),
            Err(error) => {
                let who = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
                gaps.push(Gap::new(format!("triage/{name}"), format!("{who} cannot be read ({error})")));
            }
        }
    }
    Evidence::partial(out, gaps)
}

//! What else is changed at a Node, only where a flag asks for it: a taint, the cordon, an annotation. And lists in pages.

use super::results::WriteError;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Taint};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
    core::ResourceExt as _,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::{collections::BTreeMap, fmt::Debug};

/// Key of the taint of a node that does not forward.
pub const TAINT: &str = "dataplane-verifier.io/not-forwarding";
/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Everything of a kind, page by page.
///
/// # Errors
/// A page could not be had: half a list is none.
pub async fn list_all<K>(api: &Api<K>) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = ListParams {
        limit: Some(PAGE),
        ..ListParams::default()
    };
    let mut items = Vec::new();
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(items),
        }
    }
}

/// The taints a node is to have; none if it has them already.
fn taints(now: &[Taint], wanted: bool) -> Option<Vec<Taint>> {
    let has = now.iter().any(|taint| taint.key == TAINT);
    if has == wanted {
        return None;
    }
    let mut next: Vec<Taint> = now.iter().filter(|taint| taint.key != TAINT).cloned().collect();
    if wanted {
        next.push(Taint {
            key: TAINT.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
    Some(next)
}

/// Sets or takes away the taint; whether anything changed. The list of taints is one field: that nobody changed it in between is checked by the
/// server.
///
/// # Errors
/// The node could not be read or changed.
pub async fn taint(client: &Client, name: &str, wanted: bool) -> Result<bool, WriteError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let got = nodes.get(name).await;
    let node = got.map_err(|error| WriteError::new("get", "nodes", name, &error))?;
    let version = node.resource_version();
    let now = node.spec.and_then(|spec| spec.taints).unwrap_or_else(Vec::new);
    let Some(next) = taints(&now, wanted) else { return Ok(false) };
    let change = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": next}});
    let done = nodes.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
    done.map_err(|error| WriteError::new("patch", "nodes", name, &error))?;
    Ok(true)
}

/// Uncordons a node; whether it was cordoned.
///
/// # Errors
/// The node could not be read or changed.
pub async fn uncordon(client: &Client, name: &str) -> Result<bool, WriteError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let got = nodes.get(name).await;
    let node = got.map_err(|error| WriteError::new("get", "nodes", name, &error))?;
    if node.spec.and_then(|spec| spec.unschedulable) != Some(true) {
        return Ok(false);
    }
    let change = json!({"spec": {"unschedulable": null}});
    let done = nodes.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
    done.map_err(|error| WriteError::new("patch", "nodes", name, &error))?;
    Ok(true)
}

/// Writes one annotation of a node.
///
/// # Errors
/// It could not be written.
pub async fn annotate(client: &Client, name: &str, key: &str, value: &str) -> Result<(), WriteError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let change = json!({"metadata": {"annotations": {key: value}}});
    let done = nodes.patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
    done.map_err(|error| WriteError::new("patch", "nodes", name, &error))?;
    Ok(())
}

/// Writes a ConfigMap's keys.
///
/// # Errors
/// It could not be written.
pub async fn write_config_map(client: &Client, namespace: &str, name: &str, data: &BTreeMap<&str, String>) -> Result<(), WriteError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "dataplane-verifier"}},
        "data": data,
    });
    let params = PatchParams::apply(super::crd::MANAGER).force();
    let done = maps.patch(name, &params, &Patch::Apply(object)).await;
    done.map_err(|error| WriteError::new("create and patch", &format!("configmaps in {namespace}"), name, &error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_taints_are_left_alone() {
        let other = Taint {
            key: "x".to_owned(),
            effect: "NoExecute".to_owned(),
            ..Taint::default()
        };
        let tainted = taints(std::slice::from_ref(&other), true).unwrap();
        assert_eq!(tainted.len(), 2);
        assert_eq!(taints(&tainted, true), None);
        assert_eq!(taints(&tainted, false).unwrap(), std::slice::from_ref(&other));
        assert_eq!(taints(&[other], false), None);
    }
}

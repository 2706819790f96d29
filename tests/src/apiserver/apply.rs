//! Objects as `kubectl get` prints them become objects of the cluster, as `kubectl apply --server-side` would make them; and their status
//! too, as the kubelet and controllers would.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Client,
    api::{Api, DeleteParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta},
    discovery::{self, Scope},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// Who applies.
const MANAGER: &str = "verifier-tests";
/// Requests at once where many objects are made.
const AT_ONCE: usize = 24;
/// How long a new kind may take until it is served, and how often it is looked for.
const SERVED_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// What only a server may set.
const SERVERS_OWN: [&str; 7] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];
/// Kinds whose status is written apart.
const WITH_STATUS: [&str; 4] = ["Node", "Pod", "DaemonSet", "Deployment"];

/// Applies objects; remembers how the cluster names kinds.
pub struct Applier {
    client: Client,
    kinds: Mutex<BTreeMap<String, (ApiResource, bool)>>,
}

impl Applier {
    /// In the name of this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kinds: Mutex::default(),
        }
    }

    /// All documents of a text, JSON or YAML, `List`s taken apart, in their order.
    ///
    /// # Errors
    /// The text is none, or the server refuses one.
    pub async fn text(&self, text: &str) -> Result<()> {
        for object in documents(text)? {
            self.apply(&object).await?;
        }
        Ok(())
    }

    /// Applies CustomResourceDefinitions and waits until their kinds are served.
    ///
    /// # Errors
    /// The server refuses one, or does not serve it in time.
    pub async fn serve(&self, definitions: &str) -> Result<()> {
        self.text(definitions).await?;
        for definition in documents(definitions)? {
            let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str);
            let (group, version) = (text("/spec/group"), text("/spec/versions/0/name"));
            let (group, version) = group.zip(version).context("a definition without group and version")?;
            let plural = text("/spec/names/plural").context("a definition without plural")?;
            self.wait_served(&format!("{group}/{version}"), plural).await?;
        }
        Ok(())
    }

    async fn wait_served(&self, version: &str, plural: &str) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < SERVED_DEADLINE {
            let list = self.client.list_api_group_resources(version).await;
            if list.is_ok_and(|list| list.resources.iter().any(|resource| resource.name == plural)) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("{plural} of {version} are not served after {SERVED_DEADLINE:?}")
    }

    /// One object, and its status where it has one that somebody else than its author writes.
    ///
    /// # Errors
    /// The server refuses it; or its kind is not served.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let (api, name, what) = self.api(object).await?;
        let mut wanted = object.clone();
        let status = wanted.as_object_mut().and_then(|fields| fields.remove("status"));
        strip(&mut wanted);
        let parameters = PatchParams::apply(MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(&wanted))
            .await
            .with_context(|| format!("applying {what}"))?;
        if let Some(status) = status.filter(|_| has_status(object)) {
            api.patch_status(&name, &parameters, &Patch::Apply(with_status(&wanted, status)))
                .await
                .with_context(|| format!("applying the status of {what}"))?;
        }
        Ok(())
    }

    /// Makes new objects, many at once; none may exist yet. `status` says of which the status is written too.
    ///
    /// # Errors
    /// The server refuses one.
    pub async fn create_all(&self, objects: Vec<Value>, status: impl Fn(&Value) -> bool) -> Result<()> {
        let made = stream::iter(objects).map(|object| {
            let status = status(&object);
            async move { self.create(object, status).await }
        });
        made.buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    async fn create(&self, mut object: Value, write_status: bool) -> Result<()> {
        let (api, name, what) = self.api(&object).await?;
        let with = has_status(&object) && write_status;
        let status = object.as_object_mut().and_then(|fields| fields.remove("status"));
        strip(&mut object);
        let typed: DynamicObject = serde_json::from_value(object.clone()).with_context(|| format!("reading {what}"))?;
        api.create(&PostParams::default(), &typed)
            .await
            .with_context(|| format!("creating {what}"))?;
        if let Some(status) = status.filter(|_| with) {
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({ "status": status })))
                .await
                .with_context(|| format!("writing the status of {what}"))?;
        }
        Ok(())
    }

    /// Deletes an object at once, or with the time that its kind is given. What is not there is fine.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn delete(&self, object: &Value, at_once: bool) -> Result<()> {
        let (api, name, what) = self.api(object).await?;
        let parameters = DeleteParams {
            grace_period_seconds: at_once.then_some(0),
            ..DeleteParams::default()
        };
        match api.delete(&name, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("deleting {what}")),
        }
    }

    /// A namespace with the account that the controller manager gives to each.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let parameters = PatchParams::apply(MANAGER).force();
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let namespace = Namespace {
            metadata,
            ..Namespace::default()
        };
        Api::<Namespace>::all(self.client.clone())
            .patch(name, &parameters, &Patch::Apply(&namespace))
            .await
            .with_context(|| format!("making namespace {name}"))?;
        self.account(name, "default").await
    }

    /// A ServiceAccount.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn account(&self, namespace: &str, name: &str) -> Result<()> {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        Api::<ServiceAccount>::namespaced(self.client.clone(), namespace)
            .patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&account))
            .await
            .with_context(|| format!("making account {namespace}/{name}"))?;
        Ok(())
    }

    /// The object as the server has it.
    ///
    /// # Errors
    /// It is not there.
    pub async fn get(&self, object: &Value) -> Result<Value> {
        let (api, name, what) = self.api(object).await?;
        let found = api.get(&name).await.with_context(|| format!("getting {what}"))?;
        serde_json::to_value(found).context("an object as JSON")
    }

    async fn api(&self, object: &Value) -> Result<(Api<DynamicObject>, String, String)> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let version = text("/apiVersion").context("an object without apiVersion")?;
        let kind = text("/kind").context("an object without kind")?;
        let name = text("/metadata/name").with_context(|| format!("a {kind} without name"))?;
        let (resource, namespaced) = self.kind(version, kind).await?;
        let api = match (namespaced, text("/metadata/namespace")) {
            (false, _) => Api::all_with(self.client.clone(), &resource),
            (true, Some(namespace)) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            (true, None) => Api::default_namespaced_with(self.client.clone(), &resource),
        };
        Ok((api, name.to_owned(), format!("{kind} {name}")))
    }

    async fn kind(&self, version: &str, kind: &str) -> Result<(ApiResource, bool)> {
        let key = format!("{version}/{kind}");
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let (group, short) = version.split_once('/').unwrap_or(("", version));
        let gvk = GroupVersionKind::gvk(group, short, kind);
        let (resource, capabilities) = discovery::pinned_kind(&self.client, &gvk)
            .await
            .with_context(|| format!("asking how {key} is named"))?;
        let found = (resource, capabilities.scope == Scope::Namespaced);
        self.kinds
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(key, found.clone());
        Ok(found)
    }

    fn known(&self, key: &str) -> Option<(ApiResource, bool)> {
        let kinds = self.kinds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kinds.get(key).cloned()
    }
}

/// The objects of a text: JSON or YAML, one or many, `List`s taken apart.
///
/// # Errors
/// It is neither, or a document is no object.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).context("reading a document")?;
        match value {
            Value::Null => {}
            Value::Object(ref fields) if fields.get("kind").is_some_and(|kind| kind == "List") => {
                let items = fields.get("items").and_then(Value::as_array).context("a List without items")?;
                found.extend(items.iter().cloned());
            }
            Value::Object(_) => found.push(value),
            other => bail!("a document is no object: {other}"),
        }
    }
    Ok(found)
}

fn has_status(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| WITH_STATUS.contains(&kind))
}

fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in SERVERS_OWN {
            metadata.remove(field);
        }
    }
}

fn with_status(object: &Value, status: Value) -> Value {
    let metadata = &object["metadata"];
    let mut named = json!({ "name": metadata["name"] });
    if let Some(namespace) = metadata.get("namespace") {
        named["namespace"] = namespace.clone();
    }
    json!({ "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": named, "status": status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_documents_are_taken_apart() {
        let list = r#"{"apiVersion":"v1","kind":"List","items":[{"kind":"A"},{"kind":"B"}]}"#;
        assert_eq!(documents(list).unwrap().len(), 2);
        let yaml = "kind: A\n---\nkind: B\n---\n";
        assert_eq!(documents(yaml).unwrap(), [json!({ "kind": "A" }), json!({ "kind": "B" })]);
        assert!(documents("- 1\n").is_err());
    }

    #[test]
    fn what_only_a_server_may_set_goes() {
        let mut object = json!({ "metadata": { "name": "a", "uid": "1", "resourceVersion": "2" } });
        strip(&mut object);
        assert_eq!(object, json!({ "metadata": { "name": "a" } }));
    }
}

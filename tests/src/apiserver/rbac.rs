//! What a ServiceAccount is granted, read from the cluster's own roles and bindings: each rule taken apart into single grants.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::{
    Client,
    api::{Api, ListParams},
};

use super::{
    ApiServer,
    audit::{self, Request, Use},
};

/// One thing that is granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// What.
    pub what: Use,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only on these objects; any if empty.
    pub names: BTreeSet<String>,
    /// Role that grants it.
    pub role: String,
}

/// Everything that roles grant an account by name. What every account has by its group (discovery) is not in it.
///
/// # Errors
/// The roles cannot be read.
pub async fn grants(client: &Client, namespace: &str, account: &str) -> Result<Vec<Grant>> {
    let all = ListParams::default();
    let mut found = Vec::new();
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    for binding in bindings.list(&all).await.context("listing ClusterRoleBindings")? {
        if names(binding.subjects.as_deref(), namespace, account, None) {
            found.extend(of_role(client, &binding.role_ref, None).await?);
        }
    }
    let bindings: Api<RoleBinding> = Api::all(client.clone());
    for binding in bindings.list(&all).await.context("listing RoleBindings")? {
        let within = binding.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
        if names(binding.subjects.as_deref(), namespace, account, Some(&within)) {
            found.extend(of_role(client, &binding.role_ref, Some(within)).await?);
        }
    }
    Ok(found)
}

impl Grant {
    /// Whether it is what allows this use.
    fn covers(&self, request: &Request, used: &Use, name: Option<&str>) -> bool {
        let here = self.namespace.as_ref().is_none_or(|namespace| *namespace == request.namespace);
        self.what == *used && here && name.is_none_or(|name| name == request.name)
    }

    /// What of it nobody used: itself, or those of its names.
    fn unused(&self, requests: &[&Request]) -> Vec<String> {
        let was_used = |name: Option<&str>| {
            requests
                .iter()
                .any(|request| request.uses().any(|used| self.covers(request, &used, name)))
        };
        let of = |name: &str| format!("{}{name} (granted by {})", self.what, self.role);
        if self.names.is_empty() {
            return if was_used(None) { Vec::new() } else { vec![of("")] };
        }
        let idle = self.names.iter().filter(|name| !was_used(Some(name)));
        idle.map(|name| of(&format!(" {name}"))).collect()
    }
}

/// In what an account's grants differ from what it did: what it was refused, and what it was granted and never used.
///
/// # Errors
/// The roles or the audit log cannot be read.
pub fn differences(server: &ApiServer, namespace: &str, account: &str) -> Result<Vec<String>> {
    let granted = server.block_on(grants(server.admin(), namespace, account))?;
    let requests = audit::read(server.directory())?;
    let who = format!("{namespace}/{account}");
    let own: Vec<&Request> = requests.iter().filter(|request| request.account == who).collect();
    let refused = audit::refused(&requests, &who).into_iter().map(|used| format!("refused: {used}"));
    let unused: BTreeSet<String> = granted.iter().flat_map(|grant| grant.unused(&own)).collect();
    Ok(refused
        .chain(unused.into_iter().map(|grant| format!("never used: {grant}")))
        .collect())
}

fn names(subjects: Option<&[Subject]>, namespace: &str, account: &str, within: Option<&str>) -> bool {
    let is = |subject: &Subject| {
        let of = subject.namespace.as_deref().or(within);
        subject.kind == "ServiceAccount" && subject.name == account && of == Some(namespace)
    };
    subjects.is_some_and(|subjects| subjects.iter().any(is))
}

async fn of_role(client: &Client, reference: &RoleRef, within: Option<String>) -> Result<Vec<Grant>> {
    let reading = || format!("reading {} {}", reference.kind, reference.name);
    let rules = match (reference.kind.as_str(), &within) {
        ("Role", Some(namespace)) => {
            let role: Role = Api::namespaced(client.clone(), namespace)
                .get(&reference.name)
                .await
                .with_context(reading)?;
            role.rules
        }
        _ => {
            let role: ClusterRole = Api::all(client.clone()).get(&reference.name).await.with_context(reading)?;
            role.rules
        }
    };
    let rules = rules.into_iter().flatten();
    Ok(rules.flat_map(|rule| apart(&rule, &reference.name, within.as_deref())).collect())
}

fn apart(rule: &PolicyRule, role: &str, within: Option<&str>) -> Vec<Grant> {
    let mut found = Vec::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                found.push(Grant {
                    what: Use {
                        group: group.clone(),
                        resource: resource.clone(),
                        verb: verb.clone(),
                    },
                    namespace: within.map(str::to_owned),
                    names: rule.resource_names.iter().flatten().cloned().collect(),
                    role: role.to_owned(),
                });
            }
        }
    }
    found
}

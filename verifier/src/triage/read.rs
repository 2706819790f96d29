//! From Kubernetes' own objects to facts.

use super::lists::{Lists, typed};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        apps::v1::{DaemonSet, Deployment},
        coordination::v1::Lease,
        core::v1::{ContainerState, ContainerStatus, Event, Node, Pod},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use std::collections::BTreeMap;
use verifier_core::{
    evidence::{Evidence, Gap},
    names::{NodeName, PodRef, UnixNs},
    triage::{ConditionFacts, ContainerFacts, EndpointFacts, EventFacts, NodeFacts, PodFacts, WebhookFacts, WorkloadFacts},
};

/// The label that both of Calico's installers give.
const APP: &str = "k8s-app";

fn ns(at: &Time) -> Option<UnixNs> {
    u64::try_from(at.0.as_nanosecond()).ok().map(UnixNs)
}

fn micro(at: &MicroTime) -> Option<UnixNs> {
    u64::try_from(at.0.as_nanosecond()).ok().map(UnixNs)
}

fn count(number: Option<i32>) -> u32 {
    number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// The same value with what else is missing.
fn with_gaps<T>(evidence: Evidence<T>, more: &[Gap]) -> Evidence<T> {
    match evidence {
        Evidence::Complete { value } => Evidence::partial(value, more.to_vec()),
        Evidence::Partial { value, mut missing } => {
            missing.extend_from_slice(more);
            Evidence::partial(value, missing)
        }
        unavailable @ Evidence::Unavailable { .. } => unavailable,
    }
}

/// Nodes with the times of their Leases.
pub fn nodes(lists: &Lists) -> Evidence<BTreeMap<NodeName, NodeFacts>> {
    let leases: Evidence<Vec<Lease>> = typed(lists, "leases.coordination.k8s.io");
    let renewed: BTreeMap<String, UnixNs> = leases
        .seen()
        .into_iter()
        .flatten()
        .filter_map(|lease| Some((lease.metadata.name.clone()?, micro(lease.spec.as_ref()?.renew_time.as_ref()?)?)))
        .collect();
    let nodes = typed::<Node>(lists, "nodes").map(|all| {
        let named = all.into_iter().filter_map(|node| {
            let name = node.metadata.name.clone()?;
            let mut facts = self::node(node);
            facts.renewed_at = renewed.get(&name).copied();
            Some((NodeName::from(name), facts))
        });
        named.collect()
    });
    with_gaps(nodes, leases.gaps())
}

fn node(node: Node) -> NodeFacts {
    let spec = node.spec.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    let annotations = node.metadata.annotations.unwrap_or_default();
    let calico = ["projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address"];
    let annotated = calico.iter().find_map(|key| annotations.get(*key)).and_then(|text| net(text));
    let internal = status
        .addresses
        .iter()
        .flatten()
        .find(|a| a.type_ == "InternalIP")
        .and_then(|a| net(&a.address));
    let info = status.node_info.map(|info| {
        BTreeMap::from([
            ("kernelVersion".to_owned(), info.kernel_version),
            ("osImage".to_owned(), info.os_image),
            ("kubeletVersion".to_owned(), info.kubelet_version),
            ("containerRuntimeVersion".to_owned(), info.container_runtime_version),
            ("architecture".to_owned(), info.architecture),
            ("operatingSystem".to_owned(), info.operating_system),
        ])
    });
    NodeFacts {
        labels: node.metadata.labels.unwrap_or_default(),
        address: annotated.or(internal),
        created_at: node.metadata.creation_timestamp.as_ref().and_then(ns),
        conditions: status
            .conditions
            .unwrap_or_default()
            .into_iter()
            .map(|c| ConditionFacts {
                kind: c.type_,
                status: c.status,
                reason: c.reason.unwrap_or_default(),
                message: crate::report::archive::redacted(c.message.unwrap_or_default().trim()),
                since: c.last_transition_time.as_ref().and_then(ns),
            })
            .collect(),
        unschedulable: spec.unschedulable.unwrap_or(false),
        taints: spec
            .taints
            .unwrap_or_default()
            .into_iter()
            .map(|t| format!("{}={}:{}", t.key, t.value.unwrap_or_default(), t.effect))
            .collect(),
        info: info.unwrap_or_default(),
        renewed_at: None,
    }
}

fn net(text: &str) -> Option<ipnet::IpNet> {
    let ip = || text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from);
    text.parse().ok().or_else(ip)
}

/// Pods. Environment and arguments of their containers are left behind.
pub fn pods(lists: &Lists) -> Evidence<Vec<PodFacts>> {
    typed::<Pod>(lists, "pods").map(|all| all.into_iter().filter_map(pod).collect())
}

/// One pod.
pub fn pod(pod: Pod) -> Option<PodFacts> {
    let meta = pod.metadata;
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let labels = meta.labels.unwrap_or_default();
    let owner = meta.owner_references.into_iter().flatten().find(|o| o.controller == Some(true));
    let owner = owner.map(|o| match (o.kind.as_str(), labels.get("pod-template-hash")) {
        ("ReplicaSet", Some(hash)) => match o.name.strip_suffix(&format!("-{hash}")) {
            Some(name) => ("Deployment".to_owned(), name.to_owned()),
            None => (o.kind, o.name),
        },
        _ => (o.kind, o.name),
    });
    let of = |statuses: &Option<Vec<ContainerStatus>>, name: &str| statuses.iter().flatten().find(|s| s.name == name).cloned();
    let init = spec.init_containers.unwrap_or_default().into_iter().map(|c| (c, true));
    let containers = init.chain(spec.containers.into_iter().map(|c| (c, false))).map(|(c, init)| {
        let status = of(
            if init {
                &status.init_container_statuses
            } else {
                &status.container_statuses
            },
            &c.name,
        );
        container(c.name, c.image, init, status)
    });
    Some(PodFacts {
        containers: containers.collect(),
        pod: PodRef::new(meta.namespace?, meta.name?),
        node: spec.node_name.filter(|name| !name.is_empty()).map(NodeName::from),
        owner,
        app: labels.get(APP).cloned(),
        phase: status.phase.unwrap_or_default(),
        ready: status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Ready")
            .map(|c| c.status == "True"),
        deleting: meta.deletion_timestamp.is_some(),
    })
}

fn container(name: String, image: Option<String>, init: bool, status: Option<ContainerStatus>) -> ContainerFacts {
    let Some(status) = status else {
        return ContainerFacts {
            name,
            image: image.unwrap_or_default(),
            init,
            state: "not started".to_owned(),
            ..ContainerFacts::default()
        };
    };
    let running = status.state.as_ref().and_then(|s| s.running.as_ref());
    ContainerFacts {
        name,
        image: image.unwrap_or_default(),
        init,
        ready: status.ready,
        restarts: count(Some(status.restart_count)),
        started_at: running.and_then(|r| r.started_at.as_ref()).and_then(ns),
        state: status.state.as_ref().and_then(state).unwrap_or_else(|| "not started".to_owned()),
        last: status.last_state.as_ref().and_then(state),
    }
}

fn state(state: &ContainerState) -> Option<String> {
    if state.running.is_some() {
        return Some("running".to_owned());
    }
    if let Some(waiting) = &state.waiting {
        return Some(format!("waiting: {}", waiting.reason.as_deref().unwrap_or("no reason")));
    }
    let ended = state.terminated.as_ref()?;
    Some(format!(
        "terminated: {} ({})",
        ended.reason.as_deref().unwrap_or("no reason"),
        ended.exit_code
    ))
}

fn label(meta: &ObjectMeta, key: &str) -> Option<String> {
    meta.labels.as_ref()?.get(key).cloned()
}

/// DaemonSets and Deployments.
pub fn workloads(lists: &Lists) -> Evidence<Vec<WorkloadFacts>> {
    let sets = typed::<DaemonSet>(lists, "daemonsets.apps");
    let deployments = typed::<Deployment>(lists, "deployments.apps");
    let mut gaps: Vec<Gap> = sets.gaps().to_vec();
    gaps.extend_from_slice(deployments.gaps());
    let mut out = Vec::new();
    for set in sets.seen().into_iter().flatten() {
        let status = set.status.as_ref();
        let template = set.spec.as_ref().map(|spec| &spec.template);
        let pods = template.and_then(|t| t.spec.as_ref());
        let of_pods = template.and_then(|t| t.metadata.as_ref()).and_then(|meta| label(meta, APP));
        out.push(WorkloadFacts {
            kind: "DaemonSet".to_owned(),
            namespace: set.metadata.namespace.clone().unwrap_or_default(),
            name: set.metadata.name.clone().unwrap_or_default(),
            app: label(&set.metadata, APP).or(of_pods),
            desired: status.and_then(|s| u32::try_from(s.desired_number_scheduled).ok()),
            current: status.map_or(0, |s| count(Some(s.current_number_scheduled))),
            ready: status.map_or(0, |s| count(Some(s.number_ready))),
            node_selector: pods.and_then(|p| p.node_selector.clone()).unwrap_or_default(),
            observed: status.and_then(|s| s.observed_generation) >= set.metadata.generation,
        });
    }
    for deployment in deployments.seen().into_iter().flatten() {
        let status = deployment.status.as_ref();
        out.push(WorkloadFacts {
            kind: "Deployment".to_owned(),
            namespace: deployment.metadata.namespace.clone().unwrap_or_default(),
            name: deployment.metadata.name.clone().unwrap_or_default(),
            app: label(&deployment.metadata, APP),
            // Kubernetes' own default is one.
            desired: Some(deployment.spec.as_ref().and_then(|s| s.replicas).map_or(1, |n| count(Some(n)))),
            current: status.map_or(0, |s| count(s.replicas)),
            ready: status.map_or(0, |s| count(s.ready_replicas)),
            node_selector: BTreeMap::new(),
            observed: status.and_then(|s| s.observed_generation) >= deployment.metadata.generation,
        });
    }
    match (sets, deployments) {
        (Evidence::Unavailable { gap }, Evidence::Unavailable { .. }) => Evidence::Unavailable { gap },
        _ => Evidence::partial(out, gaps),
    }
}

/// Events.
pub fn events(lists: &Lists) -> Evidence<Vec<EventFacts>> {
    typed::<Event>(lists, "events").map(|all| {
        let mut out: Vec<EventFacts> = all.into_iter().map(event).collect();
        out.sort();
        out
    })
}

fn event(event: Event) -> EventFacts {
    let about = event.involved_object;
    let series = event.series.as_ref();
    let at = event.event_time.as_ref().and_then(micro);
    let last = series.and_then(|s| s.last_observed_time.as_ref()).and_then(micro);
    EventFacts {
        last_at: event.last_timestamp.as_ref().and_then(ns).or(last).or(at),
        first_at: event.first_timestamp.as_ref().and_then(ns).or(at),
        kind: about.kind.unwrap_or_default(),
        namespace: about.namespace.unwrap_or_default(),
        name: about.name.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        message: crate::report::archive::redacted(event.message.unwrap_or_default().trim()),
        warning: event.type_.as_deref() == Some("Warning"),
        count: count(event.count.or(series.and_then(|s| s.count))).max(1),
    }
}

/// Webhooks that are asked about pods.
pub fn webhooks(lists: &Lists) -> Evidence<Vec<WebhookFacts>> {
    let validating = typed::<ValidatingWebhookConfiguration>(lists, "validatingwebhookconfigurations.admissionregistration.k8s.io");
    let mutating = typed::<MutatingWebhookConfiguration>(lists, "mutatingwebhookconfigurations.admissionregistration.k8s.io");
    let mut gaps: Vec<Gap> = validating.gaps().to_vec();
    gaps.extend_from_slice(mutating.gaps());
    let mut out = Vec::new();
    let mut add = |kind: &str,
                   configuration: &ObjectMeta,
                   name: &str,
                   policy: Option<&str>,
                   rules: Option<&Vec<RuleWithOperations>>,
                   client: &WebhookClientConfig| {
        if rules.is_some_and(|rules| rules.iter().any(covers_pods)) {
            out.push(WebhookFacts {
                kind: kind.to_owned(),
                configuration: configuration.name.clone().unwrap_or_default(),
                name: name.to_owned(),
                // The default of v1.
                fail_closed: policy != Some("Ignore"),
                service: client.service.as_ref().map(|s| (s.namespace.clone(), s.name.clone())),
            });
        }
    };
    for configuration in validating.seen().into_iter().flatten() {
        for hook in configuration.webhooks.iter().flatten() {
            let policy = hook.failure_policy.as_deref();
            add(
                "ValidatingWebhookConfiguration",
                &configuration.metadata,
                &hook.name,
                policy,
                hook.rules.as_ref(),
                &hook.client_config,
            );
        }
    }
    for configuration in mutating.seen().into_iter().flatten() {
        for hook in configuration.webhooks.iter().flatten() {
            let policy = hook.failure_policy.as_deref();
            add(
                "MutatingWebhookConfiguration",
                &configuration.metadata,
                &hook.name,
                policy,
                hook.rules.as_ref(),
                &hook.client_config,
            );
        }
    }
    match (validating, mutating) {
        (Evidence::Unavailable { gap }, Evidence::Unavailable { .. }) => Evidence::Unavailable { gap },
        _ => Evidence::partial(out, gaps),
    }
}

/// Whether a webhook's rule is about the making of pods.
fn covers_pods(rule: &RuleWithOperations) -> bool {
    let any = |all: &Option<Vec<String>>, wanted: &[&str]| all.iter().flatten().any(|one| wanted.contains(&one.as_str()));
    any(&rule.api_groups, &["", "*"]) && any(&rule.resources, &["pods", "*", "*/*", "pods/*"]) && any(&rule.operations, &["CREATE", "*"])
}

/// How many addresses stand behind each Service.
pub fn endpoints(lists: &Lists) -> Evidence<Vec<EndpointFacts>> {
    typed::<EndpointSlice>(lists, "endpointslices.discovery.k8s.io").map(|all| {
        let mut by_service: BTreeMap<(String, String), EndpointFacts> = BTreeMap::new();
        for slice in all {
            let Some(service) = label(&slice.metadata, "kubernetes.io/service-name") else {
                continue;
            };
            let namespace = slice.metadata.namespace.unwrap_or_default();
            let facts = by_service
                .entry((namespace.clone(), service.clone()))
                .or_insert_with(|| EndpointFacts {
                    namespace,
                    service,
                    ..EndpointFacts::default()
                });
            for endpoint in slice.endpoints {
                let ready = endpoint.conditions.and_then(|c| c.ready).unwrap_or(true);
                *(if ready { &mut facts.ready } else { &mut facts.not_ready }) += 1;
            }
        }
        by_service.into_values().collect()
    })
}

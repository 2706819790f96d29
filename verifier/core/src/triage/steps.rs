//! What to do next, in order: commands to review, each with what must hold before it is run. Nothing here runs them.

use super::{
    branch::{Applies, Branch, dead_webhooks, refusals},
    facts::{ClusterFacts, PodFacts},
    health::{Ailment, Complaint},
    notes::Change,
    subset::Subset,
};
use crate::names::NodeName;
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is, in a few words.
    pub title: String,
    /// Why, and what its outcome tells.
    pub why: String,
    /// Commands to review.
    pub commands: Vec<String>,
    /// What must hold before; none where it only looks.
    pub only_if: Option<String>,
}

/// What the steps follow from.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The cluster.
    pub facts: &'a ClusterFacts,
    /// What is wrong, by node.
    pub complaints: &'a BTreeMap<NodeName, Vec<Complaint>>,
    /// Branches that apply.
    pub branches: &'a [Applies],
    /// What parts the nodes.
    pub subset: &'a Subset,
    /// What changed lately.
    pub changes: &'a [Change],
}

/// The steps, in order.
pub fn steps(ground: &Ground<'_>) -> Vec<Step> {
    let mut out = Vec::new();
    for applies in ground.branches {
        match applies.branch {
            Branch::NoCalicoNode => bring_back(ground, &mut out),
            Branch::KubeletLostContact => lost_contact(applies, &mut out),
            Branch::ReadyToggling => toggling(applies, &mut out),
            Branch::NetworkPluginNotInitialised => plugin(ground, applies, &mut out),
            Branch::CalicoIsDown => down(ground, applies, &mut out),
            Branch::MostNodes => most(ground, &mut out),
            Branch::FewNodes => few(ground, &mut out),
        }
    }
    let nowhere = ground.branches.iter().any(|applies| applies.branch == Branch::NoCalicoNode);
    if let Some(node) = pilot(ground).filter(|_| !nowhere) {
        one_node(ground, node, &mut out);
    }
    if !ground.branches.is_empty() {
        out.push(look(
            "find pods that lost their network on the way",
            "a pod that was made while its node was broken may stay without a network after the node is well",
            &["verifier pods --stale".to_string()],
        ));
    }
    out
}

fn look(title: &str, why: &str, commands: &[String]) -> Step {
    Step {
        title: title.to_string(),
        why: why.to_string(),
        commands: commands.to_vec(),
        only_if: None,
    }
}

fn act(title: &str, why: &str, commands: &[String], only_if: &str) -> Step {
    Step {
        only_if: Some(only_if.to_string()),
        ..look(title, why, commands)
    }
}

/// A word of a command, quoted where the shell would take it apart.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:=@".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_string();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The node to begin with: one whose ailment a restart of calico-node can mend, before those that nothing on it reaches.
fn pilot<'a>(ground: &Ground<'a>) -> Option<&'a NodeName> {
    let lost = |all: &[Complaint]| all.iter().any(|c| c.ailment == Ailment::LostContact);
    ground
        .complaints
        .iter()
        .min_by_key(|(name, all)| (lost(all), *name))
        .map(|(name, _)| name)
}

/// A node without complaints, to compare with: one of those that are Ready and not cordoned.
fn healthy<'a>(ground: &Ground<'a>) -> Option<&'a NodeName> {
    let mut well = ground
        .facts
        .known_nodes()
        .filter(|(name, node)| !ground.complaints.contains_key(*name) && !node.unschedulable);
    well.next().map(|(name, _)| name)
}

fn pod_word(pod: &PodFacts) -> String {
    word(&format!("{}/{}", pod.pod.namespace, pod.pod.name))
}

/// calico-node runs nowhere.
fn bring_back(ground: &Ground<'_>, out: &mut Vec<Step>) {
    let Some(set) = ground.facts.calico_daemon_set() else {
        out.push(look(
            "find out who deleted the DaemonSet",
            "whoever removed it will remove it again: an operator in trouble, a GitOps tool, a person",
            &[
                "kubectl get tigerastatus,installations.operator.tigera.io -o wide".to_string(),
                "kubectl get events -A --field-selector involvedObject.kind=DaemonSet".to_string(),
            ],
        ));
        out.push(act(
            "have it made again",
            "with the operator, its Deployment makes it; without, the manifest of the version that was installed does",
            &[
                "kubectl -n tigera-operator rollout restart deployment/tigera-operator".to_string(),
                "kubectl apply --server-side -f calico.yaml".to_string(),
            ],
            "it is known which of the two installed it, and the manifest is of the version in use (`kubectl get clusterinformations.crd.projectcalico.org default -o yaml`): run one of them, not both",
        ));
        return;
    };
    let (namespace, name) = (word(&set.namespace), word(&set.name));
    if set.desired == Some(0) {
        out.push(act(
            "give the DaemonSet nodes again",
            "its nodeSelector fits no node: somebody set it to keep calico-node away, or relabelled the nodes",
            &[
                format!("kubectl -n {namespace} get daemonset {name} -o jsonpath='{{.spec.template.spec.nodeSelector}}'"),
                format!("kubectl -n {namespace} edit daemonset {name}"),
            ],
            "no migration is under way that put the selector there on purpose",
        ));
    }
    let refused = !refusals(ground.facts, &set.namespace, &set.name).is_empty();
    let mut hooks = dead_webhooks(ground.facts).peekable();
    if refused || hooks.peek().is_some() {
        let mut commands = alloc::vec![
            "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations -o yaml > webhooks-before.yaml".to_string()
        ];
        for hook in hooks {
            commands.push(format!(
                "kubectl get {} {} -o yaml",
                hook.kind.to_lowercase(),
                word(&hook.configuration)
            ));
            if let Some((namespace, service)) = &hook.service {
                commands.push(format!(
                    "kubectl -n {} get endpointslices -l kubernetes.io/service-name={}",
                    word(namespace),
                    word(service)
                ));
            }
        }
        commands.push(format!("kubectl -n {namespace} describe daemonset {name}"));
        out.push(act(
            "make the admission webhook let calico-node through",
            "its own pods may need the network that calico-node would make: exempt Calico's namespace (namespaceSelector), or mend its Service; deleting it is the last resort",
            &commands,
            "its owner was told, and a copy of it was saved (webhooks-before.yaml): it guards more than Calico",
        ));
    }
    out.push(look(
        "watch the pods come",
        "nothing on the nodes needs doing before they do: do not delete pods or nodes meanwhile, they could not come back",
        &[
            format!("kubectl -n {namespace} rollout status daemonset/{name} --timeout=10m"),
            "verifier validate".to_string(),
        ],
    ));
}

fn lost_contact(applies: &Applies, out: &mut Vec<Step>) {
    let Some(node) = applies.nodes.first() else { return };
    out.push(look(
        "see whether the kubelet lives",
        "from the node itself: the API shows what it last heard. A kubelet that runs and cannot reach the API server is a matter of the network between, not of Calico",
        &[
            format!("kubectl -n kube-node-lease get lease {} -o yaml", word(node.as_str())),
            format!("ssh {} systemctl status kubelet containerd", word(node.as_str())),
            format!("ssh {} journalctl -u kubelet -u containerd --since -1h | verifier logs -", word(node.as_str())),
        ],
    ));
    out.push(act(
        "do not delete pods of these nodes by force",
        "their kubelet does not hear of it: the pod goes on running, and its successor runs beside it",
        &[],
        "never, before the machine is known to be off",
    ));
}

fn toggling(applies: &Applies, out: &mut Vec<Step>) {
    let Some(node) = applies.nodes.first() else { return };
    let node = word(node.as_str());
    out.push(look(
        "see what the kubelet waits for",
        "PLEG, a slow disk, memory pressure and a lossy way to the API server look alike from the API",
        &[
            format!("kubectl get events -A --field-selector involvedObject.kind=Node,involvedObject.name={node}"),
            format!("ssh {node} journalctl -u kubelet --since -1h | verifier logs -"),
        ],
    ));
}

fn plugin(ground: &Ground<'_>, applies: &Applies, out: &mut Vec<Step>) {
    let Some(node) = applies.nodes.first() else { return };
    let mut commands = Vec::new();
    if let Some(pod) = ground.facts.calico_node_on(node) {
        let (ns, name) = (word(&pod.pod.namespace), word(&pod.pod.name));
        commands.push(format!("kubectl -n {ns} describe pod {name}"));
        commands.push(format!("verifier logs {}", pod_word(pod)));
    }
    commands.push(format!("ssh {} verifier host --root /", word(node.as_str())));
    out.push(look(
        "see why there is no CNI configuration",
        "install-cni writes it when calico-node's pod starts: a pod that waits for its image, a volume or a node selector never does; a file in front of Calico's, or one that cannot be parsed, has the same effect",
        &commands,
    ));
}

fn down(ground: &Ground<'_>, applies: &Applies, out: &mut Vec<Step>) {
    let pods: Vec<String> = applies
        .nodes
        .iter()
        .filter_map(|node| ground.facts.calico_node_on(node))
        .take(3)
        .map(pod_word)
        .collect();
    let commands: Vec<String> = pods.iter().map(|pod| format!("verifier logs {pod}")).collect();
    out.push(look(
        "read why calico-node stopped, or does not get ready",
        "the log of the container before this one has the end; the one of now has what it waits for",
        &commands,
    ));
}

fn most(ground: &Ground<'_>, out: &mut Vec<Step>) {
    // What most nodes share is seldom one of them.
    let before = |of_nodes: bool| {
        let all = ground.changes.iter().filter(|c| c.before_seconds.is_some());
        all.filter(move |c| c.is_of_a_node() == of_nodes)
    };
    let suspects: Vec<String> = before(false).chain(before(true)).take(5).map(|c| c.what.clone()).collect();
    let why = if suspects.is_empty() {
        "no change was seen before the first node was affected: look at Typha, at the API server, and at what the underlay's owners did"
            .to_string()
    } else {
        format!("changed before the first node was affected: {}", suspects.join(", "))
    };
    let mut commands = alloc::vec!["verifier validate --output json > before.json".to_string()];
    if let Some(namespace) = ground.facts.calico_namespace() {
        commands.push(format!("kubectl -n {} get pods -o wide", word(namespace)));
    }
    out.push(look("look for what all of them share", &why, &commands));
    out.push(act(
        "take back the change, if there is one",
        "what most nodes share is mended once, not node by node; rebooting or draining most of a cluster makes an outage of it",
        &[],
        "its owner agrees, and the object as it is now was saved (`kubectl get KIND NAME -o yaml`)",
    ));
}

fn few(ground: &Ground<'_>, out: &mut Vec<Step>) {
    if let Some(best) = ground.subset.separators.first() {
        let sure = if best.is_claimed() {
            ""
        } else {
            " (with so few nodes, or so weak, that chance may have made it)"
        };
        let why = format!(
            "{}: of {} of {} affected nodes, and of {} of {} healthy ones{sure}",
            best.says,
            best.affected_with,
            best.affected_with + best.affected_without,
            best.healthy_with,
            best.healthy_with + best.healthy_without
        );
        out.push(look("begin with what the affected nodes have in common", &why, &[]));
    }
}

/// From the cordon to the uncordon of one node.
fn one_node(ground: &Ground<'_>, node: &NodeName, out: &mut Vec<Step>) {
    let name = word(node.as_str());
    let others = ground
        .facts
        .known_nodes()
        .filter(|(other, facts)| *other != node && !facts.unschedulable && facts.condition("Ready").is_some_and(|c| c.status == "True"));
    let room = match others.count() {
        0 => "there is no other Ready node that takes pods: what is evicted later will have no place".to_string(),
        n => format!("{n} other Ready nodes take pods: check that they have room (`kubectl describe nodes`)"),
    };
    let more = ground.complaints.len().saturating_sub(1);
    let then = if more == 0 {
        String::new()
    } else {
        format!("; then the same for the other {more}, one at a time")
    };
    out.push(act(
        &format!("cordon {node}"),
        &format!("nothing new must land on it while it is worked on{then}"),
        &[format!("kubectl cordon {name}")],
        &room,
    ));
    out.push(look(
        "gather before anything is deleted",
        "a deleted pod takes its logs along, a reboot the state of the kernel",
        &[format!("verifier gather --node {name} --out {name}.tar.gz")],
    ));
    let mut commands = Vec::new();
    if let Some(well) = healthy(ground) {
        commands.push(format!("verifier compare {} {name}", word(well.as_str())));
    }
    let pod = ground.facts.calico_node_on(node);
    commands.extend(pod.map(|pod| format!("verifier logs {}", pod_word(pod))));
    out.push(look(
        "see what it has that a healthy node has not",
        "kernel, modules, CNI files, sysctls, routes by shape",
        &commands,
    ));
    restart(ground, node, pod, out);
    out.push(look(
        "check",
        "status 0 means that it forwards: go to the last step. Anything else: go on with the next one",
        &[format!("verifier validate --node {name}")],
    ));
    out.push(act(
        "reboot it",
        "clears what no pod restart clears: devices, rules and routes that others left. It also boots the newest kernel installed: check before that its modules are there (`verifier host`)",
        &[
            format!("kubectl drain {name} --ignore-daemonsets --delete-emptydir-data --timeout=10m"),
            format!("ssh {name} sudo systemctl reboot"),
            format!("verifier validate --node {name}"),
        ],
        "the archive of `gather` was written, the drain ended without error (PodDisruptionBudgets held), and data in emptyDir volumes may go",
    ));
    out.push(act(
        "rebuild it",
        "if a reboot did not help: a machine from the image that the healthy nodes have. Its blocks of addresses are freed only when its Node is deleted, and a new machine under the old name must not come before",
        &[format!("kubectl delete node {name}")],
        "it is drained and off, and the image was checked (`verifier host --root IMAGE`)",
    ));
    out.push(act(
        &format!("uncordon {node}"),
        "the scheduler takes it for healthy from then on",
        &[format!("verifier validate --node {name} && kubectl uncordon {name}")],
        "`verifier validate` passes: status 0, not merely Ready",
    ));
}

/// Deleting the pod of calico-node, where it would come back.
fn restart(ground: &Ground<'_>, node: &NodeName, pod: Option<&PodFacts>, out: &mut Vec<Step>) {
    let lost = ground
        .complaints
        .get(node)
        .is_some_and(|all| all.iter().any(|c| c.ailment == Ailment::LostContact));
    let set = ground.facts.calico_daemon_set();
    let refused = set.is_some_and(|set| !refusals(ground.facts, &set.namespace, &set.name).is_empty());
    let hooked = dead_webhooks(ground.facts).next().is_some();
    let Some(pod) = pod else {
        out.push(look(
            "find out why it has no calico-node",
            "a taint without toleration, no room, a refused pod: the DaemonSet's events say it",
            &[format!(
                "kubectl -n {} describe daemonset {}",
                word(set.map_or("calico-system", |s| &s.namespace)),
                word(set.map_or("calico-node", |s| &s.name))
            )],
        ));
        return;
    };
    if lost {
        out.push(act(
            "do not delete its calico-node yet",
            "its kubelet does not hear of it",
            &[],
            "the kubelet has contact again",
        ));
    } else if refused || hooked {
        out.push(act(
            "do not delete its calico-node yet",
            "pods of the DaemonSet are refused by an admission webhook: it would not come back",
            &[],
            "the webhook lets Calico's pods through again",
        ));
    } else {
        let (namespace, name) = (word(&pod.pod.namespace), word(&pod.pod.name));
        out.push(act(
            "delete its calico-node pod",
            "Felix starts anew and programs everything from scratch; the pods on the node keep their network meanwhile",
            &[
                format!("kubectl -n {namespace} delete pod {name}"),
                format!(
                    "kubectl -n {namespace} rollout status daemonset/{} --timeout=5m",
                    word(set.map_or("calico-node", |s| &s.name))
                ),
            ],
            "the archive of `gather` was written, and this is the only node on which it is done at the moment",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        assert_eq!(word("node-a.example"), "node-a.example");
        assert_eq!(word("a;reboot"), "'a;reboot'");
        assert_eq!(word("-rf"), "'-rf'");
        assert_eq!(word("it's"), r"'it'\''s'");
    }
}

//! `verifier pods --recreate` against the Eviction API, with the account of `overlays/recreate`. ReplicaSet, kubelet and the disruption
//! controller are played by the test: it makes the new pod, takes the old one away, and writes the budget's status.

use std::{
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use verifier::kubernetes::kinds::Scope;
use verifier_tests::{
    apiserver::{
        Said,
        apply::Applier,
        audit,
        deploy::{NAMESPACE, Workload},
        verifier,
    },
    fabric::node::pod_route,
    nl::Rtnl,
};

use crate::{eventually, installed::Installed};

const ACCOUNT: &str = "dataplane-verifier-recreate";
/// Longer than all of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Stale, the one with a ReplicaSet behind it and the other with nobody.
const CONTROLLED: &str = "pod-b1";
const BARE: &str = "pod-c2";

#[test]
fn stale_pods_are_made_anew_by_eviction_and_proven_to_work() {
    let Some(mut cluster) = Installed::raise("stale_pods_are_made_anew_by_eviction_and_proven_to_work", 3) else {
        return;
    };
    cluster.kubectl.apply("overlays/recreate").unwrap();
    cluster.stage.start_agents().unwrap();
    let job = Workload::read(&cluster.server, "CronJob", ACCOUNT).unwrap();
    assert!(job.arguments.contains(&"--yes".to_owned()), "{:?}", job.arguments);
    lose_route(&cluster, CONTROLLED);
    lose_route(&cluster, BARE);

    // A dry run: both are named, one of them needs a person, and nothing was changed.
    let mut dry = Vec::new();
    let planned = eventually(PATIENCE, || {
        dry = of_pods(&finish(start(&cluster, &job, &["--recreate"], false)));
        dry.iter().any(|pod| pod["name"] == CONTROLLED && pod["action"] == "recreate")
    });
    assert!(planned, "{dry:?}");
    assert_eq!(dry.len(), 2, "{dry:?}");
    let bare = pod(&dry, BARE);
    assert_eq!(
        (&bare["action"], &bare["controller"]),
        (&json!("needs a person"), &Value::Null),
        "{bare}"
    );
    assert!(dry.iter().all(|pod| pod["outcome"].is_null()), "{dry:?}");
    assert_eq!(evictions(&cluster), Vec::<(String, u16)>::new());

    // A budget that nobody fulfils: refused as often as it is asked, and then given up, in words.
    budget(&cluster);
    let refused = of_pods(&finish(start(&cluster, &job, &["--recreate", "--eviction-timeout=3s"], true)));
    let outcome = &pod(&refused, CONTROLLED)["outcome"];
    assert_eq!(outcome["what"], "refused", "{outcome}");
    let why = outcome["why"].as_str().unwrap();
    assert!(why.starts_with("asked ") && why.contains("budget") && !why.contains('\n'), "{why}");
    let asked = evictions(&cluster);
    assert!(
        asked.len() > 1 && asked.iter().all(|one| *one == (CONTROLLED.to_owned(), 429)),
        "{asked:?}"
    );

    // A budget that refuses now and allows later: waited for, evicted once, and its successor proven to work.
    let running = start(&cluster, &job, &["--recreate", "--eviction-timeout=60s"], true);
    let so_far = asked.len();
    assert!(eventually(PATIENCE, || evictions(&cluster).len() > so_far), "it asks");
    allow(&cluster, 1);
    let said = finish_as_kubelet(&mut cluster, running);
    let done = of_pods(&said);
    let outcome = &pod(&done, CONTROLLED)["outcome"];
    assert_eq!(outcome["what"], "replaced", "{outcome}: {}", said.stderr);
    assert!(outcome["why"].as_str().unwrap().contains("default/pod-b3"), "{outcome}");
    // The bare pod is left for a person, and is the reason for the exit status.
    assert_eq!((pod(&done, BARE)["outcome"].clone(), said.status), (Value::Null, Some(1)));
    let accepted: Vec<_> = evictions(&cluster).into_iter().filter(|(_, code)| *code != 429).collect();
    assert_eq!(accepted, [(CONTROLLED.to_owned(), 201)], "once, and nobody else");
    assert!(names(&cluster).contains(&BARE.to_owned()));

    cluster.serve_the_other_group();
    cluster.read_all("CronJob", ACCOUNT, Scope::Cluster);
    cluster.assert_permissions(ACCOUNT);
    cluster.strike();
}

/// The node forgets its route to a pod: it runs and has no network.
fn lose_route(cluster: &Installed, name: &str) {
    let fabric = cluster.stage.fabric();
    let pod = fabric.pod(name).unwrap();
    let netns = fabric.node_netns(&fabric.nodes()[pod.node]).unwrap();
    netns.run(|| Rtnl::open()?.delete_route(&pod_route(&pod))).unwrap();
}

/// Starts the CronJob's command with other words for `--recreate`, with or without its `--yes`.
fn start(cluster: &Installed, job: &Workload, recreate: &[&str], yes: bool) -> Child {
    let words = job
        .arguments
        .iter()
        .filter(|word| (yes || *word != "--yes") && *word != "--recreate");
    let mut command = verifier().unwrap();
    command.args(words).args(recreate).args(cluster.asking());
    command.arg(format!("--kubeconfig={}", job.kubeconfig(&cluster.server).unwrap().display()));
    command.args(["--between-samples=1s", "--output=json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) -> Said {
    Said::of(&child.wait_with_output().unwrap())
}

/// Plays ReplicaSet and kubelet until it ends: for a pod that is being deleted another one comes, and then it goes.
fn finish_as_kubelet(cluster: &mut Installed, mut child: Child) -> Said {
    let began = Instant::now();
    let mut replaced = false;
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        if !replaced && is_going(cluster, CONTROLLED) {
            replaced = true;
            let fabric = cluster.stage.fabric();
            let old = fabric.pod(CONTROLLED).unwrap();
            fabric.add_pod(&fabric.nodes()[old.node]).unwrap();
            cluster.sync();
            cluster.stage.fabric().remove_pod(&old).unwrap();
            cluster.sync();
        }
        sleep(Duration::from_millis(50));
    }
    finish(child)
}

fn pods(cluster: &Installed) -> Vec<ApiPod> {
    let api: Api<ApiPod> = Api::namespaced(cluster.server.admin().clone(), "default");
    cluster.server.block_on(api.list(&ListParams::default())).unwrap().items
}

fn names(cluster: &Installed) -> Vec<String> {
    pods(cluster).into_iter().filter_map(|pod| pod.metadata.name).collect()
}

fn is_going(cluster: &Installed, name: &str) -> bool {
    let is = |pod: &ApiPod| pod.metadata.name.as_deref() == Some(name) && pod.metadata.deletion_timestamp.is_some();
    pods(cluster).iter().any(is)
}

/// A budget over the fabric's pods, of which no controller ever says how it stands.
fn budget(cluster: &Installed) {
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "web" } } },
    });
    let applier = Applier::new(cluster.server.admin().clone());
    cluster.server.block_on(applier.apply(&budget)).unwrap();
}

/// The disruption controller says how many may go.
fn allow(cluster: &Installed, count: u32) {
    let status = json!({ "status": {
        "currentHealthy": 6, "desiredHealthy": 5, "disruptionsAllowed": count, "expectedPods": 6, "observedGeneration": 1,
    }});
    let change = status.to_string();
    let words = [
        "patch",
        "pdb",
        "web",
        "-n",
        "default",
        "--subresource=status",
        "--type=merge",
        "-p",
        &change,
    ];
    cluster.kubectl.run(&words).unwrap();
}

/// Evictions that the account asked for: the pod's name and what was answered.
fn evictions(cluster: &Installed) -> Vec<(String, u16)> {
    let requests = audit::read(cluster.server.directory()).unwrap();
    let of = requests.into_iter().filter(|request| {
        let evicts = request.used.as_ref().is_some_and(|used| used.resource == "pods/eviction");
        evicts && request.account == format!("{NAMESPACE}/{ACCOUNT}")
    });
    of.map(|request| (request.name, request.code)).collect()
}

fn of_pods(said: &Said) -> Vec<Value> {
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr));
    report["pods"].as_array().unwrap().clone()
}

fn pod<'a>(pods: &'a [Value], name: &str) -> &'a Value {
    let found = pods.iter().find(|pod| pod["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not among {pods:?}"))
}

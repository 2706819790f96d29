//! `overlays/recovery-job`: waits for calico-node, validates, leaves its report, uncordons on a full pass and on nothing else; with agents and
//! without. There is no scheduler and no kubelet: the Job's command is run here, in the network namespace of its node, under its account.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use k8s_openapi::api::core::v1::{ConfigMap, Pod as ApiPod};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use verifier::kubernetes::kinds::Scope;
use verifier_tests::apiserver::{
    Said,
    deploy::{NAMESPACE, Workload},
    verifier,
};

use crate::{eventually, installed::Installed};

const ACCOUNT: &str = "dataplane-verifier-validate";
const JOB: &str = "dataplane-verifier-recovery";
/// The node in question.
const NODE: &str = "node-b";
const THE_NODE: &str = "\
- target: { kind: Job, name: dataplane-verifier-recovery }
  patch: '[{\"op\": \"replace\", \"path\": \"/spec/template/spec/nodeName\", \"value\": \"node-b\"}]'
";
const WAIT: &str = "--wait-for-running=10m";

#[test]
fn a_recovery_is_gated_by_what_was_verified() {
    let Some(mut cluster) = Installed::raise("a_recovery_is_gated_by_what_was_verified", 3) else {
        return;
    };
    // Somebody has to say which node; nobody's is nobody's.
    let refused = cluster.kubectl.apply("overlays/recovery-job").unwrap_err().to_string();
    assert!(refused.contains("spec.nodeName: Invalid value: \"NODE\""), "{refused}");
    cluster.kubectl.apply_changed("overlays/recovery-job", THE_NODE).unwrap();
    cluster.stage.start_agents().unwrap();
    let job = Workload::read(&cluster.server, "Job", JOB).unwrap();
    assert_eq!(job.account, ACCOUNT);
    let arguments = job.on(NODE);
    assert!(arguments.contains(&WAIT.to_owned()) && arguments.contains(&"--uncordon".to_owned()));

    // calico-node comes up late: nothing is said before, and then all of it.
    cordon(&cluster);
    calico_node_ready(&cluster, false);
    let mut running = start(&cluster, &job, &arguments, &["--report-annotation"]);
    if eventually(Duration::from_secs(3), || running.try_wait().unwrap().is_some()) {
        panic!("it does not wait: {:?}", finish(running));
    }
    assert!(is_cordoned(&cluster));
    calico_node_ready(&cluster, true);
    let passed = finish(running);
    assert_eq!(passed.status, Some(0), "{}{}", passed.stdout, passed.stderr);
    assert!(passed.stderr.contains("node-b: uncordoned"), "{}", passed.stderr);
    assert!(!is_cordoned(&cluster));
    let (report, junit) = left_behind(&cluster);
    assert_eq!(report["verdict"], "forwarding");
    assert!(junit.starts_with("<?xml"), "{junit}");
    assert_eq!(annotation(&cluster)["exit_status"], 0);

    // It stays away: one line, and the status for "could not be verified".
    calico_node_ready(&cluster, false);
    let short: Vec<String> = arguments.iter().map(|word| word.replace(WAIT, "--wait-for-running=2s")).collect();
    let late = finish(start(&cluster, &job, &short, &[]));
    assert_eq!((late.status, late.stdout.as_str()), (Some(3), ""), "{}", late.stderr);
    assert!(
        late.stderr
            .contains("does not run after 2 s: calico-node of node-b is Running (not ready)"),
        "{}",
        late.stderr
    );
    assert_eq!(late.stderr.lines().count(), 1, "{}", late.stderr);
    calico_node_ready(&cluster, true);

    // Not everything passes: the node stays cordoned, and why is left behind.
    cordon(&cluster);
    cluster.inject("vtep-mac-changed");
    let failed = finish(start(&cluster, &job, &arguments, &["--report-annotation"]));
    assert_eq!(failed.status, Some(1), "{}{}", failed.stdout, failed.stderr);
    assert!(
        is_cordoned(&cluster) && failed.stderr.contains("nothing was uncordoned"),
        "{}",
        failed.stderr
    );
    let (report, _) = left_behind(&cluster);
    assert!(report.to_string().contains("vtep-mac-mismatch"), "{report}");
    let annotated = annotation(&cluster);
    assert_eq!(
        (&annotated["exit_status"], &annotated["causes"]),
        (&json!(1), &json!(["vtep-mac-mismatch"])),
        "{annotated}"
    );
    cluster.undo();

    without_agents(&mut cluster, &job, &arguments);

    cluster.serve_the_other_group();
    cluster.read_all("Job", JOB, Scope::Cluster);
    cluster.assert_permissions(ACCOUNT);
    cluster.strike();
}

/// Nobody to ask and no key: it does alone what can be done from its node, says what it could not, and never takes that for a full pass
/// unless it is told to.
fn without_agents(cluster: &mut Installed, job: &Workload, arguments: &[String]) {
    cluster.stage.stop_agents().unwrap();
    std::fs::remove_file(cluster.stage.files().key()).unwrap();
    let alone = finish(start(cluster, job, arguments, &[]));
    assert_eq!(alone.status, Some(3), "{}{}", alone.stdout, alone.stderr);
    assert!(is_cordoned(cluster));
    let (report, _) = left_behind(cluster);
    let unknown = report["unknown"].to_string();
    assert!(
        unknown.contains("probes from other nodes") && unknown.contains("UDP to pods of other nodes"),
        "{unknown}"
    );
    assert_eq!(report["nodes"][0]["causes"], json!([]), "{report}");

    let suffices = finish(start(cluster, job, arguments, &["--alone-suffices"]));
    assert_eq!(suffices.status, Some(0), "{}{}", suffices.stdout, suffices.stderr);
    assert!(!is_cordoned(cluster));

    // What is wrong is found alone too.
    cordon(cluster);
    cluster.inject("vtep-mac-changed");
    let failed = finish(start(cluster, job, arguments, &["--alone-suffices"]));
    assert_eq!(failed.status, Some(1), "{}{}", failed.stdout, failed.stderr);
    assert!(is_cordoned(cluster));
    cluster.undo();
}

/// Starts the Job's command in its node's network namespace.
fn start(cluster: &Installed, job: &Workload, arguments: &[String], more: &[&str]) -> Child {
    let fabric = cluster.stage.fabric();
    let netns = fabric.node_netns(fabric.node(NODE).unwrap()).unwrap();
    let mut command = verifier().unwrap();
    command.args(arguments).args(more);
    command.arg(format!("--kubeconfig={}", job.kubeconfig(&cluster.server).unwrap().display()));
    command.arg(format!("--netns={}", netns.path().display()));
    command.arg(format!("--key-file={}", cluster.stage.files().key().display()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) -> Said {
    Said::of(&child.wait_with_output().unwrap())
}

fn cordon(cluster: &Installed) {
    cluster.patch_node(NODE, &json!({ "spec": { "unschedulable": true } }));
}

fn is_cordoned(cluster: &Installed) -> bool {
    cluster.node(NODE).spec.and_then(|spec| spec.unschedulable) == Some(true)
}

/// The kubelet says of the node's calico-node that it is ready, or not.
fn calico_node_ready(cluster: &Installed, ready: bool) {
    let api: Api<ApiPod> = Api::namespaced(cluster.server.admin().clone(), "kube-system");
    let all = ListParams::default().labels("k8s-app=calico-node");
    let pods = cluster.server.block_on(api.list(&all)).unwrap().items;
    let of_node = |pod: &&ApiPod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(NODE);
    let pod = pods.iter().find(of_node).unwrap();
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).unwrap();
    let at = conditions.iter().position(|condition| condition.type_ == "Ready").unwrap();
    let change = json!([
        { "op": "replace", "path": "/status/containerStatuses/0/ready", "value": ready },
        { "op": "replace", "path": format!("/status/conditions/{at}/status"), "value": if ready { "True" } else { "False" } },
    ])
    .to_string();
    let name = pod.metadata.name.as_deref().unwrap();
    let words = [
        "patch",
        "pod",
        name,
        "-n",
        "kube-system",
        "--subresource=status",
        "--type=json",
        "-p",
        &change,
    ];
    cluster.kubectl.run(&words).unwrap();
}

/// The ConfigMap: the report, and JUnit.
fn left_behind(cluster: &Installed) -> (Value, String) {
    let api: Api<ConfigMap> = Api::namespaced(cluster.server.admin().clone(), NAMESPACE);
    let mut data = cluster.server.block_on(api.get(JOB)).unwrap().data.unwrap();
    assert!(data.contains_key("report.txt"));
    let report = serde_json::from_str(&data.remove("report.json").unwrap()).unwrap();
    (report, data.remove("junit.xml").unwrap())
}

fn annotation(cluster: &Installed) -> Value {
    let annotations = cluster.node(NODE).metadata.annotations.unwrap();
    serde_json::from_str(&annotations["dataplane-verifier.io/validated"]).unwrap()
}

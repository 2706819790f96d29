//! The runbook's cases in a real API server, and logs through it: the same objects that the files of `tests/runbook.rs` hold, read by
//! `verifier triage --kubeconfig`; and a played kubelet behind the real way to it (`verifier/tests/api` has only a fake of both).

use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use verifier_core::{
    names::UnixNs,
    report::rfc3339,
    triage::{Branch, ClusterFacts, Triage},
};
use verifier_tests::{
    apiserver::{
        ApiServer, Said,
        apply::{Applier, documents},
        kubelet::Kubelet,
        run_verifier,
    },
    netns::Netns,
    runbook::{self, CASES, Case, Cluster},
};

use crate::{PATIENCE, STORED, eventually, serve, server};

const BGP_PEERS: &str = include_str!("../../data/crds/bgppeers.crd.projectcalico.org.yaml");
const READ_ROLE: &str = include_str!("../../../deploy/read/rbac.yaml");
/// Seconds and minutes that may pass between the making of a case and its reading.
const SLACK: u64 = 30;

/// The runbook's cluster in an API server.
struct Scene {
    server: ApiServer,
    applier: Applier,
    kubelet: Kubelet,
    /// What is in the cluster, by kind and name; times as the case has them.
    placed: BTreeMap<String, Value>,
}

impl Scene {
    fn raise() -> Option<Self> {
        let server = server()?;
        serve(&server, STORED);
        serve(&server, BGP_PEERS);
        let applier = Applier::new(server.admin().clone());
        for namespace in ["calico-system", "kube-system", "tigera-operator", "policy", "kube-node-lease"] {
            server.block_on(applier.namespace(namespace)).unwrap();
        }
        let kubelet = Kubelet::start(&server).unwrap();
        Some(Self {
            server,
            applier,
            kubelet,
            placed: BTreeMap::new(),
        })
    }

    /// Brings the API server from the last cluster to this one.
    fn place(&mut self, cluster: &Cluster) {
        let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
        for (_, _, items) in cluster.lists() {
            wanted.extend(items.iter().map(|object| (key(object), object.clone())));
        }
        let gone = self.placed.iter().filter(|(key, _)| !wanted.contains_key(*key));
        let mut gone: Vec<&Value> = gone.map(|(_, object)| object).collect();
        gone.sort_by_key(|object| order(object) != WEBHOOK);
        for object in gone {
            self.server.block_on(self.applier.delete(object, true)).unwrap();
        }
        let mut all: Vec<&Value> = wanted.values().collect();
        all.sort_by_key(|object| order(object));
        let mut edited_at = None;
        for object in all {
            // Leases age.
            if object["kind"] != "Lease" && self.placed.get(&key(object)) == Some(object) {
                continue;
            }
            match object.pointer("/metadata/managedFields/0/manager").and_then(Value::as_str) {
                Some(manager) => edited_at = Some(self.edit(object, manager)),
                None => self.apply(object, edited_at),
            }
        }
        self.placed = wanted;
    }

    /// One object, its times moved to now, and its controller's part played.
    fn apply(&self, object: &Value, edited_at: Option<UnixNs>) {
        let now = verifier::clock::unix_now();
        let mut object = object.clone();
        runbook::shift(&mut object, now);
        if object["kind"] == "Node" {
            self.kubelet.adopt(&mut object);
            // When somebody changed something, the server says; the case says that nodes fell ill after it.
            for condition in object["status"]["conditions"].as_array_mut().unwrap() {
                if let Some(edited) = edited_at.filter(|_| condition["reason"] == "CalicoIsDown") {
                    let since = rfc3339(UnixNs(edited.0 + 1_000_000_000));
                    condition["lastTransitionTime"] = json!(format!("{}Z", since.split('.').next().unwrap()));
                }
            }
        }
        // Right after a webhook went, the server may still ask it.
        let mut outcome = Ok(());
        let settled = eventually(PATIENCE, || {
            outcome = self.server.block_on(self.applier.apply(&object));
            !outcome.as_ref().is_err_and(|error| format!("{error:#}").contains("webhook"))
        });
        if let Err(error) = outcome {
            panic!("{} (settled: {settled}): {error:#}", key(&object));
        }
        if object["status"]["observedGeneration"].is_number() {
            let there = self.server.block_on(self.applier.get(&object)).unwrap();
            object["status"]["observedGeneration"] = there["metadata"]["generation"].clone();
            self.server.block_on(self.applier.apply(&object)).unwrap();
        }
    }

    /// Changes the spec of an object as somebody with this field manager; when, by the server.
    fn edit(&self, object: &Value, manager: &str) -> UnixNs {
        let gvk = GroupVersionKind::gvk("crd.projectcalico.org", "v1", object["kind"].as_str().unwrap());
        let api: Api<DynamicObject> = Api::all_with(self.server.admin().clone(), &ApiResource::from_gvk(&gvk));
        let parameters = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "spec": object["spec"] }));
        let edited = self.server.block_on(api.patch(runbook::name(object), &parameters, &patch)).unwrap();
        let fields = edited.metadata.managed_fields.unwrap();
        let by_them = fields.iter().find(|fields| fields.manager.as_deref() == Some(manager)).unwrap();
        UnixNs(u64::try_from(by_them.time.as_ref().unwrap().0.as_nanosecond()).unwrap())
    }

    /// What the API server says to a new pod of calico-node. Nothing is made.
    fn refusal(&self) -> Option<String> {
        let pods: Api<Pod> = Api::namespaced(self.server.admin().clone(), "calico-system");
        let pod = serde_json::from_value(json!({
            "metadata": { "name": "calico-node-try" },
            "spec": { "containers": [ { "name": "calico-node", "image": "example/calico-node:v3.31.7" } ] },
        }));
        let parameters = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        match self.server.block_on(pods.create(&parameters, &pod.unwrap())) {
            Ok(_) => None,
            Err(kube::Error::Api(status)) => Some(status.message.clone()),
            Err(error) => panic!("{error}"),
        }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let kubeconfig = self.server.admin_kubeconfig();
        let mut all = arguments.to_vec();
        all.extend(["--kubeconfig", kubeconfig.to_str().unwrap()]);
        run_verifier(&all).unwrap()
    }

    fn triage(&self) -> (Option<i32>, Triage) {
        let said = self.run(&["triage", "--output", "json"]);
        let found = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", said.stdout, said.stderr));
        (said.status, found)
    }
}

fn key(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!(
        "{} {} {}/{}",
        text("/apiVersion"),
        text("/kind"),
        text("/metadata/namespace"),
        text("/metadata/name")
    )
}

const WEBHOOK: u8 = 3;

/// Who is made before whom: webhooks last, since they refuse pods; nodes after what somebody changed.
fn order(object: &Value) -> u8 {
    match object["kind"].as_str().unwrap() {
        "Node" => 1,
        "Lease" => 2,
        "ValidatingWebhookConfiguration" => WEBHOOK,
        _ => 0,
    }
}

/// What differs, but for one thing that is only said of a real cluster: of many affected nodes the logs of a few are read.
fn differences(case: &Case, mut found: Triage) -> Vec<String> {
    found.unknown.retain(|gap| !gap.why.contains("affected nodes were read"));
    runbook::differences(case, &found, SLACK)
}

fn case(branches: &[Branch]) -> &'static Case {
    CASES.iter().find(|case| case.branches == branches).unwrap()
}

#[test]
fn every_case_of_the_runbook() {
    let Some(mut scene) = Scene::raise() else { return };
    for pod in Cluster::healthy().pods.iter().map(|pod| runbook::name(pod).to_owned()) {
        for previous in [false, true] {
            scene.kubelet.put(
                &format!("calico-system/{pod}"),
                "calico-node",
                previous,
                "2026-11-20T11:00:00.000000000Z 2026-11-20 11:00:00.000 [INFO][71] felix/x.go 1: fine\n",
            );
        }
    }
    let mut wrong = Vec::new();
    for case in CASES {
        let mut cluster = Cluster::healthy();
        (case.change)(&mut cluster);
        scene.place(&cluster);
        let (status, found) = scene.triage();
        let mut differences = differences(case, found.clone());
        if status != Some(i32::from(found.exit_status())) {
            differences.push(format!("exit status {status:?}"));
        }
        wrong.extend(differences.into_iter().map(|difference| format!("{}: {difference}", case.name)));
    }
    println!("{} cases in a real API server", CASES.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the API server itself says when a webhook does not answer is what triage must recognise.
#[test]
fn a_webhook_that_really_refuses() {
    let Some(mut scene) = Scene::raise() else { return };
    let case = CASES.iter().find(|case| case.name.contains("admission webhook refuses")).unwrap();
    let mut cluster = Cluster::healthy();
    (case.change)(&mut cluster);
    scene.place(&cluster);
    let mut said = None;
    assert!(eventually(PATIENCE, || {
        said = scene.refusal();
        said.is_some()
    }));
    let said = said.unwrap();
    assert!(said.contains("failed calling webhook"), "{said}");
    // The words that the DaemonSet controller puts around them.
    cluster.events[0]["message"] = json!(format!("Error creating: {said}"));
    scene.place(&cluster);
    let (status, found) = scene.triage();
    assert_eq!(differences(case, found), Vec::<String>::new(), "{said}");
    assert_eq!(status, Some(1));
}

#[test]
fn logs_come_through_the_api_server_from_the_kubelet() {
    let Some(mut scene) = Scene::raise() else { return };
    let mut cluster = Cluster::healthy();
    cluster.not_ready(2, 2, json!({ "running": { "startedAt": "2026-11-20T11:31:00Z" } }));
    cluster.calico_node(2)["status"]["containerStatuses"][0]["lastState"] =
        json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    scene.place(&cluster);
    let pod = "calico-system/calico-node-02";
    let now = "2026-11-20T11:58:00.000000000Z 2026-11-20 11:58:00.000 [WARNING][71] felix/vxlan_mgr.go 1: Failed to configure VXLAN tunnel device, retrying... error=operation not supported\n";
    scene.kubelet.put(pod, "calico-node", false, now);

    // The container before is not there any more: said, and what is there is read.
    let said = scene.run(&["logs", pod]);
    assert_eq!(said.status, Some(1), "{} {}", said.stdout, said.stderr);
    for words in ["kernel-module-missing", "before its restart", "not found"] {
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    }
    assert!(!said.stdout.contains("Some("), "{}", said.stdout);
    let before = "2026-11-20T11:30:00.000000000Z bird: I found another BIRD running.\n2026-11-20T11:30:01.000000000Z 2026-11-20 11:30:01.000 [INFO][71] felix/x.go 1: token=hunter2hunter2\n";
    scene.kubelet.put(pod, "calico-node", true, before);
    let said = scene.run(&["logs", pod]);
    assert!(said.stdout.contains("bird-second"), "{}", said.stdout);
    assert!(
        scene
            .kubelet
            .asked()
            .iter()
            .all(|asked| asked.contains("timestamps=true") && asked.contains("tailLines=")),
        "{:?}",
        scene.kubelet.asked()
    );
    let said = scene.run(&["logs", "calico-system/calico-node-99"]);
    assert_eq!((said.status, said.stderr.lines().count()), (Some(64), 1), "{}", said.stderr);
    let said = scene.run(&["logs", "-c", "nobody", pod]);
    assert_eq!((said.status, said.stderr.lines().count()), (Some(64), 1), "{}", said.stderr);

    // Triage reads the same log as a clue, and gather takes it along without the secret.
    let (_, found) = scene.triage();
    assert!(
        found.notes.iter().any(|note| note.about == "log" && note.says.contains("node-02")),
        "{:?}",
        found.notes
    );
    if crate::support::can_run("gather in a real API server") {
        gathered(&scene, &cluster);
    }

    // The kubelet is gone: that is said of each log, and nothing waits for it.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut node = cluster.nodes[2].clone();
    scene.kubelet.adopt(&mut node);
    node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] = json!(closed);
    scene.server.block_on(scene.applier.apply(&node)).unwrap();
    let gone = || scene.run(&["logs", pod]);
    assert!(eventually(PATIENCE, || gone().status == Some(64)));
    let said = gone();
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert!(said.stderr.contains("connection refused"), "{}", said.stderr);
    // What the server said, not how a program prints what it got.
    assert!(!said.stderr.contains("Some("), "{}", said.stderr);
}

/// A network namespace with nothing in it.
struct Void(Netns);

impl Void {
    fn make() -> Self {
        Self(Netns::create(&format!("dpv-{}-void", crate::support::unique_prefix())).unwrap())
    }
}

impl Drop for Void {
    fn drop(&mut self) {
        if let Err(error) = verifier_tests::netns::delete(self.0.name()) {
            eprintln!("clean-up failed: {error:#}");
        }
    }
}

fn gathered(scene: &Scene, cluster: &Cluster) {
    let directory = scene.server.directory();
    let (manifests, key, out) = (directory.join("manifests"), directory.join("key"), directory.join("case.tar.gz"));
    runbook::write(cluster, &manifests).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    // Agents are asked from a namespace with nothing in it: no packet leaves for the nodes' made-up addresses.
    let void = Void::make();
    assert_eq!(run_verifier(&["keygen", &text(&key)]).unwrap().status, Some(0));
    let said = scene.run(&[
        "gather",
        "--key-file",
        &text(&key),
        "--node",
        "node-02",
        "--netns",
        &text(&void.0.path()),
        "--timeout",
        "1s",
        "--out",
        &text(&out),
    ]);
    // No agent runs here: that is missing, and the rest is had.
    assert_eq!(said.status, Some(3), "{} {}", said.stdout, said.stderr);
    let unpacked = directory.join("unpacked");
    fs::create_dir_all(&unpacked).unwrap();
    let file = fs::File::open(&out).unwrap();
    let tar = std::process::Command::new("tar")
        .args(["-xzf", "-", "-C"])
        .arg(&unpacked)
        .stdin(file)
        .status();
    assert!(tar.unwrap().success());
    let read = |name: &str| fs::read_to_string(unpacked.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read("nodes/node-02/logs/calico-node.log").contains("Failed to configure VXLAN"));
    let before = read("nodes/node-02/logs/calico-node-previous.log");
    assert!(before.contains("another BIRD") && !before.contains("hunter2"), "{before}");
    assert!(read("nodes/node-02/describe.txt").contains("OOMKilled (137)"));
    let facts: ClusterFacts = serde_json::from_str(&read("cluster/facts.json")).unwrap();
    assert_eq!(facts.known_nodes().count(), 12);
    let manifest: Value = serde_json::from_str(&read("manifest.json")).unwrap();
    let missing: Vec<&str> = manifest["missing"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|m| m["what"].as_str())
        .collect();
    assert_eq!(missing.len(), 12, "{manifest:#}");
    assert!(missing.iter().all(|what| what.starts_with("snapshot of node-")), "{manifest:#}");
    let replayed = run_verifier(&["replay", "--output", "json", &text(&out)]).unwrap();
    assert!(replayed.stdout == read("report.json"), "replay says something else");
}

/// An account that may read what the agents read: what it may not is named, each kind with what to grant, and the rest stands.
#[test]
fn what_an_account_may_not_read_is_named() {
    let Some(mut scene) = Scene::raise() else { return };
    let mut cluster = Cluster::healthy();
    (case(&[Branch::CalicoIsDown, Branch::FewNodes]).change)(&mut cluster);
    scene.place(&cluster);
    for role in documents(READ_ROLE).unwrap() {
        scene.server.block_on(scene.applier.apply(&role)).unwrap();
    }
    scene.server.block_on(scene.applier.account("kube-system", "reader")).unwrap();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "dataplane-verifier-read" },
        "subjects": [ { "kind": "ServiceAccount", "namespace": "kube-system", "name": "reader" } ],
    });
    scene.server.block_on(scene.applier.apply(&binding)).unwrap();
    let kubeconfig = scene.server.kubeconfig_of("kube-system", "reader", scene.server.port()).unwrap();
    let triage = || run_verifier(&["triage", "--kubeconfig", kubeconfig.to_str().unwrap()]).unwrap();
    // Roles take a moment to be known.
    assert!(eventually(PATIENCE, || triage().status == Some(1)), "{:?}", triage());
    let said = triage().stdout;
    for words in [
        "Branch calico-is-down: node-02",
        "not permitted to list events: grant `list`",
        "not permitted to list validatingwebhookconfigurations.admissionregistration.k8s.io",
        "not permitted: grant `get` on pods and pods/log",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }

    // Nothing at all: one line, and no verdict.
    scene.server.block_on(scene.applier.account("kube-system", "nobody")).unwrap();
    let kubeconfig = scene.server.kubeconfig_of("kube-system", "nobody", scene.server.port()).unwrap();
    let said = run_verifier(&["triage", "--kubeconfig", kubeconfig.to_str().unwrap()]).unwrap();
    assert_eq!(
        (said.status, said.stdout.as_str(), said.stderr.lines().count()),
        (Some(3), "", 1),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains("not permitted to list nodes"), "{}", said.stderr);
}

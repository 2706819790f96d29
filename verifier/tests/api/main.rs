//! Logs of pods and what `gather` takes along, through an API. The server here gives fixed answers (no kubelet runs beside a test that
//! could serve logs); that requests and answers are Kubernetes' own is what the client's types are for.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; outside of functions marked as tests the lint does not see that it is one"
)]

mod server;

use serde_json::{Value, json};
use server::{Answer, Server};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const POD: &str = "/api/v1/namespaces/calico-system/pods/calico-node-x";
const STARTED: &str = "2026-09-01T06:00:00Z";

fn verifier(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verifier"));
    for name in [
        "VERIFIER_INTENT",
        "VERIFIER_KEY_FILE",
        "VERIFIER_AGENT_PORT",
        "VERIFIER_LOG",
        "KUBECONFIG",
    ] {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("api-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ok(value: &Value) -> Answer {
    (200, "application/json", value.to_string().into_bytes())
}

fn log(lines: &str) -> Answer {
    (200, "text/plain", lines.as_bytes().to_vec())
}

fn container(name: &str, restarts: u32) -> Value {
    json!({
        "name": name, "image": "example/x:v3.31.7", "imageID": "", "ready": true, "restartCount": restarts,
        "state": { "running": { "startedAt": STARTED } },
        "lastState": if restarts > 0 { json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } }) } else { json!({}) },
    })
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "calico-node-x", "namespace": "calico-system", "labels": { "k8s-app": "calico-node" } },
        "spec": {
            "nodeName": "kind-worker",
            "initContainers": [ { "name": "install-cni", "image": "example/cni:v3.31.7" } ],
            "containers": [ { "name": "calico-node", "image": "example/x:v3.31.7", "env": [ { "name": "BGP_PASSWORD", "value": "hunter2hunter2" } ] }, { "name": "sidecar", "image": "example/x:v1" } ],
        },
        "status": {
            "phase": "Running",
            "conditions": [ { "type": "Ready", "status": "False" } ],
            "initContainerStatuses": [ { "name": "install-cni", "image": "", "imageID": "", "ready": true, "restartCount": 0, "lastState": {}, "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } } ],
            "containerStatuses": [ container("calico-node", 2), container("sidecar", 0) ],
        },
    })
}

fn answers() -> BTreeMap<String, Answer> {
    let of = |query: &str| format!("{POD}/log?&container={query}");
    BTreeMap::from([
        (POD.to_owned(), ok(&pod())),
        (
            of("calico-node&tail"),
            log(
                "2026-09-01T06:00:01.1Z 2026-09-01 06:00:01.100 [WARNING][71] felix/vxlan_mgr.go 1: Failed to configure VXLAN tunnel device, retrying... error=operation not supported\n\
                 2026-09-01T06:00:02.1Z 2026-09-01 06:00:02.100 [INFO][71] felix/x.go 1: token=hunter2hunter2\n",
            ),
        ),
        (
            of("calico-node&previous=true"),
            log(
                "2026-09-01T05:00:01.1Z bird: I found another BIRD running.\n2026-09-01T05:00:02.1Z 2026-09-01 05:00:02.100 [ERROR][71] felix/x.go 1: never heard of\n",
            ),
        ),
        (
            of("install-cni"),
            log("2026-09-01T04:59:00Z 2026-09-01 04:59:00.000 [INFO][1] cni-installer: done\n"),
        ),
        (
            of("sidecar"),
            (
                403,
                "application/json",
                br#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"Forbidden","code":403}"#.to_vec(),
            ),
        ),
    ])
}

#[test]
fn a_pods_containers_of_now_and_before_are_read() {
    let scratch = Scratch::new("logs");
    let server = Server::start(answers());
    let kubeconfig = server.kubeconfig(&scratch.0);
    let kubeconfig = kubeconfig.to_str().unwrap();
    let output = verifier(&["logs", "--kubeconfig", kubeconfig, "calico-system/calico-node-x"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said} {}", text(&output.stderr));
    for words in [
        "kernel-module-missing",
        "bird-second",
        "never heard of",
        "calico-node before its restart",
        "install-cni",
        "sidecar: not permitted: grant `get` on pods and pods/log",
    ] {
        assert!(said.contains(words), "{words:?} is missing in {said}");
    }
    assert!(
        server
            .asked()
            .iter()
            .all(|target| !target.contains("/log") || target.contains("timestamps=true") && target.contains("tailLines="))
    );
    // Only one container, of which all is known.
    let output = verifier(&[
        "logs",
        "--kubeconfig",
        kubeconfig,
        "-c",
        "install-cni",
        "calico-system/calico-node-x",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn what_is_no_pod_is_one_line() {
    let scratch = Scratch::new("nopod");
    let server = Server::start(answers());
    let kubeconfig = server.kubeconfig(&scratch.0);
    let output = verifier(&["logs", "--kubeconfig", kubeconfig.to_str().unwrap(), "calico-system/other"]);
    let error = text(&output.stderr);
    assert_eq!((output.status.code(), error.lines().count()), (Some(64), 1), "{error}");
    assert!(
        error.contains("there is no pod calico-system/other") && error.contains("no file of that name"),
        "{error}"
    );
}

#[test]
fn clocks_and_rotation_weaken_what_is_said() {
    let scratch = Scratch::new("clock");
    let mut answers = answers();
    // Long after the container started; then back; and far in the future.
    answers.insert(format!("{POD}/log?&container=install-cni"), log("2099-01-01T00:00:00Z one\n"));
    answers.insert(
        format!("{POD}/log?&container=calico-node&tail"),
        log("2026-09-01T09:00:00Z one\n2026-09-01T08:00:00Z two\n"),
    );
    let server = Server::start(answers);
    let kubeconfig = server.kubeconfig(&scratch.0);
    let kubeconfig = kubeconfig.to_str().unwrap();
    let read = |container: &str| {
        let output = verifier(&["logs", "--kubeconfig", kubeconfig, "-c", container, "calico-system/calico-node-x"]);
        (output.status.code(), text(&output.stdout))
    };
    let (status, said) = read("install-cni");
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("ahead of this one"), "{said}");
    let (_, said) = read("calico-node");
    assert!(
        said.contains("go back by 3600 s") && said.contains("its first 180 min were rotated away"),
        "{said}"
    );
}

/// Lists of everything that triage reads, most of them empty.
fn cluster() -> BTreeMap<String, Answer> {
    let list = |items: Value| ok(&json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }));
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "kind-worker" },
        "status": { "conditions": [ { "type": "Ready", "status": "True", "reason": "KubeletReady" } ], "nodeInfo": { "kernelVersion": "6.8.0-45" } },
    });
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "e", "namespace": "calico-system" },
        "involvedObject": { "kind": "Pod", "namespace": "calico-system", "name": "calico-node-x" },
        "reason": "Unhealthy", "type": "Warning", "message": "probe failed: password=hunter2hunter2", "count": 3, "lastTimestamp": STARTED,
    });
    let mut all = answers();
    for (path, items) in [
        ("/api/v1/nodes", json!([node])),
        ("/api/v1/pods", json!([pod()])),
        ("/api/v1/events", json!([event])),
        ("/apis/apps/v1/daemonsets", json!([])),
        ("/apis/apps/v1/deployments", json!([])),
        ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", json!([])),
        ("/apis/discovery.k8s.io/v1/endpointslices", json!([])),
        ("/apis/networking.k8s.io/v1/networkpolicies", json!([])),
        ("/apis/crd.projectcalico.org/v1/ippools", json!([])),
    ] {
        all.insert(path.to_owned(), list(items));
    }
    all
}

#[test]
fn gather_takes_along_what_the_api_has_and_no_secret() {
    let scratch = Scratch::new("gather");
    let server = Server::start(cluster());
    let kubeconfig = server.kubeconfig(&scratch.0);
    let key = scratch.0.join("key");
    let out = scratch.0.join("case.tar.gz");
    assert!(verifier(&["keygen", key.to_str().unwrap()]).status.success());
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kind-vxlan/manifests");
    let output = verifier(&[
        "gather",
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
        "--intent",
        manifests.to_str().unwrap(),
        "--key-file",
        key.to_str().unwrap(),
        "--timeout",
        "1s",
        "--out",
        out.to_str().unwrap(),
    ]);
    let said = text(&output.stdout);
    // No agent runs: that is noted, and the rest is had all the same.
    assert_eq!(output.status.code(), Some(3), "{said} {}", text(&output.stderr));
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(&out).unwrap()));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = String::new();
        std::io::Read::read_to_string(&mut entry, &mut content).unwrap();
        files.insert(name, content);
    }
    for name in [
        "snapshot.json",
        "manifest.json",
        "cluster/facts.json",
        "cluster/triage.txt",
        "cluster/events.jsonl",
        "nodes/kind-worker/describe.txt",
        "nodes/kind-worker/logs/calico-node.log",
        "nodes/kind-worker/logs/calico-node-previous.log",
        "nodes/kind-worker/logs/install-cni.log",
    ] {
        assert!(files.contains_key(name), "{name} is missing: {:?}", files.keys());
    }
    for (name, content) in &files {
        assert!(!content.contains("hunter2"), "a secret stands in {name}: {content}");
    }
    let described = &files["nodes/kind-worker/describe.txt"];
    for words in [
        "condition  Ready True",
        "calico-node  running, ready true, 2 restarts",
        "before   terminated: OOMKilled (137)",
        "Unhealthy",
    ] {
        assert!(described.contains(words), "{words:?} is missing in {described}");
    }
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).unwrap();
    let missing = manifest["missing"].to_string();
    for words in [
        "snapshot of kind-worker",
        "sidecar",
        "not permitted",
        "logs of calico-node on kind-control-plane",
        "validatingwebhookconfigurations",
    ] {
        assert!(missing.contains(words), "{words:?} is missing in {missing}");
    }
    let facts: verifier_core::triage::ClusterFacts = serde_json::from_str(&files["cluster/facts.json"]).unwrap();
    assert_eq!(facts.known_nodes().count(), 1);
    // Judged again elsewhere: the same bytes.
    let again = |format: &str| text(&verifier(&["replay", out.to_str().unwrap(), "--output", format]).stdout);
    assert_eq!(again("json"), files["report.json"]);
    assert_eq!(again("text"), files["report.txt"]);
    // Bounded: what does not fit is named.
    let output = verifier(&[
        "gather",
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
        "--intent",
        manifests.to_str().unwrap(),
        "--key-file",
        key.to_str().unwrap(),
        "--timeout",
        "1s",
        "--max-mib",
        "1",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(3));
    assert!(fs::metadata(&out).unwrap().len() < 1 << 20);
}

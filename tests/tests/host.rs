//! The host account on a real fabric: a kernel that was upgraded without its modules, from claim to chain to remedy to recovery; what is
//! gathered is judged the same again; and the odd node is found without a rule.
//!
//! The hosts' file systems are fakes (`verifier/tests/host/healthy.rs`); devices, routes, agents and packets are real.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "only the healthy host is taken from there")]
#[path = "../../verifier/tests/host/healthy.rs"]
mod healthy;
mod support;

use std::{collections::BTreeSet, ffi::OsString, fs, path::Path, process::Command};

use healthy::{Fake, RELEASE, healthy, modules_dep};
use serde_json::Value;
use support::{can_run, unique_prefix};
use verifier_tests::{
    fabric::{FabricSpec, node::pod_route},
    faults::{self, Cast, Outcome},
    lab::{
        Files, Stage, program,
        report::{Cause, Report},
    },
};

/// A fabric whose agents read a host account, every node's host healthy.
fn stage(test: &str) -> Option<Stage> {
    if !can_run(test) {
        return None;
    }
    if let Err(error) = program::path() {
        eprintln!("skipped: {test}: {error:#}");
        return None;
    }
    let prefix = unique_prefix();
    let files = Files::new(&format!("test-{prefix}")).unwrap();
    let spec = FabricSpec {
        prefix,
        ..FabricSpec::default()
    };
    let mut stage = Stage::raise(spec, files).unwrap();
    for node in stage.fabric().nodes().to_vec() {
        host(&stage, &node.name);
    }
    stage.start_agents().unwrap();
    Some(stage)
}

/// A healthy host for a node. Its token's times are long past for the real clock: it is replaced by one without an expiry.
fn host(stage: &Stage, node: &str) {
    let fake = healthy();
    fake.replace("etc/cni/net.d/10-calico.conflist", "\"node-a\"", &format!("\"{node}\""));
    fake.write("var/lib/calico/nodename", node);
    fake.write(
        "etc/cni/net.d/calico-kubeconfig",
        healthy::kubeconfig(1_700_000_000, 99_999_999_999),
    );
    let root = stage.files().host_root(node);
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    fs::rename(&fake.root, &root).unwrap();
}

/// The host of a node as something that can be broken; it stays when this goes.
fn with_host(stage: &Stage, node: &str, change: impl FnOnce(&Fake)) {
    let fake = std::mem::ManuallyDrop::new(Fake {
        root: stage.files().host_root(node),
    });
    change(&fake);
}

fn validate(stage: &Stage, arguments: &[&str]) -> (i32, Report, Value) {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let netns = stage.fabric().switch_netns().unwrap();
    let done = program::validate(stage.files(), &netns.path(), &arguments).unwrap();
    (done.status.unwrap(), Report::read(done.report.clone()).unwrap(), done.report)
}

fn verifier(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program::path().unwrap()).args(arguments).output().unwrap();
    assert!(output.status.code() != Some(64), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn strike(stage: Stage) {
    let directory = stage.files().directory().to_path_buf();
    stage.strike().unwrap();
    fs::remove_dir_all(directory).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_kernel_upgraded_without_its_modules_from_claim_to_recovery() {
    let Some(mut stage) = stage("a_kernel_upgraded_without_its_modules_from_claim_to_recovery") else {
        return;
    };
    let snapshot = stage.files().directory().join("snapshot.json");
    let (status, report, _) = validate(&stage, &["--snapshot-out", text(&snapshot)]);
    assert_eq!((status, report.complaints()), (0, Vec::<String>::new()));
    // Healthy nodes do not differ in anything that was compared, addresses and names aside.
    let (status, out) = verifier(&["compare", "--majority", "--snapshot", text(&snapshot)]);
    assert_eq!(status, 0, "{out}");
    let (status, out) = verifier(&["compare", "node-a", "node-b", "--snapshot", text(&snapshot)]);
    assert_eq!(status, 0, "{out}");

    // The reboot into a kernel without the module: its agent restarts, the device is gone, and both pods came up without their routes.
    stage.kill_agent("node-b").unwrap();
    with_host(&stage, "node-b", |host| {
        host.write("proc/modules", "nf_conntrack 200704 0 - Live 0x0\n");
        host.write(&format!("usr/lib/modules/{RELEASE}/modules.dep"), modules_dep(&["vxlan"]));
        host.write("usr/lib/modules/6.8.0-31-generic/modules.dep", modules_dep(&[]));
    });
    let fault = faults::find("tunnel-device-deleted").unwrap();
    let Outcome::Injected(device) = fault.inject(stage.fabric()).unwrap() else {
        panic!("the device cannot be deleted here");
    };
    let cast = Cast::of(stage.fabric()).unwrap();
    let pods = cast.pods_of(cast.b);
    assert_eq!(pods.len(), 2);
    let routes: Vec<_> = pods.iter().map(pod_route).collect();
    cast.on(cast.b, |nl| routes.iter().try_for_each(|route| nl.delete_route(route)))
        .unwrap();
    stage.start_agents().unwrap();

    let (status, report, json) = validate(&stage, &["--snapshot-out", text(&snapshot)]);
    assert_eq!(status, 1);
    let node = report.nodes.iter().find(|node| node.name == "node-b").unwrap();
    assert_eq!(
        (node.claimed.ready, node.claimed.calico_node.as_deref()),
        (Some(true), Some("Running"))
    );
    assert_eq!(node.verdict, "not-forwarding");
    assert_eq!(
        node.causes.iter().map(|cause| cause.code.as_str()).collect::<Vec<_>>(),
        ["kernel-upgraded"]
    );
    let follows: Vec<&str> = node.causes[0].consequences.iter().filter_map(|c| c["code"].as_str()).collect();
    assert!(
        follows.contains(&"kernel-module-missing") && follows.contains(&"tunnel-device-missing"),
        "{follows:?}"
    );
    let cause = json["nodes"].as_array().unwrap().iter().find(|n| n["name"] == "node-b").unwrap()["causes"][0].clone();
    assert!(
        cause["persist"].as_str().is_some_and(|persist| persist.contains("metapackage")),
        "{cause}"
    );
    let stale: Vec<&str> = report
        .pods
        .iter()
        .filter(|pod| pod.verdict == "stale")
        .map(|pod| pod.node.as_str())
        .collect();
    assert_eq!(stale, ["node-b", "node-b"]);
    let (_, out) = verifier(&["replay", text(&snapshot)]);
    let chain = out.lines().find(|line| line.contains("chain ")).unwrap();
    assert!(
        chain.contains("kernel-upgraded > kernel-module-missing > tunnel-device-missing"),
        "{chain}"
    );
    assert!(out.starts_with("node-b claims to be healthy"), "{out}");

    // Without any rule, the odd one out, the likeliest to matter first.
    let (status, out) = verifier(&["compare", "--majority", "--snapshot", text(&snapshot), "--output", "json"]);
    assert_eq!(status, 1);
    let found: Value = serde_json::from_str(&out).unwrap();
    let differences = found["differences"].as_array().unwrap();
    assert_eq!(differences[0]["key"], "programmed/tunnel/vxlan.calico", "{out}");
    let modules = differences.iter().find(|d| d["key"] == "host/modules").unwrap();
    assert_eq!(modules["odd"][0][1], serde_json::json!(["node-b"]));

    // What is gathered is judged the same, elsewhere and later.
    gathered_is_judged_the_same(&stage, &report, status);

    // The remedy: the package with the modules, the module loaded, Felix makes the device, the pods are made anew.
    let cast = Cast::of(stage.fabric()).unwrap();
    cast.on(cast.b, |nl| routes.iter().try_for_each(|route| nl.add_route(route)))
        .unwrap();
    device.apply(stage.fabric()).unwrap();
    stage.kill_agent("node-b").unwrap();
    host(&stage, "node-b");
    stage.start_agents().unwrap();
    let (status, report, _) = validate(&stage, &[]);
    assert_eq!((status, report.complaints()), (0, Vec::<String>::new()));
    strike(stage);
}

/// What a report says: who fails and why. Figures, what else taps saw, and how many of a node's peers were tried (of which its verdict
/// depends by degree) differ from one round to the next.
fn essence(report: &Report) -> Vec<String> {
    let codes = |causes: &[Cause]| -> BTreeSet<String> { causes.iter().map(|cause| format!("{} {}", cause.code, cause.class)).collect() };
    let fails = |verdict: &str| match verdict {
        "degraded" | "not-forwarding" => "fails".to_owned(),
        other => other.to_owned(),
    };
    let mut out = vec![format!("{} {:?}", fails(&report.verdict), codes(&report.causes))];
    out.extend(
        report
            .nodes
            .iter()
            .map(|n| format!("{} {} {:?}", n.name, fails(&n.verdict), codes(&n.causes))),
    );
    out.extend(
        report
            .pods
            .iter()
            .map(|p| format!("{}/{} {} {:?}", p.namespace, p.name, p.verdict, codes(&p.causes))),
    );
    out
}

/// Nothing, a place in the kernel, a pod, the network between: what is gathered while it lasts is judged, from the file alone, as
/// `validate` judged it live.
#[test]
fn gather_and_replay_say_what_validate_said() {
    let Some(stage) = stage("gather_and_replay_say_what_validate_said") else {
        return;
    };
    let (status, live, _) = validate(&stage, &[]);
    assert_eq!((status, live.complaints()), (0, Vec::<String>::new()));
    gathered_is_judged_the_same(&stage, &live, status);
    for name in ["neighbor-missing", "pod-route-missing", "underlay-drops-tunnel"] {
        let Outcome::Injected(_) = faults::find(name).unwrap().inject(stage.fabric()).unwrap() else {
            println!("skipped: {name} cannot be made here");
            continue;
        };
        let (status, live, _) = validate(&stage, &[]);
        assert_eq!(status, 1, "{name}");
        gathered_is_judged_the_same(&stage, &live, status);
        faults::undo(stage.fabric()).unwrap();
    }
    strike(stage);
}

fn gathered_is_judged_the_same(stage: &Stage, live: &Report, live_status: i32) {
    let directory = stage.files().directory();
    let (archive, log) = (directory.join("case.tar.gz"), directory.join("felix.log"));
    fs::write(&log, "token=hunter2hunter2\n2026-11-20 06:25:11.1 [INFO][1] felix/x.go 1: fine\n").unwrap();
    let arguments = ["--out", text(&archive), "--log-file", text(&log), "--log-file", "/no/such/log"].map(OsString::from);
    let netns = stage.fabric().switch_netns().unwrap();
    let output = program::asking(stage.files(), &netns.path(), "gather", &arguments)
        .unwrap()
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 lines redacted") && said.contains("/no/such/log"), "{said}");
    // The live verdict, taken from inside the archive, against the one that replay makes of its snapshot.
    let (status, replayed) = verifier(&["replay", "--output", "json", text(&archive)]);
    let again = Report::read(serde_json::from_str(&replayed).unwrap()).unwrap();
    assert_eq!(essence(&again), essence(live));
    assert_eq!(status, live_status);
    let unpacked = directory.join("unpacked");
    fs::create_dir_all(&unpacked).unwrap();
    let done = Command::new("tar")
        .arg("-xzf")
        .arg(&archive)
        .arg("-C")
        .arg(&unpacked)
        .status()
        .unwrap();
    assert!(done.success());
    let inside = fs::read_to_string(unpacked.join("report.json")).unwrap();
    assert!(inside == replayed, "the report in the archive is not what replay makes of it");
    let manifest: Value = serde_json::from_str(&fs::read_to_string(unpacked.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["schema"], "dataplane-verifier/gather/v1");
    let missing = |part: &str| {
        manifest[part]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["what"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(missing("missing"), ["\"/no/such/log\""]);
    assert!(
        missing("not_tried").iter().any(|what| what.contains("logs of pods")),
        "{manifest:#}"
    );
    let everything: String = ["logs/0-felix.log", "snapshot.json", "report.txt"]
        .iter()
        .map(|name| fs::read_to_string(unpacked.join(name)).unwrap())
        .collect();
    assert!(
        !everything.contains("hunter2") && !everything.contains("c2lnbmF0dXJl"),
        "a secret got into the archive"
    );
}

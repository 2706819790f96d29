//! The program as a script meets it: help, exit statuses, and one line with a remedy for each kind of bad input.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn verifier() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verifier"));
    for name in [
        "VERIFIER_INTENT",
        "VERIFIER_KEY_FILE",
        "VERIFIER_AGENT_PORT",
        "VERIFIER_LOG",
        "NODE_NAME",
    ] {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    verifier().args(arguments).output().unwrap()
}

/// Asserts that a run failed with this status, said nothing on stdout, and one line on stderr that contains all of `words`.
fn fails(output: &Output, status: i32, words: &[&str]) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(output.stdout.is_empty(), "stdout carries reports only");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is missing in {stderr}");
    }
}

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("verifier-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Manifests of one node, and a key.
    fn cluster(&self) -> (String, String) {
        self.write(
            "manifests/nodes.yaml",
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: node-a\n  annotations:\n    projectcalico.org/IPv4Address: 127.0.0.1/8\n",
        );
        let key = self.path("key");
        assert!(run(&["keygen", &key]).status.success());
        (self.path("manifests"), key)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn help_is_what_it_was() {
    let mut all = String::new();
    for command in [
        "",
        "validate",
        "pods",
        "replay",
        "trace",
        "inspect",
        "host",
        "logs",
        "compare",
        "triage",
        "gather",
        "agent",
        "controller",
        "status",
        "canary",
        "explain",
        "preflight",
        "keygen",
        "completions",
    ] {
        let mut arguments: Vec<&str> = vec![command, "--help"];
        arguments.retain(|argument| !argument.is_empty());
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        all.push_str(&format!(
            "$ verifier {}\n{}\n",
            arguments.join(" "),
            String::from_utf8(output.stdout).unwrap()
        ));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/help.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &all).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap();
    assert!(
        known == all,
        "help changed: run this test with UPDATE_SNAPSHOTS=1 and look at the difference"
    );
}

#[test]
fn version_names_the_kernel_object() {
    let output = run(&["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with(concat!("verifier ", env!("CARGO_PKG_VERSION"), " (kernel object ")),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn wrong_use_is_64() {
    for arguments in [
        &[] as &[&str],
        &["nonsense"],
        &["validate"],
        &["validate", "--intent", "x", "--key-file", "y", "--timeout", "soon"],
        &["trace", "a", "b", "--intent", "x", "--key-file", "y", "--count", "0"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    fails(&run(&["explain", "route-mising"]), 64, &["did you mean", "route-missing"]);
    fails(&run(&["explain", "x", "--log", "=bad=filter"]), 64, &["--log"]);
}

#[test]
fn explain_and_completions_answer_on_stdout() {
    for arguments in [
        &["explain"] as &[&str],
        &["explain", "vtep-mac-mismatch"],
        &["explain", "vtep-mac-mismatch", "--output", "json"],
        &["completions", "bash"],
        &["completions", "fish"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stdout.len() > 100 && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn manifests_that_cannot_be_used_are_told_in_one_line() {
    let scratch = Scratch::new("manifests");
    let (_, key) = scratch.cluster();
    let validate = |intent: &str| run(&["validate", "--intent", intent, "--key-file", &key]);
    fails(&validate(&scratch.path("nowhere")), 64, &["nowhere", "readable"]);
    fs::create_dir_all(scratch.path("empty")).unwrap();
    fails(&validate(&scratch.path("empty")), 64, &["kubectl get"]);
    scratch.write("cut/nodes.json", "{\"kind\": \"List\", \"items\": [");
    fails(&validate(&scratch.path("cut")), 64, &["nodes.json", "kubectl get"]);
    scratch.write(
        "no-nodes/pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  namespace: y\n",
    );
    fails(&validate(&scratch.path("no-nodes")), 64, &["kubectl get nodes"]);
    let pool = |name: &str, cidr: &str| {
        format!(
            "apiVersion: crd.projectcalico.org/v1\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  cidr: {cidr}\n  vxlanMode: Always\n---\n"
        )
    };
    let node = "apiVersion: v1\nkind: Node\nmetadata:\n  name: node-a\n";
    let pools = format!("{}{}{node}", pool("one", "10.244.0.0/16"), pool("two", "10.244.128.0/17"));
    scratch.write("contradictory/all.yaml", &pools);
    fails(&validate(&scratch.path("contradictory")), 64, &["overlap"]);
}

#[test]
fn a_node_that_does_not_exist_is_told_with_those_that_do() {
    let scratch = Scratch::new("node");
    let (intent, key) = scratch.cluster();
    let words = &["node-x", "node-a"];
    fails(
        &run(&["validate", "--intent", &intent, "--key-file", &key, "--node", "node-x"]),
        64,
        words,
    );
    fails(
        &run(&["agent", "--intent", &intent, "--key-file", &key, "--node", "node-x"]),
        64,
        words,
    );
    fails(&run(&["inspect", "--intent", &intent, "--node", "node-x"]), 64, words);
    let unknown_end = run(&["trace", "default/nobody", "node-a", "--intent", &intent, "--key-file", &key]);
    fails(&unknown_end, 64, &["default/nobody", "NAMESPACE/NAME"]);
}

#[test]
fn a_key_file_that_is_missing_or_too_open_is_refused() {
    let scratch = Scratch::new("key");
    let (intent, key) = scratch.cluster();
    let validate = |key: &str| run(&["validate", "--intent", &intent, "--key-file", key]);
    fails(&validate(&scratch.path("no-key")), 64, &["does not exist", "verifier keygen"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fails(&validate(&key), 64, &["read by others", "chmod 0600"]);
    fails(&validate(&scratch.write("garbage", "hello\n")), 64, &["read by others"]);
    let garbage = scratch.path("garbage");
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o600)).unwrap();
    fails(&validate(&garbage), 64, &["line 1"]);
    fails(&run(&["keygen", &key]), 64, &["not overwritten"]);
}

#[test]
fn a_key_is_rotated_step_by_step() {
    let scratch = Scratch::new("rotate");
    let (_, key) = scratch.cluster();
    let keys = || {
        fs::read_to_string(&key)
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
    };
    for (step, expected) in [("add", 2), ("promote", 2), ("retire", 1)] {
        let output = run(&["keygen", &key, "--rotate", step]);
        assert_eq!(output.status.code(), Some(0), "{step}");
        assert_eq!(keys(), expected, "{step}");
    }
    fails(&run(&["keygen", &key, "--rotate", "promote"]), 64, &["--rotate add"]);
}

#[test]
fn a_namespace_that_is_none_is_told() {
    let scratch = Scratch::new("netns");
    let (intent, key) = scratch.cluster();
    let file = scratch.write("file", "");
    for (path, word) in [("/run/netns/nowhere-at-all", "gone"), (file.as_str(), "no network namespace")] {
        let output = run(&["validate", "--intent", &intent, "--key-file", &key, "--netns", path]);
        fails(&output, 64, &[word]);
    }
}

#[test]
fn a_snapshot_of_another_kind_is_not_replayed() {
    let scratch = Scratch::new("replay");
    fails(&run(&["replay", &scratch.path("none.json")]), 64, &["none.json"]);
    fails(&run(&["replay", &scratch.write("x.json", "[]")]), 64, &["no snapshot"]);
    let other = scratch.write("y.json", "{\"schema\": \"dataplane-verifier/cluster-snapshot/v9\"}");
    fails(&run(&["replay", &other]), 64, &["cluster-snapshot/v9", "the version that wrote it"]);
}

#[test]
fn nodes_whose_agents_do_not_run_are_unknown_and_the_status_is_3() {
    let scratch = Scratch::new("no-agents");
    let (intent, key) = scratch.cluster();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let arguments = [
        "validate",
        "--intent",
        &intent,
        "--key-file",
        &key,
        "--agent-port",
        &free,
        "--timeout",
        "2s",
    ];
    let output = verifier().args(arguments).args(["--output", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "dataplane-verifier/v1");
    assert_eq!(report["nodes"][0]["name"], "node-a");
    assert_eq!(report["nodes"][0]["verdict"], "unknown");
    assert!(report["causes"].as_array().unwrap().is_empty());
}

#[test]
fn a_snapshot_replays_to_the_same_bytes() {
    let scratch = Scratch::new("same");
    let (intent, key) = scratch.cluster();
    let snapshot = scratch.path("snapshot.json");
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let arguments = [
        "validate",
        "--intent",
        &intent,
        "--key-file",
        &key,
        "--agent-port",
        &free,
        "--timeout",
        "1s",
    ];
    let first = verifier()
        .args(arguments)
        .args(["-o", "json", "--snapshot-out", &snapshot])
        .output()
        .unwrap();
    let again = run(&["replay", &snapshot, "-o", "json"]);
    assert_eq!(again.status.code(), Some(3));
    assert!(first.stdout == again.stdout);
    assert!(again.stdout == run(&["replay", &snapshot, "-o", "json"]).stdout);
}

/// Whether the tests run as root; what needs it says that it was skipped.
fn root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIPPED {test}: needs root");
    }
    root
}

#[test]
fn without_root_an_agent_says_what_it_lacks_and_attaches_nothing() {
    if !root("without_root_an_agent_says_what_it_lacks_and_attaches_nothing") {
        return;
    }
    let scratch = Scratch::new("no-root");
    let (intent, key) = scratch.cluster();
    nix::unistd::chown(Path::new(&key), Some(nix::unistd::Uid::from_raw(65_534)), None).unwrap();
    let output = verifier()
        .args([
            "agent",
            "--node",
            "node-a",
            "--intent",
            &intent,
            "--key-file",
            &key,
            "--log",
            "error",
        ])
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    fails(&output, 3, &["CAP_NET_ADMIN", "run as root or grant"]);
}

#[test]
fn without_cap_bpf_an_agent_says_so() {
    if !root("without_cap_bpf_an_agent_says_so") {
        return;
    }
    let scratch = Scratch::new("no-bpf");
    let (intent, key) = scratch.cluster();
    let mut command = verifier();
    command.args([
        "agent",
        "--node",
        "node-a",
        "--intent",
        &intent,
        "--key-file",
        &key,
        "--log",
        "error",
    ]);
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe; it changes the child alone.
    unsafe {
        command.pre_exec(|| {
            // CAP_SYS_ADMIN stands in for CAP_BPF on every kernel, so both go.
            for capability in [21, 39] {
                if nix::libc::prctl(nix::libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    fails(&command.output().unwrap(), 3, &["CAP_BPF", "grant CAP_BPF"]);
}

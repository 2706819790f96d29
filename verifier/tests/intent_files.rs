//! Manifests as kubectl prints them, good and bad.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use futures_util::StreamExt as _;
use std::{
    fs,
    path::{Path, PathBuf},
    pin::pin,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use verifier::intent::{FileSource, files};
use verifier_core::{
    evidence::Evidence,
    host::{HostContext, check},
    intent::{Cluster, NodeIntent, objects::Objects},
    names::UnixNs,
    verdict::CauseCode,
};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kind-vxlan").join(path)
}

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "verifier-manifests-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The golden manifests, and `text` besides.
    fn with(file: &str, text: &str) -> Self {
        let dir = Self::new();
        for entry in fs::read_dir(data("manifests")).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, dir.0.join(from.file_name().unwrap())).unwrap();
        }
        dir.write(file, text);
        dir
    }

    fn write(&self, file: &str, text: &str) {
        let temporary = self.0.join(format!(".{file}.new"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.0.join(file)).unwrap();
    }

    fn load(&self) -> Result<files::Loaded, files::LoadError> {
        files::load(&self.0, UnixNs(7))
    }

    /// The error, with the directory taken out so that it can be compared.
    fn error(&self) -> String {
        let error = self.load().unwrap_err().to_string();
        assert!(!error.contains('\n'), "one line: {error:?}");
        error
            .replace(&format!("{}/", self.0.display()), "")
            .replace(&self.0.display().to_string(), "DIR")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn golden() -> files::Loaded {
    files::load(&data("manifests"), UnixNs(7)).unwrap()
}

#[test]
fn golden_manifests_give_the_golden_intent() {
    let loaded = golden();
    assert!(loaded.objects.is_complete(), "{:?}", loaded.objects.gaps());
    assert_eq!(loaded.skipped.into_iter().collect::<Vec<_>>(), [("v1 Service".to_owned(), 1)]);
    let cluster = Cluster::compile(loaded.objects.all().unwrap().clone());
    for node in ["kind-control-plane", "kind-worker", "kind-worker2"] {
        let intent = cluster.node_intent(&node.into()).unwrap();
        let text = serde_json::to_string_pretty(&intent).unwrap() + "\n";
        let path = data(&format!("intent/{node}.json"));
        // To accept a change: UPDATE_GOLDEN=1 cargo test -p verifier --test intent_files, and read the difference.
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{node}");
        let back: NodeIntent = serde_json::from_str(&text).unwrap();
        assert_eq!(back, intent);
    }
}

#[test]
fn a_single_file_will_do() {
    let dir = Dir::new();
    let loaded = files::load(&data("manifests/nodes.json"), UnixNs(0)).unwrap();
    // Nodes alone say little, and the gaps say which kinds are missing.
    let gaps = loaded.objects.gaps();
    assert_eq!(gaps.len(), 4, "{gaps:?}");
    assert!(gaps[2].why.contains("kubectl get ipamblocks.crd.projectcalico.org"), "{gaps:?}");
    drop(dir);
}

#[test]
fn typed_lists_without_items_were_still_asked_for() {
    let dir = Dir::new();
    fs::copy(data("manifests/nodes.json"), dir.0.join("nodes.json")).unwrap();
    for (kind, api) in [
        ("Pod", "v1"),
        ("IPPool", "crd.projectcalico.org/v1"),
        ("IPAMBlock", "crd.projectcalico.org/v1"),
        ("FelixConfiguration", "projectcalico.org/v3"),
    ] {
        dir.write(
            &format!("{kind}.yaml"),
            &format!("apiVersion: {api}\nkind: {kind}List\nitems: []\n"),
        );
    }
    assert!(dir.load().unwrap().objects.is_complete());
}

#[test]
fn bad_input_is_one_line_with_the_remedy() {
    let pool = |name: &str, cidr: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}, vxlanMode: Always}}\n")
    };
    let cases = [
        (
            "cut.json",
            "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVer".to_owned(),
            "cut.json, document 1 is not whole YAML or JSON (EOF while parsing a string at line 1 column 55): write it again with `kubectl get \
             … -o yaml`",
        ),
        (
            "bad.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n---\na: [1\n".to_owned(),
            "bad.yaml, document 2 is not whole YAML or JSON (did not find expected ',' or ']' at line 6 column 1, while parsing a flow sequence \
             at line 5 column 4): write it again with `kubectl get … -o yaml`",
        ),
        (
            "words.yaml",
            "just some words\n".to_owned(),
            "words.yaml, document 1 is no Kubernetes object (not a mapping): keep only what kubectl prints in this directory",
        ),
        (
            "kindless.yml",
            "apiVersion: v1\nmetadata: {name: x}\n".to_owned(),
            "kindless.yml, document 1 is no Kubernetes object (no kind): keep only what kubectl prints in this directory",
        ),
        (
            "pool.yaml",
            pool("other", "10.9.0.0"),
            "pool.yaml, document 1: IPPool other cannot be read (spec.cidr: invalid IP address syntax): correct it, or get it again with `kubectl get ippools.crd.projectcalico.org -o yaml`",
        ),
        (
            "mode.yaml",
            pool("other", "10.9.0.0/16").replace("Always", "Sometimes"),
            "mode.yaml, document 1: IPPool other cannot be read (spec.vxlanMode: unknown variant `Sometimes`, expected one of ``, `Never`, \
             `Always`, `CrossSubnet`): correct it, or get it again with `kubectl get ippools.crd.projectcalico.org -o yaml`",
        ),
        (
            "list.yaml",
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: ok}}\n- {apiVersion: v1, kind: Node, spec: 1}\n"
                .to_owned(),
            "list.yaml, document 1, item 2: Node without a name cannot be read (spec: invalid type: integer `1`, expected struct NodeSpec): \
             correct it, or get it again with `kubectl get nodes -o yaml`",
        ),
        (
            "nameless.yaml",
            "apiVersion: v1\nkind: Node\nmetadata: {}\n".to_owned(),
            "nameless.yaml, document 1: Node without a name cannot be read (it has no metadata.name): correct it, or get it again with \
             `kubectl get nodes -o yaml`",
        ),
        (
            "overlap.yaml",
            pool("other", "10.244.128.0/17"),
            "IPPools default-ipv4-ippool (10.244.0.0/16) and other (10.244.128.0/17) overlap, which Calico refuses: remove the one that is not \
             in the cluster",
        ),
        (
            "twice.yaml",
            "apiVersion: v1\nkind: Node\nmetadata: {name: kind-worker}\n".to_owned(),
            "twice.yaml, document 1: Node kind-worker was given before with other contents: keep one of the two",
        ),
    ];
    for (file, text, expected) in cases {
        assert_eq!(Dir::with(file, &text).error(), expected);
    }
    let dir = Dir::new();
    assert!(
        dir.error()
            .starts_with("no .json, .yaml or .yml file in DIR: put there what `kubectl get nodes,pods")
    );
    dir.write("pods.yaml", "apiVersion: v1\nkind: List\nitems: []\n");
    assert_eq!(dir.error(), "no Node objects in DIR: add the output of `kubectl get nodes -o yaml`");
    let missing = files::load(Path::new("/nonexistent/manifests"), UnixNs(0)).unwrap_err().to_string();
    assert_eq!(
        missing,
        "cannot read manifests at /nonexistent/manifests: No such file or directory (os error 2); name a readable file or directory"
    );
}

#[test]
fn one_unreadable_pod_leaves_the_rest_true_and_does_not_vanish() {
    let dir = Dir::with(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {namespace: default, name: odd}\nspec: {nodeName: [kind-worker]}\n",
    );
    let loaded = dir.load().unwrap();
    let Evidence::Partial { value, missing } = loaded.objects else {
        panic!("{:?}", loaded.objects);
    };
    assert_eq!(missing.len(), 1);
    assert!(
        missing[0]
            .why
            .contains("Pod default/odd cannot be read (spec.nodeName: invalid type"),
        "{missing:?}"
    );
    // The gap comes along into every node's intent.
    let intent = Cluster::compile(value).node_intent(&"kind-worker".into()).unwrap();
    assert_eq!(intent.gaps, missing);
}

/// What runs together in the cluster is judged by the dated table, where the table has it; where not, nothing is said on every node.
#[test]
fn the_versions_of_a_cluster_are_compared() {
    let with = |kubelet: &str| {
        let dir = Dir::with("zz.json", "");
        let nodes = fs::read_to_string(dir.0.join("nodes.json")).unwrap();
        let mut nodes: serde_json::Value = serde_json::from_str(&nodes).unwrap();
        for node in nodes["items"].as_array_mut().unwrap() {
            node["status"]["nodeInfo"] = serde_json::json!({ "kubeletVersion": kubelet });
        }
        dir.write("nodes.json", &nodes.to_string());
        fs::remove_file(dir.0.join("zz.json")).unwrap();
        let cluster = Cluster::compile(dir.load().unwrap().objects.all().unwrap().clone());
        HostContext::of(&cluster.node_intent(&"kind-worker".into()).unwrap())
    };
    let context = with("v1.34.1-eks-1");
    assert_eq!((context.calico, context.kubernetes), (Some((3, 31, 7)), Some((1, 34))));
    let account = verifier::host::read(Path::new("/"), UnixNs(7)).unwrap();
    let judged = |context: &HostContext| {
        let found = check(&account, context).findings;
        found.iter().any(|f| f.code == CauseCode::VersionsIncompatible)
    };
    assert!(!judged(&context) && judged(&with("v1.20.4")));
    assert_eq!(with("unknown").kubernetes, None);
}

#[test]
fn an_unknown_version_of_a_calico_kind_is_a_gap() {
    let dir = Dir::with(
        "new.yaml",
        "apiVersion: crd.projectcalico.org/v9\nkind: IPPool\nmetadata: {name: n}\nspec: {}\n---\napiVersion: metal3.io/v1\nkind: IPPool\n\
         metadata: {name: foreign}\n",
    );
    let loaded = dir.load().unwrap();
    assert_eq!(loaded.objects.gaps().len(), 1, "{:?}", loaded.objects.gaps());
    assert_eq!(loaded.skipped.get("metal3.io/v1 IPPool"), Some(&1));
}

/// The next evidence, within a deadline.
async fn next(stream: &mut (impl futures_util::Stream<Item = Evidence<Objects>> + Unpin)) -> Evidence<Objects> {
    tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_last_good_manifests_stay_in_force_while_newer_ones_cannot_be_read() {
    let dir = Dir::with("extra.yaml", "");
    let source = FileSource::new(&dir.0).every(Duration::from_millis(10));
    let mut stream = pin!(source.watch());
    let good = next(&mut stream).await;
    assert!(good.is_complete());
    let count = good.seen().unwrap().len();

    dir.write("extra.yaml", "apiVersion: v1\nkind: [");
    let kept = next(&mut stream).await;
    let Evidence::Partial { value, missing } = kept else {
        panic!("{kept:?}")
    };
    assert_eq!(value.len(), count);
    assert!(
        missing[0].why.contains("extra.yaml, document 1 is not whole YAML") && missing[0].why.contains(" s ago stays in force"),
        "{missing:?}"
    );

    dir.write("extra.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: new}\n");
    let newer = next(&mut stream).await;
    assert!(newer.is_complete());
    assert_eq!(newer.seen().unwrap().len(), count + 1);

    // Gone altogether, and back.
    let away = dir.0.with_extension("away");
    fs::rename(&dir.0, &away).unwrap();
    assert!(matches!(next(&mut stream).await, Evidence::Partial { .. }));
    fs::rename(&away, &dir.0).unwrap();
    assert!(next(&mut stream).await.is_complete());
}

#[tokio::test]
async fn before_anything_could_be_read_the_evidence_is_unavailable() {
    let dir = Dir::new();
    let source = FileSource::new(&dir.0).every(Duration::from_millis(10));
    let mut stream = pin!(source.watch());
    assert!(matches!(next(&mut stream).await, Evidence::Unavailable { .. }));
    fs::copy(data("manifests/nodes.json"), dir.0.join("nodes.json")).unwrap();
    assert_eq!(next(&mut stream).await.seen().unwrap().len(), 3);
}

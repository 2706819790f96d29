//! Intent from the API is intent from files, whichever group the cluster serves; and what is missing is named with what it costs.

use serde_json::{Value, json};
use verifier::kubernetes::{KubeSource, kinds::Scope};
use verifier_core::{evidence::Evidence, intent::Cluster, names::NodeName};
use verifier_tests::{
    apiserver::{
        ApiServer, accounts,
        apply::{Applier, documents},
        client_of,
        mirror::Mirror,
        run_verifier,
    },
    fabric::{FabricSpec, State},
    manifests,
};

use crate::{
    AGGREGATED, Followed, PATIENCE, STORED, all_differences, eventually, from_api, from_files, gaps, intent, intents, planned, serve,
    server,
};

/// Everything of a fabric, in the form of one of the groups.
fn objects_of(state: &State, aggregated: bool) -> Vec<Value> {
    let all = manifests::render(state).unwrap().into_iter();
    let all = all.flat_map(|(_, text)| documents(&text).unwrap());
    all.map(|object| if aggregated { as_aggregated(object) } else { object }).collect()
}

fn as_aggregated(mut object: Value) -> Value {
    if object["apiVersion"] == "crd.projectcalico.org/v1" {
        object["apiVersion"] = json!("projectcalico.org/v3");
        if object["kind"] == "BlockAffinity" {
            object["spec"]["deleted"] = json!(object["spec"]["deleted"] == "true");
        }
    }
    object
}

/// Applies all that the cluster has a kind for.
fn apply_all(server: &ApiServer, applier: &Applier, objects: &[Value], wanted: impl Fn(&Value) -> bool) {
    for object in objects.iter().filter(|object| wanted(object)) {
        server.block_on(applier.apply(object)).unwrap();
    }
}

fn is_calicos(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().contains("projectcalico.org")
}

#[test]
fn calico_that_is_installed_later_by_its_api_group_is_found_and_means_the_same_as_files() {
    let Some(server) = server() else { return };
    let handle = server.handle();
    let state = planned(FabricSpec::default());
    let objects = objects_of(&state, true);
    let applier = Applier::new(server.admin().clone());
    for namespace in ["default", "kube-system"] {
        server.block_on(applier.namespace(namespace)).unwrap();
    }
    apply_all(&server, &applier, &objects, |object| !is_calicos(object));

    // Neither group: said, and what it costs.
    let mut followed = Followed::new(&handle, KubeSource::new(server.admin().clone(), Scope::Cluster));
    let first = followed.wait_for("the first objects", |_| true);
    assert!(gaps(&first).contains("is Calico installed?"), "{}", gaps(&first));
    assert!(first.seen().is_some(), "Nodes and Pods are known all the same");

    // Its API group only, with a field that this version of the verifier does not know.
    serve(&server, AGGREGATED);
    apply_all(&server, &applier, &objects, is_calicos);
    let mut felix = objects
        .iter()
        .find(|object| object["kind"] == "FelixConfiguration")
        .unwrap()
        .clone();
    felix["spec"]["fieldOfTheFuture"] = json!({ "deeper": [1, 2] });
    server.block_on(applier.apply(&felix)).unwrap();
    let expected = intents(from_files(&server.directory().join("files"), &objects));
    followed.wait_for("Calico's objects", |evidence| {
        evidence.is_complete() && evidence.seen().is_some_and(|seen| intents(seen.clone()) == expected)
    });
}

#[test]
fn the_stored_group_means_the_same_as_files_to_the_cluster_and_to_one_node() {
    let Some(server) = server() else { return };
    let handle = server.handle();
    serve(&server, STORED);
    let mut state = planned(FabricSpec {
        vni: 4097,
        port: 4790,
        ..FabricSpec::default()
    });
    let mut mirror = Mirror::new(&server).unwrap();
    mirror.sync(&server, &state).unwrap();
    let expect = |state: &State| from_files(&server.directory().join("files"), &objects_of(state, false));

    let whole = from_api(&server, server.admin(), Scope::Cluster);
    assert!(whole.is_complete(), "{}", gaps(&whole));
    let found = all_differences(&intents(whole.seen().unwrap().clone()), &intents(expect(&state)));
    assert_eq!(found, Vec::<String>::new());

    // One node's agent reads fewer pods, and knows of its own node what the cluster knows.
    let node = NodeName::from("node-b");
    let mut followed = Followed::new(&handle, KubeSource::new(server.admin().clone(), Scope::Node(node.clone())));
    let matches = |state: &State, evidence: &Evidence<_>| {
        let expected = Cluster::compile(expect(state));
        evidence.seen().is_some_and(|seen| {
            let seen = Cluster::compile(verifier_core::intent::objects::Objects::clone(seen));
            let (mut seen, mut expected) = (intent(&seen, &node), intent(&expected, &node));
            // Which pods others have is what it does not read.
            seen.peers.clear();
            expected.peers.clear();
            seen == expected
        })
    };
    followed.wait_for("the node's view", |evidence| evidence.is_complete() && matches(&state, evidence));

    // A pod goes, another one's address changes, a node's tunnel address is lost: each arrives by a watch.
    state.pods.retain(|pod| pod.name != "pod-b2");
    mirror.sync(&server, &state).unwrap();
    followed.wait_for("a pod that goes", |evidence| matches(&state, evidence));
    state.overrides.without_tunnel_address.insert("node-c".to_owned());
    mirror.sync(&server, &state).unwrap();
    followed.wait_for("a tunnel address that is lost", |evidence| matches(&state, evidence));
    assert_eq!(mirror.sync(&server, &state).unwrap(), 0, "nothing is written twice");
}

/// Everything that an agent reads.
const READER: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: test-reader }
rules:
- { apiGroups: [\"\"], resources: [nodes, pods, configmaps], verbs: [get, list, watch] }
- { apiGroups: [apps], resources: [daemonsets], verbs: [get, list, watch] }
- apiGroups: [crd.projectcalico.org]
  resources: [ippools, ipamblocks, blockaffinities, felixconfigurations, bgpconfigurations, clusterinformations]
  verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: test-reader }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: test-reader }
subjects: [ { kind: ServiceAccount, namespace: default, name: reader } ]
";

/// Makes the account `default/reader`, which may read everything.
pub(crate) fn reader(server: &ApiServer) {
    let applier = Applier::new(server.admin().clone());
    server.block_on(applier.account("default", "reader")).unwrap();
    server.block_on(applier.text(READER)).unwrap();
}

#[test]
fn what_may_not_be_read_is_named_with_its_cost_and_noticed_when_it_is_granted() {
    let Some(server) = server() else { return };
    let handle = server.handle();
    serve(&server, STORED);
    let state = planned(FabricSpec::default());
    Mirror::new(&server).unwrap().sync(&server, &state).unwrap();
    let applier = Applier::new(server.admin().clone());
    server.block_on(applier.account("default", "reader")).unwrap();
    let kubeconfig = server.kubeconfig_of("default", "reader", server.port()).unwrap();

    // No permission at all: one line on stderr, nothing on stdout, and the exit status for "could not verify".
    let refused = run_verifier(&["inspect", "--node", "node-a", "--kubeconfig", kubeconfig.to_str().unwrap()]).unwrap();
    assert_eq!((refused.status, refused.stdout.as_str()), (Some(3), ""), "{}", refused.stderr);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("not permitted to list and watch nodes"),
        "{}",
        refused.stderr
    );

    // All but the pools.
    server.block_on(applier.text(&READER.replace("ippools, ", ""))).unwrap();
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    let client = server.block_on(client_of(&text)).unwrap();
    let can_read_nodes = || gaps(&from_api(&server, &client, Scope::Cluster)).contains("ippools");
    assert!(eventually(PATIENCE, can_read_nodes), "roles take effect");
    let mut followed = Followed::new(&handle, KubeSource::new(client.clone(), Scope::Node(NodeName::from("node-a"))));
    let partial = followed.wait_for("all but the pools", |evidence| evidence.seen().is_some());
    assert_eq!(
        gaps(&partial),
        "not permitted to list and watch ippools.crd.projectcalico.org, so encapsulation and routes are not known: grant both verbs"
    );

    server.block_on(applier.text(READER)).unwrap();
    followed.wait_for("the pools", Evidence::is_complete);
}

#[test]
fn a_kubeconfig_names_its_files() {
    let text = accounts::kubeconfig(
        "https://127.0.0.1:1",
        "/d".as_ref(),
        &accounts::Identity::TokenFile("/d/t".as_ref()),
    );
    assert!(
        text.contains("tokenFile: /d/t") && text.contains("certificate-authority: /d/ca.crt"),
        "{text}"
    );
}

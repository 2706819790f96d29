//! What a cluster may hold that is not as it should be: each is one clear line, and the rest stays true.

use serde_json::{Value, json};
use verifier::kubernetes::{
    KubeSource,
    kinds::Scope,
    results::{Results, Wanted},
};
use verifier_core::{evidence::Evidence, intent::Cluster, names::NodeName, verdict::CauseCode};
use verifier_tests::{
    apiserver::{ApiServer, apply::Applier, client_of, mirror::Mirror, run_verifier},
    fabric::FabricSpec,
};

use crate::{Followed, STORED, from_api, gaps, planned, serve, server, source::reader};

fn apply(server: &ApiServer, object: &Value) {
    server.block_on(Applier::new(server.admin().clone()).apply(object)).unwrap();
}

fn calico(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// The cluster as the API tells it.
fn compiled(server: &ApiServer) -> Cluster {
    let all = from_api(server, server.admin(), Scope::Cluster);
    assert!(all.is_complete(), "{}", gaps(&all));
    Cluster::compile(all.seen().unwrap().clone())
}

#[test]
fn odd_objects_of_calico_mean_what_they_mean_to_calico() {
    let Some(server) = server() else { return };
    serve(&server, STORED);
    let state = planned(FabricSpec::default());
    Mirror::new(&server).unwrap().sync(&server, &state).unwrap();
    let before = compiled(&server);

    // One node has settings of its own, the others keep the cluster's.
    apply(&server, &calico("FelixConfiguration", "node.node-b", &json!({ "vxlanPort": 4790 })));
    // A pool from which nothing is given out any more, and one for nodes of which there are none.
    apply(
        &server,
        &calico(
            "IPPool",
            "old",
            &json!({ "cidr": "10.250.0.0/16", "disabled": true, "vxlanMode": "Always" }),
        ),
    );
    let elsewhere = json!({ "cidr": "10.251.0.0/16", "nodeSelector": "rack == 'elsewhere'", "vxlanMode": "CrossSubnet" });
    apply(&server, &calico("IPPool", "elsewhere", &elsewhere));
    let after = compiled(&server);
    for node in ["node-a", "node-b", "node-c"].map(NodeName::from) {
        let (was, is) = (before.node_intent(&node).unwrap(), after.node_intent(&node).unwrap());
        let port = if node.as_str() == "node-b" { 4790 } else { 4789 };
        assert_eq!(is.settings.vxlan_port.value(), Some(&port), "{node}");
        assert_eq!((is.routes, is.workloads), (was.routes, was.workloads), "{node}");
        // Nobody else can talk to a node whose tunnel has another port.
        assert_eq!(was.contradictions, [], "{node}");
        let found: Vec<_> = is.contradictions.into_iter().map(|c| (c.code, c.node)).collect();
        assert_eq!(found, [(CauseCode::TunnelSettingsConflict, Some("node-b".into()))], "{node}");
    }

    // Every pool disabled: what was given out is still routed.
    let mut pool = calico("IPPool", "default-ipv4-ippool", &json!({}));
    pool["spec"] = json!({ "blockSize": 26, "cidr": "10.244.0.0/16", "disabled": true, "natOutgoing": true, "vxlanMode": "Always" });
    apply(&server, &pool);
    let (was, is) = (&after, compiled(&server));
    let node = NodeName::from("node-a");
    assert_eq!(is.node_intent(&node).unwrap().routes, was.node_intent(&node).unwrap().routes);
}

#[test]
fn a_node_without_addresses_is_a_row_with_its_reason() {
    let Some(server) = server() else { return };
    serve(&server, STORED);
    Mirror::new(&server)
        .unwrap()
        .sync(&server, &planned(FabricSpec::default()))
        .unwrap();
    apply(
        &server,
        &json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-z" }, "spec": {} }),
    );
    let key = server.directory().join("key");
    let (key, kubeconfig) = (key.to_str().unwrap(), server.admin_kubeconfig());
    assert_eq!(run_verifier(&["keygen", key]).unwrap().status, Some(0));
    let kubeconfig = kubeconfig.to_str().unwrap();
    let words = [
        "validate",
        "--node",
        "node-z",
        "--key-file",
        key,
        "--kubeconfig",
        kubeconfig,
        "--timeout",
        "2s",
    ];
    let said = run_verifier(&words).unwrap();
    let about: Vec<&str> = said
        .stdout
        .lines()
        .filter(|line| line.contains("node-z") && line.contains("address"))
        .collect();
    assert!(
        !about.is_empty() && about.iter().any(|line| line.contains("projectcalico.org/IPv4Address")),
        "{}",
        said.stdout
    );
    assert!(matches!(said.status, Some(1 | 3)), "{:?}: {}", said.status, said.stdout);
    let cluster = compiled(&server);
    let found = cluster.node_intent(&NodeName::from("node-z")).unwrap().contradictions;
    let codes: Vec<CauseCode> = found.iter().map(|one| one.code).collect();
    assert_eq!(codes, [CauseCode::TunnelAddressMissing], "{found:?}");
    assert_eq!(cluster.nodes().count(), 4, "and nobody else is lost");
}

#[test]
fn what_may_not_be_written_is_named_with_what_to_grant() {
    let Some(server) = server() else { return };
    serve(&server, STORED);
    Mirror::new(&server)
        .unwrap()
        .sync(&server, &planned(FabricSpec::default()))
        .unwrap();
    reader(&server);
    let file = server.kubeconfig_of("default", "reader", server.port()).unwrap();
    let client = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap();
        server.block_on(client_of(&text)).unwrap()
    };
    let node = NodeName::from("node-a");
    let wanted = Wanted {
        object: true,
        condition: true,
        events: true,
    };
    let refusal = |path: &std::path::Path| {
        let results = Results::new(client(path), wanted, "dataplane-verifier.io/agent", "test");
        server.block_on(results.read(&node)).unwrap_err().to_string()
    };
    // Its definition is not installed, and then: it may not be read.
    let said = refusal(&server.admin_kubeconfig());
    assert!(said.contains("404") || said.contains("verifier crd"), "{said}");
    let status = run_verifier(&["status", "--kubeconfig", server.admin_kubeconfig().to_str().unwrap()]).unwrap();
    assert_eq!((status.status, status.stdout.as_str()), (Some(3), ""), "{}", status.stderr);
    assert!(
        status.stderr.contains("verifier crd") && status.stderr.lines().count() == 1,
        "{}",
        status.stderr
    );
    serve(&server, &run_verifier(&["crd"]).unwrap().stdout);
    let said = refusal(&file);
    assert_eq!(
        said,
        "cannot get nodedataplanes.dataplane-verifier.io node-a: not permitted: grant get on nodedataplanes.dataplane-verifier.io to \
         this service account (deploy/ does)"
    );
    // A plugin says it too, and never that the node is bad.
    let words = ["status", "--npd", "--node", "node-a", "--kubeconfig", file.to_str().unwrap()];
    let plugin = run_verifier(&words).unwrap();
    assert_eq!(plugin.status, Some(2), "{}", plugin.stdout);
    assert!(
        plugin.stdout.starts_with("cannot list nodedataplanes") && plugin.stdout.len() <= 81,
        "{}",
        plugin.stdout
    );
}

#[test]
fn a_pod_that_is_deleted_while_it_is_read_is_gone_and_nothing_else_is() {
    let Some(server) = server() else { return };
    let handle = server.handle();
    serve(&server, STORED);
    let mut state = planned(FabricSpec::default());
    let mut mirror = Mirror::new(&server).unwrap();
    mirror.sync(&server, &state).unwrap();
    let mut followed = Followed::new(&handle, KubeSource::new(server.admin().clone(), Scope::Cluster));
    followed.wait_for("everything", Evidence::is_complete);
    let node = NodeName::from("node-b");
    let workloads = |evidence: &Evidence<_>| -> Vec<(String, bool)> {
        let cluster = Cluster::compile(verifier_core::intent::objects::Objects::clone(evidence.seen().unwrap()));
        let intent = cluster.node_intent(&node).unwrap();
        intent
            .workloads
            .values()
            .map(|pod| (pod.pod.name.clone(), pod.terminating))
            .collect()
    };
    // Its deletion begins: it is still there, and nothing is demanded of it any more. Then it is gone.
    for pod in &mut state.pods {
        if pod.name == "pod-b1" {
            pod.phase = verifier_tests::fabric::Phase::Terminating;
        }
    }
    mirror.sync(&server, &state).unwrap();
    let going = [("pod-b1".to_owned(), true), ("pod-b2".to_owned(), false)];
    followed.wait_for("a pod that goes", |evidence| workloads(evidence) == going);
    state.pods.retain(|pod| pod.name != "pod-b1");
    mirror.sync(&server, &state).unwrap();
    let gone = followed.wait_for("a pod that is gone", |evidence| workloads(evidence) == going[1..]);
    assert!(gone.is_complete(), "{}", gaps(&gone));
}

//! 300 nodes with 20 pods each, of synthetic objects: lists come in pages, and all of it arrives.

use verifier::kubernetes::{KubeSource, kinds::Scope};
use verifier_core::{intent::Cluster, names::NodeName};
use verifier_tests::apiserver::{
    apply::Applier,
    audit, client_of,
    synthetic::{self, Size},
};

use crate::{PATIENCE, STORED, differences, from_files, gaps, intent, pods, serve, server, source::reader};

const SIZE: Size = Size {
    nodes: 300,
    pods_per_node: 20,
};

#[test]
fn three_hundred_nodes_with_twenty_pods_each() {
    let Some(server) = server() else { return };
    serve(&server, STORED);
    reader(&server);
    let applier = Applier::new(server.admin().clone());
    server.block_on(applier.namespace("default")).unwrap();
    let (rest, workloads) = (synthetic::all_but_pods(SIZE), synthetic::pods(SIZE));
    server.block_on(applier.create_all(rest.clone(), |_| true)).unwrap();
    server.block_on(applier.create_all(workloads.clone(), |_| true)).unwrap();

    let kubeconfig = server.kubeconfig_of("default", "reader", server.port()).unwrap();
    let client = server.block_on(client_of(&std::fs::read_to_string(kubeconfig).unwrap())).unwrap();
    let all: Vec<_> = rest.into_iter().chain(workloads).collect();
    let expected = Cluster::compile(from_files(&server.directory().join("files"), &all));
    let load = |scope| server.block_on(KubeSource::new(client.clone(), scope).load(PATIENCE));

    let whole = load(Scope::Cluster);
    assert!(whole.is_complete(), "{}", gaps(&whole));
    assert_eq!(pods(whole.seen().unwrap()).count(), (SIZE.nodes * SIZE.pods_per_node) as usize);
    let whole = Cluster::compile(whole.seen().unwrap().clone());
    for n in [0, 137, SIZE.nodes - 1] {
        let node = NodeName(synthetic::node_name(n));
        assert_eq!(differences(&intent(&whole, &node), &intent(&expected, &node)), Vec::<String>::new());
    }
    // One agent: its own pods and the canaries, and never the whole.
    let own = NodeName(synthetic::node_name(137));
    let one = load(Scope::Node(own.clone()));
    assert!(one.is_complete(), "{}", gaps(&one));
    let own_and_canaries = SIZE.pods_per_node + SIZE.nodes - 1;
    assert_eq!(pods(one.seen().unwrap()).count(), own_and_canaries as usize);
    let one = intent(&Cluster::compile(one.seen().unwrap().clone()), &own);
    let of_all = intent(&expected, &own);
    assert_eq!((one.routes, one.workloads), (of_all.routes, of_all.workloads));

    let requests = audit::read(server.directory()).unwrap();
    let pages = requests
        .iter()
        .filter(|request| request.uri.contains("/pods?") && request.uri.contains("continue="))
        .count();
    assert_eq!(pages, 11, "6,000 pods in pages of 500");
}

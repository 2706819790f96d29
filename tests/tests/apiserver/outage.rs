//! The API server goes away, forgets, or no longer knows us: what was known stays in force, its age is said, and all of it is made up for.

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, WatchParams},
    core::WatchEvent,
};
use verifier::kubernetes::{KubeSource, kinds::Scope};
use verifier_core::{evidence::Evidence, intent::objects::Kind};
use verifier_tests::{
    apiserver::{client_of, mirror::Mirror, pki, relay::Relay},
    fabric::{FabricSpec, Pod as Planned},
};

use crate::{Followed, STORED, gaps, planned, pods, serve, server, source::reader};

/// Names of the pods that evidence speaks of.
fn names(evidence: &Evidence<verifier_core::intent::objects::Objects>) -> Vec<String> {
    let seen = evidence.seen().unwrap();
    let mut names: Vec<String> = pods(seen)
        .filter(|pod| pod.metadata.namespace == "default")
        .map(|pod| pod.metadata.name.clone())
        .collect();
    names.sort();
    names
}

#[test]
fn an_outage_a_compaction_and_an_expired_token_are_survived() {
    let Some(mut server) = server() else { return };
    let handle = server.handle();
    serve(&server, STORED);
    reader(&server);
    let mut state = planned(FabricSpec::default());
    let mut mirror = Mirror::new(&server).unwrap();
    mirror.sync(&server, &state).unwrap();
    let relay = Relay::start(server.port()).unwrap();
    let kubeconfig = server.kubeconfig_of("default", "reader", relay.port()).unwrap();
    let client = server.block_on(client_of(&std::fs::read_to_string(kubeconfig).unwrap())).unwrap();
    let source = KubeSource::new(client, Scope::Cluster);
    let mut followed = Followed::new(&handle, source.clone());
    let before = followed.wait_for("everything", Evidence::is_complete);
    assert_eq!(source.behind_since(), None);

    // Cut: everything that was known is still there, and every list says since when it may be out of date.
    relay.cut();
    let cut = followed.wait_for("the outage", |evidence| gaps(evidence).matches("stays in force").count() >= 9);
    assert_eq!(names(&cut), names(&before));
    assert!(gaps(&cut).contains("the API server has not answered for"), "{}", gaps(&cut));
    assert!(source.behind_since().is_some());

    // Meanwhile a pod goes and another one comes, etcd forgets what was before, and so does the API server.
    let api: Api<Pod> = Api::all(server.admin().clone());
    let old = server
        .block_on(api.list(&ListParams::default().limit(1)))
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    state.pods.retain(|pod| pod.name != "pod-a1");
    let new = Planned::plan(&state.spec, &state.nodes[2], 7);
    state.pods.push(new.clone());
    mirror.sync(&server, &state).unwrap();
    server.compact().unwrap();
    server.kill_server().unwrap();
    server.start_server().unwrap();
    assert_eq!(
        server.block_on(answer_to_watch(&api, &old)),
        410,
        "what the source knew last is forgotten"
    );

    relay.mend();
    let after = followed.wait_for("the server again", |evidence| {
        evidence.is_complete() && names(evidence).contains(&new.name)
    });
    assert!(!names(&after).contains(&"pod-a1".to_owned()), "{:?}", names(&after));
    assert_eq!(source.behind_since(), None);

    // The key that signs tokens is replaced: ours is worth nothing until the kubelet brings a new one.
    server.kill_server().unwrap();
    pki::new_token_key(server.directory()).unwrap();
    server.start_server().unwrap();
    let unknown = followed.wait_for("a refused token", |evidence| gaps(evidence).contains("(401)"));
    assert_eq!(names(&unknown), names(&after));
    server.renew_token("default", "reader").unwrap();
    let again = followed.wait_for("a new token", Evidence::is_complete);
    assert!(again.seen().unwrap().has_seen(Kind::Node));
}

/// The status with which the server answers a watch from a version.
async fn answer_to_watch(api: &Api<Pod>, version: &str) -> u16 {
    let events = match api.watch(&WatchParams::default().timeout(5), version).await {
        Ok(events) => events,
        Err(kube::Error::Api(status)) => return status.code,
        Err(error) => panic!("{error}"),
    };
    match Box::pin(events).next().await {
        Some(Ok(WatchEvent::Error(status))) => status.code,
        Some(Err(kube::Error::Api(status))) => status.code,
        other => panic!("{other:?}"),
    }
}

//! A fabric in use: under load, with pods coming and going, in manifests and kernel alike.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use support::{Guard, can_run, unique_prefix};
use verifier_tests::{
    churn::{Change, Churn},
    fabric::{Fabric, FabricSpec},
    load::{Load, LoadSpec},
    reach, snapshot,
};

#[test]
fn load_and_churn_leave_nothing_behind() {
    if !can_run("load_and_churn_leave_nothing_behind") {
        return;
    }
    let guard = Guard::small();
    let fabric = &guard.0;
    let before = snapshot::take(fabric).unwrap();
    let load = Load::start(fabric, LoadSpec::default()).unwrap();
    let mut churn = Churn::new(7);
    let mut added = 0;
    for _ in 0..30 {
        if let Change::Added(pod) = churn.step(fabric).unwrap() {
            added += 1;
            let source = fabric.pod_netns(&fabric.pod("pod-a1").unwrap()).unwrap();
            assert!(reach::icmp(&source, pod.ip, 8, Duration::from_secs(2)).unwrap(), "{}", pod.name);
        }
    }
    assert!(added > 5);
    churn.finish(fabric).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while load.carried().transfers < 10 {
        assert!(Instant::now() < deadline, "{:?}", load.carried());
        std::thread::sleep(Duration::from_millis(10));
    }
    let carried = load.stop().unwrap();
    assert_eq!(carried.failed_transfers, 0, "{carried:?}");
    assert!(carried.received > 0 && carried.received <= carried.sent, "{carried:?}");
    let different = snapshot::difference(&before, &snapshot::take(fabric).unwrap());
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn manifests_follow_the_pods() {
    if !can_run("manifests_follow_the_pods") {
        return;
    }
    let prefix = unique_prefix();
    let dir = std::env::temp_dir().join(format!("{prefix}-manifests"));
    let spec = FabricSpec {
        prefix: prefix.clone(),
        ..FabricSpec::default()
    };
    let guard = Guard(Fabric::up(spec, Some(&dir)).unwrap());
    let text = || fs::read_to_string(dir.join("workloads.json")).unwrap();
    let before = text();
    let pod = guard.0.add_pod(&guard.0.nodes()[0]).unwrap();
    assert!(text().contains(&pod.ip.to_string()));
    guard.0.remove_pod(&pod).unwrap();
    assert_eq!(text(), before);
    drop(guard);
    assert!(!dir.exists());
}

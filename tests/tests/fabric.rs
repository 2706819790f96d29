//! The fabric itself: it forwards, it goes without a trace, it replaces what crashed runs left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{fs, net::Ipv4Addr, time::Duration};

use support::{Guard, can_run, unique_prefix};
use verifier_tests::{
    fabric::{Fabric, FabricSpec},
    netns::{self, Netns},
    reach,
};

const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn every_pod_and_node_reaches_every_pod() {
    if !can_run("every_pod_and_node_reaches_every_pod") {
        return;
    }
    let guard = Guard::small();
    let fabric = &guard.0;
    let mut sources = Vec::new();
    for node in fabric.nodes() {
        sources.push((fabric.node_netns(node).unwrap(), Some(node.index)));
    }
    for pod in fabric.pods() {
        sources.push((fabric.pod_netns(&pod).unwrap(), None));
    }
    // The largest datagram that fits: MTU less IP and UDP headers.
    let largest = fabric.spec().pod_mtu_bytes() as usize - 28;
    for (source, node) in &sources {
        for pod in fabric.pods() {
            let target = fabric.pod_netns(&pod).unwrap();
            let what = format!("{} to {}", source.name(), pod.name);
            assert!(reach::icmp(source, pod.ip, 56, TIMEOUT).unwrap(), "{what}");
            assert!(reach::tcp(source, pod.ip, 9, TIMEOUT).unwrap(), "{what}");
            for size in [1, largest] {
                let from = reach::udp(source, None, &target, pod.ip, size, TIMEOUT)
                    .unwrap()
                    .unwrap_or_else(|| panic!("{what} with {size} bytes"));
                // Host to remote pod carries the tunnel's address.
                if let Some(node) = node
                    && *node != pod.node
                {
                    assert_eq!(from.ip(), fabric.nodes()[*node].tunnel_ip, "{what}");
                }
            }
            let too_large = reach::udp(source, None, &target, pod.ip, largest + 1, TIMEOUT);
            if node.is_none() && source.name() != pod.netns {
                assert!(too_large.unwrap().is_none(), "{what}");
            }
        }
    }
}

#[test]
fn the_gateway_answers_arp_and_swallows() {
    if !can_run("the_gateway_answers_arp_and_swallows") {
        return;
    }
    let guard = Guard::small();
    let fabric = &guard.0;
    let node = fabric.node_netns(&fabric.nodes()[0]).unwrap();
    let gateway = verifier_tests::fabric::plan::GATEWAY;
    assert!(reach::icmp(&node, gateway, 8, TIMEOUT).unwrap());
    let pod = fabric.pod_netns(&fabric.pods()[0]).unwrap();
    let outside: Ipv4Addr = "203.0.113.9".parse().unwrap();
    let short = Duration::from_millis(100);
    assert!(!reach::icmp(&pod, outside, 8, short).unwrap());
    // The switch reaches the nodes: the validator may run there.
    let switch = fabric.switch_netns().unwrap();
    for node in fabric.nodes() {
        assert!(reach::tcp(&switch, node.host_ip, 9, TIMEOUT).unwrap());
    }
}

fn mounts_with(prefix: &str) -> Vec<String> {
    fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .filter(|line| line.contains(prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn nothing_is_left_behind_and_a_second_up_replaces_a_crashed_one() {
    if !can_run("nothing_is_left_behind_and_a_second_up_replaces_a_crashed_one") {
        return;
    }
    let prefix = unique_prefix();
    let dir = std::env::temp_dir().join(format!("{prefix}-manifests"));
    let spec = FabricSpec {
        prefix: prefix.clone(),
        ..FabricSpec::default()
    };
    Fabric::up(spec.clone(), Some(&dir)).unwrap();
    // What crashes leave: a name without a mount, a missing namespace, a name mounted twice, a
    // process that lives inside, half a state file.
    let bare = format!("/run/netns/{prefix}-pod-z9");
    fs::File::create(&bare).unwrap();
    netns::delete(&format!("{prefix}-node-b")).unwrap();
    let twice = format!("/run/netns/{prefix}-node-c");
    nix::mount::mount(
        Some(twice.as_str()),
        twice.as_str(),
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    let inside = Netns::open(&format!("{prefix}-node-a")).unwrap();
    let mut child = inside.run(|| Ok(std::process::Command::new("sleep").arg("600").spawn()?)).unwrap();
    fs::write(format!("/run/verifier-fabric/{prefix}.json"), "{\"spec\":").unwrap();

    let again = Fabric::up(spec, Some(&dir)).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(!fs::exists(&bare).unwrap());
    let pods = again.pods();
    let source = again.pod_netns(&pods[0]).unwrap();
    assert!(reach::icmp(&source, pods[5].ip, 8, TIMEOUT).unwrap());
    assert!(Fabric::attach(&prefix).unwrap().state() == again.state());

    Fabric::down(&prefix).unwrap();
    assert_eq!(netns::list(&prefix).unwrap(), Vec::<String>::new());
    assert_eq!(mounts_with(&prefix), Vec::<String>::new());
    assert!(!fs::exists(format!("/run/verifier-fabric/{prefix}.json")).unwrap());
    assert!(!fs::exists(&dir).unwrap());
    assert!(Fabric::attach(&prefix).is_err());
    // Nothing there is fine.
    Fabric::down(&prefix).unwrap();
}

#[test]
fn pods_come_and_go() {
    if !can_run("pods_come_and_go") {
        return;
    }
    let guard = Guard::small();
    let fabric = &guard.0;
    let node = &fabric.nodes()[1];
    let new = fabric.add_pod(node).unwrap();
    assert_eq!(new.name, "pod-b3");
    let source = fabric.pod_netns(&fabric.pod("pod-a1").unwrap()).unwrap();
    assert!(reach::icmp(&source, new.ip, 8, TIMEOUT).unwrap());
    fabric.remove_pod(&new).unwrap();
    assert_eq!(fabric.pods().len(), 6);
    let short = Duration::from_millis(100);
    assert!(!reach::icmp(&source, new.ip, 8, short).unwrap());
    assert!(Netns::open(&new.netns).is_err());
    // The same name and address again, as another object.
    let mut again = fabric.add_pod(node).unwrap();
    assert_ne!(again.incarnation, new.incarnation);
    again.incarnation = new.incarnation;
    assert_eq!(again, new);
    assert!(reach::icmp(&source, again.ip, 8, TIMEOUT).unwrap());
}

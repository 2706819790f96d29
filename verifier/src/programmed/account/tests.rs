//! The account against a real kernel, in namespaces of its own.

use super::*;
use crate::{
    programmed::testing::{TestNs, root},
    supervisor::Supervisor,
};
use std::time::Instant;
use verifier_core::programmed::{ChangeKind, ChangedObject, TABLE_MAIN, outages};

/// An account that runs under a supervisor.
struct Running {
    account: Account,
    supervisor: Supervisor,
}

impl Running {
    async fn start(ns: &TestNs, options: Options) -> Self {
        let account = Account::new(ns.netns(), options).unwrap();
        let mut supervisor = Supervisor::new();
        let kept = account.clone();
        supervisor.spawn("account", move |shutdown| {
            let run = kept.clone().run(shutdown);
            async move { Ok(run.await?) }
        });
        let running = Self { account, supervisor };
        running.until("the first look", |state| state.netconf.is_complete()).await;
        running
    }

    async fn until(&self, what: &str, holds: impl Fn(&NodeState) -> bool) -> Arc<Current> {
        let mut changes = self.account.subscribe();
        let found = tokio::time::timeout(Duration::from_secs(10), changes.wait_for(|current| holds(&current.state)))
            .await
            .unwrap_or_else(|_| panic!("not within 10 s: {what}"));
        Arc::clone(&found.unwrap())
    }

    async fn stop(self) {
        self.supervisor.drain(Duration::from_secs(5)).await.unwrap();
    }
}

/// No periodic help: what is found was announced or followed from what was.
fn without_resync() -> Options {
    Options {
        resync: Duration::from_secs(3600),
        pod_resync: Duration::from_secs(3600),
        ..Options::default()
    }
}

fn has_route(state: &NodeState, dst: &str) -> bool {
    state.routes.all().is_ok_and(|all| all.iter().any(|r| r.dst.to_string() == dst))
}

fn node() -> TestNs {
    let node = TestNs::new("account");
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name up0",
        "link set eth0 up",
        "link set up0 up",
        "addr add 10.0.0.1/24 dev eth0",
        "link add vxlan.calico type vxlan id 4096 dstport 4789 local 10.0.0.1 dev eth0 nolearning",
        "link set vxlan.calico up",
        "addr add 10.244.0.0/32 dev vxlan.calico",
        "route add 10.244.1.0/26 via 10.244.1.0 dev vxlan.calico onlink",
        "neigh add 10.244.1.0 lladdr 66:00:00:00:00:02 dev vxlan.calico nud permanent",
    ] {
        node.ip(line);
    }
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_becomes_state_and_journal() {
    if !root() {
        return;
    }
    let node = node();
    let running = Running::start(&node, without_resync()).await;
    assert!(running.account.current().state.journal.is_empty());
    let before = clock::unix_now();
    node.ip("route add blackhole 10.244.9.0/26 proto 80");
    let current = running.until("the route", |state| has_route(state, "10.244.9.0/26")).await;
    let [change] = &current.state.journal[..] else {
        panic!("{:?}", current.state.journal)
    };
    assert!(change.at >= before && change.at <= clock::unix_now());
    assert_eq!(change.change, ChangeKind::Added);
    running.stop().await;
}

/// `kernel.md`: removing the last address of the tunnel device flushes its routes and neighbours, and no RTM_DELROUTE tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_takes_silently_is_noticed() {
    if !root() {
        return;
    }
    let node = node();
    let running = Running::start(&node, without_resync()).await;
    assert!(has_route(&running.account.current().state, "10.244.1.0/26"));
    node.ip("addr del 10.244.0.0/32 dev vxlan.calico");
    let current = running
        .until("the flush", |state| {
            !has_route(state, "10.244.1.0/26") && state.neighbors.all().is_ok_and(|all| !all.iter().any(|n| n.is_permanent()))
        })
        .await;
    let removed = |of: fn(&ChangedObject) -> bool| current.state.journal.iter().any(|c| c.change == ChangeKind::Removed && of(&c.what));
    assert!(removed(|what| matches!(what, ChangedObject::Address(_))));
    assert!(removed(|what| matches!(what, ChangedObject::Route(_))));
    assert!(removed(|what| matches!(what, ChangedObject::Neighbor(_))));
    assert_eq!(current.stats.unannounced, 0);
    node.ip("link del vxlan.calico");
    running.until("the device", |state| state.link("vxlan.calico").is_none()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_length_of_an_outage_is_told() {
    if !root() {
        return;
    }
    let node = node();
    let running = Running::start(&node, without_resync()).await;
    node.ip("route del 10.244.1.0/26");
    running.until("the loss", |state| !has_route(state, "10.244.1.0/26")).await;
    let pause = Duration::from_millis(120);
    tokio::time::sleep(pause).await;
    node.ip("route add 10.244.1.0/26 via 10.244.1.0 dev vxlan.calico onlink");
    let current = running.until("the return", |state| has_route(state, "10.244.1.0/26")).await;
    let state = &current.state;
    let found = outages(
        &state.journal,
        state.routes.all().unwrap(),
        TABLE_MAIN,
        "10.244.1.0/26".parse().unwrap(),
    );
    assert_eq!(found.len(), 1, "{found:?}");
    let length = found[0].length_ns(state.journal_from, clock::unix_now());
    assert!(length >= clock::duration_ns(pause), "{length} ns");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_netconf_and_forwarding_entries_are_followed() {
    if !root() {
        return;
    }
    let node = node();
    let running = Running::start(&node, without_resync()).await;
    node.ip("rule add from 10.9.0.0/16 priority 50 lookup 77");
    running
        .until("the rule", |state| {
            state.rules.all().is_ok_and(|all| all.iter().any(|r| r.priority == 50))
        })
        .await;
    node.run(
        "bridge",
        "fdb append 66:00:00:00:00:02 dev vxlan.calico dst 10.0.0.2 self permanent",
    );
    running
        .until("the entry", |state| {
            state.fdb.all().is_ok_and(|all| all.iter().any(|e| e.dst.is_some()))
        })
        .await;
    node.run("sysctl", "-qw net.ipv4.conf.all.rp_filter=1");
    running
        .until("rp_filter", |state| {
            state.netconf.all().is_ok_and(|all| all.iter().any(|n| n.rp_filter == Some(1)))
        })
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_account_is_unavailable_and_never_stale() {
    if !root() {
        return;
    }
    let node = node();
    let running = Running::start(&node, without_resync()).await;
    let account = running.account.clone();
    running.stop().await;
    let state = &account.current().state;
    assert!(state.links.all().is_err() && state.routes.all().is_err() && state.fdb.all().is_err());
    assert!(state.routes.gaps()[0].why.contains("nobody watches"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_followed_into_their_namespace_and_not_held() {
    if !root() {
        return;
    }
    let node = node();
    let pod = TestNs::new("followed");
    let pod_name = pod.path().file_name().unwrap().to_str().unwrap().to_string();
    node.ip(&format!("link add cali1 type veth peer name eth0 netns {pod_name}"));
    pod.ip("addr add 10.244.0.5/32 dev eth0");
    let running = Running::start(&node, without_resync()).await;
    let want = WantedPod {
        pod: PodRef::new("default", "p"),
        device: "cali1".into(),
        addresses: vec!["10.244.0.5".parse().unwrap()],
    };
    running.account.set_pods(vec![want.clone()]);
    let inside = |state: &NodeState| state.pods.get(&want.pod).and_then(|pod| pod.all().ok().cloned());
    running.until("the pod", |state| inside(state).is_some()).await;
    // An event inside, of which the node's own tables know nothing.
    pod.ip("addr add 10.244.0.6/32 dev eth0");
    running
        .until("the address", |state| {
            inside(state).is_some_and(|pod| {
                pod.addresses
                    .all()
                    .is_ok_and(|all| all.iter().any(|a| a.ip.to_string() == "10.244.0.6/32"))
            })
        })
        .await;
    // Nothing of ours keeps the namespace: with its name it goes, and takes the veth along.
    drop(pod);
    running.until("the veth is gone", |state| state.link("cali1").is_none()).await;
    running
        .until("the pod is gone", |state| {
            state.pods.get(&want.pod).is_some_and(|pod| pod.all().is_err())
        })
        .await;
    running.stop().await;
}

/// Many changes a second: no matter what was missed on the way, the end is the truth.
#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_route_changes_a_second_are_followed() {
    if !root() {
        return;
    }
    let node = node();
    let running = Running::start(&node, without_resync()).await;
    let started = Instant::now();
    let changes: usize = 20_000;
    tokio::task::spawn_blocking({
        let batch: String = (0..changes / 2)
            .map(|i| {
                let prefix = format!("10.{}.{}.{}/32", 100 + i % 3, i / 250 % 250, i % 250);
                // Every tenth stays.
                if i % 10 == 0 {
                    format!("route add blackhole {prefix}\nroute change blackhole {prefix} proto 80\n")
                } else {
                    format!("route add blackhole {prefix}\nroute del blackhole {prefix}\n")
                }
            })
            .chain(["route add blackhole 10.250.0.0/16\n".to_string()])
            .collect();
        move || {
            node.batch(batch);
            node
        }
    })
    .await
    .unwrap();
    let fed = started.elapsed();
    let current = running.until("the last route", |state| has_route(state, "10.250.0.0/16")).await;
    let lag = started.elapsed().saturating_sub(fed);
    let kept = current
        .state
        .routes
        .all()
        .unwrap()
        .iter()
        .filter(|r| r.dst.prefix_len() == 32 && (r.dst.to_string().starts_with("10.10")))
        .count();
    let rate = changes as f64 / fed.as_secs_f64();
    eprintln!("{rate:.0} changes/s, state {lag:?} after the last; {:?}", current.stats);
    assert_eq!(kept, changes / 2 / 10);
    running.stop().await;
}

/// An overrun is counted and answered by dumping everything.
#[test]
fn an_overrun_means_that_everything_may_have_changed() {
    if !root() {
        return;
    }
    let node = node();
    let ns = node.netns();
    let mut hints = hints::Hints::of(&ns).unwrap();
    hints.shrink(4096);
    node.routes(2000);
    let heard = hints.drain().unwrap();
    assert!(heard.overruns > 0);
    assert_eq!(heard.dirty, hints::Dirty::ALL);
}

/// `cargo test -p verifier --release -- --ignored --nocapture event_latency`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn event_latency() {
    if !root() {
        return;
    }
    let node = node();
    let running = Running::start(&node, without_resync()).await;
    let mut taken = Vec::new();
    for round in 0..200 {
        let dst = format!("10.244.77.{round}/32");
        let mut command = std::process::Command::new("ip");
        command.args(["route", "add", "blackhole", &dst]);
        let mut child = node.netns().run_in(|| command.spawn()).unwrap().unwrap();
        child.wait().unwrap();
        let started = Instant::now();
        running.until("the route", |state| has_route(state, &dst)).await;
        taken.push(started.elapsed());
    }
    taken.sort();
    eprintln!("event to state: median {:?}, p99 {:?}", taken[100], taken[197]);
    running.stop().await;
}

//! `deploy/base` from end to end: verdicts of agents and of the controller in the API, real faults, real time, and every permission.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use verifier::kubernetes::kinds::Scope;
use verifier_core::names::NodeName;
use verifier_tests::{
    apiserver::{audit, deploy::NAMESPACE, run_verifier},
    lab::watch::Watch,
};

use crate::{
    eventually,
    installed::{Controller, Installed, SOME_ROUNDS, SOON},
};

/// Three heartbeats of 60 s, and what it may take until the third one is found missing.
const SILENCE: Duration = Duration::from_secs(225);
/// A Lease of 15 s runs out, and the other candidate looks every 2 s.
const FAILOVER: Duration = Duration::from_secs(40);
const FAULT: &str = "tunnel-device-deleted";
const AGENT: &str = "dataplane-verifier-agent";
const CONTROLLER: &str = "dataplane-verifier-controller";

/// One cluster of four nodes all the way, because three missed heartbeats take three minutes: what needs no silence happens meanwhile.
#[test]
fn the_cluster_says_the_truth_of_its_nodes() {
    let Some(mut cluster) = Installed::raise("the_cluster_says_the_truth_of_its_nodes", 4) else {
        return;
    };
    // Of node-d no agent was ever heard.
    cluster.stage.start_agents_on(|node| node != "node-d").unwrap();
    let controllers = [cluster.controller("one"), cluster.controller("two")];
    let living = ["node-a", "node-b", "node-c"];
    cluster.wait_forwarding(&living, SOON);
    cluster.wait("a leader", SOON, |cluster| !cluster.leader().0.is_empty());
    let leading_since = Instant::now();
    let leader = cluster.leader().0;
    for node in living {
        assert_eq!(cluster.events(node), [], "nothing was said before, and nothing is wrong");
    }
    one_screen(&cluster);

    // An agent dies. Its last verdict, which was good, is not left standing; but that takes its time.
    cluster.stage.kill_agent("node-c").unwrap();
    let died = Instant::now();
    a_fault_comes_and_goes(&mut cluster);
    a_key_is_rotated_without_an_alarm(&cluster, &controllers);

    cluster.wait("node-c is unknown", SILENCE.saturating_sub(died.elapsed()), |cluster| {
        cluster.says("node-c") == silent() && cluster.condition("node-c") == unknown()
    });
    assert!(died.elapsed() > Duration::from_secs(100), "a missed heartbeat is not three");
    cluster.wait("its event", SOON, |cluster| {
        cluster.events("node-c") == [warning("agent-silent", "controller")]
    });
    cluster.wait("node-d is unknown", SILENCE.saturating_sub(leading_since.elapsed()), |cluster| {
        cluster.says("node-d") == silent() && cluster.condition("node-d") == unknown()
    });
    let (status, table) = status(&cluster);
    assert_eq!(status, Some(3), "{table}");
    assert!(
        table.contains("node-d: no agent speaks for this node: it never wrote a verdict"),
        "{table}"
    );

    let controllers = the_leader_is_killed(&cluster, controllers, &leader);
    cluster.stage.start_agents().unwrap();
    cluster.wait_forwarding(&["node-a", "node-b", "node-c", "node-d"], SOON);
    for node in ["node-c", "node-d"] {
        // That it is well again says who notices first: the agent, or the controller in its stead.
        cluster.wait("its events", SOON, |cluster| {
            let said = cluster.events(node);
            said.len() == 2 && said[0] == warning("agent-silent", "controller") && said[1].1 == "forwarding"
        });
    }
    one_event_for_each_transition(&cluster);

    tainted_only_where_asked_for(&mut cluster, controllers);
    cluster.serve_the_other_group();
    cluster.read_all("DaemonSet", AGENT, Scope::Node(NodeName::from("node-a")));
    cluster.read_all("Deployment", CONTROLLER, Scope::Cluster);
    for account in [AGENT, CONTROLLER, "dataplane-verifier-keygen"] {
        cluster.assert_permissions(account);
    }
    cluster.strike();
}

fn silent() -> (String, String, String) {
    ("Unknown".to_owned(), "agent-silent".to_owned(), "controller".to_owned())
}

fn unknown() -> (String, String) {
    ("Unknown".to_owned(), "agent-silent".to_owned())
}

fn warning(reason: &str, speaker: &str) -> (String, String, String) {
    ("Warning".to_owned(), reason.to_owned(), speaker.to_owned())
}

fn normal() -> (String, String, String) {
    ("Normal".to_owned(), "forwarding".to_owned(), "agent".to_owned())
}

/// `kubectl get nodedataplanes` shows it in one screen, and `verifier status` says the same.
fn one_screen(cluster: &Installed) {
    let screen = cluster.kubectl.run(&["get", "nodedataplanes"]).unwrap();
    let mut lines = screen.lines();
    let columns: Vec<&str> = lines
        .next()
        .unwrap()
        .split("  ")
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(columns, ["NAME", "CLAIMED", "FORWARDING", "CAUSE", "STALE PODS", "AGE"], "{screen}");
    for node in ["node-a", "node-b", "node-c"] {
        let line = lines.find(|line| line.starts_with(node)).unwrap_or_else(|| panic!("{screen}"));
        assert!(
            line.contains("Ready") && line.contains("Running") && line.contains("True"),
            "{screen}"
        );
    }
    let plugin = cluster.run_as_admin(&["status", "--npd", "--node", "node-a"]);
    assert_eq!((plugin.status, plugin.stdout.as_str()), (Some(0), "forwards pod traffic\n"));
    let (status, table) = status(cluster);
    assert_eq!(status, Some(3), "node-d has no verdict: {table}");
    let missing = cluster.run_as_admin(&["status", "--npd", "--node", "node-d"]);
    assert_eq!(missing.status, Some(2), "{}", missing.stdout);
    let nobody = cluster.run_as_admin(&["status", "--node", "node-x"]);
    assert_eq!((nobody.status, nobody.stdout.as_str()), (Some(64), ""), "{}", nobody.stderr);
}

fn status(cluster: &Installed) -> (Option<i32>, String) {
    let said = cluster.run_as_admin(&["status"]);
    (said.status, said.stdout)
}

/// The claim stays healthy, and the fact is written beside it; once, however many rounds find it.
fn a_fault_comes_and_goes(cluster: &mut Installed) {
    cluster.inject(FAULT);
    let bad = ("False".to_owned(), "tunnel-device-missing".to_owned(), "agent".to_owned());
    cluster.wait("node-b does not forward", SOON, |cluster| cluster.says("node-b") == bad);
    cluster.wait("its condition", SOON, |cluster| {
        cluster.condition("node-b") == ("False".to_owned(), "tunnel-device-missing".to_owned())
    });
    let status_of_b = cluster.objects().remove("node-b").unwrap();
    assert!(
        status_of_b.contradicts_claim && status_of_b.claimed.contains("Ready"),
        "{status_of_b:?}"
    );
    assert!(status_of_b.causes.iter().any(|cause| !cause.remedy.is_empty()), "{status_of_b:?}");
    let last = Some(warning("tunnel-device-missing", "agent"));
    cluster.wait("its event", SOON, |cluster| cluster.events("node-b").last() == last.as_ref());
    let said = cluster.events("node-b");
    let changed_again = eventually(SOME_ROUNDS, || cluster.events("node-b") != said);
    assert!(!changed_again, "{:?} after {said:?}", cluster.events("node-b"));
    // The headline first, for people and for a plugin.
    let (status, table) = status(cluster);
    assert_eq!(status, Some(1), "{table}");
    assert!(table.starts_with("node-b claims to be healthy"), "{table}");
    let plugin = cluster.run_as_admin(&["status", "--npd", "--node", "node-b"]);
    assert_eq!(
        (plugin.status, plugin.stdout.as_str()),
        (Some(1), "does not forward: tunnel-device-missing\n")
    );
    assert_eq!(tainted(cluster), Vec::<&str>::new(), "off unless asked for");
    cluster.undo();
    cluster.wait_forwarding(&["node-a", "node-b"], SOON);
    cluster.wait("its event", SOON, |cluster| cluster.events("node-b").last() == Some(&normal()));
}

/// The condition is written where it changes, and every change but the first good word is an event.
fn one_event_for_each_transition(cluster: &Installed) {
    for node in ["node-a", "node-b", "node-c", "node-d"] {
        let first_was_good = usize::from(node != "node-d");
        // The event comes after the condition.
        cluster.wait("an event for each change of the condition", SOME_ROUNDS, |cluster| {
            let requests = audit::read(cluster.server.directory()).unwrap();
            let written = requests.iter().filter(|request| {
                let used = request.used.as_ref();
                request.name == node && used.is_some_and(|used| used.resource == "nodes/status" && used.verb == "patch")
            });
            written.count() == cluster.events(node).len() + first_was_good
        });
    }
}

/// Add, promote, retire; the kubelets bring each step to the agents first and to the controllers later, so that both are met half done.
fn a_key_is_rotated_without_an_alarm(cluster: &Installed, controllers: &[Controller]) {
    let key = cluster.stage.files().key();
    let old = std::fs::read_to_string(&key).unwrap();
    let before = ["node-a", "node-b"].map(|node| cluster.events(node));
    // The leader hears both agents all the time.
    let hears = || controllers.iter().filter_map(|one| one.metric(TRUE)).any(|count| count >= 2.0);
    assert!(eventually(SOON, hears), "before");
    let answered = |text: &str, count: usize| {
        let file = cluster.server.directory().join("asked-with");
        write_key(&file, text);
        let watch = Watch::with_key(cluster.stage.fabric(), &file).unwrap();
        let answers = || watch.reports().values().filter(|report| report.seen().is_some()).count();
        assert!(eventually(SOON, || answers() == count), "{} agents answer", answers());
    };
    for step in ["add", "promote", "retire"] {
        let secret = format!("{NAMESPACE}/dataplane-verifier-key");
        let done = cluster.run_as_admin(&["keygen", "--secret", &secret, "--rotate", step]);
        assert_eq!(done.status, Some(0), "{}", done.stderr);
        cluster.mount_key();
        let now = std::fs::read_to_string(&key).unwrap();
        match step {
            // What will sign next is accepted by all before anybody signs with it.
            "add" => answered(&promoted(cluster, &now), 2),
            "promote" => answered(&now, 2),
            _ => answered(&old, 0),
        }
        assert!(hears(), "agents have taken the step {step}, controllers not yet");
        cluster.mount_controllers_key();
        assert!(!eventually(SOME_ROUNDS, || !hears()), "both have taken the step {step}");
    }
    assert_ne!(std::fs::read_to_string(&key).unwrap(), old);
    assert_eq!(["node-a", "node-b"].map(|node| cluster.events(node)), before, "no alarm");
}

/// Nodes that forward, as the leader counts them.
const TRUE: &str = "dataplane_verifier_controller_nodes{forwarding=\"True\"}";

/// What the next step of the rotation will be.
fn promoted(cluster: &Installed, text: &str) -> String {
    let file = cluster.server.directory().join("promoted");
    write_key(&file, text);
    let path = file.to_str().unwrap();
    assert_eq!(run_verifier(&["keygen", path, "--rotate", "promote"]).unwrap().status, Some(0));
    std::fs::read_to_string(&file).unwrap()
}

fn write_key(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// `kill -9` of who leads: the other one takes over when the Lease has run out, and judges.
fn the_leader_is_killed(cluster: &Installed, controllers: [Controller; 2], leader: &str) -> Controller {
    assert_eq!(cluster.leader().0, leader, "nobody else led meanwhile");
    let transitions = cluster.leader().1;
    let [one, two] = controllers;
    let (first, second) = if one.name == leader { (one, two) } else { (two, one) };
    assert_eq!(second.metric(LEADING), Some(0.0));
    first.daemon.kill().unwrap();
    cluster.wait("another leader", FAILOVER, |cluster| {
        cluster.leader() == (second.name.clone(), transitions + 1)
    });
    assert!(eventually(SOON, || second.metric(LEADING) == Some(1.0)));
    assert!(
        eventually(SOON, || second.metric(TRUE).is_some_and(|count| count >= 2.0)),
        "it judges"
    );
    second
}

const LEADING: &str = "dataplane_verifier_controller_leading";

/// Nodes with the verifier's taint; the API server itself gives a new Node others.
fn tainted(cluster: &Installed) -> Vec<&'static str> {
    let has = |node: &&str| {
        let taints = cluster.node(node).spec.and_then(|spec| spec.taints).unwrap_or_default();
        taints
            .iter()
            .any(|taint| taint.key == "dataplane-verifier.io/not-forwarding" && taint.effect == "NoSchedule")
    };
    ["node-a", "node-b", "node-c", "node-d"].into_iter().filter(has).collect()
}

/// `overlays/taint`: the node that does not forward has the taint, as long as it does not, and nobody else has.
fn tainted_only_where_asked_for(cluster: &mut Installed, controller: Controller) {
    cluster.kubectl.apply("overlays/taint").unwrap();
    controller.daemon.stop().unwrap();
    assert_eq!(cluster.leader().0, "", "the Lease was given up");
    let controller = cluster.controller("three");
    cluster.inject(FAULT);
    cluster.wait("the taint", SOON, |cluster| tainted(cluster) == ["node-b"]);
    cluster.undo();
    cluster.wait("no taint", SOON, |cluster| tainted(cluster).is_empty());
    controller.daemon.stop().unwrap();
}

use super::*;
use crate::intent::Claim;

const SECOND: u64 = 1_000_000_000;
const HEARTBEAT: u64 = 60 * SECOND;

fn at(seconds: u64) -> UnixNs {
    UnixNs(10_000 * SECOND + seconds * SECOND)
}

fn standing(forwarding: Forwarding, cause: Option<&str>, speaker: Speaker) -> Standing {
    Standing {
        forwarding,
        cause: cause.map(ToString::to_string),
        speaker,
        ..Standing::silent(&"node-a".into(), &Claim::default(), "x", UnixNs(0), "1")
    }
}

fn known(judged_at: UnixNs, speaker: Speaker, forwarding: Forwarding) -> Known {
    Known {
        judged_at,
        speaker,
        forwarding,
        cause: None,
        settled: None,
    }
}

fn act(known: Option<&Known>, own: Option<&Standing>, cluster: &Standing, now: u64) -> Act {
    let seen = Seen {
        known,
        own,
        cluster,
        cluster_since: at(0),
        leading_since: at(0),
    };
    oversee(&seen, at(now), HEARTBEAT)
}

#[test]
fn a_dead_agent_never_leaves_a_healthy_verdict_standing() {
    let nobody = standing(Forwarding::Unknown, None, Speaker::Controller);
    let last = known(at(0), Speaker::Agent, Forwarding::True);
    assert_eq!(act(Some(&last), None, &nobody, 180), Act::Leave);
    assert!(matches!(act(Some(&last), None, &nobody, 181), Act::Silent { .. }));
    // Said once, then as a heartbeat of its own.
    let said = known(at(181), Speaker::Controller, Forwarding::Unknown);
    assert_eq!(act(Some(&said), None, &nobody, 240), Act::Leave);
    assert!(matches!(act(Some(&said), None, &nobody, 241), Act::Silent { .. }));
}

#[test]
fn an_agent_that_never_was_gets_as_long_as_one_that_is_gone() {
    let nobody = standing(Forwarding::Unknown, None, Speaker::Controller);
    assert_eq!(act(None, None, &nobody, 180), Act::Leave);
    assert!(matches!(act(None, None, &nobody, 181), Act::Silent { .. }));
}

#[test]
fn an_agent_that_writes_and_cannot_be_reached_is_not_silent() {
    let nobody = standing(Forwarding::Unknown, None, Speaker::Controller);
    let fresh = known(at(170), Speaker::Agent, Forwarding::True);
    assert_eq!(act(Some(&fresh), None, &nobody, 181), Act::Leave);
}

#[test]
fn for_an_agent_that_answers_and_cannot_write_the_controller_does() {
    let own = standing(Forwarding::True, None, Speaker::Agent);
    let cluster = standing(Forwarding::True, None, Speaker::Controller);
    let old = known(at(0), Speaker::Agent, Forwarding::True);
    assert_eq!(act(Some(&old), Some(&own), &cluster, 200), Act::Stead);
    let done = known(at(200), Speaker::Controller, Forwarding::True);
    assert_eq!(act(Some(&done), Some(&own), &cluster, 215), Act::Leave);
    assert_eq!(act(Some(&done), Some(&own), &cluster, 260), Act::Stead);
    // An Unknown of the agent's silence ends when it answers again.
    let silent = known(at(200), Speaker::Controller, Forwarding::Unknown);
    assert_eq!(act(Some(&silent), Some(&own), &cluster, 215), Act::Stead);
}

#[test]
fn what_all_say_otherwise_is_written_beside_and_withdrawn_again() {
    let own = standing(Forwarding::True, None, Speaker::Agent);
    let accused = standing(Forwarding::Degraded, Some("vtep-mac-mismatch"), Speaker::Controller);
    let mut object = known(at(200), Speaker::Agent, Forwarding::True);
    let Act::Settle(settled) = act(Some(&object), Some(&own), &accused, 210) else {
        panic!("not settled");
    };
    assert_eq!(settled.corrects, (Forwarding::True, None));
    assert_eq!(settled.cause.as_deref(), Some("vtep-mac-mismatch"));
    object.settled = Some(settled.clone());
    assert_eq!(act(Some(&object), Some(&own), &accused, 211), Act::Leave);
    assert!(matches!(act(Some(&object), Some(&own), &accused, 270), Act::Settle(_)));
    let cluster = standing(Forwarding::True, None, Speaker::Controller);
    assert_eq!(act(Some(&object), Some(&own), &cluster, 212), Act::Withdraw);
    // Too little is known in common: no correction.
    let unknown = standing(Forwarding::Unknown, None, Speaker::Controller);
    object.settled = None;
    assert_eq!(act(Some(&object), Some(&own), &unknown, 212), Act::Leave);
}

#[test]
fn what_all_say_otherwise_for_a_moment_only_is_not_written() {
    let node = NodeName::from("node-a");
    let own = standing(Forwarding::True, None, Speaker::Agent);
    let accused = standing(Forwarding::Degraded, Some("unexplained-loss"), Speaker::Controller);
    let object = known(at(200), Speaker::Agent, Forwarding::True);
    let mut steady = Steady::default();
    let mut look = |said: &Standing, now: u64| {
        let seen = Seen {
            known: Some(&object),
            own: Some(&own),
            cluster: said,
            cluster_since: steady.note(&node, said, at(now)),
            leading_since: at(0),
        };
        oversee(&seen, at(now), HEARTBEAT)
    };
    assert_eq!(look(&accused, 210), Act::Leave);
    assert_eq!(look(&accused, 219), Act::Leave);
    // They agree again, and it begins anew.
    assert_eq!(look(&own, 220), Act::Leave);
    assert_eq!(look(&accused, 221), Act::Leave);
    assert!(matches!(look(&accused, 231), Act::Settle(_)));
    // Another cause is another thing to say.
    let other = standing(Forwarding::Degraded, Some("partial-loss"), Speaker::Controller);
    assert_eq!(look(&other, 232), Act::Leave);
    steady.keep(|_| false);
    assert_eq!(steady.note(&node, &other, at(300)), at(300));
}

#[test]
fn a_correction_counts_while_it_is_fresh_and_the_agent_still_says_what_it_corrects() {
    let own = standing(Forwarding::True, None, Speaker::Agent);
    let settled = Settled {
        corrects: (Forwarding::True, None),
        forwarding: Forwarding::False,
        cause: Some("node-cut-off".to_string()),
        message: "m".to_string(),
        judged_at: at(0),
    };
    let agreed = agree(own.clone(), Some(&settled), at(60), HEARTBEAT);
    assert_eq!(
        (agreed.forwarding, agreed.cause.as_deref()),
        (Forwarding::False, Some("node-cut-off"))
    );
    assert_eq!(agree(own.clone(), Some(&settled), at(181), HEARTBEAT), own);
    let news = standing(Forwarding::Degraded, Some("route-missing"), Speaker::Agent);
    assert_eq!(agree(news.clone(), Some(&settled), at(60), HEARTBEAT), news);
    assert_eq!(agree(own.clone(), None, at(60), HEARTBEAT), own);
}

#[test]
fn a_fault_of_the_whole_network_taints_nobody() {
    let nodes = |found: &[Forwarding]| -> BTreeMap<NodeName, Forwarding> {
        let named = found.iter().enumerate();
        named.map(|(n, found)| (NodeName(format!("node-{n}")), *found)).collect()
    };
    let set = |found: &[Forwarding]| tainted(&nodes(found)).into_iter().map(|(_, wanted)| wanted).collect::<Vec<bool>>();
    use Forwarding::{Degraded, False, True, Unknown};
    assert_eq!(set(&[True, False, Degraded, Unknown]), [false, true]);
    assert_eq!(set(&[False, False, True]), [false]);
}

use super::*;
use crate::{intent::Claim, report::standing::Speaker};
use alloc::vec::Vec;

const SECOND: u64 = 1_000_000_000;

fn standing(forwarding: Forwarding, cause: Option<&str>) -> Standing {
    Standing {
        forwarding,
        cause: cause.map(ToString::to_string),
        message: String::new(),
        speaker: Speaker::Agent,
        ..Standing::silent(&"node-a".into(), &Claim::default(), "x", UnixNs(0), "1")
    }
}

fn at(seconds: u64) -> UnixNs {
    UnixNs(1_000 * SECOND + seconds * SECOND)
}

#[test]
fn written_on_change_and_as_a_heartbeat_and_else_never() {
    let mut publisher = Publisher::new(5);
    let well = standing(Forwarding::True, None);
    assert_eq!(publisher.due(&well, at(0)), Some(Due::Change));
    publisher.wrote(&well, at(0));
    for second in 1..60 {
        assert_eq!(publisher.due(&well, at(second)), None, "{second}");
    }
    assert_eq!(publisher.due(&well, at(60)), Some(Due::Heartbeat));
    let bad = standing(Forwarding::False, Some("route-missing"));
    assert_eq!(publisher.due(&bad, at(1)), Some(Due::Change));
}

#[test]
fn detail_that_flickers_is_not_written_each_time() {
    let mut publisher = Publisher::new(60);
    let well = standing(Forwarding::True, None);
    publisher.wrote(&well, at(0));
    let other = Standing {
        claimed: "Ready".to_string(),
        ..well
    };
    assert_eq!(publisher.due(&other, at(9)), None);
    assert_eq!(publisher.due(&other, at(10)), Some(Due::Change));
}

#[test]
fn what_is_not_known_for_a_moment_is_not_written() {
    let mut publisher = Publisher::new(60);
    let unknown = standing(Forwarding::Unknown, None);
    assert_eq!(publisher.due(&unknown, at(0)), None);
    assert_eq!(publisher.due(&unknown, at(29)), None);
    assert_eq!(publisher.due(&unknown, at(30)), Some(Due::Change));
    assert_eq!(publisher.due(&standing(Forwarding::True, None), at(31)), Some(Due::Change));
    // It begins anew.
    assert_eq!(publisher.due(&unknown, at(32)), None);
}

#[test]
fn a_server_that_is_away_is_asked_less_and_less_often() {
    let mut publisher = Publisher::new(60);
    let well = standing(Forwarding::True, None);
    let pauses: Vec<u64> = (0..8).map(|_| publisher.failed(at(0), 0) / SECOND).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(publisher.due(&well, at(59)), None);
    assert_eq!(publisher.due(&well, at(60)), Some(Due::Change));
    assert!(publisher.failed(at(60), 255) >= 30 * SECOND);
    publisher.wrote(&well, at(200));
    assert_eq!(publisher.failed(at(200), 0), SECOND);
}

#[test]
fn one_event_for_each_transition() {
    let well = standing(Forwarding::True, None);
    let bad = standing(Forwarding::Degraded, Some("route-missing"));
    assert_eq!(event(None, &well), None);
    assert_eq!(event(Some(&Condition::of(&well)), &well), None);
    assert_eq!(event(Some(&Condition::of(&bad)), &bad), None);
    let said = event(Some(&Condition::of(&well)), &bad).unwrap();
    assert_eq!((said.kind, said.reason.as_str()), ("Warning", "route-missing"));
    assert!(said.note.starts_with("DataplaneForwarding is False (was True)."), "{}", said.note);
    let again = event(Some(&Condition::of(&bad)), &well).unwrap();
    assert_eq!((again.kind, again.reason.as_str()), ("Normal", "forwarding"));
    assert!(event(None, &bad).is_some());
}

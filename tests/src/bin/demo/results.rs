//! Outcomes for a program: one JSON object a line, among what is said to people. `tests/src/bin/guest/say.rs` has the protocol.

use std::time::Duration;

use serde_json::json;

use crate::scene::{Played, Verified};

/// Nobody reads along.
pub(crate) fn keep_silent(_: &Played, _: Duration) {}

/// Says how a fault was judged.
pub(crate) fn tell(played: &Played, took: Duration) {
    let (outcome, why) = match &played.result {
        Verified::Skipped(why) => ("skipped", Some(why.clone())),
        Verified::Judged { wrong, .. } if !wrong.is_empty() => ("failed", Some(wrong.join("; "))),
        Verified::Judged { detected, .. } => (
            "passed",
            detected.map(|took| {
                let code = played.expected.code.as_deref().unwrap_or("nothing");
                format!("{code} named after {} ms", took.as_millis())
            }),
        ),
    };
    println!(
        "{}",
        json!({ "event": "case", "suite": "faults", "name": played.name, "outcome": outcome, "why": why, "ms": took.as_millis() as u64 })
    );
}

/// Says that the demo itself went wrong: what it did not come to is not right.
pub(crate) fn broken(error: &anyhow::Error) {
    println!(
        "{}",
        json!({ "event": "case", "suite": "faults", "name": "demo", "outcome": "failed", "why": format!("{error:#}"), "ms": 0 })
    );
}

//! Outcomes for a program: one JSON object a line, among what is said to people. `tests/src/bin/guest/say.rs` has the protocol.

use std::time::Duration;

use serde_json::json;
use verifier_tests::fabric::Encapsulation;

use crate::Cli;
use crate::scene::{Played, Verified};

/// Who reads along, if anybody does.
pub(crate) struct Results {
    suite: Option<String>,
    /// In front of each name, where faults of several encapsulations stand in one suite.
    prefix: String,
}

/// As the command line asks.
pub(crate) fn of(cli: &Cli) -> Results {
    let prefix = match cli.encapsulation {
        Encapsulation::Vxlan => String::new(),
        other => format!("{}/", other.name()),
    };
    Results {
        suite: cli.results.clone(),
        prefix,
    }
}

impl Results {
    /// Says how a fault was judged.
    pub(crate) fn tell(&self, played: &Played, took: Duration) {
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
        self.case(played.name, outcome, why.as_deref(), took);
    }

    /// Says that a round found nothing where nothing is wrong.
    pub(crate) fn healthy(&self, round: usize, took: Duration) {
        self.case(&format!("healthy-{round}"), "passed", None, took);
    }

    /// Says that the machine cannot have the fabric at all.
    pub(crate) fn skipped(&self, why: &str) {
        self.case("fabric", "skipped", Some(why), Duration::ZERO);
    }

    /// Says that the demo itself went wrong: what it did not come to is not right.
    pub(crate) fn broken(&self, error: &anyhow::Error) {
        self.case("demo", "failed", Some(&format!("{error:#}")), Duration::ZERO);
    }

    fn case(&self, name: &str, outcome: &str, why: Option<&str>, took: Duration) {
        if let Some(suite) = &self.suite {
            let name = format!("{}{name}", self.prefix);
            println!(
                "{}",
                json!({ "event": "case", "suite": suite, "name": name, "outcome": outcome, "why": why, "ms": took.as_millis() as u64 })
            );
        }
    }
}

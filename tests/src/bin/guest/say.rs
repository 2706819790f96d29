//! The protocol: one JSON object a line. A suite writes it to its standard output, the first process passes it on to the
//! second serial port. The reader is `xtask/src/vm/said.rs`.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

pub(crate) fn booted(release: &str) -> Value {
    json!({ "event": "booted", "release": release })
}

pub(crate) fn begun(suite: &str) -> Value {
    json!({ "event": "begun", "suite": suite })
}

pub(crate) fn ended(suite: &str, why: Option<&str>, took: Duration) -> Value {
    json!({ "event": "ended", "suite": suite, "why": why, "seconds": took.as_secs() })
}

pub(crate) fn over() -> Value {
    json!({ "event": "over" })
}

/// Whether a line is one of the protocol.
pub(crate) fn is_protocol(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|value| value.get("event").is_some())
}

/// How a case ended, short of an error.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// With a figure worth knowing, if there is one.
    Passed(Option<String>),
    Failed(String),
}

/// A suite that is being played.
pub(crate) struct Cases {
    suite: String,
}

impl Cases {
    pub(crate) fn of(suite: &str) -> Self {
        Self { suite: suite.to_owned() }
    }

    /// Says how a case ended.
    pub(crate) fn tell(&self, name: &str, verdict: &Verdict, took: Duration) {
        let (outcome, why) = match verdict {
            Verdict::Passed(figure) => ("passed", figure.as_deref()),
            Verdict::Failed(why) => ("failed", Some(why.as_str())),
        };
        println!(
            "{}",
            json!({ "event": "case", "suite": self.suite, "name": name, "outcome": outcome, "why": why, "ms": took.as_millis() as u64 })
        );
    }

    /// Plays a case; an error is its failure. Returns whether it did not fail.
    pub(crate) fn play(&self, name: &str, case: impl FnOnce() -> Result<Verdict>) -> bool {
        let began = Instant::now();
        let verdict = case().unwrap_or_else(|error| Verdict::Failed(format!("{error:#}")));
        self.tell(name, &verdict, began.elapsed());
        !matches!(verdict, Verdict::Failed(_))
    }

    /// Plays a case that hands something on; none if it failed.
    pub(crate) fn make<T>(&self, name: &str, case: impl FnOnce() -> Result<T>) -> Option<T> {
        let began = Instant::now();
        let (made, verdict) = match case() {
            Ok(made) => (Some(made), Verdict::Passed(None)),
            Err(error) => (None, Verdict::Failed(format!("{error:#}"))),
        };
        self.tell(name, &verdict, began.elapsed());
        made
    }
}

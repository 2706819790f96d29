//! What a guest says: one JSON object a line on its second serial port. The writer is `tests/src/bin/guest/say.rs`.

use serde::Deserialize;

/// One line.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Said {
    /// The first process runs.
    Booted { release: String },
    /// A suite starts.
    Begun { suite: String },
    /// One case of a suite ended.
    Case(Case),
    /// A suite ended; `why` if it could not be played to its end.
    Ended { suite: String, why: Option<String>, seconds: u64 },
    /// Something a reader of the log wants to know.
    Note { text: String },
    /// All suites ended; the guest switches itself off.
    Over,
}

/// One case of a suite.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) suite: String,
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// Why it failed or was skipped; of a case that passed, a figure worth knowing.
    pub(super) why: Option<String>,
    pub(super) ms: u64,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// None for a line that is not of the protocol: what a kernel writes to that port while it boots.
pub(super) fn parse(line: &str) -> Option<Said> {
    serde_json::from_str(line.trim()).ok()
}

/// What became of one suite on one kernel.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Played {
    pub(super) suite: String,
    pub(super) cases: Vec<Case>,
    /// Why it was not played to its end.
    pub(super) broken: Option<String>,
    pub(super) seconds: u64,
}

impl Played {
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.cases.iter().filter(|case| case.outcome == outcome).count()
    }

    /// A suite in which nothing passed has proven nothing.
    pub(super) fn is_right(&self) -> bool {
        self.broken.is_none() && self.count(Outcome::Failed) == 0 && self.count(Outcome::Passed) > 0
    }
}

/// Collects what one guest says into its suites.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) release: Option<String>,
    pub(super) played: Vec<Played>,
    pub(super) over: bool,
    running: Option<Played>,
}

impl Record {
    pub(super) fn take(&mut self, said: Said) {
        match said {
            Said::Booted { release } => self.release = Some(release),
            Said::Begun { suite } => {
                self.break_off("it was not said how it ended");
                self.running = Some(Played {
                    suite,
                    ..Played::default()
                });
            }
            Said::Case(case) => {
                if let Some(running) = self.running.as_mut() {
                    running.cases.push(case);
                }
            }
            Said::Ended { why, seconds, .. } => {
                if let Some(mut played) = self.running.take() {
                    (played.broken, played.seconds) = (why, seconds);
                    self.played.push(played);
                }
            }
            Said::Note { .. } => {}
            Said::Over => self.over = true,
        }
    }

    /// The guest will say no more: a running suite is broken, and so is each wanted one that never ran.
    pub(super) fn close(&mut self, wanted: &[&str], why: &str) {
        self.break_off(why);
        for suite in wanted {
            if !self.played.iter().any(|played| played.suite == *suite) {
                self.played.push(Played {
                    suite: (*suite).to_owned(),
                    broken: Some(why.to_owned()),
                    ..Played::default()
                });
            }
        }
    }

    fn break_off(&mut self, why: &str) {
        if let Some(mut played) = self.running.take() {
            played.broken = Some(why.to_owned());
            self.played.push(played);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lines: &[&str]) -> Record {
        let mut record = Record::default();
        lines.iter().filter_map(|line| parse(line)).for_each(|said| record.take(said));
        record
    }

    const CASE: &str = r#"{"event":"case","suite":"a","name":"x","outcome":"passed","why":null,"ms":3}"#;
    const ENDED: &str = r#"{"event":"ended","suite":"a","why":null,"seconds":1}"#;

    #[test]
    fn a_suite_is_its_cases_and_its_end() {
        let mut record = record(&[
            "[ 0.1] kernel noise",
            r#"{"event":"begun","suite":"a"}"#,
            CASE,
            ENDED,
            r#"{"event":"over"}"#,
        ]);
        record.close(&["a"], "never");
        assert!(record.over && record.played.len() == 1 && record.played[0].is_right());
    }

    #[test]
    fn silence_is_never_taken_for_success() {
        let mut record = record(&[r#"{"event":"begun","suite":"a"}"#, CASE]);
        record.close(&["a", "b"], "the guest fell silent");
        assert_eq!(record.played.len(), 2);
        assert!(record.played.iter().all(|played| !played.is_right() && played.broken.is_some()));
    }

    #[test]
    fn a_suite_in_which_nothing_passed_is_not_right() {
        let mut record = record(&[r#"{"event":"begun","suite":"a"}"#, &CASE.replace("passed", "skipped"), ENDED]);
        record.close(&["a"], "never");
        assert!(!record.played[0].is_right());
    }
}

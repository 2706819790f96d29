//! The summary: kernel x suite x passed, failed, skipped, and the reason for everything that did not pass.

use super::said::{Outcome, Played};
use crate::terminal::Paint;

/// What became of one kernel.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) kernel: String,
    /// Its release, or why it did not even boot.
    pub(super) release: Result<String, String>,
    pub(super) played: Vec<Played>,
    pub(super) seconds: u64,
}

impl Row {
    pub(super) fn is_right(&self) -> bool {
        self.release.is_ok() && !self.played.is_empty() && self.played.iter().all(Played::is_right)
    }
}

/// The table and, below it, the reasons.
pub(super) fn text(rows: &[Row], paint: Paint) -> String {
    let mut lines = vec![format!(
        "{:<10} {:<30} {:<14} {:>6} {:>6} {:>7} {:>7}",
        "kernel", "release", "suite", "passed", "failed", "skipped", "time"
    )];
    let mut reasons = Vec::new();
    for row in rows {
        let release = match &row.release {
            Ok(release) => release.as_str(),
            Err(why) => {
                lines.push(format!("{:<10} {}", row.kernel, paint.red("did not run")));
                reasons.push(format!("{}  {}: {why}", paint.red("failed "), row.kernel));
                continue;
            }
        };
        for (index, played) in row.played.iter().enumerate() {
            let (kernel, release) = if index == 0 { (row.kernel.as_str(), release) } else { ("", "") };
            let failed = format!("{:>6}", played.count(Outcome::Failed));
            lines.push(format!(
                "{kernel:<10} {release:<30} {:<14} {:>6} {} {:>7} {:>5} s{}",
                played.suite,
                played.count(Outcome::Passed),
                if played.count(Outcome::Failed) > 0 {
                    paint.red(&failed)
                } else {
                    failed
                },
                played.count(Outcome::Skipped),
                played.seconds,
                if played.broken.is_some() {
                    paint.red("  broken off")
                } else {
                    String::new()
                },
            ));
            let of = format!("{} {}", row.kernel, played.suite);
            if let Some(why) = &played.broken {
                reasons.push(format!("{}  {of}: {why}", paint.red("broken ")));
            }
            for case in &played.cases {
                let word = match case.outcome {
                    Outcome::Passed => continue,
                    Outcome::Failed => paint.red("failed "),
                    Outcome::Skipped => "skipped".to_owned(),
                };
                reasons.push(format!(
                    "{word}  {of}/{}: {}",
                    case.name,
                    case.why.as_deref().unwrap_or("no reason was given")
                ));
            }
        }
    }
    if !reasons.is_empty() {
        lines.push(String::new());
        lines.append(&mut reasons);
    }
    lines.join("\n")
}

/// The closing line, and whether all of it is right.
pub(super) fn verdict(rows: &[Row]) -> (String, bool) {
    let count = |outcome| {
        rows.iter()
            .flat_map(|row| &row.played)
            .map(|played| played.count(outcome))
            .sum::<usize>()
    };
    let broken = rows.iter().filter(|row| row.release.is_err()).count()
        + rows
            .iter()
            .flat_map(|row| &row.played)
            .filter(|played| played.broken.is_some())
            .count();
    let seconds: u64 = rows.iter().map(|row| row.seconds).sum();
    let line = format!(
        "{} kernels: {} passed, {} failed, {} skipped{} in {seconds} s",
        rows.len(),
        count(Outcome::Passed),
        count(Outcome::Failed),
        count(Outcome::Skipped),
        if broken > 0 {
            format!(", {broken} broken off")
        } else {
            String::new()
        },
    );
    (line, !rows.is_empty() && rows.iter().all(Row::is_right))
}

#[cfg(test)]
mod tests {
    use super::super::said::Case;
    use super::*;

    fn played(outcome: Outcome, why: Option<&str>) -> Played {
        Played {
            suite: "faults".to_owned(),
            cases: vec![
                Case {
                    suite: "faults".to_owned(),
                    name: "first".to_owned(),
                    outcome: Outcome::Passed,
                    why: None,
                    ms: 1,
                },
                Case {
                    suite: "faults".to_owned(),
                    name: "second".to_owned(),
                    outcome,
                    why: why.map(str::to_owned),
                    ms: 1,
                },
            ],
            broken: None,
            seconds: 3,
        }
    }

    fn row(played: Vec<Played>) -> Row {
        Row {
            kernel: "6.1".to_owned(),
            release: Ok("6.1.0-50-cloud-amd64".to_owned()),
            played,
            seconds: 9,
        }
    }

    #[test]
    fn what_did_not_pass_is_told_with_its_reason() {
        let rows = [row(vec![played(Outcome::Skipped, Some("no iptables-legacy"))])];
        assert!(text(&rows, Paint::PLAIN).contains("6.1 faults/second: no iptables-legacy"));
        assert_eq!(verdict(&rows), ("1 kernels: 1 passed, 0 failed, 1 skipped in 9 s".to_owned(), true));
        assert!(!verdict(&[row(vec![played(Outcome::Failed, None)])]).1);
    }

    #[test]
    fn a_kernel_that_did_not_run_and_an_empty_list_are_failures() {
        let mut dead = row(Vec::new());
        dead.release = Err("no mirror has it".to_owned());
        let rows = [row(vec![played(Outcome::Passed, None)]), dead];
        assert!(text(&rows, Paint::PLAIN).contains("no mirror has it"));
        assert!(!verdict(&rows).1);
        assert!(!verdict(&[]).1);
    }
}

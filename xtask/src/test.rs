//! `cargo xtask test`: every test, in order, with one closing line.
//!
//! Plain `cargo test` does the running, so no other tool is needed. Crates run one after another; the suites of
//! `verifier-tests` raise fabrics that share names and two processors, so there one test runs at a time.
//!
//! A test that cannot run here (a tool or a kernel feature is missing) prints a line `skipped: WHY` and returns. The
//! harness hides what a passing test prints, therefore it is asked to show it, and [`Tally`] picks those lines out.

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cli::TestArguments;
use crate::run::{build_ebpf, need_root, run_to_success};
use crate::workspace::{Workspace, cargo};
use crate::{Outcome, apiserver, terminal};

/// The crate whose suites need root and the machine to themselves.
const SUITES: &str = "verifier-tests";

pub(crate) fn run(workspace: &Workspace, arguments: &TestArguments) -> Outcome {
    if !arguments.unprivileged
        && let Some(refusal) = need_root("test")
    {
        return Ok(refusal);
    }
    let began = Instant::now();
    build_ebpf(workspace)?;
    if !arguments.unprivileged {
        apiserver::ensure_or_say(workspace)?;
    }
    // The suites start the program itself.
    run_to_success(
        cargo()
            .current_dir(&workspace.root)
            .args(["build", "--package", "verifier", "--bins"]),
    )?;
    run_to_success(
        cargo()
            .current_dir(&workspace.root)
            .args(["test", "--workspace", "--no-run", "--quiet"]),
    )?;

    let mut tally = Tally::default();
    pass(workspace, arguments, &["--workspace", "--exclude", SUITES], &[], &mut tally)?;
    if !arguments.unprivileged {
        pass(workspace, arguments, &["--package", SUITES], &["--test-threads=1"], &mut tally)?;
    }
    close(&tally, began.elapsed().as_secs())
}

/// One `cargo test`, its standard output passed through and counted.
fn pass(workspace: &Workspace, arguments: &TestArguments, packages: &[&str], harness: &[&str], tally: &mut Tally) -> Result<()> {
    let paint = terminal::stdout();
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["test", "--no-fail-fast"]).args(packages);
    command.env("VERIFIER_TARGET_DIR", &workspace.target);
    command.arg("--").arg("--show-output").args(harness);
    command.args(["--color", if paint.is_colour() { "always" } else { "never" }]);
    command.args(&arguments.filter);
    let mut child = command.stdout(Stdio::piped()).spawn().context("running cargo test")?;
    let Some(stdout) = child.stdout.take() else {
        bail!("cargo test has no standard output")
    };
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("reading what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        if tally.line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() {
        tally.failed_runs += 1;
    }
    Ok(())
}

fn close(tally: &Tally, seconds: u64) -> Outcome {
    let paint = terminal::stdout();
    for (test, why) in &tally.skipped {
        println!("skipped  {test}: {why}");
    }
    let skipped = tally.skipped.len();
    let summary = format!(
        "{} tests passed, {} failed, {skipped} skipped, {} ignored, in {seconds} s",
        // A skipped test passed as far as the harness knows.
        tally.passed.saturating_sub(skipped),
        tally.failed,
        tally.ignored,
    );
    if tally.failed > 0 || tally.failed_runs > 0 {
        println!("{} {summary}", paint.red("FAILED:"));
        return Ok(ExitCode::FAILURE);
    }
    if tally.passed == 0 {
        println!("{} no test ran", paint.red("FAILED:"));
        return Ok(ExitCode::FAILURE);
    }
    println!("{} {summary}", paint.green("ok:"));
    Ok(ExitCode::SUCCESS)
}

/// What the harness said so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Runs of cargo that failed, for whatever reason (a crash prints no result line).
    failed_runs: usize,
    skipped: Vec<(String, String)>,
    /// Inside what passing tests printed; `Some` holds the test's name.
    in_successes: Option<String>,
}

impl Tally {
    /// Takes one line; true if a person should see it.
    fn line(&mut self, raw: &str) -> bool {
        let line = strip_colour(raw);
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.in_successes = None;
            self.passed += count_of(counts, "passed");
            self.failed += count_of(counts, "failed");
            self.ignored += count_of(counts, "ignored");
            return true;
        }
        match (line, &self.in_successes) {
            ("successes:", _) => {
                self.in_successes = Some(String::new());
                false
            }
            ("failures:", Some(_)) => {
                self.in_successes = None;
                true
            }
            (_, Some(test)) => {
                if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
                    self.in_successes = Some(name.to_owned());
                } else if let Some(why) = line.strip_prefix("skipped: ") {
                    self.skipped.push((test.clone(), why.to_owned()));
                }
                false
            }
            (_, None) => true,
        }
    }
}

/// The number before a word in `ok. 3 passed; 0 failed; …`.
fn count_of(counts: &str, word: &str) -> usize {
    let mut previous = "";
    for token in counts.split([' ', ';']).filter(|token| !token.is_empty()) {
        if token == word {
            return previous.parse().unwrap_or(0);
        }
        previous = token;
    }
    0
}

/// Without escape sequences of the form `ESC [ … letter` and `ESC ( B`.
fn strip_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character != '\x1b' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('[') => while characters.next().is_some_and(|c| !c.is_ascii_alphabetic()) {},
            Some('(') => {
                characters.next();
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> (Tally, Vec<&str>) {
        let mut tally = Tally::default();
        let shown = text.lines().filter(|line| tally.line(line)).collect();
        (tally, shown)
    }

    #[test]
    fn counts_over_several_binaries_and_colours() {
        let (tally, _) = tally(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: \x1b[31mFAILED\x1b[(B\x1b[m. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!((tally.passed, tally.failed, tally.ignored), (5, 1, 1));
    }

    #[test]
    fn a_skipped_test_is_named_with_its_reason_and_its_other_output_hidden() {
        let (tally, shown) = tally(
            "test nft ... ok\n\nsuccesses:\n\n---- nft stdout ----\nnoise\nskipped: no nft\n\nsuccesses:\n    nft\n\n\
             test result: ok. 1 passed; 0 failed; 0 ignored",
        );
        assert_eq!(tally.skipped, [("nft".to_owned(), "no nft".to_owned())]);
        assert_eq!(shown, ["test nft ... ok", "", "test result: ok. 1 passed; 0 failed; 0 ignored"]);
    }

    #[test]
    fn what_a_failing_test_prints_is_shown() {
        let (_, shown) = tally("successes:\n---- a stdout ----\nquiet\nfailures:\n---- b stdout ----\nboom");
        assert_eq!(shown, ["failures:", "---- b stdout ----", "boom"]);
    }

    #[test]
    fn nothing_run_is_a_failure() {
        let code = close(&Tally::default(), 0).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }
}

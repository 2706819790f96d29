//! The golden snapshots, judged again: what the verifier saw of each fault of the catalogue on a real kernel must give the very report
//! that was right then. `cargo xtask golden` makes both anew, `cargo xtask golden --replay` the reports alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};
use verifier::{
    cli::Output,
    report::{exit, render, snapshot::ClusterSnapshot},
};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Names of files with this ending.
fn names(ending: &str) -> BTreeSet<String> {
    fs::read_dir(directory())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(ending).map(str::to_owned))
        .collect()
}

#[test]
fn every_snapshot_gives_its_report_to_the_byte() {
    let all = names(".json.gz");
    assert!(all.len() > 40, "{all:?}");
    assert_eq!(
        all,
        names(".report.json"),
        "each snapshot has its report, and each report its snapshot"
    );
    let mut wrong = Vec::new();
    for name in &all {
        let report = ClusterSnapshot::read(&directory().join(format!("{name}.json.gz"))).unwrap().judge();
        let text = render(&report, Output::Json, false).unwrap();
        let expected = fs::read_to_string(directory().join(format!("{name}.report.json"))).unwrap();
        let line = text.lines().zip(expected.lines()).find(|(now, then)| now != then);
        if text != expected {
            wrong.push(format!("{name}: {line:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nif that is what the judge should say now: `cargo xtask golden --replay`, and read the difference",
        wrong.join("\n")
    );
}

#[test]
fn the_program_reads_a_compressed_snapshot_and_says_the_same() {
    let file = directory().join("vtep-mac-changed.json.gz");
    let output = Command::new(env!("CARGO_BIN_EXE_verifier"))
        .args(["replay", "--output", "json"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        fs::read_to_string(directory().join("vtep-mac-changed.report.json")).unwrap()
    );
    let status = exit(&ClusterSnapshot::read(&file).unwrap().judge()).code();
    assert_eq!(output.status.code(), Some(status.into()));
}

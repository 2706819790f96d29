//! The whole catalogue with cold neighbour tables, as on a node that was idle for long: the demo plays it warm. The same fault shows
//! differently then (nothing is sent at all while ARP fails), and its verdict must be the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::{can_run, unique_prefix};
use verifier_tests::lab::program;

#[test]
fn every_verdict_is_right_with_cold_neighbour_tables_too() {
    if !can_run("every_verdict_is_right_with_cold_neighbour_tables_too") {
        return;
    }
    if let Err(error) = program::path() {
        eprintln!("skipped: {error:#}");
        return;
    }
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    let done = demo.args(["--cold", "--prefix", &unique_prefix()]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let complained = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}\n{complained}");
    // Status 0 alone would do; that all of it was played is worth seeing.
    assert!(said.contains(" 0 wrong"), "{said}");
}

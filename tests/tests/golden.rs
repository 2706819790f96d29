//! The golden reports are right by the catalogue's own expectations, and there is one for every fault. They are judged again, byte for
//! byte, in `verifier/tests/golden.rs`; here it is held against the catalogue what they say. Needs no privileges.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf};

use verifier_tests::{
    fabric::{Fabric, FabricSpec},
    faults,
    golden::HEALTHY,
    lab::{
        judge::{differences, wanted_status},
        report::Report,
    },
};

fn report(name: &str) -> Option<Report> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../verifier/tests/golden/{name}.report.json"));
    let text = fs::read_to_string(path).ok()?;
    Some(Report::read(serde_json::from_str(&text).unwrap()).unwrap())
}

#[test]
fn every_golden_report_is_right() {
    let fabric = Fabric::planned(FabricSpec::default()).unwrap();
    let healthy = report(HEALTHY).expect("the healthy fabric has its golden report");
    assert_eq!(healthy.complaints(), Vec::<String>::new());
    let mut wrong = Vec::new();
    for fault in faults::catalogue() {
        let Some(report) = report(fault.name) else {
            wrong.push(format!(
                "{}: no golden report: `cargo xtask golden --only {}`",
                fault.name, fault.name
            ));
            continue;
        };
        let expected = fault.expectation(&fabric).unwrap();
        // The exit status is no part of a report.
        let status = Some(wanted_status(&report));
        wrong.extend(
            differences(&expected, &report, status)
                .into_iter()
                .map(|what| format!("{}: {what}", fault.name)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

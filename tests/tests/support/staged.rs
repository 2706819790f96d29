//! A fabric with agents on it, as a test needs it.

use std::{ffi::OsString, fs};

use verifier_tests::{
    fabric::{self, Encapsulation, FabricSpec},
    lab::{Files, Stage, program, report::Report},
};

use super::{can_run, unique_prefix};

/// A fabric with agents; none, and one line that says why, where it cannot be had.
pub fn stage(test: &str, encapsulation: Encapsulation) -> Option<Stage> {
    if !can_run(test) {
        return None;
    }
    if let Err(error) = program::path() {
        eprintln!("skipped: {test}: {error:#}");
        return None;
    }
    let spec = FabricSpec::of(&unique_prefix(), encapsulation);
    if let Some(why) = fabric::lacking(&spec).unwrap() {
        eprintln!("skipped: {test}: {why}");
        return None;
    }
    let files = Files::new(&format!("test-{}", spec.prefix)).unwrap();
    let mut stage = Stage::raise(spec, files).unwrap();
    stage.start_agents().unwrap();
    Some(stage)
}

/// One round of `verifier validate`.
pub fn validate(stage: &Stage, arguments: &[&str]) -> (i32, Report) {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let netns = stage.fabric().switch_netns().unwrap();
    let done = program::validate(stage.files(), &netns.path(), &arguments).unwrap();
    (done.status.unwrap(), Report::read(done.report).unwrap())
}

/// Takes it down and finds nothing left.
pub fn strike(stage: Stage) {
    let prefix = stage.fabric().spec().prefix.clone();
    let directory = stage.files().directory().to_path_buf();
    stage.strike().unwrap();
    fs::remove_dir_all(directory).unwrap();
    let left: Vec<_> = fs::read_dir("/run/netns")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&format!("{prefix}-")))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

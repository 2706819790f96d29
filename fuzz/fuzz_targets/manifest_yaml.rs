//! Fuzz target: the reader `manifest_yaml` of `verifier::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(verifier::fuzzing::read("manifest_yaml", bytes)));

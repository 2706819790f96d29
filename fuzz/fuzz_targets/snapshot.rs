//! Fuzz target: the reader `snapshot` of `verifier::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(verifier::fuzzing::read("snapshot", bytes)));

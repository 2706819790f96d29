//! Fuzz target: the reader `tc_filter` of `verifier::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(verifier::fuzzing::read("tc_filter", bytes)));

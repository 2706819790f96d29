//! Fuzz target: the reader `tracepoint_format` of `verifier::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(verifier::fuzzing::read("tracepoint_format", bytes)));

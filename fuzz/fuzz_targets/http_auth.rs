//! Fuzz target: the reader `http_auth` of `verifier::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(verifier::fuzzing::read("http_auth", bytes)));

//! Fuzz target: the reader `key_file` of `verifier::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(verifier::fuzzing::read("key_file", bytes)));

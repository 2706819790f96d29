//! Fuzz target: the reader `iptables_legacy` of `verifier::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assert!(verifier::fuzzing::read("iptables_legacy", bytes)));

//! The host account, read from fake roots: one healthy, and one for each way in which a host can be broken, each with exactly its cause.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; outside of functions marked as tests the lint does not see that it is one"
)]

mod bad_input;
mod broken;
mod broken_files;
mod healthy;

use healthy::{Fake, NOW_S};
use std::collections::BTreeSet;
use verifier_core::{
    host::{HostAccount, HostContext, HostFindings, check},
    intent::{Dataplane, Encapsulation},
    names::{NodeName, UnixNs},
    verdict::CauseCode,
};

fn now() -> UnixNs {
    UnixNs(NOW_S * 1_000_000_000)
}

fn read(fake: &Fake) -> HostAccount {
    verifier::host::read(&fake.root, now()).unwrap()
}

/// A cluster with VXLAN and iptables.
fn cluster() -> HostContext {
    HostContext {
        node: Some(NodeName::from("node-a")),
        encapsulations: Some(BTreeSet::from([Encapsulation::Vxlan])),
        dataplane: Some(Dataplane::Iptables),
        calico: Some((3, 31, 7)),
        kubernetes: Some((1, 33)),
        ..HostContext::default()
    }
}

fn codes(found: &HostFindings) -> Vec<CauseCode> {
    let mut codes: Vec<CauseCode> = found.findings.iter().map(|f| f.code).collect();
    codes.sort();
    codes
}

/// Root may do everything: what modes and owners forbid can only be tested without that, or not at all.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_healthy_host_has_no_cause_and_no_gap() {
    if !is_root() {
        println!("skipped: the paths must belong to root");
        return;
    }
    let fake = healthy::healthy();
    let account = read(&fake);
    let found = check(&account, &cluster());
    assert_eq!(found, HostFindings::default());
    // Nor without any knowledge of the cluster.
    assert_eq!(check(&account, &HostContext::default()), HostFindings::default());
}

#[test]
fn an_account_survives_serialisation_and_has_no_secret_in_it() {
    let fake = healthy::healthy();
    let account = read(&fake);
    let text = serde_json::to_string(&account).unwrap();
    assert_eq!(serde_json::from_str::<HostAccount>(&text).unwrap(), account);
    assert!(!text.contains("c2lnbmF0dXJl"), "the token's signature stands in the account");
    assert!(!text.contains("eyJ"), "a part of the token stands in the account");
}

#[test]
fn the_machine_that_runs_the_tests_can_be_read() {
    let account = verifier::host::read(std::path::Path::new("/"), now()).unwrap();
    let kernel = account.kernel.seen().unwrap();
    assert_eq!(kernel.release, nix::sys::utsname::uname().unwrap().release().to_str().unwrap());
    let found = check(&account, &HostContext::default());
    // The fabric makes vxlan and veth devices on this very kernel, so whatever it is built like, they are not missing.
    for f in &found.findings {
        assert!(!matches!(f.subject.as_str(), "vxlan" | "veth"), "{f:?}");
    }
}

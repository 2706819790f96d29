//! What the suites share: names that do not collide, clean-up also after a failed assertion, and
//! one clear line when the machine cannot run them.

#![allow(dead_code, reason = "each suite uses its part of this")]

pub mod staged;

use std::sync::atomic::{AtomicU32, Ordering};

use verifier_tests::fabric::{Fabric, FabricSpec};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A prefix of namespace names that no other test and no lab uses.
pub fn unique_prefix() -> String {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("t{}x{number}", std::process::id())
}

/// Whether the test can run; says why not otherwise.
pub fn can_run(test: &str) -> bool {
    match verifier_tests::fabric::require_root() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("skipped: {test}: {error}");
            false
        }
    }
}

/// A fabric that is removed when the test ends, however it ends.
pub struct Guard(pub Fabric);

impl Guard {
    pub fn up(spec: FabricSpec) -> Self {
        let prefix = spec.prefix.clone();
        match Fabric::up(spec, None) {
            Ok(fabric) => Self(fabric),
            Err(error) => {
                let cleaned = Fabric::down(&prefix);
                panic!("the fabric does not come up: {error:#} (clean-up: {cleaned:?})")
            }
        }
    }

    pub fn small() -> Self {
        Self::up(FabricSpec {
            prefix: unique_prefix(),
            ..FabricSpec::default()
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = Fabric::down(&self.0.spec().prefix) {
            eprintln!("clean-up failed: {error:#}");
        }
    }
}

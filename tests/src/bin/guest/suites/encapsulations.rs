//! Fabrics of every encapsulation besides plain VXLAN, which the other suites are about: each healthy for so many rounds, then broken in
//! every way that it has. A case is called `MODE/FAULT`; `MODE` alone stands for all of a mode, `MODE/healthy` for the rounds.

use anyhow::{Result, bail};
use verifier_tests::fabric::Encapsulation;

use super::faults;
use crate::plan::Suite;
use crate::say::{Cases, Verdict};

pub(crate) fn play(suite: &Suite, cases: &Cases) -> Result<()> {
    let wanted: Vec<(&str, Option<&str>)> = suite
        .only
        .iter()
        .map(|case| match case.split_once('/') {
            Some((mode, name)) => (mode, Some(name)),
            None => (case.as_str(), None),
        })
        .collect();
    let modes: Vec<String> = Encapsulation::ALL
        .into_iter()
        .filter(|mode| *mode != Encapsulation::Vxlan)
        .map(Encapsulation::name)
        .collect();
    if let Some((mode, _)) = wanted.iter().find(|(mode, _)| !modes.iter().any(|known| known == mode)) {
        bail!("no encapsulation is called {mode:?}; there are {}", modes.join(", "));
    }
    for mode in &modes {
        let of_mode: Vec<Option<&str>> = wanted.iter().filter(|(of, _)| of == mode).map(|(_, name)| *name).collect();
        if of_mode.is_empty() && !wanted.is_empty() {
            continue;
        }
        let all = of_mode.contains(&None);
        let names = of_mode.into_iter().flatten().filter(|_| !all);
        // One encapsulation that cannot be played says nothing of the others.
        if let Err(error) = faults::demo(suite, &["--encapsulation", mode], names) {
            cases.play(mode, || Ok(Verdict::Failed(format!("{error:#}"))));
        }
    }
    Ok(())
}

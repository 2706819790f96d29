//! The suites, by the names under which `cargo xtask vm` asks for them.

mod encapsulations;
mod fabric;
mod faults;
mod features;
mod impairments;

use anyhow::{Result, bail};

use crate::plan::Plan;
use crate::say::Cases;

/// Plays one suite. What its cases come to is said line by line; an error is only what kept it from going on.
pub(crate) fn play(name: &str) -> Result<()> {
    let plan = Plan::read()?;
    let cases = Cases::of(name);
    match name {
        "features" => features::play(&plan, &cases),
        "faults" => faults::play(plan.suite(name)?),
        "fabric" => fabric::play(&plan, plan.suite(name)?.rounds, &cases),
        "impairments" => impairments::play(plan.suite(name)?),
        "encapsulations" => encapsulations::play(plan.suite(name)?, &cases),
        other => bail!("no suite is called {other}"),
    }
}

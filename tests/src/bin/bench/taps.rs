//! Nanoseconds per packet of each path through a tap, over an empty classifier.

use anyhow::{Context, Result};
use verifier::observed::bench::bench_taps;
use verifier_tests::lab::Stage;

use crate::row::{Figure, Row};

/// How many runs one figure is the mean of, and how many such figures give the median.
const REPEAT: u32 = 200_000;
const ROUNDS: u32 = 9;

/// The path that does nothing.
const EMPTY: &str = "empty";

/// The rows.
pub(crate) fn rows(_stage: &mut Stage) -> Result<Vec<Row>> {
    let costs = bench_taps(ROUNDS, REPEAT).context("BPF_PROG_TEST_RUN")?;
    Ok(costs
        .into_iter()
        // What all others are compared with.
        .filter(|cost| cost.path != EMPTY)
        .map(|cost| Row {
            name: format!("tap, {}", cost.path),
            unit: "ns over empty",
            reference: "the aim",
            aim: if cost.aim_ns.is_some() { "at most that" } else { "shown" },
            figure: Figure::Measured {
                value: cost.over_empty_ns,
                against: cost.aim_ns,
                met: cost.aim_ns.is_none_or(|aim| cost.over_empty_ns <= aim),
            },
            trials: Vec::new(),
        })
        .collect())
}

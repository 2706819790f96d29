//! From a fault to the continuous verdict, as somebody who asks all agents every few milliseconds sees it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use verifier_core::verdict::ClusterReport;
use verifier_tests::faults::{self, Outcome};
use verifier_tests::lab::Stage;
use verifier_tests::lab::watch::{Watch, is_healthy};

use crate::row::{Figure, Row, median, percentile};

/// A fault that netlink announces, and one of which nothing but missing packets tells.
const VISIBLE: (&str, &str) = ("tunnel-device-down", "tunnel-device-down");
const SILENT: (&str, &str) = ("underlay-drops-tunnel", "underlay-drops-tunnel");

const VISIBLE_TRIALS: usize = 30;
const SILENT_TRIALS: usize = 10;

const VISIBLE_AIM_MS: f64 = 100.0;
const SILENT_AIM_MS: f64 = 3000.0;

/// Longer than either may take, with the mending.
const DEADLINE: Duration = Duration::from_secs(60);

/// The rows.
pub(crate) fn rows(stage: &mut Stage) -> Result<Vec<Row>> {
    let watch = Watch::new(stage.fabric(), stage.files())?;
    let visible = trials(stage, &watch, VISIBLE, VISIBLE_TRIALS)?;
    let silent = trials(stage, &watch, SILENT, SILENT_TRIALS)?;
    Ok(vec![
        row(
            "detection, kernel-visible fault, p99",
            "<= 100 ms",
            percentile(&visible, 99),
            VISIBLE_AIM_MS,
            &visible,
        ),
        row(
            "detection, silent drop, probing each second, median",
            "<= 3 s",
            median(&silent),
            SILENT_AIM_MS,
            &silent,
        ),
        row(
            "detection, silent drop, probing each second, worst",
            "<= 3 s",
            percentile(&silent, 100),
            SILENT_AIM_MS,
            &silent,
        ),
    ])
}

fn row(name: &str, aim: &'static str, value: f64, aim_ms: f64, trials: &[f64]) -> Row {
    Row {
        name: name.to_owned(),
        unit: "ms",
        reference: "the aim",
        aim,
        figure: Figure::Measured {
            value,
            against: Some(aim_ms),
            met: value <= aim_ms,
        },
        trials: trials.to_vec(),
    }
}

/// Milliseconds of each trial.
fn trials(stage: &Stage, watch: &Watch, (name, code): (&str, &str), count: usize) -> Result<Vec<f64>> {
    let fault = faults::find(name)?;
    let mut took = Vec::new();
    for _ in 0..count {
        settle(watch)?;
        let since = Instant::now();
        if let Outcome::Skipped(why) = fault.inject(stage.fabric())? {
            bail!("{name} cannot be had here: {why}");
        }
        let detected = watch.wait_for(since, DEADLINE, |report| has(report, code));
        faults::undo(stage.fabric())?;
        took.push(
            detected
                .with_context(|| format!("{code} was not named within {DEADLINE:?}"))?
                .as_secs_f64()
                * 1e3,
        );
    }
    settle(watch)?;
    Ok(took)
}

fn settle(watch: &Watch) -> Result<()> {
    watch
        .wait_for(Instant::now(), DEADLINE, is_healthy)
        .context("the fabric did not become healthy")
        .map(|_| ())
}

fn has(report: &ClusterReport, code: &str) -> bool {
    report
        .causes
        .iter()
        .chain(report.nodes.iter().flat_map(|node| &node.causes))
        .any(|finding| finding.code.as_str() == code)
}

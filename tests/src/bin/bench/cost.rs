//! What an agent costs while nothing happens.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use verifier_tests::lab::Stage;

use crate::row::{Figure, Row, median};

/// How long an agent is watched at rest.
const WATCH: Duration = Duration::from_secs(10);

const RSS_AIM_MIB: f64 = 25.0;

/// The rows.
pub(crate) fn rows(stage: &mut Stage) -> Result<Vec<Row>> {
    let before = stage
        .agents()
        .iter()
        .map(|agent| cpu_seconds(agent.pid()))
        .collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    sleep(WATCH);
    let elapsed = began.elapsed().as_secs_f64();
    let mut percent = Vec::new();
    let mut rss = Vec::new();
    for (agent, before) in stage.agents().iter().zip(before) {
        percent.push((cpu_seconds(agent.pid())? - before) / elapsed * 100.0);
        rss.push(rss_mib(agent.pid())?);
    }
    Ok(vec![
        Row {
            name: "agent, resident memory".into(),
            unit: "MiB",
            reference: "the aim",
            aim: "<= 25 MiB",
            figure: Figure::Measured {
                value: median(&rss),
                against: Some(RSS_AIM_MIB),
                met: median(&rss) <= RSS_AIM_MIB,
            },
            trials: rss,
        },
        Row {
            name: "agent, CPU at rest (probing each second)".into(),
            unit: "% of one CPU",
            reference: "",
            aim: "shown",
            figure: Figure::Measured {
                value: median(&percent),
                against: None,
                met: true,
            },
            trials: percent,
        },
    ])
}

/// User and system time of a process so far (proc(5), fields 14 and 15 of `stat`).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading an agent's times")?;
    // The second field is the name in brackets, which may hold spaces.
    let after = stat.rsplit_once(") ").context("not a stat line")?.1;
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks = |index: usize| -> Result<f64> {
        fields
            .get(index)
            .context("a short stat line")?
            .parse()
            .context("not a number of ticks")
    };
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .context("asking for the tick")?
        .context("no tick")?;
    Ok((ticks(11)? + ticks(12)?) / per_second as f64)
}

pub(crate) fn rss_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading an agent's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("not a number of kB")?;
    Ok(kib / 1024.0)
}

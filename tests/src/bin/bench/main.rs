//! `cargo xtask bench`: what the verifier costs and how fast it is, as ratios within one run.

mod churn;
mod cost;
mod detection;
mod intent;
mod kubernetes;
mod routes;
mod row;
mod taps;
mod throughput;
mod toggled;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use row::Row;
use verifier_tests::fabric::FabricSpec;
use verifier_tests::lab::{Files, Stage, program};

/// First part of the namespaces' names; not the lab's, so that a lab may stand beside it.
const PREFIX: &str = "dpv-bench";

/// Measure. Prints a table and writes target/bench.json. Never fails because of a figure.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench", disable_help_subcommand = true)]
struct Cli {
    /// Print the names of the groups and do nothing.
    #[arg(long)]
    list: bool,
    /// Only this group (repeat for several).
    #[arg(long, value_name = "GROUP")]
    only: Vec<String>,
}

/// A group of rows: its name, what it would have shown, and how it is measured.
struct Group {
    name: &'static str,
    what: &'static str,
    measure: fn(&mut Stage) -> Result<Vec<Row>>,
}

const GROUPS: &[Group] = &[
    Group {
        name: "taps",
        what: "nanoseconds per packet of each path through a tap",
        measure: taps::rows,
    },
    Group {
        name: "throughput",
        what: "TCP over the tunnel: taps on, off, tcpdump",
        measure: throughput::rows,
    },
    Group {
        name: "cost",
        what: "an agent's memory and CPU at rest",
        measure: cost::rows,
    },
    Group {
        name: "detection",
        what: "from a fault to the continuous verdict",
        measure: detection::rows,
    },
    Group {
        name: "routes",
        what: "reading 20,000 routes",
        measure: routes::rows,
    },
    Group {
        name: "churn",
        what: "following 5,000 route changes a second",
        measure: churn::rows,
    },
    Group {
        name: "intent",
        what: "intent of 5,000 nodes x 50 pods",
        measure: intent::rows,
    },
    Group {
        name: "kubernetes",
        what: "an agent of 1,000 nodes x 30 pods on a real API server",
        measure: kubernetes::rows,
    },
];

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if cli.list {
        for group in GROUPS {
            println!("{:12} {}", group.name, group.what);
        }
        return Ok(());
    }
    if let Some(unknown) = cli.only.iter().find(|only| !GROUPS.iter().any(|group| group.name == **only)) {
        anyhow::bail!("no group is named {unknown:?}: `cargo xtask bench -- --list` names them");
    }
    let spec = FabricSpec {
        prefix: PREFIX.to_owned(),
        ..FabricSpec::default()
    };
    let mut stage = Stage::raise(spec, Files::new("bench")?)?;
    stage.start_agents()?;
    let mut rows = Vec::new();
    for group in GROUPS
        .iter()
        .filter(|group| cli.only.is_empty() || cli.only.iter().any(|only| only == group.name))
    {
        eprintln!("measuring {} …", group.what);
        match (group.measure)(&mut stage) {
            Ok(more) => rows.extend(more),
            Err(error) => rows.push(Row::missing(group.what, "", format!("{error:#}"))),
        }
    }
    let files = stage.files().clone();
    stage.strike()?;
    files.remove()?;
    print!("{}", row::table(&rows));
    let file = program::target_directory()?.join("bench.json");
    let json = serde_json::to_string_pretty(&serde_json::json!({ "schema": "dataplane-verifier/bench/v1", "rows": rows }))?;
    std::fs::write(&file, json).with_context(|| format!("writing {}", file.display()))?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

//! `cargo xtask demo`: a fabric is raised, proven healthy, and broken in every way of the catalogue, one at a time; what
//! the verifier says is compared with what is right. Status 0 only if it was right every time.

mod interrupt;
mod results;
mod scene;
mod show;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use verifier_tests::fabric::{self, Encapsulation, FabricSpec};
use verifier_tests::faults::{self, Fault};
use verifier_tests::golden::Golden;
use verifier_tests::lab::watch::Watch;
use verifier_tests::lab::{Files, LAB_PREFIX, Stage};

use interrupt::Interrupt;
use results::Results;
use scene::{Played, Scene};
use show::Show;

/// As a shell reports a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Raise a fabric, break it in every way of the catalogue, and check every verdict.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask demo", disable_help_subcommand = true)]
struct Cli {
    /// First part of every namespace's name.
    #[arg(long, default_value = LAB_PREFIX, hide = true)]
    prefix: String,
    /// How pod traffic travels between the nodes; each has faults of its own.
    #[arg(long, value_enum, default_value_t = Encapsulation::Vxlan, value_name = "MODE")]
    encapsulation: Encapsulation,
    /// Not what breaks a network but what makes it bad: loss, delay, corruption, below and above what is called a fault.
    #[arg(long, hide = true)]
    impairments: bool,
    /// Print the names of the faults and do nothing.
    #[arg(long)]
    list: bool,
    /// Only this fault (repeat for several).
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Empty the neighbour tables before each fault, as on a node that was idle for long.
    #[arg(long)]
    cold: bool,
    /// Also print each outcome, as one of this suite, as one JSON object on a line of its own: the first process of a virtual machine
    /// reads it.
    #[arg(long, hide = true, value_name = "SUITE")]
    results: Option<String>,
    /// Prove the fabric healthy so many times before the first fault; with `--only healthy`, that is all.
    #[arg(long, default_value_t = 1, value_name = "N")]
    rounds: usize,
    /// Leave the fabric and its agents standing, and with --only the fault in it; `cargo xtask lab` works on it.
    #[arg(long)]
    keep: bool,
    /// Keep a snapshot of each fault, and its report, in this directory: what `cargo xtask golden` asks for.
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    golden: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let show = Show::new();
    match run(&cli, &show) {
        Ok(code) => code,
        Err(error) => {
            show.error(&error);
            results::of(&cli).broken(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli, show: &Show) -> Result<ExitCode> {
    let golden = cli.golden.clone().map(Golden::new).transpose()?;
    let results = results::of(cli);
    let (chosen, story) = choose(cli)?;
    if cli.list {
        chosen.iter().for_each(|fault| show.listed(fault));
        if story {
            show.listed_as(story::NAME, story::DESCRIPTION);
        }
        return Ok(ExitCode::SUCCESS);
    }
    // Before anything is made, so that Ctrl-C always takes it down again.
    let interrupt = Interrupt::listen()?;
    let began = Instant::now();
    let spec = FabricSpec::of(&cli.prefix, cli.encapsulation);
    if let Some(why) = fabric::lacking(&spec)? {
        // As the suites say it, so that it is counted.
        println!("skipped: {}: {why}", cli.encapsulation);
        results.skipped(&why);
        return Ok(ExitCode::SUCCESS);
    }
    let mut stage = Stage::raise(spec, Files::of_lab(&cli.prefix)?)?;
    show.raised(stage.fabric(), began.elapsed());
    let since = Instant::now();
    stage.start_agents()?;
    show.agents_ready(&stage, since.elapsed());
    let watch = Watch::new(stage.fabric(), stage.files())?;

    let keep_last = cli.keep && cli.only.len() == 1;
    let mut scene = Scene {
        stage: &mut stage,
        watch: &watch,
        show,
        interrupt: &interrupt,
        cold: cli.cold,
        golden: golden.as_ref(),
        rounds: cli.rounds,
        traffic: None,
    };
    let mut played = Vec::new();
    let mut told = true;
    let outcome = prove_healthy(&scene, cli.rounds, &results).and_then(|()| {
        play(&mut scene, &chosen, keep_last, &mut played, &results)?;
        if story && !interrupt.came() {
            show.announce_as(story::NAME, story::DESCRIPTION);
            told = story::play(&mut scene)?.is_empty();
        }
        Ok(())
    });
    if !played.is_empty() {
        show.summary(&played, chosen.len(), began.elapsed());
    }
    if let Some(golden) = &golden {
        golden.discard()?;
    }
    let all_right = outcome.is_ok()
        && told
        && played.len() == chosen.len()
        && played.iter().all(Played::is_right)
        && (story || is_only_healthy(&cli.only) || played.iter().any(Played::is_judged));
    if cli.keep {
        stage.leave_standing();
        show.kept(keep_last);
    } else {
        let files = stage.files().clone();
        stage.strike()?;
        if all_right || interrupt.came() {
            files.remove()?;
            show.struck(None);
        } else {
            show.struck(Some(files.directory()));
        }
    }
    if interrupt.came() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    outcome?;
    Ok(if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `--only` takes beside the faults: the rounds before them.
const HEALTHY: &str = "healthy";

fn is_only_healthy(only: &[String]) -> bool {
    !only.is_empty() && only.iter().all(|name| name == HEALTHY)
}

fn prove_healthy(scene: &Scene<'_>, rounds: usize, results: &Results) -> Result<()> {
    for round in 1..=rounds.max(1) {
        if scene.interrupt.came() {
            bail!("interrupted");
        }
        let since = Instant::now();
        scene.prove_healthy().with_context(|| format!("round {round} of {rounds}"))?;
        results.healthy(round, since.elapsed());
    }
    Ok(())
}

fn play(scene: &mut Scene<'_>, chosen: &[&'static Fault], keep_last: bool, played: &mut Vec<Played>, results: &Results) -> Result<()> {
    for (index, fault) in chosen.iter().enumerate() {
        if scene.interrupt.came() {
            bail!("interrupted");
        }
        scene.show.announce(fault, index + 1, chosen.len());
        let since = Instant::now();
        let one = scene.play(fault)?;
        results.tell(&one, since.elapsed());
        scene.show.played(fault, &one);
        played.push(one);
        if !keep_last {
            scene.mend(fault)?;
        }
    }
    Ok(())
}

/// The faults to be played, and whether the story of the upgraded kernel is told after them.
fn choose(cli: &Cli) -> Result<(Vec<&'static Fault>, bool)> {
    let (only, encapsulation) = (&cli.only, cli.encapsulation);
    let all = if cli.impairments {
        faults::impairments()
    } else {
        faults::catalogue_of(encapsulation)
    };
    // The story is one of a VXLAN cluster.
    let has_story = encapsulation == Encapsulation::Vxlan && !cli.impairments;
    if only.is_empty() {
        return Ok((all, has_story));
    }
    let find = |name: &String| {
        let known = all.iter().find(|fault| fault.name == *name).copied();
        let of = if cli.impairments { " --impairments" } else { "" };
        let mode = encapsulation.name();
        known.with_context(|| {
            format!("no fault {name} for {encapsulation}: `cargo xtask demo --encapsulation {mode}{of} --list` names them")
        })
    };
    let is_story = |name: &String| has_story && name == story::NAME;
    let faults = only.iter().filter(|name| !is_story(name) && *name != HEALTHY).map(find);
    Ok((faults.collect::<Result<_>>()?, only.iter().any(is_story)))
}

//! `cargo xtask vm`: the suites on other kernels than this machine's, each in a virtual machine of its own.
//!
//! A kernel of `tests/vm/kernels.toml` is unpacked from Debian's package ([`fetch`]), an initramfs is made of the programs
//! under test and the kernel's modules ([`image`], [`modules`], [`cpio`]), QEMU boots it ([`qemu`]), and the guest's first
//! process plays the suites and says, line by line, what became of them ([`said`]). Nothing is left but the unpacked
//! kernels and the consoles below `target/vm`.

mod cpio;
mod fetch;
mod image;
mod kernels;
mod modules;
mod qemu;
mod said;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cli::VmArguments;
use crate::run::{self, Profile};
use crate::workspace::Workspace;
use crate::{Outcome, terminal};
use image::{Content, Plan, PlannedSuite};
use kernels::Kernel;
use qemu::{Accelerator, Guest, Heard};
use said::{Record, Said};
use table::Row;

/// The programs of the guest; `guest` is its first process.
const PROGRAMS: [&str; 3] = ["guest", "verifier", "demo"];

/// One suite that a guest can play.
struct Suite {
    name: &'static str,
    what: &'static str,
    /// Time limit under translation, which is the slowest.
    seconds: u64,
    /// Whether it is part of the short run.
    ci: bool,
    /// In the short run only these of its cases; all if there is none.
    ci_only: &'static [&'static str],
    /// How often each of its fabrics is validated while it is healthy, in the long run and in the short one.
    rounds: (usize, usize),
}

const SUITES: [Suite; 5] = [
    Suite {
        name: "features",
        what: "what `verifier preflight` finds, against what the list says must be absent",
        seconds: 120,
        ci: true,
        ci_only: &[],
        rounds: (0, 0),
    },
    Suite {
        name: "fabric",
        what: "a fabric with agents: attached as the kernel allows, and healthy",
        seconds: 300,
        ci: true,
        ci_only: &[],
        rounds: (5, 2),
    },
    Suite {
        name: "faults",
        what: "the fault catalogue, as `cargo xtask demo` plays it",
        seconds: 3600,
        ci: true,
        ci_only: &["tunnel-device-deleted", "filter-vxlan-input"],
        rounds: (1, 1),
    },
    Suite {
        name: "encapsulations",
        what: "fabrics of every encapsulation besides plain VXLAN: healthy, and the faults of each",
        seconds: 7200,
        ci: true,
        ci_only: &["ipip/far-tunnel-down", "vxlan-dual-stack/ipv6-fdb-missing"],
        rounds: (20, 1),
    },
    Suite {
        name: "impairments",
        what: "a network that loses, delays, damages, reorders and repeats packets, below and above what is a fault",
        seconds: 3600,
        ci: false,
        ci_only: &[],
        rounds: (5, 1),
    },
];

/// For booting, and for what a slow machine takes between suites.
const MARGIN: Duration = Duration::from_secs(60);
/// What one more healthy round of every fabric of a suite may take.
const ROUND: Duration = Duration::from_secs(120);
/// For switching off.
const OFF: Duration = Duration::from_secs(15);

pub(crate) fn run(workspace: &Workspace, arguments: &VmArguments) -> Outcome {
    let all = kernels::all(&workspace.root)?;
    if arguments.list {
        print_list(&all);
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = kernels::choose(&all, &arguments.kernel, arguments.ci)?;
    let suites = choose_suites(&arguments.suite, arguments.ci)?;
    ensure!(qemu::is_here(), "no qemu-system-x86_64; remedy: install qemu-system-x86");

    run::build_ebpf(workspace)?;
    run::build_host(workspace, Profile::Guest)?;
    let directory = workspace.target.join("vm");
    // Another run may play the same kernels at the same time.
    let scratch = directory.join(format!("scratch-{}", std::process::id()));
    let programs: Vec<(String, PathBuf)> = PROGRAMS
        .iter()
        .map(|name| ((*name).to_owned(), run::binary(workspace, Profile::Guest, name)))
        .collect();
    let content = Content::gather(&scratch, &programs)?;

    let paint = terminal::stdout();
    let mut accelerator = None;
    let mut rows = Vec::new();
    for kernel in &chosen {
        let began = Instant::now();
        let mut record = Record::default();
        let outcome = play(workspace, kernel, &suites, &content, &mut accelerator, arguments, &mut record);
        let release = match (outcome, &record.release) {
            (Ok(()), Some(release)) => Ok(release.clone()),
            (Ok(()), None) => Err("its first process never spoke".to_owned()),
            (Err(error), _) => Err(format!("{error:#}")),
        };
        rows.push(Row {
            kernel: kernel.name.clone(),
            release,
            played: record.played,
            seconds: began.elapsed().as_secs(),
        });
    }
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    println!("\n{}\n", table::text(&rows, paint));
    let (line, right) = table::verdict(&rows);
    if right {
        println!("{} {line}", paint.green("ok:"));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} {line}; consoles in {}", paint.red("FAILED:"), directory.display());
    Ok(ExitCode::FAILURE)
}

fn print_list(all: &[Kernel]) {
    for kernel in all {
        let series = if kernel.series.is_empty() { "newest" } else { &kernel.series };
        let absent = match kernel.absent.as_slice() {
            [] => String::new(),
            absent => format!("; must lack {}", absent.join(", ")),
        };
        println!("kernel  {:<14} {series} of Debian {}{absent}", kernel.name, kernel.suite);
    }
    for suite in &SUITES {
        println!("suite   {:<14} {}", suite.name, suite.what);
    }
}

fn choose_suites(names: &[String], ci: bool) -> Result<Vec<&'static Suite>> {
    for name in names {
        if !SUITES.iter().any(|suite| suite.name == name) {
            bail!("no suite is called {name}; `cargo xtask vm --list` names them");
        }
    }
    let wanted = |suite: &&Suite| {
        if names.is_empty() {
            !ci || suite.ci
        } else {
            names.iter().any(|name| name == suite.name)
        }
    };
    Ok(SUITES.iter().filter(wanted).collect())
}

/// The cases that were asked for, else those of the short run, else none: which stands for all.
fn cases_of(suite: &Suite, arguments: &VmArguments) -> Vec<String> {
    match (arguments.only.as_slice(), arguments.ci) {
        ([], true) => suite.ci_only.iter().map(|case| (*case).to_owned()).collect(),
        (only, _) => only.to_vec(),
    }
}

fn rounds_of(suite: &Suite, arguments: &VmArguments) -> usize {
    let (long, short) = suite.rounds;
    arguments.rounds.unwrap_or(if arguments.ci { short } else { long })
}

/// The suite's limit, and more if it was asked for more rounds than it has by itself.
fn limit_of(suite: &Suite, arguments: &VmArguments) -> Duration {
    let more = rounds_of(suite, arguments).saturating_sub(suite.rounds.0) as u32;
    Duration::from_secs(suite.seconds) + ROUND * more
}

/// One kernel: made, booted, listened to until it is over.
fn play(
    workspace: &Workspace,
    kernel: &Kernel,
    suites: &[&Suite],
    content: &Content,
    accelerator: &mut Option<Accelerator>,
    arguments: &VmArguments,
    record: &mut Record,
) -> Result<()> {
    let directory = workspace.target.join("vm");
    let suites: Vec<&Suite> = suites
        .iter()
        .copied()
        .filter(|suite| kernel.suites.as_ref().is_none_or(|can| can.iter().any(|name| name == suite.name)))
        .collect();
    ensure!(!suites.is_empty(), "it can play none of these suites");
    let unpacked = fetch::unpack(&workspace.target, kernel, arguments.refresh)?;
    let accelerator = match *accelerator {
        Some(known) => known,
        None => *accelerator.insert(qemu::accelerator(&unpacked)?),
    };
    let only: Vec<Vec<String>> = suites.iter().map(|suite| cases_of(suite, arguments)).collect();
    let limit: Duration = suites.iter().map(|suite| limit_of(suite, arguments)).sum::<Duration>() + MARGIN;
    let plan = Plan {
        kernel: &kernel.name,
        seconds: limit.as_secs(),
        suites: suites
            .iter()
            .zip(&only)
            .map(|(suite, only)| PlannedSuite {
                name: suite.name,
                seconds: limit_of(suite, arguments).as_secs(),
                only,
                rounds: rounds_of(suite, arguments),
            })
            .collect(),
        absent: &kernel.absent,
    };
    let initramfs = content.scratch().join(format!("{}.cpio", kernel.name));
    content.write(&initramfs, &unpacked, &plan)?;
    println!("{} ({}, {}):", kernel.name, unpacked.release, accelerator.name());
    let log = format!("{}.console.log", kernel.name);
    let (writing, console) = (content.scratch().join(&log), directory.join(&log));
    let guest = Guest::boot(accelerator, &unpacked, &initramfs, &writing);
    let listened = guest.and_then(|guest| listen(guest, record, limit));
    // Nothing, if it was not even started.
    drop(fs::rename(&writing, &console));
    fs::remove_file(&initramfs).with_context(|| format!("removing {}", initramfs.display()))?;
    let wanted: Vec<&str> = suites.iter().map(|suite| suite.name).collect();
    if !record.over {
        let why = listened?;
        println!("{}", qemu::tail(&console, 25));
        record.close(&wanted, &why);
    }
    record.close(&wanted, "the guest ended without playing it");
    Ok(())
}

/// Until the guest says that it is over; else returns why it did not come to that.
fn listen(mut guest: Guest, record: &mut Record, limit: Duration) -> Result<String> {
    let began = Instant::now();
    let why = loop {
        match guest.line(limit.saturating_sub(began.elapsed())) {
            Heard::Line(line) => {
                let Some(said) = said::parse(&line) else { continue };
                show(&said, began.elapsed());
                record.take(said);
                if record.over {
                    guest.off(OFF)?;
                    return Ok(String::new());
                }
            }
            Heard::Nothing => break format!("it was not over after {} s", limit.as_secs()),
            Heard::End => break "the guest ended before it was over".to_owned(),
        }
    };
    guest.off(Duration::ZERO)?;
    Ok(why)
}

fn show(said: &Said, after: Duration) {
    let paint = terminal::stdout();
    match said {
        Said::Booted { release } => println!("  booted {release} after {:.1} s", after.as_secs_f32()),
        Said::Begun { suite } => println!("  {}", paint.bold(suite)),
        Said::Case(case) => {
            let word = match case.outcome {
                said::Outcome::Passed => paint.green("passed "),
                said::Outcome::Failed => paint.red("failed "),
                said::Outcome::Skipped => "skipped".to_owned(),
            };
            let why = case.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            println!("    {word} {} ({} ms){why}", case.name, case.ms);
        }
        Said::Ended { why: Some(why), .. } => println!("    {} {why}", paint.red("broken off:")),
        Said::Ended { .. } | Said::Over => {}
        Said::Note { text } => println!("    {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_chosen_by_name_or_for_ci() {
        assert_eq!(choose_suites(&[], false).unwrap().len(), SUITES.len());
        assert!(choose_suites(&[], true).unwrap().iter().all(|suite| suite.ci));
        assert_eq!(choose_suites(&["fabric".to_owned()], true).unwrap().len(), 1);
        assert!(choose_suites(&["dance".to_owned()], false).is_err());
    }
}

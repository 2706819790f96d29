//! `cargo xtask …`: everything that is done to this repository rather than by it.
//!
//! It must stay quick to compile, because it is built before anything else can be: it does not depend on the crate
//! `verifier`. What needs that crate (raising a fabric, breaking it, measuring it) is a binary of `verifier-tests`, which
//! this program builds and then becomes.

mod apiserver;
mod apt;
mod cli;
mod docs;
mod ebpf;
mod golden;
mod image;
mod run;
mod terminal;
mod test;
mod tidy;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use cli::{Cli, Command};
use run::Profile;
use workspace::Workspace;

/// What a command ended with, when it did not end in an error.
pub(crate) type Outcome = Result<ExitCode>;

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            let paint = terminal::stderr();
            eprintln!("{} {error:#}", paint.red("xtask:"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let workspace = Workspace::locate()?;
    match cli.command {
        Command::Build { release } => run::build(&workspace, Profile::of(release)),
        Command::Apiserver => apiserver::run(&workspace),
        Command::Image => image::run(&workspace),
        Command::Test(arguments) => test::run(&workspace, &arguments),
        Command::Demo { arguments } => run::become_binary(&workspace, Profile::Dev, "demo", &arguments),
        Command::Lab { action } => run::become_binary(&workspace, Profile::Dev, "lab", &action.to_arguments()),
        Command::Bench { arguments } => {
            if run::is_root() && !run::only_prints(&arguments) {
                apiserver::ensure_or_say(&workspace)?;
            }
            run::become_binary(&workspace, Profile::Release, "bench", &arguments)
        }
        Command::Vm(arguments) => vm::run(&workspace, &arguments),
        Command::Golden(arguments) => golden::run(&workspace, &arguments),
        Command::Tidy => tidy::run(&workspace),
        Command::Docs { check } => docs::run(&workspace, check),
    }
}

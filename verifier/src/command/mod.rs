//! One module per subcommand. Each returns how it ended, or one line about why it could not be done.

pub mod agent;
pub mod canary;
pub mod collect;
pub mod compare;
pub mod controller;
pub mod explain;
pub mod gather;
pub mod host;
pub mod inspect;
pub mod keygen;
pub mod logs;
mod output;
pub mod pods;
pub mod preflight;
pub mod replay;
pub mod status;
pub mod trace;
pub mod triage;
pub mod validate;

use crate::{
    cli::{Cli, Command},
    events,
    kubernetes::crd,
};
use clap::CommandFactory as _;
use std::{fmt, io::IsTerminal as _, process::ExitCode};

pub use output::{Stdout, say};

/// Exit status. An interface: scripts depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All verified and forwarding, or done.
    Verified,
    /// Something is degraded, not forwarding or stale.
    Findings,
    /// Could not verify.
    Unverified,
    /// Wrong use.
    Usage,
    /// A fault of this program.
    Internal,
    /// Another program's contract: 0, 1 or 2, as node-problem-detector wants it.
    Plugin(u8),
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Verified => 0,
            Self::Findings => 1,
            Self::Unverified => 3,
            Self::Usage => 64,
            Self::Internal => 70,
            Self::Plugin(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command could not be done: one line, with the remedy.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub exit: Exit,
    /// What happened, outermost first.
    pub error: anyhow::Error,
}

impl Failure {
    /// Wrong use: an argument, a manifest, a key file.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: Exit::Usage,
            error: error.into(),
        }
    }

    /// The machine or the cluster does not let it be verified.
    pub fn unverified(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: Exit::Unverified,
            error: error.into(),
        }
    }

    /// A fault of this program.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: Exit::Internal,
            error: error.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever the causes contain.
        let text = format!("{:#}", self.error);
        f.write_str(&text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// Runs a command.
///
/// # Errors
/// It could not be done.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    let color = events::colored(cli.color, std::io::stdout().is_terminal());
    match cli.command {
        Command::Agent(args) => agent::run(&args),
        Command::Controller(args) => controller::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Canary(_) => canary::run(),
        Command::Host(args) => host::run(&args, color),
        Command::Logs(args) => logs::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Gather(args) => gather::run(&args),
        Command::Inspect(args) => inspect::run(&args, color),
        Command::Explain(args) => explain::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Crd => say(&crd::yaml().map_err(Failure::internal)?),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "verifier", &mut script);
            say(&String::from_utf8_lossy(&script))
        }
        Command::Preflight(args) => preflight::run(&args),
        Command::Pods(args) => pods::run(&args),
        Command::Replay(args) => replay::run(&args, color),
        Command::Validate(args) => validate::run(&args, color),
        Command::Trace(args) => trace::run(&args, color),
        Command::Triage(args) => triage::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_every_cause() {
        let error = anyhow::anyhow!("line 3:\n  bad\n").context("cannot read x.yaml");
        assert_eq!(Failure::usage(error).to_string(), "cannot read x.yaml: line 3: bad");
    }

    #[test]
    fn exit_statuses_are_the_documented_ones() {
        let all = [Exit::Verified, Exit::Findings, Exit::Unverified, Exit::Usage, Exit::Internal];
        assert_eq!(all.map(Exit::code), [0, 1, 3, 64, 70]);
    }
}

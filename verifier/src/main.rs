//! The program: reads the command line, runs the command, turns its end into an exit status.

use clap::Parser as _;
use std::process::ExitCode;
use verifier::{
    cli::Cli,
    command::{self, Exit},
    events,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no error; clap's own status for wrong use is 2, ours is 64.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Verified };
            return match error.print() {
                Ok(()) => exit.into(),
                Err(_) => Exit::Internal.into(),
            };
        }
    };
    if let Err(error) = events::log_to_stderr(&cli) {
        eprintln!("verifier: --log: {error}");
        return Exit::Usage.into();
    }
    match command::run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("verifier: {failure}");
            failure.exit.into()
        }
    }
}

//! Logging. Levels are a contract: ERROR is a fault of this program; WARN is worth waking someone for; INFO is what an operator would
//! write into a diary; DEBUG may carry addresses; TRACE is per packet.

use crate::cli::{Cli, Color, Command, LogFormat};
use std::io::IsTerminal as _;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, prelude::*};

/// Sends log lines to stderr, as the command line asks.
///
/// # Errors
/// The filter cannot be read.
pub fn log_to_stderr(cli: &Cli) -> Result<(), ParseError> {
    // The client's own ERROR for an answer of 500 is no fault of this program: whoever asked says what it means, once.
    let default = match cli.command {
        Command::Agent(_) | Command::Controller(_) => "info,kube_client::client=off",
        _ => "warn,kube_client::client=off",
    };
    let filter = EnvFilter::try_new(cli.log.as_deref().unwrap_or(default))?;
    let registry = tracing_subscriber::registry().with(filter);
    match cli.log_format {
        LogFormat::Text => {
            let layer = fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(colored(cli.color, std::io::stderr().is_terminal()));
            registry.with(layer).init();
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).init(),
    }
    Ok(())
}

/// Whether to colour what goes to a stream (<https://no-color.org>).
pub fn colored(color: Color, terminal: bool) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

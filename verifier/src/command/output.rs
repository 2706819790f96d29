//! Writing to stdout. It carries what was asked for and nothing else.

use super::{Exit, Failure};
use std::io::{self, Write as _};

/// Standard output that knows a reader who has read enough (`| head`) from a failure.
#[derive(Debug, Default)]
pub struct Stdout;

impl Stdout {
    /// Writes all of `text`.
    ///
    /// # Errors
    /// It could not be written, other than because the reader closed the pipe.
    pub fn write(&mut self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::internal(anyhow::Error::new(error).context("cannot write to stdout")))
            }
            _ => Ok(()),
        }
    }
}

/// Writes `text` to stdout and ends well.
///
/// # Errors
/// It could not be written.
pub fn say(text: &str) -> Result<Exit, Failure> {
    Stdout.write(text)?;
    Ok(Exit::Verified)
}

//! `verifier keygen`: makes and rotates the key file.

use super::{Exit, Failure};
use crate::{
    agent::keys::{KeyError, Keyring},
    cli::{Keygen, RotateStep},
};

/// Makes a key file, or takes one step of a rotation.
///
/// # Errors
/// The file is not what it should be, or cannot be written.
pub fn run(args: &Keygen) -> Result<Exit, Failure> {
    let done = match args.rotate {
        None => Keyring::create(&args.file).map(|_| "made: give the same file to every agent and to `verifier validate`"),
        Some(step) => rotate(args, step),
    };
    // Where the key is goes to stderr: stdout is for reports.
    eprintln!("verifier: {}: {}", args.file.display(), done.map_err(Failure::usage)?);
    Ok(Exit::Verified)
}

fn rotate(args: &Keygen, step: RotateStep) -> Result<&'static str, KeyError> {
    let now = Keyring::read(&args.file)?;
    let (next, done) = match step {
        RotateStep::Add => (
            now.add_key(&args.file)?,
            "a second key is accepted: distribute the file, then --rotate promote",
        ),
        RotateStep::Promote => (
            now.promote(&args.file)?,
            "the new key signs, the old one is accepted: distribute the file, then --rotate retire",
        ),
        RotateStep::Retire => (now.retire(), "the old key is accepted no longer: distribute the file"),
    };
    next.replace(&args.file)?;
    Ok(done)
}

//! `verifier keygen`: makes and rotates the key, in a file or in a Secret of the cluster.

use super::{Exit, Failure};
use crate::{
    agent::keys::{KeyError, Keyring},
    cli::{Keygen, KubernetesArgs, RotateStep},
    config,
    kubernetes::{results::WriteError, secret},
};
use anyhow::{Context as _, anyhow};
use std::path::{Path, PathBuf};

/// Makes a key, or takes one step of a rotation.
///
/// # Errors
/// The file or Secret is not what it should be, or cannot be written.
pub fn run(args: &Keygen) -> Result<Exit, Failure> {
    // Where the key is goes to stderr: stdout is for reports.
    if let Some((namespace, name)) = &args.secret.secret {
        let done = config::runtime()?.block_on(in_secret(&args.secret.kubernetes, namespace, name, args.rotate))?;
        eprintln!("verifier: secret {namespace}/{name}: {done}");
        return Ok(Exit::Verified);
    }
    let file = args
        .file
        .as_deref()
        .ok_or_else(|| Failure::usage(anyhow!("name a file, or a Secret with --secret")))?;
    let done = match args.rotate {
        None => Keyring::create(file).map(|_| "made: give the same file to every agent and to `verifier validate`"),
        Some(step) => rotate(file, step),
    };
    eprintln!("verifier: {}: {}", file.display(), done.map_err(Failure::usage)?);
    Ok(Exit::Verified)
}

fn rotate(file: &Path, step: RotateStep) -> Result<&'static str, KeyError> {
    let (next, done) = stepped(Keyring::read(file)?, file, step)?;
    next.replace(file)?;
    Ok(done)
}

/// One step of a rotation. `place` is where the key is, for messages.
fn stepped(now: Keyring, place: &Path, step: RotateStep) -> Result<(Keyring, &'static str), KeyError> {
    Ok(match step {
        RotateStep::Add => (
            now.add_key(place)?,
            "a second key is accepted: distribute the file, then --rotate promote",
        ),
        RotateStep::Promote => (
            now.promote(place)?,
            "the new key signs, the old one is accepted: distribute the file, then --rotate retire",
        ),
        RotateStep::Retire => (now.retire(), "the old key is accepted no longer: distribute the file"),
    })
}

async fn in_secret(access: &KubernetesArgs, namespace: &str, name: &str, rotation: Option<RotateStep>) -> Result<&'static str, Failure> {
    let client = config::client(access).await?;
    let Some(step) = rotation else {
        let keyring = Keyring::generate().context("no randomness").map_err(Failure::internal)?;
        let made = secret::create(&client, namespace, name, keyring.text()).await;
        return Ok(if made.map_err(Failure::unverified)? {
            "made"
        } else {
            "was there, and stays"
        });
    };
    let mut done = "";
    let place = PathBuf::from(format!("secret {namespace}/{name}"));
    let changed = secret::change(&client, namespace, name, |text| {
        let (next, words) = stepped(Keyring::parse(&place, text)?, &place, step)?;
        done = words;
        Ok::<_, Trouble>(next.text())
    });
    match changed.await {
        Ok(()) => Ok(done),
        Err(Trouble::Key(error)) => Err(Failure::usage(error)),
        Err(Trouble::Api(error)) => Err(Failure::unverified(error)),
    }
}

/// What can go wrong with a Secret.
enum Trouble {
    Key(KeyError),
    Api(WriteError),
}

impl From<KeyError> for Trouble {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        Self::Api(error)
    }
}

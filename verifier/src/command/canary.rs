//! `verifier canary`: does nothing, in a pod of its own. What answers probes there is the kernel: ICMP echoes, and a reset for TCP to a port on
//! which nobody listens. So a canary that answers proves the network and nothing of a program's health.

use super::{Exit, Failure};
use crate::{config, supervisor::Signals};
use anyhow::Context as _;

/// Waits for a signal.
///
/// # Errors
/// Signals cannot be listened for.
pub fn run() -> Result<Exit, Failure> {
    config::runtime()?.block_on(async {
        let mut signals = Signals::register()
            .context("cannot listen for signals")
            .map_err(Failure::internal)?;
        signals.next().await;
        Ok(Exit::Verified)
    })
}

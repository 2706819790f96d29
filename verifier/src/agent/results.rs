//! Writes this node's verdict into the cluster's API: on change, as a heartbeat, and the condition and an event on a transition.
//!
//! It never holds anything up: judging goes on while the API server is away, and what is written when it is back is what is true then.

use super::shared::Shared;
use crate::{
    clock,
    config::IntentSource,
    kubernetes::results::{Results, WriteError},
    supervisor::{Shutdown, TaskResult},
};
use std::{sync::atomic::Ordering, time::Duration};
use verifier_core::{
    names::UnixNs,
    report::{
        oversee::{Settled, agree},
        publish::{HEARTBEAT_MIN_SECONDS, Publisher},
        standing::Standing,
    },
};

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is written, and whereto.
#[derive(Clone)]
pub struct Options {
    /// The writer.
    pub results: Results,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Where intent comes from: it knows how old it is.
    pub source: IntentSource,
}

/// Writes until asked to stop.
///
/// # Errors
/// None: what cannot be written is logged, counted and tried again.
pub async fn write(shared: &Shared, options: &Options, mut shutdown: Shutdown) -> TaskResult {
    let mut report = shared.report.subscribe();
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let heartbeat_seconds = options.heartbeat.as_secs().max(HEARTBEAT_MIN_SECONDS);
    let mut publisher = Publisher::new(heartbeat_seconds);
    let mut settled: Option<Settled> = None;
    let mut complained = String::new();
    loop {
        tokio::select! {
            changed = report.changed() => changed?,
            _ = ticker.tick() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let Some(own) = own(shared, &options.source) else { continue };
        let now = clock::unix_now();
        let heartbeat_ns = heartbeat_seconds * 1_000_000_000;
        if publisher
            .due(&agree(own.clone(), settled.as_ref(), now, heartbeat_ns), now)
            .is_none()
        {
            continue;
        }
        let attempt = tokio::time::timeout(PATIENCE, once(options, &own, heartbeat_ns));
        let written = tokio::select! {
            written = attempt => written.unwrap_or_else(|_| Err(WriteError {
                what: "write this node's verdict".to_owned(),
                why: format!("the API server did not answer within {} s", PATIENCE.as_secs()),
            })),
            () = shutdown.requested() => return Ok(()),
        };
        match written {
            Ok((standing, correction)) => {
                settled = correction;
                publisher.wrote(&standing, clock::unix_now());
                shared.metrics.result_written();
                complained.clear();
            }
            Err(error) => {
                shared.metrics.result_failed();
                let jitter = super::keys::random::<1>().map_or(128, |[byte]| byte);
                publisher.failed(clock::unix_now(), jitter);
                // Once for each reason: a server that is away for a day is one line.
                let words = error.to_string();
                if words != complained {
                    tracing::warn!(%error, "the verdict is not in the API; it is tried again");
                    complained = words;
                }
            }
        }
    }
}

/// Reads what stands there, and writes what is to stand there.
async fn once(options: &Options, own: &Standing, heartbeat_ns: u64) -> Result<(Standing, Option<Settled>), WriteError> {
    let stands = options.results.read(&own.node).await?;
    let settled = stands.known.as_ref().and_then(|known| known.settled.clone());
    let standing = agree(own.clone(), settled.as_ref(), clock::unix_now(), heartbeat_ns);
    let wrote = options.results.publish(&standing, &stands).await?;
    if let Some(error) = wrote.event_refused {
        tracing::warn!(%error, "no event was written");
    }
    if wrote.transition {
        tracing::info!(forwarding = %standing.forwarding, reason = standing.reason(), "the node's condition changed");
    }
    Ok((standing, settled))
}

/// What this agent says of its node now; none before the first judgement.
fn own(shared: &Shared, source: &IntentSource) -> Option<Standing> {
    let behind = match source {
        IntentSource::Kubernetes(source) => source.behind_since(),
        IntentSource::Files(_) => None,
    };
    let age = behind.map_or(0, |since: UnixNs| clock::unix_now().since_ns(since) / 1_000_000_000);
    // Before everything was looked at once the report speaks of an agent that is starting, not of the node.
    if !shared.looked.load(Ordering::Relaxed) && clock::unix_now().since_ns(shared.settings.started_at) < 30_000_000_000 {
        return None;
    }
    shared.report.borrow().seen().map(|report| Standing::of_report(report, age))
}

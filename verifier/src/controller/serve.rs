//! The controller's own health, readiness and metrics, over HTTP without authentication: nothing secret is in them.

use super::{Shared, judge::Round};
use crate::supervisor::{Shutdown, TaskResult, TaskState};
use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::net::TcpListener;
use verifier_core::report::standing::Forwarding;

/// One label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Forwards {
    forwarding: &'static str,
}

/// Name of a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: String,
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    rounds: Counter,
    written: Counter,
    failed: Counter,
    last: Mutex<Option<Round>>,
}

impl Metrics {
    /// A judgement was made; none if this controller does not lead.
    pub fn round(&self, round: Option<Round>) {
        if round.is_some() {
            self.rounds.inc();
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = round;
    }

    /// A node's verdict was written.
    pub fn written(&self) {
        self.written.inc();
    }

    /// Something could not be written.
    pub fn write_failed(&self) {
        self.failed.inc();
    }
}

/// Serves until asked to stop.
///
/// # Errors
/// The listening socket fails.
pub async fn serve(listener: &std::net::TcpListener, shared: Arc<Shared>, mut shutdown: Shutdown) -> TaskResult {
    // A duplicate, so that a restarted task finds the socket still open.
    let listener = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    let listener = TcpListener::from_std(listener).context("cannot register the listening socket")?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared);
    let stopped = async move { shutdown.requested().await };
    axum::serve(listener, router)
        .with_graceful_shutdown(stopped)
        .await
        .context("cannot serve")
}

/// Ready is who knows the cluster's objects, leading or not: a candidate that waits is as good as it can be.
async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let known = shared.cluster();
    match &known.cluster {
        Some(_) => (StatusCode::OK, "ready\n".to_owned()),
        None if known.gaps.is_empty() => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the cluster's objects are being read\n".to_owned(),
        ),
        None => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", known.gaps.join("; "))),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> ([(HeaderName, &'static str); 1], String) {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text(&shared))
}

fn text(shared: &Shared) -> String {
    let mut registry = Registry::with_prefix("dataplane_verifier");
    let own = &shared.metrics;
    registry.register("controller_rounds", "Judgements of the whole cluster", own.rounds.clone());
    registry.register("result_writes", "Verdicts written into the cluster's API", own.written.clone());
    registry.register(
        "result_write_failures",
        "Verdicts that could not be written there",
        own.failed.clone(),
    );
    let leading: Gauge = Gauge::default();
    leading.set(i64::from(shared.leading_since().is_some()));
    registry.register("controller_leading", "Whether this controller leads", leading);
    let last = own.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(round) = last {
        let silent: Gauge = Gauge::default();
        silent.set(i64::try_from(round.silent).unwrap_or(i64::MAX));
        registry.register("controller_silent_agents", "Nodes for which no agent speaks", silent);
        let nodes: Family<Forwards, Gauge> = Family::default();
        for forwarding in [Forwarding::True, Forwarding::Degraded, Forwarding::False, Forwarding::Unknown] {
            let count = round.nodes.values().filter(|found| **found == forwarding).count();
            let labels = Forwards {
                forwarding: forwarding.as_str(),
            };
            nodes.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        registry.register("controller_nodes", "Nodes by what all agents together say of them", nodes);
    }
    let up: Family<Name, Gauge> = Family::default();
    for (task, health) in shared.health.all() {
        let running = matches!(health.state, TaskState::Running { .. });
        up.get_or_create(&Name { name: task.to_owned() }).set(i64::from(running));
    }
    registry.register("task_up", "Whether a task runs", up);
    let mut out = String::new();
    match encode(&mut out, &registry) {
        Ok(()) => out,
        // Writing to a String does not fail; a scrape without samples is noticed.
        Err(error) => format!("# {error}\n# EOF\n"),
    }
}

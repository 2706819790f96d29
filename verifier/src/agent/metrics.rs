//! Metrics: prefix `dataplane_verifier_`, series in the order of nodes, never of their square. Detail lives in JSON.

use super::shared::Shared;
use crate::supervisor::TaskState;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::sync::Mutex;
use verifier_core::{
    probe::{Outcome, ProbeResult, SessionCounters, Transport},
    verdict::{PodVerdict, Verdict},
};

/// Label of a transport and how its probes ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    transport: &'static str,
    outcome: &'static str,
}

/// One label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: String,
}

/// What is counted as it happens.
#[derive(Debug, Default)]
pub struct Metrics {
    probes: Family<ProbeLabels, Counter>,
    rtt_seconds: Mutex<Option<Histogram>>,
    unused_replies: Family<Name, Counter>,
    rounds: Counter,
    judgements: Counter,
    requests: Counter,
    results_written: Counter,
    results_failed: Counter,
}

impl Metrics {
    /// A probe ended.
    pub fn probe(&self, result: &ProbeResult) {
        let transport = match result.probe.transport {
            Transport::Udp => "udp",
            Transport::Icmp => "icmp",
            Transport::Tcp => "tcp",
        };
        let (outcome, rtt_ns) = match &result.outcome {
            Outcome::Answered { rtt_ns, .. } => ("answered", Some(*rtt_ns)),
            Outcome::Delivered { rtt_ns } => ("delivered", Some(*rtt_ns)),
            Outcome::Lost => ("lost", None),
            Outcome::Rejected { .. } => ("rejected", None),
            Outcome::Refused { .. } => ("refused", None),
            Outcome::NotSent { .. } => ("not-sent", None),
        };
        self.probes.get_or_create(&ProbeLabels { transport, outcome }).inc();
        if let Some(rtt_ns) = rtt_ns {
            self.histogram().observe(rtt_ns as f64 / 1e9);
        }
    }

    /// What came back and was no answer to a probe.
    pub fn unused_replies(&self, counters: &SessionCounters) {
        for (name, count) in counters.named().into_iter().filter(|(_, count)| *count > 0) {
            self.unused_replies.get_or_create(&Name { name: name.to_owned() }).inc_by(count);
        }
    }

    /// A full round was run.
    pub fn round(&self) {
        self.rounds.inc();
    }

    /// The continuous verdict was made again.
    pub fn judged(&self) {
        self.judgements.inc();
    }

    /// An authenticated request came.
    pub fn request(&self) {
        self.requests.inc();
    }

    /// The verdict was written into the cluster's API.
    pub fn result_written(&self) {
        self.results_written.inc();
    }

    /// It could not be.
    pub fn result_failed(&self) {
        self.results_failed.inc();
    }

    fn histogram(&self) -> Histogram {
        let mut histogram = self.rtt_seconds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new = || {
            Histogram::new([
                0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0,
            ])
        };
        histogram.get_or_insert_with(new).clone()
    }
}

/// All metrics as text.
pub fn text(shared: &Shared) -> String {
    let mut registry = Registry::with_prefix("dataplane_verifier");
    counted(&mut registry, &shared.metrics);
    verdict(&mut registry, shared);
    tasks(&mut registry, shared);
    losses(&mut registry, shared);
    let mut out = String::new();
    match encode(&mut out, &registry) {
        Ok(()) => out,
        // Writing to a String does not fail; a scrape without samples is noticed.
        Err(error) => format!("# {error}\n# EOF\n"),
    }
}

fn counted(registry: &mut Registry, metrics: &Metrics) {
    registry.register(
        "probes",
        "Continuous and ordered probes by transport and outcome",
        metrics.probes.clone(),
    );
    registry.register("probe_rtt_seconds", "Round trip of answered probes", metrics.histogram());
    registry.register(
        "unused_replies",
        "What came back to probes and was no answer: forged, truncated, replayed, corrupted",
        metrics.unused_replies.clone(),
    );
    registry.register("rounds", "Full rounds run for validate", metrics.rounds.clone());
    registry.register("judgements", "Continuous verdicts made", metrics.judgements.clone());
    registry.register("requests", "Authenticated requests", metrics.requests.clone());
    registry.register(
        "result_writes",
        "Verdicts written into the cluster's API",
        metrics.results_written.clone(),
    );
    registry.register(
        "result_write_failures",
        "Verdicts that could not be written there",
        metrics.results_failed.clone(),
    );
}

fn set(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn signed(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

fn verdict(registry: &mut Registry, shared: &Shared) {
    let report = shared.report.borrow();
    let Some(report) = report.seen() else { return };
    let number = match report.verdict {
        Verdict::Forwarding => 0,
        Verdict::Unknown => 1,
        Verdict::Degraded => 2,
        Verdict::NotForwarding => 3,
    };
    set(
        registry,
        "verdict",
        "What this node alone knows: 0 forwarding, 1 unknown, 2 degraded, 3 not forwarding",
        number,
    );
    set(
        registry,
        "verdict_timestamp_seconds",
        "When that was judged",
        signed(report.taken_at.0 / 1_000_000_000),
    );
    let causes: Family<Name, Gauge> = Family::default();
    for finding in &report.causes {
        let name = finding.code.to_string();
        causes.get_or_create(&Name { name }).inc();
    }
    registry.register("causes", "Roots found on this node, by code", causes);
    let peers: Family<Name, Gauge> = Family::default();
    for (peer, tally) in &report.pairs {
        let name = peer.to_string();
        peers.get_or_create(&Name { name }).set(i64::from(tally.failed));
    }
    registry.register("peer_failed_probes", "Probes in the window that failed, by peer", peers);
    let stale = report.pods.iter().filter(|pod| pod.verdict == PodVerdict::Stale).count();
    set(
        registry,
        "stale_pods",
        "Pods that look Running and lost their network",
        signed(stale),
    );
    set(
        registry,
        "unknown_checks",
        "Checks that could not be made",
        signed(report.unknown.len()),
    );
}

fn tasks(registry: &mut Registry, shared: &Shared) {
    let up: Family<Name, Gauge> = Family::default();
    let restarts: Family<Name, Gauge> = Family::default();
    for (task, health) in shared.health.all() {
        let name = task.to_owned();
        let running = matches!(health.state, TaskState::Running { .. });
        up.get_or_create(&Name { name: name.clone() }).set(i64::from(running));
        restarts.get_or_create(&Name { name }).set(signed(health.restarts));
    }
    registry.register("task_up", "Whether a task runs", up);
    registry.register("task_restarts", "How often a task was started again", restarts);
}

fn losses(registry: &mut Registry, shared: &Shared) {
    let account = shared.account.current();
    let lost: Family<Name, Gauge> = Family::default();
    let put = |name: &str, value: u64| {
        let name = name.to_owned();
        lost.get_or_create(&Name { name }).set(signed(value));
    };
    put("netlink_overruns", account.stats.overruns);
    put("netlink_undecodable", account.stats.undecodable);
    put("window_overflow", shared.window().overflowed());
    if let Some(counters) = shared.eyes.counters() {
        put("ring_hops", counters.lost_hops);
        put("ring_drops", counters.lost_drops);
        put("ring_samples", counters.lost_samples);
        put("unreadable_packets", counters.unreadable);
        put("unattributed_drops", counters.unattributed_drops);
    }
    registry.register("lost", "What was lost on the way to the accounts, by place", lost);
    set(registry, "taps", "Interfaces with taps", signed(shared.eyes.tap_kinds().len()));
}

//! When what is written: the object on change and as a heartbeat, the condition and an event on a transition and never per round. No clock and
//! no API here: the caller says what time it is and what stands there.

use super::standing::{Forwarding, Key, Standing};
use crate::names::UnixNs;
use alloc::{
    format,
    string::{String, ToString},
};

/// Shortest time between two heartbeats that may be asked for.
pub const HEARTBEAT_MIN_SECONDS: u64 = 60;
/// Missed heartbeats after which an agent is silent.
pub const HEARTBEATS_MISSED: u64 = 3;
/// Changes of detail are written no more often than this. A change of the verdict is written at once.
const DETAIL_GAP_NS: u64 = 10_000_000_000;
/// How long a verdict that is not known is held back: an agent that was just started knows nothing yet, and a rollout must not alarm.
const UNKNOWN_HOLD_NS: u64 = 30_000_000_000;
/// First and longest pause after a failure.
const PAUSE_NS: (u64, u64) = (1_000_000_000, 60_000_000_000);

/// The condition as it stands at the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// Code of the cause.
    pub reason: String,
}

impl Condition {
    /// The condition that says this.
    pub fn of(standing: &Standing) -> Self {
        Self {
            status: standing.forwarding.condition().to_string(),
            reason: standing.reason().to_string(),
        }
    }
}

/// An event about a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `Normal` or `Warning`.
    pub kind: &'static str,
    /// Code of the cause.
    pub reason: String,
    /// In one sentence.
    pub note: String,
}

/// The event that goes with a change of the condition; none where nothing was said before and nothing is wrong.
pub fn event(before: Option<&Condition>, standing: &Standing) -> Option<Event> {
    let now = Condition::of(standing);
    let changed = match before {
        Some(before) => *before != now,
        None => standing.forwarding != Forwarding::True,
    };
    if !changed {
        return None;
    }
    let from = before.map_or("nothing", |before| before.status.as_str());
    Some(Event {
        kind: if standing.forwarding == Forwarding::True {
            "Normal"
        } else {
            "Warning"
        },
        reason: now.reason,
        note: format!(
            "DataplaneForwarding is {} (was {from}). {}",
            now.status,
            standing.condition_message()
        ),
    })
}

/// Why something is written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The verdict or its detail changed.
    Change,
    /// Nothing changed, and it is time to say so.
    Heartbeat,
}

#[derive(Clone, Debug)]
struct Written {
    key: Key,
    at: UnixNs,
}

/// Decides when the object of one node is written.
#[derive(Clone, Debug)]
pub struct Publisher {
    heartbeat_ns: u64,
    written: Option<Written>,
    unknown_since: Option<UnixNs>,
    failing: Option<(u64, UnixNs)>,
}

impl Publisher {
    /// One that says at least every `heartbeat_seconds` that it is there.
    pub fn new(heartbeat_seconds: u64) -> Self {
        Self {
            heartbeat_ns: heartbeat_seconds.max(HEARTBEAT_MIN_SECONDS).saturating_mul(1_000_000_000),
            written: None,
            unknown_since: None,
            failing: None,
        }
    }

    /// Whether this standing is to be written at `now`.
    pub fn due(&mut self, standing: &Standing, now: UnixNs) -> Option<Due> {
        self.unknown_since = match (standing.forwarding, self.unknown_since) {
            (Forwarding::Unknown, None) => Some(now),
            (Forwarding::Unknown, since) => since,
            _ => None,
        };
        if self.failing.is_some_and(|(_, not_before)| now < not_before) {
            return None;
        }
        if self.unknown_since.is_some_and(|since| now.since_ns(since) < UNKNOWN_HOLD_NS) {
            return None;
        }
        let Some(written) = &self.written else { return Some(Due::Change) };
        let key = standing.key();
        let age_ns = now.since_ns(written.at);
        if key.verdict() != written.key.verdict() || (key != written.key && age_ns >= DETAIL_GAP_NS) {
            return Some(Due::Change);
        }
        (age_ns >= self.heartbeat_ns).then_some(Due::Heartbeat)
    }

    /// It was written.
    pub fn wrote(&mut self, standing: &Standing, now: UnixNs) {
        self.failing = None;
        self.written = Some(Written {
            key: standing.key(),
            at: now,
        });
    }

    /// It could not be written; the pause until it is tried again, in ns. It doubles up to a minute; `jitter` (0 to 255) shortens it by up to
    /// a half, so that not all agents come back together.
    pub fn failed(&mut self, now: UnixNs, jitter: u8) -> u64 {
        let pause = self
            .failing
            .map_or(PAUSE_NS.0, |(pause, _)| pause.saturating_mul(2).min(PAUSE_NS.1));
        let shortened = pause - pause / 512 * u64::from(jitter);
        self.failing = Some((pause, UnixNs(now.0.saturating_add(shortened))));
        shortened
    }
}

#[cfg(test)]
mod tests;

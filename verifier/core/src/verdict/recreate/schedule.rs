//! When which pod is evicted: a bounded number at once, patience where a disruption budget refuses, and no next one before the last new one
//! is proven to work. No I/O and no clock: the caller says what happened and what time it is.

use crate::names::PodRef;
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};

/// First pause after a budget refused, where the API server names none.
const BACKOFF_MIN_MS: u64 = 1_000;
/// Longest pause.
const BACKOFF_MAX_MS: u64 = 30_000;

/// How much at once, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pods whose replacement is not yet proven to work.
    pub in_flight_max: usize,
    /// How long one pod's eviction is asked for while its budget refuses.
    pub eviction_ms: u64,
    /// How long its replacement may take until it is fresh.
    pub replacement_ms: u64,
    /// Replacements that are not fresh in time after which no further pod is touched.
    pub failures_max: usize,
}

/// What the API server said to an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is being deleted.
    Accepted,
    /// 429: a PodDisruptionBudget does not allow it now. Or the API server is away.
    NotNow {
        /// `Retry-After`, if it says so.
        retry_after_ms: Option<u64>,
        /// In its words.
        why: String,
    },
    /// It is gone, or another pod of that name is there: the precondition on its UID failed.
    Gone,
    /// It refuses for good (no permission, two budgets for one pod).
    Refused {
        /// In its words.
        why: String,
    },
}

/// How it ended for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its replacement is fresh.
    Replaced {
        /// The new pod.
        by: PodRef,
    },
    /// It was gone already.
    Gone,
    /// Its budget refused (or the API server was away) until the deadline.
    RefusedUntilDeadline {
        /// The last refusal.
        why: String,
        /// How often it was asked.
        asked: u32,
    },
    /// The API server refuses for good.
    Refused {
        /// Why.
        why: String,
    },
    /// It was evicted, and what came instead was not fresh in time.
    NotReplaced {
        /// What is known of it.
        why: String,
    },
    /// It was not touched: too many others were not replaced.
    NotTouched,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Ask for this pod's eviction.
    Evict(PodRef),
    /// Look for this pod's replacement, and whether it is fresh.
    Verify(PodRef),
}

#[derive(Clone, Debug)]
enum Stage {
    Waiting {
        since_ms: Option<u64>,
        not_before_ms: u64,
        backoff_ms: u64,
        asked: u32,
    },
    Verifying {
        since_ms: u64,
        why: String,
    },
    Done(Outcome),
}

/// All pods that are to be made anew, and how far each is.
#[derive(Clone, Debug)]
pub struct Recreations {
    limits: Limits,
    pods: BTreeMap<PodRef, Stage>,
}

impl Recreations {
    /// Of these pods.
    pub fn new(limits: Limits, pods: impl IntoIterator<Item = PodRef>) -> Self {
        let waiting = Stage::Waiting {
            since_ms: None,
            not_before_ms: 0,
            backoff_ms: BACKOFF_MIN_MS,
            asked: 0,
        };
        Self {
            limits: Limits {
                in_flight_max: limits.in_flight_max.max(1),
                ..limits
            },
            pods: pods.into_iter().map(|pod| (pod, waiting.clone())).collect(),
        }
    }

    /// What to do at `now_ms`. Empty while all wait; over when [`Self::finished`].
    pub fn steps(&mut self, now_ms: u64) -> Vec<Step> {
        self.expire(now_ms);
        let verifying: Vec<Step> = self
            .pods
            .iter()
            .filter(|(_, stage)| matches!(stage, Stage::Verifying { .. }))
            .map(|(pod, _)| Step::Verify(pod.clone()))
            .collect();
        let mut room = self.limits.in_flight_max.saturating_sub(verifying.len());
        let mut steps = Vec::new();
        for (pod, stage) in &mut self.pods {
            if room == 0 {
                break;
            }
            if let Stage::Waiting {
                since_ms, not_before_ms, ..
            } = stage
                && *not_before_ms <= now_ms
            {
                since_ms.get_or_insert(now_ms);
                room -= 1;
                steps.push(Step::Evict(pod.clone()));
            }
        }
        steps.extend(verifying);
        steps
    }

    /// What became of a [`Step::Evict`].
    pub fn answered(&mut self, pod: &PodRef, answer: Answer, now_ms: u64) {
        let Some(stage) = self.pods.get_mut(pod) else { return };
        let Stage::Waiting {
            not_before_ms,
            backoff_ms,
            asked,
            ..
        } = stage
        else {
            return;
        };
        *asked += 1;
        match answer {
            Answer::Accepted => {
                *stage = Stage::Verifying {
                    since_ms: now_ms,
                    why: "no new pod of its controller was seen".to_string(),
                }
            }
            Answer::Gone => *stage = Stage::Done(Outcome::Gone),
            Answer::Refused { why } => *stage = Stage::Done(Outcome::Refused { why }),
            Answer::NotNow { retry_after_ms, why } => {
                let pause = retry_after_ms.unwrap_or(0).max(*backoff_ms).min(BACKOFF_MAX_MS);
                *not_before_ms = now_ms.saturating_add(pause);
                *backoff_ms = backoff_ms.saturating_mul(2).min(BACKOFF_MAX_MS);
                let since = match stage {
                    Stage::Waiting { since_ms, asked, .. } => (since_ms.unwrap_or(now_ms), *asked),
                    _ => return,
                };
                if now_ms.saturating_sub(since.0) >= self.limits.eviction_ms {
                    *stage = Stage::Done(Outcome::RefusedUntilDeadline { why, asked: since.1 });
                }
            }
        }
    }

    /// The replacement of `pod` is fresh.
    pub fn fresh(&mut self, pod: &PodRef, by: PodRef) {
        if let Some(stage @ Stage::Verifying { .. }) = self.pods.get_mut(pod) {
            *stage = Stage::Done(Outcome::Replaced { by });
        }
    }

    /// The replacement of `pod` is not fresh yet, and why.
    pub fn not_yet(&mut self, pod: &PodRef, said: String) {
        if let Some(Stage::Verifying { why, .. }) = self.pods.get_mut(pod) {
            *why = said;
        }
    }

    fn expire(&mut self, now_ms: u64) {
        for stage in self.pods.values_mut() {
            if let Stage::Verifying { since_ms, why } = stage
                && now_ms.saturating_sub(*since_ms) >= self.limits.replacement_ms
            {
                *stage = Stage::Done(Outcome::NotReplaced { why: why.clone() });
            }
        }
        let failed = self
            .pods
            .values()
            .filter(|stage| matches!(stage, Stage::Done(Outcome::NotReplaced { .. })))
            .count();
        if failed > 0 && failed >= self.limits.failures_max {
            for stage in self.pods.values_mut() {
                if matches!(stage, Stage::Waiting { .. }) {
                    *stage = Stage::Done(Outcome::NotTouched);
                }
            }
        }
    }

    /// Whether nothing is left to do.
    pub fn finished(&self) -> bool {
        self.pods.values().all(|stage| matches!(stage, Stage::Done(_)))
    }

    /// How it ended for each pod, in order of name; those still under way are missing.
    pub fn outcomes(&self) -> Vec<(PodRef, Outcome)> {
        self.pods
            .iter()
            .filter_map(|(pod, stage)| match stage {
                Stage::Done(outcome) => Some((pod.clone(), outcome.clone())),
                _ => None,
            })
            .collect()
    }
}

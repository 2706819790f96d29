//! The observed account as the agent holds it: what the taps are, what they counted and lost, and from when on.
//!
//! The task in `watching.rs` owns the kernel programs and writes here; everybody else reads. Counters are kept with their times, so that
//! each question gets the counts of its own window: what was lost or deviated before a repair must not speak against the node afterwards.

use super::window::Window;
use crate::observed::counters::Counters;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};
use verifier_core::{
    evidence::{Evidence, Gap},
    names::{NodeName, UnixNs},
    observed::{ConformanceCount, ConformanceKind, Direction, Loss, Observations, TapKind},
    verdict::RemoteEvidence,
};

/// Oldest sample, before the window, that still speaks of what was counted in it. Samples are limited by the second.
const SAMPLE_AGE_NS_MAX: u64 = 1_500_000_000;
/// Readings closer to each other than this are thinned out.
const READINGS_GAP_NS: u64 = 250_000_000;
/// How many readings of the counters are kept: a minute and more.
const READINGS_MAX: usize = 256;

/// Where the kernel programs are in their life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not loaded yet.
    Starting,
    /// Loaded, and the taps were attached to what intent and links say.
    Up,
    /// They cannot be used: why.
    Unavailable(Gap),
}

/// Which window a question is about, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Records of probes and their losses count from here.
    pub records_since_ns: u64,
    /// Conformance and refusals count from here.
    pub counts_since_ns: u64,
}

/// A packet that deviated: outer source and destination, inner source and destination.
pub type Sample = (IpAddr, IpAddr, IpAddr, IpAddr);

#[derive(Debug)]
struct Seen {
    stage: Stage,
    taps: BTreeMap<String, TapKind>,
    /// Since when each of them is in force.
    taps_since: BTreeMap<String, UnixNs>,
    /// Interfaces that should have a tap and have none.
    untapped: Vec<Gap>,
    /// Why drops are incomplete.
    drop_gaps: Vec<Gap>,
    /// Why conformance is.
    conformance_gaps: Vec<Gap>,
    readings: VecDeque<(u64, Counters)>,
    samples: BTreeMap<(ConformanceKind, Direction, Option<NodeName>), (u64, Sample)>,
    /// Records that could not be understood, since the start.
    undecodable: u64,
}

/// The observed account.
#[derive(Debug)]
pub struct Eyes {
    seen: Mutex<Seen>,
    /// A reading of the counters is wanted now.
    pub read_now: Notify,
    /// Rises with each reading.
    read: watch::Sender<u64>,
}

impl Default for Eyes {
    fn default() -> Self {
        Self {
            seen: Mutex::new(Seen {
                stage: Stage::Starting,
                taps: BTreeMap::new(),
                taps_since: BTreeMap::new(),
                untapped: Vec::new(),
                drop_gaps: Vec::new(),
                conformance_gaps: Vec::new(),
                readings: VecDeque::new(),
                samples: BTreeMap::new(),
                undecodable: 0,
            }),
            read_now: Notify::new(),
            read: watch::Sender::new(0),
        }
    }
}

impl Eyes {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the programs are in their life.
    pub fn stage(&self) -> Stage {
        self.lock().stage.clone()
    }

    /// The programs cannot be used (any more).
    pub fn lost(&self, why: Gap) {
        let mut seen = self.lock();
        seen.stage = Stage::Unavailable(why);
        seen.taps.clear();
        seen.taps_since.clear();
        seen.readings.clear();
    }

    /// The taps are as intent and links want them, except for `untapped`, and `anew` of them were attached just now, the last of them at
    /// `now`.
    pub fn tapped(&self, taps: BTreeMap<String, TapKind>, untapped: Vec<Gap>, anew: &BTreeSet<String>, now: UnixNs) {
        let mut seen = self.lock();
        seen.taps_since.retain(|device, _| taps.contains_key(device));
        for device in taps.keys() {
            if anew.contains(device) || !seen.taps_since.contains_key(device) {
                seen.taps_since.insert(device.clone(), now);
            }
        }
        seen.stage = Stage::Up;
        seen.taps = taps;
        seen.untapped = untapped;
    }

    /// What drops and conformance lack.
    pub fn lacking(&self, drops: Vec<Gap>, conformance: Vec<Gap>) {
        let mut seen = self.lock();
        seen.drop_gaps = drops;
        seen.conformance_gaps = conformance;
    }

    /// A reading of all counters.
    pub fn reading(&self, at_ns: u64, counters: Counters) {
        let mut seen = self.lock();
        // Every question leads to a reading, and questions come in bursts: of readings close to each other the earlier one is kept.
        let crowded = seen
            .readings
            .iter()
            .nth_back(1)
            .is_some_and(|(before, _)| at_ns.saturating_sub(*before) < READINGS_GAP_NS);
        if crowded {
            seen.readings.pop_back();
        }
        seen.readings.push_back((at_ns, counters));
        while seen.readings.len() > READINGS_MAX {
            seen.readings.pop_front();
        }
        drop(seen);
        self.read.send_modify(|number| *number += 1);
    }

    /// A packet that deviated.
    pub fn sample(&self, at_ns: u64, kind: ConformanceKind, direction: Direction, peer: Option<NodeName>, sample: Sample) {
        self.lock().samples.insert((kind, direction, peer), (at_ns, sample));
    }

    /// Since when the kernel programs count, on the monotonic clock.
    pub fn since_ns(&self) -> u64 {
        self.lock().readings.front().map_or(0, |(at_ns, _)| *at_ns)
    }

    /// Records that could not be understood.
    pub fn undecodable(&self, more: u64) {
        self.lock().undecodable += more;
    }

    /// Waits until everything that the kernel has told by now is in the window and the counters are read.
    pub async fn settle(&self) {
        if self.stage() != Stage::Up {
            return;
        }
        let mut read = self.read.subscribe();
        read.mark_unchanged();
        self.read_now.notify_one();
        // A bound, not a pause: the task may be restarting. Then the gaps say so.
        let waited = tokio::time::timeout(std::time::Duration::from_millis(500), read.changed()).await;
        if !matches!(waited, Ok(Ok(()))) {
            tracing::debug!("no fresh reading of the counters");
        }
    }

    /// The newest counters.
    pub fn counters(&self) -> Option<Counters> {
        self.lock().readings.back().map(|(_, counters)| counters.clone())
    }

    /// How many taps are in force, by kind.
    pub fn tap_kinds(&self) -> Vec<TapKind> {
        self.lock().taps.values().copied().collect()
    }

    /// What was seen of these probes, with the counts of the span.
    pub fn observations(&self, window: &Window, probes: &BTreeSet<u32>, span: Span, task: Option<Gap>) -> Evidence<Observations> {
        let seen = self.lock();
        if let Some(gap) = unavailable(&seen.stage, task) {
            return Evidence::Unavailable { gap };
        }
        let records = window.seen(probes);
        let lost = Lost::between(&seen, span.records_since_ns);
        let counts = seen.counts_since(span.counts_since_ns);
        Evidence::complete(Observations {
            hops: Evidence::partial(records.hops, seen.hop_gaps(&lost)),
            drops: Evidence::partial(records.drops, seen.all_drop_gaps(&lost)),
            conformance: Evidence::partial(counts.conformance, seen.conformance_gaps.clone()),
            taps: seen.taps.clone(),
            taps_since: seen.taps_since.clone(),
            refusals: counts.refusals,
            loss: Loss {
                ring_full: lost.hops + lost.drops,
                decode_failures: seen.undecodable,
                unattributed_drops: lost.unattributed,
                ..Loss::default()
            },
        })
    }

    /// What was seen of another node's probes, for that node.
    pub fn remote_evidence(&self, window: &Window, probes: &BTreeSet<u32>, since_ns: u64, task: Option<Gap>) -> RemoteEvidence {
        let seen = self.lock();
        let agent_started_at = UnixNs(0);
        if let Some(gap) = unavailable(&seen.stage, task) {
            return RemoteEvidence {
                hops: Evidence::Unavailable { gap: gap.clone() },
                drops: Evidence::Unavailable { gap },
                taps: BTreeMap::new(),
                taps_since: BTreeMap::new(),
                agent_started_at,
            };
        }
        let records = window.seen(probes);
        let lost = Lost::between(&seen, since_ns);
        RemoteEvidence {
            hops: Evidence::partial(records.hops, seen.hop_gaps(&lost)),
            drops: Evidence::partial(records.drops, seen.all_drop_gaps(&lost)),
            taps: seen.taps.clone(),
            taps_since: seen.taps_since.clone(),
            agent_started_at,
        }
    }
}

fn unavailable(stage: &Stage, task: Option<Gap>) -> Option<Gap> {
    match stage {
        Stage::Unavailable(gap) => Some(gap.clone()),
        Stage::Starting => Some(Gap::new("observed", "the kernel programs are being loaded")),
        Stage::Up => task,
    }
}

/// Records that were lost in a window.
struct Lost {
    hops: u64,
    drops: u64,
    unattributed: u64,
    /// The window begins before the first reading.
    blind: bool,
}

impl Lost {
    fn between(seen: &Seen, since_ns: u64) -> Self {
        let nothing = Counters::default();
        let first = seen.reading_at(since_ns);
        let earlier = first.unwrap_or(&nothing);
        let now = seen.readings.back().map_or(&nothing, |(_, counters)| counters);
        Self {
            hops: now.lost_hops.saturating_sub(earlier.lost_hops),
            drops: now.lost_drops.saturating_sub(earlier.lost_drops),
            unattributed: now.unattributed_drops.saturating_sub(earlier.unattributed_drops),
            blind: first.is_none(),
        }
    }
}

struct Counts {
    conformance: Vec<ConformanceCount>,
    refusals: BTreeMap<String, u64>,
}

impl Seen {
    /// The newest reading that is not younger than a moment; the programs count from zero before the first one.
    fn reading_at(&self, at_ns: u64) -> Option<&Counters> {
        self.readings
            .iter()
            .rev()
            .find(|(read_ns, _)| *read_ns <= at_ns)
            .map(|(_, counters)| counters)
    }

    fn hop_gaps(&self, lost: &Lost) -> Vec<Gap> {
        let mut gaps = self.untapped.clone();
        if lost.hops > 0 {
            gaps.push(Gap::new(
                "observed/hops",
                format!("{} records did not fit into the ring", lost.hops),
            ));
        }
        if lost.blind {
            gaps.push(Gap::new("observed/hops", "the kernel programs were loaded within the window"));
        }
        gaps
    }

    fn all_drop_gaps(&self, lost: &Lost) -> Vec<Gap> {
        let mut gaps = self.drop_gaps.clone();
        if lost.drops > 0 {
            gaps.push(Gap::new(
                "observed/drops",
                format!("{} records did not fit into the ring", lost.drops),
            ));
        }
        gaps
    }

    fn counts_since(&self, since_ns: u64) -> Counts {
        type Key = (ConformanceKind, Direction, Option<NodeName>);
        let key = |count: &ConformanceCount| -> Key { (count.kind, count.direction, count.peer.clone()) };
        let nothing = Counters::default();
        let earlier = self.reading_at(since_ns).unwrap_or(&nothing);
        let now = self.readings.back().map_or(&nothing, |(_, counters)| counters);
        let before: BTreeMap<Key, u64> = earlier.conformance.iter().map(|count| (key(count), count.packets)).collect();
        let conformance = now
            .conformance
            .iter()
            .map(|count| {
                let key = key(count);
                let sample = self
                    .samples
                    .get(&key)
                    // Of a busy flow only the first packets of a second are sampled: one from just before the window shows the same flow.
                    .filter(|(at_ns, _)| at_ns.saturating_add(SAMPLE_AGE_NS_MAX) >= since_ns)
                    .map(|(_, sample)| *sample);
                ConformanceCount {
                    packets: count.packets.saturating_sub(before.get(&key).copied().unwrap_or(0)),
                    sample,
                    ..count.clone()
                }
            })
            .filter(|count| count.packets > 0)
            .collect();
        let refusals = now
            .refused
            .iter()
            .map(|((peer, refusal), count)| {
                let before = earlier.refused.get(&(peer.clone(), *refusal)).copied().unwrap_or(0);
                let peer = peer.as_ref().map_or("unknown", NodeName::as_str);
                (format!("{peer}: {}", refusal.name()), count.saturating_sub(before))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        Counts { conformance, refusals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn deviating(packets: u64) -> Counters {
        Counters {
            conformance: vec![ConformanceCount {
                kind: ConformanceKind::WrongOwner,
                direction: Direction::Egress,
                peer: None,
                packets,
                sample: None,
            }],
            ..Counters::default()
        }
    }

    fn conformance(eyes: &Eyes, since_s: u64) -> Vec<u64> {
        let span = Span {
            records_since_ns: since_s * SECOND,
            counts_since_ns: since_s * SECOND,
        };
        let all = eyes.observations(&Window::default(), &BTreeSet::new(), span, None);
        let counts = all.seen().unwrap().conformance.seen().unwrap().clone();
        counts.iter().map(|count| count.packets).collect()
    }

    #[test]
    fn counts_are_those_of_the_window_asked_for() {
        let eyes = Eyes::default();
        eyes.tapped(BTreeMap::new(), Vec::new(), &BTreeSet::new(), UnixNs(0));
        for (at, packets) in [(10, 0), (20, 5), (30, 5)] {
            eyes.reading(at * SECOND, deviating(packets));
        }
        assert_eq!(conformance(&eyes, 10), [5]);
        assert!(conformance(&eyes, 20).is_empty());
        assert_eq!(conformance(&eyes, 5), [5]);
    }

    #[test]
    fn a_loss_makes_hops_partial_in_its_own_window_only() {
        let eyes = Eyes::default();
        eyes.tapped(BTreeMap::new(), Vec::new(), &BTreeSet::new(), UnixNs(0));
        eyes.reading(10 * SECOND, Counters::default());
        let lossy = Counters {
            lost_hops: 3,
            ..Counters::default()
        };
        eyes.reading(20 * SECOND, lossy.clone());
        eyes.reading(30 * SECOND, lossy);
        let hops = |since| {
            eyes.remote_evidence(&Window::default(), &BTreeSet::new(), since * SECOND, None)
                .hops
        };
        assert!(!hops(10).is_complete());
        assert!(hops(20).is_complete());
    }

    #[test]
    fn programs_that_cannot_be_used_give_no_evidence_instead_of_an_empty_one() {
        let eyes = Eyes::default();
        assert!(
            eyes.remote_evidence(&Window::default(), &BTreeSet::new(), 0, None)
                .hops
                .seen()
                .is_none()
        );
        eyes.tapped(BTreeMap::new(), Vec::new(), &BTreeSet::new(), UnixNs(0));
        eyes.lost(Gap::new("observed", "no CAP_BPF"));
        let evidence = eyes.remote_evidence(&Window::default(), &BTreeSet::new(), 0, None);
        assert_eq!(evidence.hops.gaps()[0].why, "no CAP_BPF");
    }
}

//! What this node's taps saw and how its probes ended, for a bounded time and in a bounded amount.
//!
//! Hops and drops are kept by probe, whoever sent it: peers ask for theirs. Results are kept by what was tested, the last few of each, so
//! that the judge gets n of m samples of every kind and port and never an old failure beside a new success for longer than that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use verifier_core::{
    names::UnixNs,
    observed::{Drop, Hop},
    probe::{Endpoint, PairKind, Probe, ProbeResult, Size, Transport},
};

/// How long and how much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For how long hops and drops are kept, ns. Longer than the longest round with its late evidence.
    pub keep_ns: u64,
    /// Probes whose hops and drops are kept at one time.
    pub probes_max: usize,
    /// Hops kept of one probe, and drops: a loop must not fill the window.
    pub per_probe_max: usize,
    /// Results kept of one kind: the `m` of the judge's n of m.
    pub samples: usize,
    /// For how long a result is kept, ns.
    pub result_ns: u64,
    /// Kinds of which results are kept at one time.
    pub kinds_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            keep_ns: 60_000_000_000,
            probes_max: 50_000,
            per_probe_max: 64,
            samples: 3,
            result_ns: 15_000_000_000,
            kinds_max: 10_000,
        }
    }
}

/// What was seen of one probe.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Hops, in order of arrival.
    pub hops: Vec<Hop>,
    /// Drops, in order of arrival.
    pub drops: Vec<Drop>,
}

/// What a result is a sample of. A TCP probe takes another source port each time, so the port does not count for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    from: Endpoint,
    to: Endpoint,
    pair: PairKind,
    transport: Transport,
    size: Size,
    src_port: Option<u16>,
}

impl Kind {
    fn of(probe: &Probe) -> Self {
        Self {
            from: probe.from.clone(),
            to: probe.to.clone(),
            pair: probe.pair,
            transport: probe.transport,
            size: probe.size,
            src_port: (probe.transport != Transport::Tcp).then_some(probe.src_port),
        }
    }
}

/// The window.
#[derive(Debug, Default)]
pub struct Window {
    bounds: Bounds,
    seen: BTreeMap<u32, Seen>,
    /// Probes in the order in which they were first seen, with the time of that.
    order: VecDeque<(u64, u32)>,
    results: BTreeMap<Kind, VecDeque<ProbeResult>>,
    /// Records that a bound kept out, since the start.
    overflowed: u64,
}

impl Window {
    /// An empty window.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Takes in a hop.
    pub fn hop(&mut self, hop: Hop) {
        let max = self.bounds.per_probe_max;
        match self.entry(hop.probe, hop.at_ns) {
            Some(seen) if seen.hops.len() < max => seen.hops.push(hop),
            _ => self.overflowed += 1,
        }
    }

    /// Takes in a drop.
    pub fn drop_record(&mut self, drop: Drop) {
        let max = self.bounds.per_probe_max;
        match self.entry(drop.probe, drop.at_ns) {
            Some(seen) if seen.drops.len() < max => seen.drops.push(drop),
            _ => self.overflowed += 1,
        }
    }

    fn entry(&mut self, probe: u32, at_ns: u64) -> Option<&mut Seen> {
        if !self.seen.contains_key(&probe) {
            if self.seen.len() >= self.bounds.probes_max {
                return None;
            }
            self.order.push_back((at_ns, probe));
        }
        Some(self.seen.entry(probe).or_default())
    }

    /// Takes in a result; one of the same probe is replaced (it was provisional).
    pub fn result(&mut self, result: ProbeResult) {
        let kind = Kind::of(&result.probe);
        if !self.results.contains_key(&kind) && self.results.len() >= self.bounds.kinds_max {
            self.overflowed += 1;
            return;
        }
        let samples = self.results.entry(kind).or_default();
        if let Some(earlier) = samples.iter_mut().find(|earlier| earlier.probe.id == result.probe.id) {
            *earlier = result;
            return;
        }
        samples.push_back(result);
        while samples.len() > self.bounds.samples {
            samples.pop_front();
        }
    }

    /// Whether a new result differs from what most of the samples of its kind say. Of a new kind, whether it failed.
    pub fn contradicts(&self, result: &ProbeResult, failed: impl Fn(&ProbeResult) -> bool) -> bool {
        let failing = failed(result);
        let Some(samples) = self.results.get(&Kind::of(&result.probe)) else {
            return failing;
        };
        let failures = samples.iter().filter(|sample| failed(sample)).count();
        let mostly = failures * 2 > samples.len();
        // A kind that has not all its samples yet, and fails, gets the rest at once.
        failing != mostly || (failing && samples.len() < self.bounds.samples)
    }

    /// The newest probe of each kind that mostly fails and is not among `planned`: what fails is tested until it passes or is out of date,
    /// whatever the plan's turn.
    pub fn still_failing(&self, planned: &[Probe], failed: impl Fn(&ProbeResult) -> bool) -> Vec<Probe> {
        let planned: BTreeSet<Kind> = planned.iter().map(Kind::of).collect();
        self.results
            .iter()
            .filter(|(kind, samples)| !planned.contains(kind) && samples.iter().filter(|sample| failed(sample)).count() * 2 > samples.len())
            .filter_map(|(_, samples)| samples.back().map(|sample| sample.probe.clone()))
            .collect()
    }

    /// Forgets results whose ends are not what they were: a pod that is gone cannot fail.
    pub fn retain_results(&mut self, keep: impl Fn(&Probe) -> bool) {
        self.results
            .retain(|_, samples| samples.back().is_some_and(|sample| keep(&sample.probe)));
    }

    /// Forgets what is too old.
    pub fn prune(&mut self, monotonic_ns: u64, now: UnixNs) {
        let oldest = monotonic_ns.saturating_sub(self.bounds.keep_ns);
        while let Some(&(at_ns, probe)) = self.order.front()
            && at_ns < oldest
        {
            self.order.pop_front();
            self.seen.remove(&probe);
        }
        let keep_ns = self.bounds.result_ns;
        self.results.retain(|_, samples| {
            samples.retain(|sample| now.since_ns(sample.sent_at) < keep_ns);
            !samples.is_empty()
        });
    }

    /// All results, in order of kind and time.
    pub fn results(&self) -> Vec<ProbeResult> {
        self.results.values().flatten().cloned().collect()
    }

    /// Hops and drops of these probes.
    pub fn seen(&self, probes: &BTreeSet<u32>) -> Seen {
        let mut out = Seen::default();
        for seen in probes.iter().filter_map(|probe| self.seen.get(probe)) {
            out.hops.extend(seen.hops.iter().cloned());
            out.drops.extend(seen.drops.iter().cloned());
        }
        out.hops.sort_by_key(|hop| hop.at_ns);
        out.drops.sort_by_key(|drop| drop.at_ns);
        out
    }

    /// Records that a bound kept out, since the start.
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use verifier_core::{
        observed::{Checksum, Direction, Inner, Leg, TapKind},
        probe::{Outcome, Probe},
    };

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn hop(probe: u32, at_ns: u64) -> Hop {
        Hop {
            node: "node-a".into(),
            at_ns,
            probe,
            seq: 0,
            leg: Leg::Request,
            device: "eth0".to_owned(),
            ifindex: 2,
            direction: Direction::Egress,
            tap: TapKind::Underlay,
            outer: None,
            inner: Inner {
                src: IP,
                dst: IP,
                protocol: 17,
                src_port: 1,
                dst_port: 2,
                ttl: 64,
                length_bytes: 60,
                dont_fragment: true,
            },
            checksum: Checksum::Good,
            mark: 0,
            cpu: 0,
            gso_size: 0,
            gso_segs: 0,
        }
    }

    fn result(id: u64, transport: Transport, src_port: u16, sent_at: u64, outcome: Outcome) -> ProbeResult {
        let end = Endpoint {
            node: "node-a".into(),
            pod: None,
            ip: IP,
        };
        ProbeResult {
            probe: Probe {
                id,
                seq: 0,
                from: end.clone(),
                to: end,
                pair: PairKind::PodToRemotePod,
                transport,
                size: Size::Small,
                src_port,
                dst_port: 9,
                length_bytes: 60,
            },
            sent_at: UnixNs(sent_at),
            sent_mono_ns: sent_at,
            outcome,
            provisional: false,
        }
    }

    #[test]
    fn only_what_was_asked_for_is_given_in_order_of_time() {
        let mut window = Window::new(Bounds::default());
        for (probe, at) in [(1, 30), (2, 20), (1, 10), (3, 5)] {
            window.hop(hop(probe, at));
        }
        let seen = window.seen(&BTreeSet::from([1, 2, 9]));
        assert_eq!(seen.hops.iter().map(|hop| hop.at_ns).collect::<Vec<_>>(), [10, 20, 30]);
    }

    #[test]
    fn the_old_is_forgotten_and_the_bounds_hold_and_count() {
        let mut window = Window::new(Bounds {
            keep_ns: 100,
            probes_max: 2,
            per_probe_max: 1,
            ..Bounds::default()
        });
        for (probe, at) in [(1, 10), (1, 11), (2, 60), (3, 61)] {
            window.hop(hop(probe, at));
        }
        assert_eq!(window.overflowed(), 2);
        window.prune(120, UnixNs(0));
        assert!(window.seen(&BTreeSet::from([1])).hops.is_empty());
        assert_eq!(window.seen(&BTreeSet::from([2])).hops.len(), 1);
    }

    #[test]
    fn the_last_samples_of_each_kind_are_kept_and_provisional_ones_replaced() {
        let mut window = Window::new(Bounds::default());
        for id in 0..5 {
            window.result(result(id, Transport::Udp, 1, id, Outcome::Lost));
            window.result(result(100 + id, Transport::Udp, 2, id, Outcome::Lost));
            // A port of its own each time, and yet one kind.
            window.result(result(200 + id, Transport::Tcp, 1000 + id as u16, id, Outcome::Lost));
        }
        assert_eq!(window.results().len(), 9);
        let failed = |result: &ProbeResult| !result.outcome.passed();
        assert!(!window.contradicts(&result(9, Transport::Udp, 1, 9, Outcome::Lost), failed));
        assert!(window.contradicts(&result(9, Transport::Udp, 1, 9, Outcome::Delivered { rtt_ns: 1 }), failed));
        assert!(window.contradicts(&result(9, Transport::Icmp, 1, 9, Outcome::Lost), failed));
        let planned = [result(9, Transport::Udp, 2, 9, Outcome::Lost).probe];
        let again = window.still_failing(&planned, failed);
        assert_eq!(again.iter().map(|probe| probe.id).collect::<Vec<_>>(), [4, 204]);
        window.result(result(4, Transport::Udp, 1, 4, Outcome::Delivered { rtt_ns: 1 }));
        let results = window.results();
        assert_eq!(results.len(), 9);
        assert!(results.iter().any(|r| r.probe.id == 4 && r.outcome.passed()));
    }
}

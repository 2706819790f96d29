//! Since when an agent knows each pod as it is.
//!
//! A pod can go and come again under its name, and even under its address, while a probe to it is under way. Whether a probe was meant for
//! the pod that intent lists now is told by when that pod became known; the API's own times are whole seconds, too coarse to tell.

use super::node::{NodeIntent, PodPhase};
use crate::names::{PodRef, UnixNs};
use alloc::collections::BTreeMap;
use core::net::IpAddr;

/// What makes a pod another one: its UID's fingerprint and its addresses, the first and the first of the other family.
type Identity = (u64, Option<IpAddr>, Option<IpAddr>);

/// Memory of one agent. The pods of the first intent it sees are taken as known for ever: nothing was sent before.
#[derive(Clone, Debug, Default)]
pub struct Acquaintance {
    known: BTreeMap<PodRef, (Identity, Option<UnixNs>)>,
    begun: bool,
}

impl Acquaintance {
    /// Fills in `known_since` of every pod that runs, `now` being the time at which this intent came to be known.
    pub fn stamp(&mut self, intent: &mut NodeIntent, now: UnixNs) {
        let fresh = self.begun.then_some(now);
        let mut present = BTreeMap::new();
        let mut since = |pod: &PodRef, identity: Identity| {
            let since = match self.known.get(pod) {
                Some((same, since)) if *same == identity => *since,
                Some(_) | None => fresh,
            };
            present.insert(pod.clone(), (identity, since));
            since
        };
        for workload in intent.workloads.values_mut() {
            let live = workload.phase == PodPhase::Running && !workload.terminating && !workload.sandbox_pending;
            if live {
                let first = workload.addresses.first().copied();
                let is_other = |ip: &&IpAddr| first.is_some_and(|first| first.is_ipv4() != ip.is_ipv4());
                let other = workload.addresses.iter().find(is_other).copied();
                workload.known_since = since(&workload.pod, (workload.uid, first, other));
            }
        }
        for pod in intent.peers.values_mut().flat_map(|peer| &mut peer.pods) {
            pod.known_since = since(&pod.pod, (pod.uid, Some(pod.ip), pod.other_ip));
        }
        self.known = present;
        self.begun = true;
    }
}

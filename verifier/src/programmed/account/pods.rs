//! The thread that keeps the inside of the pods current.
//!
//! It hears of events in pods through a subscription in the *node's* namespace (`NETLINK_LISTEN_ALL_NSID`), so that no file or socket of
//! the verifier keeps a deleted pod's devices alive between visits.

use super::{AccountError, Command, Shared, hints::Hints};
use crate::{
    clock,
    programmed::{
        dump::Tables,
        pods::{PodFinder, WantedPod, read_pod},
        state::look_at_pods,
    },
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    time::Duration,
};
use verifier_core::{
    evidence::Evidence,
    names::PodRef,
    programmed::{Link, PodState},
};

/// Events in pods within this time of the first cause one visit.
const SETTLE_NS: u64 = 20_000_000;

/// Visit until the run is over.
pub(super) fn visit(shared: &Shared, run: u64) -> Result<(), AccountError> {
    let mut visitor = Visitor {
        shared,
        tables: Tables::open(&shared.ns)?,
        finder: PodFinder::default(),
        wanted: shared.wanted_pods(),
        pods: BTreeMap::new(),
    };
    let mut hints = Hints::of_peers(&shared.ns)?;
    visitor.all();
    let resync_ns = clock::duration_ns(shared.options.pod_resync);
    let mut next_ns = clock::monotonic_ns() + resync_ns;
    // Numbers of namespaces with events, and when to look at them.
    let mut due: (BTreeSet<i32>, u64) = (BTreeSet::new(), u64::MAX);
    while !shared.is_over(run) {
        wait(&hints, shared, next_ns.min(due.1))?;
        let heard = hints.drain()?;
        let orders = shared.pods.take();
        let now_ns = clock::monotonic_ns();
        if !heard.peers.is_empty() {
            due.0.extend(heard.peers);
            due.1 = due.1.min(now_ns + SETTLE_NS);
        }
        if let Some(wanted) = orders.wanted {
            visitor.wanted = wanted;
        }
        if orders.all || heard.overruns > 0 || now_ns >= next_ns {
            visitor.all();
            due = (BTreeSet::new(), u64::MAX);
            next_ns = clock::monotonic_ns() + resync_ns;
        } else if now_ns >= due.1 {
            visitor.some(&due.0);
            due = (BTreeSet::new(), u64::MAX);
        }
    }
    Ok(())
}

fn wait(hints: &Hints, shared: &Shared, until_ns: u64) -> Result<(), AccountError> {
    let left = Duration::from_nanos(until_ns.saturating_sub(clock::monotonic_ns()));
    let left_ms = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    let mut descriptors = [
        PollFd::new(hints.as_fd(), PollFlags::POLLIN),
        PollFd::new(shared.pods.wake.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut descriptors, PollTimeout::from(left_ms)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(AccountError::Io(error.into())),
    }
}

struct Visitor<'a> {
    shared: &'a Shared,
    tables: Tables,
    finder: PodFinder,
    wanted: Vec<WantedPod>,
    pods: BTreeMap<PodRef, Evidence<PodState>>,
}

impl Visitor<'_> {
    /// Find and read all.
    fn all(&mut self) {
        self.finder.retain(&self.wanted);
        let before = std::mem::take(&mut self.pods);
        if !self.wanted.is_empty() {
            let links = self.tables.links();
            self.pods = look_at_pods(&self.shared.ns, &links, &self.wanted, &mut self.finder);
        }
        if self.pods != before {
            self.publish();
        }
    }

    /// Read those again whose namespace has one of these numbers. Others of this machine have numbers too, and are passed over.
    fn some(&mut self, numbers: &BTreeSet<i32>) {
        let links = self.tables.links();
        let no_links: Vec<Link> = Vec::new();
        let links = links.seen().unwrap_or(&no_links);
        let mut changed = false;
        for want in &self.wanted {
            let number = links
                .iter()
                .find(|link| link.name == want.device)
                .and_then(|link| link.link_netnsid);
            let (Some(number), Some(place)) = (number, self.finder.known(&want.pod)) else {
                continue;
            };
            if !numbers.contains(&number) {
                continue;
            }
            let state = match read_pod(&self.shared.ns, links, place) {
                Ok(state) => Evidence::complete(state),
                Err(error) => Evidence::unavailable("programmed/pods", error.to_string()),
            };
            changed |= self.pods.insert(want.pod.clone(), state.clone()) != Some(state);
        }
        if changed {
            self.publish();
        }
    }

    fn publish(&self) {
        let pods = self.pods.clone();
        self.shared.inbox.post(|commands| commands.push(Command::Pods(pods)));
    }
}

//! The thread that keeps the node's tables current.

use super::{
    AccountError, Command, Current, Shared, Stats,
    hints::{Dirty, Heard, Hints},
};
use crate::{clock, programmed::dump::Tables};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{os::fd::AsFd, sync::Arc, time::Duration};
use verifier_core::{
    evidence::Evidence,
    names::UnixNs,
    programmed::{
        Change, ChangedObject, NodeState, Rule,
        journal::{comparable_link, comparable_neighbor, difference},
    },
};

/// Watch until the run is over.
pub(super) fn watch(shared: &Shared, run: u64) -> Result<(), AccountError> {
    // Subscribe first, then list.
    let mut hints = Hints::of(&shared.ns)?;
    let mut watcher = Watcher::new(shared, run)?;
    watcher.refresh(Dirty::ALL, clock::unix_now(), false);
    let mut due: Option<Due> = None;
    while !shared.is_over(run) {
        let next = due
            .as_ref()
            .map_or(watcher.next_resync_ns, |due| due.at_ns.min(watcher.next_resync_ns));
        wait(&hints, shared, next)?;
        let heard = hints.drain()?;
        watcher.count(&heard);
        let mut dirty = heard.dirty;
        dirty |= watcher.obey(shared.inbox.take());
        let now_ns = clock::monotonic_ns();
        if !dirty.is_empty() {
            let due = due.get_or_insert_with(|| Due {
                dirty: Dirty::default(),
                since: clock::unix_now(),
                at_ns: watcher.earliest_ns(now_ns),
            });
            due.dirty |= dirty;
        }
        if due.as_ref().is_some_and(|due| now_ns >= due.at_ns)
            && let Some(due) = due.take()
        {
            watcher.refresh(due.dirty, due.since, true);
        }
        if now_ns >= watcher.next_resync_ns {
            watcher.refresh(Dirty::ALL, clock::unix_now(), false);
        }
    }
    Ok(())
}

/// Tables to be dumped.
struct Due {
    dirty: Dirty,
    /// Time of the first hint, which the changes found get.
    since: UnixNs,
    /// When, on the monotonic clock.
    at_ns: u64,
}

fn wait(hints: &Hints, shared: &Shared, until_ns: u64) -> Result<(), AccountError> {
    let left = Duration::from_nanos(until_ns.saturating_sub(clock::monotonic_ns()));
    // Rounded up, or the last fraction of a millisecond would be spent spinning.
    let left_ms = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    let mut descriptors = [
        PollFd::new(hints.as_fd(), PollFlags::POLLIN),
        PollFd::new(shared.inbox.wake.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut descriptors, PollTimeout::from(left_ms)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(AccountError::Io(error.into())),
    }
}

/// For each table the last state in which it was seen whole, if that is not the current one: the next whole look is compared with it.
#[derive(Default)]
struct Baselines {
    links: Option<Arc<Current>>,
    addresses: Option<Arc<Current>>,
    routes: Option<Arc<Current>>,
    rules: Option<Arc<Current>>,
    neighbors: Option<Arc<Current>>,
    fdb: Option<Arc<Current>>,
    netconf: Option<Arc<Current>>,
}

struct Watcher<'a> {
    shared: &'a Shared,
    run: u64,
    tables: Tables,
    current: Arc<Current>,
    baselines: Baselines,
    stats: Stats,
    next_resync_ns: u64,
    /// When the last round ended and how long it took, on the monotonic clock.
    last_round_ns: (u64, u64),
}

impl<'a> Watcher<'a> {
    fn new(shared: &'a Shared, run: u64) -> Result<Self, AccountError> {
        let before = Arc::clone(&shared.published.borrow());
        let now = clock::unix_now();
        // What an earlier run saw still happened, but between the runs nobody looked: the journal begins anew.
        let current = Current {
            generation: before.generation,
            state: NodeState {
                hooks: before.state.hooks.clone(),
                ..super::unavailable("not looked at yet", now, Vec::new())
            },
            stats: before.stats,
        };
        Ok(Self {
            shared,
            run,
            tables: Tables::open(&shared.ns)?,
            current: Arc::new(current),
            baselines: Baselines::default(),
            stats: before.stats,
            next_resync_ns: 0,
            last_round_ns: (0, 0),
        })
    }

    fn count(&mut self, heard: &Heard) {
        self.stats.hints += heard.messages;
        self.stats.overruns += heard.overruns;
        if heard.overruns > 0 {
            tracing::warn!(overruns = heard.overruns, "netlink subscription overran; dumping everything again");
        }
    }

    /// When a hint heard now may lead to dumps: after the settling time, and not before a pause as long as the last round took. Large
    /// tables that change without a pause so cost half a CPU at most.
    fn earliest_ns(&self, now_ns: u64) -> u64 {
        let (ended, took) = self.last_round_ns;
        (now_ns + clock::duration_ns(self.shared.options.settle)).max(ended + took)
    }

    /// Put into the state what other parts know. Returns the tables that are to be dumped.
    fn obey(&mut self, commands: Vec<Command>) -> Dirty {
        let mut dirty = Dirty::default();
        if commands.is_empty() {
            return dirty;
        }
        let mut next = self.current.state.clone();
        for command in commands {
            match command {
                Command::Pods(pods) => next.pods = pods,
                Command::Hooks(hooks) => next.hooks = hooks,
                Command::Filters(filters, base_chains) => {
                    next.filters = filters;
                    next.base_chains = base_chains;
                }
                Command::Conntrack(conntrack) => next.conntrack = conntrack,
                Command::Resync => dirty = Dirty::ALL,
            }
        }
        self.publish(next);
        dirty
    }

    /// Dump `dirty` and enter what changed with the time `at`. `announced`: a hint led to it.
    fn refresh(&mut self, dirty: Dirty, at: UnixNs, announced: bool) {
        let started_ns = clock::monotonic_ns();
        let looked_at = clock::unix_now();
        let mut next = carried(&self.current.state, dirty);
        let mut changes = Vec::new();
        let Self {
            tables,
            current,
            baselines,
            ..
        } = self;
        macro_rules! table {
            ($flag:ident, $field:ident, $object:ident, $comparable:expr) => {
                if dirty.has(Dirty::$flag) {
                    next.$field = tables.$field();
                    let compare = Compare {
                        current,
                        baseline: &mut baselines.$field,
                        of: |state: &NodeState| &state.$field,
                        comparable: $comparable,
                    };
                    compare.with(&next.$field, at, ChangedObject::$object, &mut changes);
                }
            };
        }
        table!(LINKS, links, Link, Some(comparable_link));
        table!(ADDRESSES, addresses, Address, None);
        table!(ROUTES, routes, Route, None);
        // Rules stand in the kernel's order, not sorted.
        table!(RULES, rules, Rule, Some(Rule::clone));
        table!(NEIGHBORS, neighbors, Neighbor, Some(comparable_neighbor));
        table!(FDB, fdb, Fdb, None);
        table!(NETCONF, netconf, Netconf, None);
        self.stats.refreshes += 1;
        self.stats.undecodable = self.tables.undecodable;
        self.stats.retries = self.tables.retries;
        if dirty == Dirty::ALL {
            self.stats.resyncs += 1;
            next.taken_at = looked_at;
            self.next_resync_ns = started_ns + clock::duration_ns(self.shared.options.resync);
        }
        if !announced {
            self.stats.unannounced += changes.len() as u64;
        }
        let links_changed = changes.iter().any(|change| matches!(change.what, ChangedObject::Link(_)));
        self.enter(&mut next, changes);
        self.publish(next);
        let ended_ns = clock::monotonic_ns();
        self.last_round_ns = (ended_ns, ended_ns - started_ns);
        if links_changed {
            self.shared.pods.post(|orders| orders.all = true);
        }
    }

    /// Enter changes into the journal.
    fn enter(&mut self, next: &mut NodeState, changes: Vec<Change>) {
        let journal = &mut next.journal;
        journal.extend(changes);
        let excess = journal.len().saturating_sub(self.shared.options.journal_limit);
        if let Some(last) = journal.drain(..excess).next_back() {
            self.stats.forgotten += excess as u64;
            next.journal_from = UnixNs(last.at.0 + 1);
        }
    }

    fn publish(&mut self, state: NodeState) {
        let next = Arc::new(Current {
            generation: self.current.generation + 1,
            state,
            stats: self.stats,
        });
        self.current = Arc::clone(&next);
        self.shared.publish(self.run, next);
    }
}

/// A state without the tables that are to be dumped: those of 20,000 entries are not copied only to be replaced.
fn carried(state: &NodeState, dirty: Dirty) -> NodeState {
    fn keep<T: Clone>(dirty: Dirty, table: Dirty, evidence: &Evidence<T>) -> Evidence<T> {
        if dirty.has(table) {
            Evidence::unavailable("programmed", "being dumped")
        } else {
            evidence.clone()
        }
    }
    NodeState {
        taken_at: state.taken_at,
        links: keep(dirty, Dirty::LINKS, &state.links),
        addresses: keep(dirty, Dirty::ADDRESSES, &state.addresses),
        routes: keep(dirty, Dirty::ROUTES, &state.routes),
        rules: keep(dirty, Dirty::RULES, &state.rules),
        neighbors: keep(dirty, Dirty::NEIGHBORS, &state.neighbors),
        fdb: keep(dirty, Dirty::FDB, &state.fdb),
        netconf: keep(dirty, Dirty::NETCONF, &state.netconf),
        conntrack: state.conntrack.clone(),
        filters: state.filters.clone(),
        base_chains: state.base_chains.clone(),
        hooks: state.hooks.clone(),
        offloads: state.offloads.clone(),
        pods: state.pods.clone(),
        journal: state.journal.clone(),
        journal_from: state.journal_from,
    }
}

/// A fresh look at one table against the last whole one.
struct Compare<'a, T> {
    current: &'a Arc<Current>,
    baseline: &'a mut Option<Arc<Current>>,
    of: for<'s> fn(&'s NodeState) -> &'s Evidence<Vec<T>>,
    /// What of an entry counts as a change; none: all of it, and the table is sorted.
    comparable: Option<fn(&T) -> T>,
}

impl<T: Ord + Clone> Compare<'_, T> {
    /// Note the difference. A look that is not whole is compared with nothing, but keeps what is to be compared with the next.
    fn with(self, now: &Evidence<Vec<T>>, at: UnixNs, object: fn(T) -> ChangedObject, changes: &mut Vec<Change>) {
        let Evidence::Complete { value: now } = now else {
            if (self.of)(&self.current.state).is_complete() {
                *self.baseline = Some(Arc::clone(self.current));
            }
            return;
        };
        let baseline = self.baseline.take();
        let current = (self.of)(&self.current.state);
        let before = match (current, baseline.as_ref().map(|baseline| (self.of)(&baseline.state))) {
            (Evidence::Complete { value }, _) | (_, Some(Evidence::Complete { value })) => value,
            // The first look of all.
            _ => return,
        };
        changes.extend(match self.comparable {
            None => difference(before, now, at, object),
            Some(comparable) => {
                let reduced = |all: &[T]| {
                    let mut all: Vec<T> = all.iter().map(comparable).collect();
                    all.sort_unstable();
                    all
                };
                difference(&reduced(before), &reduced(now), at, object)
            }
        });
    }
}

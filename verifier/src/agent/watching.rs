//! The task that owns the kernel programs: attaches taps as links come and go, brings intent, keys and the clock into the programs, and
//! carries their records into the window. When it ends, however it ends, everything is detached.

use super::{
    eyes::Span,
    keys::{Keyring, ProbeKey},
    shared::Shared,
};
use crate::{
    clock,
    observed::{
        Key, Observer, Settings,
        convert::{self, DropContext},
        counters::named_kind,
        loader::{DropSource, Options},
        symbols::Symbols,
        table::Table,
        taps::{Interface, Mode, TapError},
    },
    supervisor::{Shutdown, TaskResult},
};
use anyhow::Context as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior};
use verifier_core::{
    evidence::Gap,
    intent::NodeIntent,
    names::PodRef,
    observed::{Direction, TapKind, Where},
    programmed::NodeState,
};
use verifier_ebpf::{
    conformance::Conformance,
    record::{self, ConformanceSample, Record},
};

/// Records taken at once.
const BATCH: usize = 1024;
/// Time between two readings of the counters.
const READ_EVERY: Duration = Duration::from_millis(500);
/// Time between two settings of the clock; the wall clock may be stepped.
const CLOCK_EVERY: Duration = Duration::from_secs(5);
/// How old intent must be before packets are judged by it: what Felix needs to follow.
const SETTLE: Duration = Duration::from_secs(5);
/// A request for a reply that is older than this is refused. Far above what the clocks of two nodes differ by.
const MAX_AGE: Duration = Duration::from_secs(10);
/// How far in the future a request may lie.
const MAX_AHEAD: Duration = Duration::from_secs(10);
/// Replies a second and CPU.
const REFLECT_PER_SECOND: u32 = 10_000;
/// Conformance samples a second and CPU.
const SAMPLE_PER_SECOND: u32 = 10;

/// Names that records carry by number.
#[derive(Default)]
struct Names {
    devices: BTreeMap<u32, String>,
    places: BTreeMap<u32, Where>,
    pod_devices: BTreeMap<(u32, u32), String>,
    local: BTreeSet<IpAddr>,
}

/// Watches until asked to stop.
///
/// # Errors
/// The kernel refuses, or its programs cannot be read any more.
pub async fn watch(shared: &Shared, shutdown: Shutdown) -> TaskResult {
    let ended = run(shared, shutdown).await;
    if let Err(error) = &ended {
        shared.eyes.lost(Gap::new("observed", format!("{error:#}")));
        shared.judge.notify_one();
    }
    ended
}

async fn run(shared: &Shared, mut shutdown: Shutdown) -> TaskResult {
    let mut task = tokio::task::block_in_place(|| Watching::load(shared))?;
    let mut ring = task.observer.take_ring()?.into_async().context("cannot watch the ring")?;
    let mut intent = shared.intent.subscribe();
    let mut programmed = shared.account.subscribe();
    let mut read = tokio::time::interval(READ_EVERY);
    read.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut wind = tokio::time::interval(CLOCK_EVERY);
    loop {
        let settles = task.settles_at;
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            drained = ring.next(BATCH) => task.take(drained.context("the ring broke")?),
            changed = intent.changed() => {
                changed?;
                tokio::task::block_in_place(|| task.follow())?;
            }
            changed = programmed.changed() => {
                changed?;
                tokio::task::block_in_place(|| task.follow())?;
            }
            _ = wind.tick() => {
                task.observer.set_clock(clock::unix_offset_ns())?;
                task.set_keys()?;
            }
            () = tokio::time::sleep_until(settles.unwrap_or_else(Instant::now)), if settles.is_some() => {
                task.observer.settle()?;
                task.settles_at = None;
            }
            _ = read.tick() => task.read()?,
            () = shared.eyes.read_now.notified() => {
                // What is in the ring by now belongs to the question.
                let rest = ring.drain(BATCH * 64);
                task.take(rest);
                task.read()?;
            }
        }
    }
}

struct Watching<'a> {
    shared: &'a Shared,
    observer: Observer,
    symbols: Symbols,
    names: Names,
    table: Option<Table>,
    keys: Option<Keyring>,
    settles_at: Option<Instant>,
}

impl<'a> Watching<'a> {
    fn load(shared: &'a Shared) -> anyhow::Result<Self> {
        let (observer, symbols) = Observer::load(Options::default())?;
        let mut task = Self {
            shared,
            observer,
            symbols,
            names: Names::default(),
            table: None,
            keys: None,
            settles_at: None,
        };
        let probes = &shared.settings.probes;
        task.observer.configure(&Settings {
            probe_port: probes.udp_port,
            tcp_ports: probes.tcp_sources.first..=probes.tcp_sources.last(),
            max_age: MAX_AGE,
            max_ahead: MAX_AHEAD,
            reflect_per_second: REFLECT_PER_SECOND,
            sample_per_second: SAMPLE_PER_SECOND,
        })?;
        task.observer.set_clock(clock::unix_offset_ns())?;
        task.set_keys()?;
        match task.observer.drop_source() {
            DropSource::BtfTracepoint => {}
            DropSource::Tracepoint => tracing::info!("no BTF tracepoint: drops are read from the plain one"),
            DropSource::None(gap) => tracing::warn!(why = gap.why, "drops are not seen: `verifier preflight` says how to change that"),
        }
        if task.observer.mode() == Mode::Clsact {
            tracing::info!("no tcx on this kernel (Linux 6.6 has it): taps are clsact filters");
        }
        // A first reading before the taps are said to be up: losses are told as differences from a reading.
        task.read()?;
        task.follow()?;
        Ok(task)
    }

    /// Keys may have been rotated.
    fn set_keys(&mut self) -> anyhow::Result<()> {
        let ring = self.shared.keyring();
        if self.keys.as_ref() != Some(&ring) {
            // A key is named by the lowest byte of its id on the wire (`probe::keys`).
            let wire = |key: &ProbeKey| Key {
                id: key.id.to_be_bytes()[3],
                secret: key.secret,
            };
            if let [first, rest @ ..] = ring.probe_keys().as_slice() {
                self.observer.set_keys(wire(first), rest.first().map(wire))?;
            }
            self.keys = Some(ring);
        }
        Ok(())
    }

    /// Follows intent and links.
    fn follow(&mut self) -> anyhow::Result<()> {
        let current = self.shared.account.current();
        let state = &current.state;
        let intent = self.shared.intent_now();
        self.names = names(state, self.shared.settings.netns.inum());
        let namespaces = self.names.places.keys().copied().collect();
        self.observer.set_namespaces(&namespaces)?;
        let (Some(intent), Some(_)) = (intent, state.links.seen()) else {
            return Ok(());
        };
        let wanted = wanted_taps(&intent, state);
        let report = self.observer.sync_taps(&self.shared.settings.netns, &wanted);
        for interface in &report.attached {
            tracing::info!(%interface, "tap attached");
        }
        for interface in &report.detached {
            tracing::info!(%interface, "tap detached");
        }
        // What vanished while attaching is settled by the next look at the links.
        let failed = report.failed.iter().filter(|error| !matches!(error, TapError::Vanished { .. }));
        let untapped = failed
            .map(|error| Gap::new("observed/taps", super::peers::one_line(error)))
            .collect();
        let anew = report.attached.iter().map(|interface| interface.name.clone()).collect();
        self.shared.eyes.tapped(self.observer.taps(), untapped, &anew, clock::unix_now());
        let table = Table::of(&intent);
        if self.table.as_ref() != Some(&table) {
            self.observer.set_table(&table)?;
            self.settles_at = Some(Instant::now() + SETTLE);
            self.table = Some(table);
        }
        Ok(())
    }

    /// Reads all counters.
    fn read(&mut self) -> anyhow::Result<()> {
        let at_ns = clock::monotonic_ns();
        self.shared.eyes.reading(at_ns, self.observer.counters()?);
        let mut drops = self.symbols.gaps();
        if let DropSource::None(gap) = self.observer.drop_source() {
            drops.push(gap.clone());
        }
        self.shared.eyes.lacking(drops, self.observer.gaps().to_vec());
        Ok(())
    }

    /// Takes records into the window.
    fn take(&mut self, drained: crate::observed::ring::Drained) {
        let mut undecodable = drained.undecodable;
        let places: BTreeSet<u64> = drained
            .records
            .iter()
            .filter_map(|record| match record {
                Record::Drop(drop) => Some(drop.location),
                Record::Hop(_) | Record::Sample(_) => None,
            })
            .collect();
        if !places.is_empty() {
            self.symbols.look_up(&places);
        }
        let names = &self.names;
        let node = &self.shared.settings.node;
        let context = DropContext {
            node,
            symbols: &self.symbols,
            device: |netns: u32, index: u32| match names.places.get(&netns) {
                Some(Where::Node) => names.devices.get(&index).cloned(),
                Some(Where::Pod(_)) => names.pod_devices.get(&(netns, index)).cloned(),
                None => None,
            },
            place: |netns: u32| names.places.get(&netns).cloned(),
            is_local: |address: IpAddr| names.local.contains(&address),
        };
        let mut window = self.shared.window();
        for record in &drained.records {
            let understood = match record {
                Record::Hop(record) => convert::hop(record, node, |index| names.devices.get(&index).cloned()).map(|hop| window.hop(hop)),
                Record::Drop(record) => convert::dropped(record, &context).map(|drop| {
                    if let Some(drop) = drop {
                        window.drop_record(drop);
                    }
                }),
                Record::Sample(sample) => {
                    self.sample(sample);
                    Ok(())
                }
            };
            if let Err(error) = understood {
                tracing::debug!(%error, "a record was not understood");
                undecodable += 1;
            }
        }
        drop(window);
        if undecodable > 0 {
            self.shared.eyes.undecodable(undecodable);
        }
    }

    fn sample(&self, sample: &ConformanceSample) {
        let Some(kind) = Conformance::ALL.into_iter().find(|kind| *kind as u8 == sample.conformance) else {
            self.shared.eyes.undecodable(1);
            return;
        };
        let direction = if sample.direction == record::Direction::Ingress as u8 {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        let peer = self.observer.peer(sample.peer).cloned();
        self.shared
            .eyes
            .sample(sample.time_ns, named_kind(kind), direction, peer, convert::sampled(sample));
    }
}

/// Interfaces that are to have a tap: workloads and tunnels of intent that exist, and what carries the node's addresses.
fn wanted_taps(intent: &NodeIntent, state: &NodeState) -> Vec<Interface> {
    let workloads: BTreeSet<&str> = intent.workloads.values().map(|workload| workload.device.as_str()).collect();
    let tunnels: BTreeSet<&str> = intent.tunnels.iter().map(|tunnel| tunnel.device.as_str()).collect();
    let underlays = super::shared::underlays(intent, state);
    let kind = |name: &str, index: u32| {
        if workloads.contains(name) {
            Some(TapKind::Workload)
        } else if tunnels.contains(name) {
            Some(TapKind::Tunnel)
        } else if underlays.contains(&index) {
            Some(TapKind::Underlay)
        } else {
            None
        }
    };
    let links = state.links.seen().map_or(&[] as &[_], Vec::as_slice);
    let interface = |link: &verifier_core::programmed::Link| {
        Some(Interface {
            index: link.index,
            name: link.name.clone(),
            kind: kind(&link.name, link.index)?,
            // The kernel gives every Ethernet device a MAC, and no other kind of device one.
            framed: link.mac.is_some(),
        })
    };
    links.iter().filter_map(interface).collect()
}

fn names(state: &NodeState, node_inum: u64) -> Names {
    let mut names = Names::default();
    // The kernel's records carry 32 bits, which is what an inode number of a namespace has.
    let short = |inum: u64| u32::try_from(inum).unwrap_or(0);
    names.places.insert(short(node_inum), Where::Node);
    for link in state.links.seen().map_or(&[] as &[_], Vec::as_slice) {
        names.devices.insert(link.index, link.name.clone());
    }
    for address in state.addresses.seen().map_or(&[] as &[_], Vec::as_slice) {
        names.local.insert(address.ip.addr());
    }
    let pods = state.pods.iter().filter_map(|(pod, inside)| Some((pod, inside.seen()?)));
    for (pod, inside) in pods {
        let inum = short(inside.netns_inum);
        names.places.insert(inum, Where::Pod(PodRef::clone(pod)));
        for link in inside.links.seen().map_or(&[] as &[_], Vec::as_slice) {
            names.pod_devices.insert((inum, link.index), link.name.clone());
        }
    }
    names
}

/// The window of a question about probes that were sent at `sent_ns` and later.
pub const fn span_since(sent_ns: u64, counts_since_ns: u64) -> Span {
    Span {
        records_since_ns: sent_ns,
        counts_since_ns,
    }
}

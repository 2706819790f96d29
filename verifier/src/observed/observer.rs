//! The observer: the loaded programs with everything that is set in them and read from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapError},
};
use verifier_core::{evidence::Gap, names::NodeName, observed::TapKind};
use verifier_ebpf::{
    config::{Clock, Config, KeySlot},
    conformance::{Owner, Owner6},
    siphash::SipKey,
};

use super::{
    counters::{self, Counters},
    loader::{self, DropSource, LoadError, Loaded, Options},
    ring::Ring,
    symbols::Symbols,
    table::{Entries, Table},
    taps::{Interface, Mode, SyncReport, Taps, probe_mode},
};
use crate::programmed::netns::Netns;

/// What does not depend on intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Destination port of UDP probes.
    pub probe_port: u16,
    /// Source ports reserved for TCP probes.
    pub tcp_ports: RangeInclusive<u16>,
    /// A request older than this is refused.
    pub max_age: Duration,
    /// A request from further in the future is refused.
    pub max_ahead: Duration,
    /// Replies per second and CPU at most.
    pub reflect_per_second: u32,
    /// Conformance samples per second and CPU at most.
    pub sample_per_second: u32,
}

/// A key for probes, with the number that travels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its id on the wire.
    pub id: u8,
    /// The 128 bits.
    pub secret: [u8; 16],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {}", self.id)
    }
}

/// Why something could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    /// Nothing could be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map refused.
    #[error("the kernel refuses map {map}")]
    Map {
        /// Which one.
        map: &'static str,
        /// Why.
        #[source]
        source: Box<MapError>,
    },
    /// Both keys have one id: a request could not say which it means.
    #[error("two probe keys have the id {id}; remedy: make another key with `verifier keygen`")]
    SameKeyId {
        /// The id.
        id: u8,
    },
    /// More blocks and addresses than the map holds.
    #[error("intent has {entries} blocks and exceptions, the programs were loaded for {limit}")]
    TooManyOwners {
        /// How many there are.
        entries: usize,
        /// How many fit.
        limit: u32,
    },
    /// The ring can be taken once.
    #[error("the ring is already being read")]
    RingTaken,
}

impl ObserverError {
    pub(super) fn map(map: &'static str, source: MapError) -> Self {
        Self::Map {
            map,
            source: Box::new(source),
        }
    }
}

/// The loaded programs. Dropping it detaches everything.
pub struct Observer {
    // Before the programs, so that links go first.
    taps: Taps,
    ebpf: Ebpf,
    options: Options,
    drops: DropSource,
    config: Config,
    owners: Entries,
    peers: BTreeMap<NodeName, u32>,
    namespaces: BTreeSet<u32>,
    gaps: Vec<Gap>,
}

impl Observer {
    /// Loads the programs; nothing is attached to an interface yet. Symbols for the drop records come with it.
    ///
    /// # Errors
    /// The kernel refuses, or this program was built without them.
    pub fn load(options: Options) -> Result<(Self, Symbols), LoadError> {
        Self::load_with_mode(options, probe_mode())
    }

    /// [`Self::load`], with taps attached in a given way. For kernels that lie about themselves, and for tests of the fallback.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_with_mode(options: Options, mode: Mode) -> Result<(Self, Symbols), LoadError> {
        let Loaded { ebpf, drops, symbols } = loader::load(&options)?;
        let observer = Self {
            taps: Taps::new(mode),
            ebpf,
            options,
            drops,
            config: Config::NOTHING,
            owners: Entries::default(),
            peers: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            gaps: Vec::new(),
        };
        Ok((observer, symbols))
    }

    /// How drops are seen, or why not.
    pub const fn drop_source(&self) -> &DropSource {
        &self.drops
    }

    /// How taps are attached.
    pub const fn mode(&self) -> Mode {
        self.taps.mode()
    }

    /// What of intent is not judged.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Sets what does not depend on intent.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn configure(&mut self, settings: &Settings) -> Result<(), ObserverError> {
        self.config = Config {
            probe_port: settings.probe_port,
            tcp_port_first: *settings.tcp_ports.start(),
            tcp_port_last: *settings.tcp_ports.end(),
            max_age_ns: crate::clock::duration_ns(settings.max_age),
            max_ahead_ns: crate::clock::duration_ns(settings.max_ahead),
            reflect_per_second: settings.reflect_per_second,
            sample_per_second: settings.sample_per_second,
            ..self.config
        };
        self.write_config()
    }

    /// Sets the keys that requests may be signed with; at most two are valid at once.
    ///
    /// # Errors
    /// The kernel refuses, or both have one id.
    pub fn set_keys(&mut self, first: Key, second: Option<Key>) -> Result<(), ObserverError> {
        if second.is_some_and(|second| second.id == first.id) {
            return Err(ObserverError::SameKeyId { id: first.id });
        }
        let mut keys: Array<_, [u8; KeySlot::SIZE]> = map(&mut self.ebpf, "KEYS")?;
        for (index, key) in (0..).zip([Some(first), second]) {
            let slot = key.map_or([0; KeySlot::SIZE], |key| {
                let SipKey { k0, k1 } = SipKey::from_bytes(key.secret);
                KeySlot {
                    k0,
                    k1,
                    id: key.id,
                    valid: 1,
                    reserved: [0; 6],
                }
                .to_bytes()
            });
            keys.set(index, slot, 0).map_err(|source| ObserverError::map("KEYS", source))?;
        }
        Ok(())
    }

    /// Tells the reflector the wall clock, as its distance from the monotonic one. To be repeated: the wall clock may be set.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_clock(&mut self, realtime_minus_monotonic_ns: i64) -> Result<(), ObserverError> {
        let clock = Clock {
            realtime_minus_monotonic_ns: realtime_minus_monotonic_ns.cast_unsigned(),
        };
        let mut map: Array<_, [u8; Clock::SIZE]> = map(&mut self.ebpf, "CLOCK")?;
        map.set(0, clock.to_bytes(), 0)
            .map_err(|source| ObserverError::map("CLOCK", source))
    }

    /// Brings intent into the programs. Judging stops until [`Self::settle`]: packets that were under way before the change are not
    /// deviations.
    ///
    /// # Errors
    /// The kernel refuses, or there is too much of it. Judging stays off then.
    pub fn set_table(&mut self, table: &Table) -> Result<(), ObserverError> {
        self.config.flags &= !Config::JUDGE;
        self.write_config()?;
        self.gaps = table.gaps.clone();
        for name in table.peers() {
            // Numbers are not reused: a counter never changes its meaning. Zero is "unknown", and so is a peer beyond the map.
            let next = u32::try_from(self.peers.len()).unwrap_or(u32::MAX).saturating_add(1);
            if !self.peers.contains_key(name) && next < self.options.peers_max {
                self.peers.insert(name.clone(), next);
            }
        }
        let wanted = table.entries(&self.peers);
        // Each map holds as many; counted together, so that one number says what intent may have.
        if wanted.len() > self.options.owners_max as usize {
            return Err(ObserverError::TooManyOwners {
                entries: wanted.len(),
                limit: self.options.owners_max,
            });
        }
        update(&mut self.ebpf, "OWNERS", &mut self.owners.four, wanted.four, Owner::to_bytes)?;
        update(&mut self.ebpf, "OWNERS6", &mut self.owners.six, wanted.six, Owner6::to_bytes)?;
        self.config = table.configure(self.config);
        self.write_config()
    }

    /// Intent is old enough: judge.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn settle(&mut self) -> Result<(), ObserverError> {
        self.config.flags |= Config::JUDGE;
        self.write_config()
    }

    /// The namespaces (inode numbers) whose drops are recorded.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_namespaces(&mut self, wanted: &BTreeSet<u32>) -> Result<(), ObserverError> {
        let mut map: HashMap<_, u32, u8> = map(&mut self.ebpf, "NAMESPACES")?;
        for inum in self.namespaces.difference(wanted) {
            match map.remove(inum) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(ObserverError::map("NAMESPACES", source)),
            }
        }
        for inum in wanted.difference(&self.namespaces) {
            map.insert(inum, 1, 0).map_err(|source| ObserverError::map("NAMESPACES", source))?;
        }
        self.namespaces.clone_from(wanted);
        Ok(())
    }

    /// Makes the taps in `netns` those of `wanted`. An interface has all its programs or none.
    pub fn sync_taps(&mut self, netns: &Netns, wanted: &[Interface]) -> SyncReport {
        self.taps.sync(&mut self.ebpf, netns, wanted)
    }

    /// Taps in force: device name and kind.
    pub fn taps(&self) -> BTreeMap<String, TapKind> {
        self.taps
            .interfaces()
            .map(|interface| (interface.name.clone(), interface.kind))
            .collect()
    }

    /// The reading end of the ring; it can be taken once.
    ///
    /// # Errors
    /// It was taken, or the kernel refuses to map it.
    pub fn take_ring(&mut self) -> Result<Ring, ObserverError> {
        let map = self.ebpf.take_map("RING").ok_or(ObserverError::RingTaken)?;
        Ring::new(map).map_err(|source| ObserverError::map("RING", source))
    }

    /// All counters, since the programs were loaded.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&self) -> Result<Counters, ObserverError> {
        counters::read(&self.ebpf, &self.peers)
    }

    /// The name behind a peer's number in a sample.
    pub fn peer(&self, number: u32) -> Option<&NodeName> {
        self.peers.iter().find(|(_, known)| **known == number).map(|(name, _)| name)
    }

    /// The programs, for the measurement.
    pub(super) const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    fn write_config(&mut self) -> Result<(), ObserverError> {
        let bytes = self.config.to_bytes();
        let mut map: Array<_, [u8; Config::SIZE]> = map(&mut self.ebpf, "CONFIG")?;
        map.set(0, bytes, 0).map_err(|source| ObserverError::map("CONFIG", source))
    }
}

/// A map of the object by name, as the type it has.
fn map<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, ObserverError>
where
    T: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
{
    let found = ebpf.map_mut(name).ok_or(LoadError::Missing { what: "map", name })?;
    T::try_from(found).map_err(|source| ObserverError::map(name, source))
}

/// Brings a map of owners from what it holds to what is wanted. What it holds is noted entry by entry, so that an error half-way leaves no
/// lie behind.
fn update<const K: usize, const V: usize, T: PartialEq + Copy>(
    ebpf: &mut Ebpf,
    name: &'static str,
    held: &mut BTreeMap<[u8; K], T>,
    wanted: BTreeMap<[u8; K], T>,
    bytes: impl Fn(T) -> [u8; V],
) -> Result<(), ObserverError> {
    let mut map: HashMap<_, [u8; K], [u8; V]> = map(ebpf, name)?;
    for key in held.keys().filter(|key| !wanted.contains_key(*key)) {
        match map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(source) => return Err(ObserverError::map(name, source)),
        }
    }
    held.retain(|key, _| wanted.contains_key(key));
    for (key, owner) in wanted {
        if held.get(&key) != Some(&owner) {
            map.insert(key, bytes(owner), 0)
                .map_err(|source| ObserverError::map(name, source))?;
            held.insert(key, owner);
        }
    }
    Ok(())
}

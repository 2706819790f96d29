//! Counters of the kernel programs, summed over CPUs.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Map, MapError, PerCpuArray},
};
use verifier_core::{
    names::NodeName,
    observed::{ConformanceCount, ConformanceKind, Direction},
};
use verifier_ebpf::{
    conformance::{self, Conformance, slot},
    record::{self, ConformanceSample, DropRecord, HopRecord},
    reflect::{self, Refusal},
};

use super::{batch, loader::LoadError, observer::ObserverError};

/// All counters since the programs were loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Hop records that did not fit into the ring.
    pub lost_hops: u64,
    /// Drop records that did not fit.
    pub lost_drops: u64,
    /// Samples that did not fit.
    pub lost_samples: u64,
    /// Packets that looked like ours and could not be read: fragments, and headers that contradict themselves.
    pub unreadable: u64,
    /// Drops of probes in namespaces that nobody asked about.
    pub unattributed_drops: u64,
    /// Requests that were answered, by peer; `None` for sources that intent does not know.
    pub reflected: BTreeMap<Option<NodeName>, u64>,
    /// Requests that were not answered, by peer and reason.
    pub refused: BTreeMap<(Option<NodeName>, Refusal), u64>,
    /// Packets on the underlay by peer, direction and kind; zero counts are left out.
    pub conformance: Vec<ConformanceCount>,
}

pub(super) fn read(ebpf: &Ebpf, peers: &BTreeMap<NodeName, u32>) -> Result<Counters, ObserverError> {
    // Numbers of peers have no gaps; zero is "unknown".
    let numbers = u32::try_from(peers.len()).unwrap_or(u32::MAX).saturating_add(1);
    let lost = sums(ebpf, "LOST", record::KINDS)?;
    let conformance = sums(ebpf, "CONFORMANCE", conformance::slots(numbers))?;
    let refusals = sums(ebpf, "REFUSALS", numbers * reflect::REFUSALS)?;
    let reflected = sums(ebpf, "REFLECTED", numbers)?;
    let mut counters = Counters {
        lost_hops: at(&lost, HopRecord::KIND),
        lost_drops: at(&lost, DropRecord::KIND),
        lost_samples: at(&lost, ConformanceSample::KIND),
        unreadable: sums(ebpf, "STOPS", verifier_ebpf::parse::STOPS)?.iter().sum(),
        unattributed_drops: at(&sums(ebpf, "UNATTRIBUTED", 1)?, 0),
        ..Counters::default()
    };
    let unknown = std::iter::once((None, 0));
    for (peer, number) in unknown.chain(peers.iter().map(|(name, number)| (Some(name), *number))) {
        let answered = at(&reflected, number);
        if answered > 0 {
            counters.reflected.insert(peer.cloned(), answered);
        }
        for refusal in Refusal::ALL {
            let count = at(&refusals, reflect::slot(number, refusal));
            if count > 0 {
                counters.refused.insert((peer.cloned(), refusal), count);
            }
        }
        for (direction, named) in [
            (record::Direction::Ingress, Direction::Ingress),
            (record::Direction::Egress, Direction::Egress),
        ] {
            for kind in Conformance::ALL {
                let packets = at(&conformance, slot(number, direction, kind));
                if packets > 0 {
                    counters.conformance.push(ConformanceCount {
                        kind: named_kind(kind),
                        direction: named,
                        peer: peer.cloned(),
                        packets,
                        sample: None,
                    });
                }
            }
        }
    }
    Ok(counters)
}

/// The entry of a slot; all slots that are asked for were read.
fn at(sums: &[u64], slot: u32) -> u64 {
    sums.get(slot as usize).copied().unwrap_or(0)
}

/// The first entries of a per-CPU array by name.
fn sums(ebpf: &Ebpf, name: &'static str, count: u32) -> Result<Vec<u64>, ObserverError> {
    let of = |error: MapError| ObserverError::map(name, error);
    let found = ebpf.map(name).ok_or(LoadError::Missing { what: "map", name })?;
    let array = PerCpuArray::try_from(found).map_err(of)?;
    let Map::PerCpuArray(data) = found else {
        return Err(LoadError::Missing { what: "map", name }.into());
    };
    batch::sums(data, &array, count).map_err(of)
}

/// The core's name of a kind.
pub fn named_kind(kind: Conformance) -> ConformanceKind {
    match kind {
        Conformance::Conforming => ConformanceKind::Conforming,
        Conformance::WrongOwner => ConformanceKind::WrongOwner,
        Conformance::WrongVni => ConformanceKind::WrongVni,
        Conformance::SpoofedSource => ConformanceKind::SpoofedSource,
        Conformance::BareLeak => ConformanceKind::BareLeak,
        Conformance::UnexpectedEncapsulation => ConformanceKind::UnexpectedEncapsulation,
        Conformance::Unjudged => ConformanceKind::Unjudged,
    }
}

//! Reads a per-CPU array in a few system calls instead of one for each entry.
//!
//! The counters have dozens of entries for each peer, and a reading every half second: on five thousand nodes that would be a quarter of
//! a CPU in system calls. aya 0.14 has no `BPF_MAP_LOOKUP_BATCH`, so it is called here.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::{MapData, MapError, PerCpuArray};

/// `BPF_MAP_LOOKUP_BATCH` of `include/uapi/linux/bpf.h`; for per-CPU arrays since Linux 5.13.
const LOOKUP_BATCH: libc::c_long = 24;
/// Entries taken at once: with 64 CPUs that is half a megabyte of values.
const CHUNK: u32 = 1024;

/// The part of `union bpf_attr` that batch commands use.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The first `count` entries of an array, each summed over all CPUs.
pub(super) fn sums(map: &MapData, array: &PerCpuArray<&MapData, u64>, count: u32) -> Result<Vec<u64>, MapError> {
    match batched(map, count) {
        Ok(sums) => Ok(sums),
        Err(error) => {
            tracing::debug!(%error, "no batched reading of maps, reading one by one");
            (0..count)
                .map(|index| array.get(&index, 0).map(|values| values.iter().sum()))
                .collect()
        }
    }
}

fn batched(map: &MapData, count: u32) -> io::Result<Vec<u64>> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let map_fd = u32::try_from(map.fd().as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut sums = Vec::with_capacity(count as usize);
    let (mut keys, mut values) = (vec![0_u32; CHUNK as usize], vec![0_u64; CHUNK as usize * cpus]);
    let mut position = 0_u32;
    while sums.len() < count as usize {
        let before = position;
        let wanted = u32::try_from(count as usize - sums.len()).map_or(CHUNK, |left| left.min(CHUNK));
        let mut attr = BatchAttr {
            // The kernel continues behind the key that `in_batch` holds; without one it starts at the first.
            in_batch: if sums.is_empty() { 0 } else { address(&raw const before) },
            out_batch: address(&raw mut position),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: wanted,
            map_fd,
            ..BatchAttr::default()
        };
        // SAFETY: every pointer leads to memory of ours that outlives the call: `wanted` keys of 32 bits, and for each of them a value of
        // 64 bits for every possible CPU, which is what the kernel writes for this type of map.
        let result = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
        let end = match result {
            0 => false,
            _ => match io::Error::last_os_error() {
                // The last entries of the map: what was found stands there.
                error if error.raw_os_error() == Some(libc::ENOENT) => true,
                error => return Err(error),
            },
        };
        let found = attr.count as usize;
        sums.extend(values.chunks(cpus).take(found).map(|of_cpus| of_cpus.iter().sum::<u64>()));
        if end || found == 0 {
            break;
        }
    }
    if sums.len() < count as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    sums.truncate(count as usize);
    Ok(sums)
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Instant};

    use verifier_core::names::NodeName;

    use crate::observed::{Observer, counters, loader::Options, table::Table, tests::able};

    #[test]
    fn thousands_of_peers_are_read_at_once() {
        if !able() {
            return;
        }
        let (mut observer, _) = Observer::load(Options {
            drops: false,
            ..Options::default()
        })
        .unwrap();
        observer.set_table(&Table::default()).unwrap();
        let peers: BTreeMap<NodeName, u32> = (1..5000).map(|number| (NodeName(format!("node-{number}")), number)).collect();
        let start = Instant::now();
        assert_eq!(counters::read(observer.ebpf(), &peers).unwrap(), counters::Counters::default());
        eprintln!("{:?}", start.elapsed());
    }
}

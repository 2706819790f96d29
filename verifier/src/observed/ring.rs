//! The ring buffer's reading end.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use aya::maps::{MapData, MapError, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};
use verifier_ebpf::record::Record;

/// Records since the last drain.
#[derive(Debug, Default)]
pub struct Drained {
    /// In the order in which the kernel wrote them.
    pub records: Vec<Record>,
    /// Entries that were no record of this build.
    pub undecodable: u64,
}

/// The reading end; there is one.
pub struct Ring {
    ring: RingBuf<MapData>,
}

impl Ring {
    pub(super) fn new(map: aya::maps::Map) -> Result<Self, MapError> {
        Ok(Self {
            ring: RingBuf::try_from(map)?,
        })
    }

    /// Takes what is there, at most `limit` entries; never waits.
    pub fn drain(&mut self, limit: usize) -> Drained {
        let mut drained = Drained::default();
        for _ in 0..limit {
            let Some(entry) = self.ring.next() else { break };
            match Record::decode(&entry) {
                Ok(record) => drained.records.push(record),
                Err(error) => {
                    tracing::debug!(%error, "undecodable record");
                    drained.undecodable += 1;
                }
            }
        }
        drained
    }

    /// For use within a runtime.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn into_async(self) -> io::Result<AsyncRing> {
        // SAFETY: the descriptor is the ring's map, which `Watched` owns and which nothing closes or replaces while it lives there.
        let ring = unsafe { AsyncFd::register_with_interest(Watched(self), Interest::READABLE) }?;
        Ok(AsyncRing { ring })
    }
}

struct Watched(Ring);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.ring.as_raw_fd()
    }
}

/// A [`Ring`] that can be waited for.
pub struct AsyncRing {
    ring: AsyncFd<Watched>,
}

impl AsyncRing {
    /// Waits for records and takes at most `limit` of them. Cancelling loses none.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn next(&mut self, limit: usize) -> io::Result<Drained> {
        loop {
            let drained = self.ring.get_mut().0.drain(limit);
            if !drained.records.is_empty() || drained.undecodable > 0 {
                return Ok(drained);
            }
            let mut ready = self.ring.readable_mut().await?;
            ready.clear_ready();
        }
    }

    /// Takes what is there without waiting.
    pub fn drain(&mut self, limit: usize) -> Drained {
        self.ring.get_mut().0.drain(limit)
    }
}

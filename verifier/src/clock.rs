//! The only place that reads a clock. Everything else is given the time.
//!
//! Two clocks matter. *Monotonic* (`CLOCK_MONOTONIC`) is what `bpf_ktime_get_ns` returns, so hop records and send times compare on one
//! node; it means nothing on another. *Unix* (`CLOCK_REALTIME`) is what people and other nodes understand.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;
use verifier_core::names::UnixNs;

/// Now, on the wall clock.
pub fn unix_now() -> UnixNs {
    UnixNs(read(ClockId::CLOCK_REALTIME))
}

/// Now, in ns of `CLOCK_MONOTONIC`: the clock of `bpf_ktime_get_ns` and of every hop record.
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// What to add to a monotonic time to get Unix time, at this moment. Refreshed by whoever hands it to the kernel programs, since the wall
/// clock may be stepped.
pub fn unix_offset_ns() -> i64 {
    // Read on both sides of the wall clock, so that a preemption between the two reads costs half of itself only.
    let before = monotonic_ns();
    let wall = unix_now().0;
    let after = monotonic_ns();
    let middle = before.midpoint(after);
    i64::try_from(i128::from(wall) - i128::from(middle)).unwrap_or(i64::MAX)
}

/// `moment`, that much earlier.
pub fn earlier(moment: UnixNs, by: Duration) -> UnixNs {
    UnixNs(moment.0.saturating_sub(duration_ns(by)))
}

/// A duration in ns; one of more than 584 years is cut.
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> u64 {
    // These two clocks exist on every Linux; a failure could only be a bad pointer, which nix rules out. 0 makes everything look old,
    // which refuses rather than accepts.
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_turns_monotonic_into_unix() {
        let offset = unix_offset_ns();
        let derived = i128::from(monotonic_ns()) + i128::from(offset);
        let distance = (derived - i128::from(unix_now().0)).unsigned_abs();
        assert!(distance < 1_000_000_000, "{distance} ns apart");
    }

    #[test]
    fn earlier_does_not_wrap() {
        assert_eq!(earlier(UnixNs(5), Duration::from_secs(1)), UnixNs(0));
    }
}

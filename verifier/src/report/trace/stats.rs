//! Many probes as one: minimum, median and 99th percentile.

use super::{Row, Trace};
use hdrhistogram::Histogram;
use serde::Serialize;

/// How a time spreads over many probes, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// How many there are.
    pub samples: u64,
    /// The least.
    pub min_ns: u64,
    /// Half are below.
    pub median_ns: u64,
    /// 99 of 100 are below.
    pub p99_ns: u64,
}

/// Three digits are more than a time of microseconds has.
const DIGITS: u8 = 3;
/// Longest time that is told apart: ten seconds.
const LONGEST_NS: u64 = 10_000_000_000;

/// The spread of these times; none if there are none.
pub fn spread(times_ns: impl IntoIterator<Item = u64>) -> Option<Spread> {
    // The bounds are constants that the library accepts; should it not, there is no spread to tell.
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST_NS, DIGITS).ok()?;
    for time_ns in times_ns {
        histogram.saturating_record(time_ns);
    }
    (!histogram.is_empty()).then(|| Spread {
        samples: histogram.len(),
        min_ns: histogram.min(),
        median_ns: histogram.value_at_quantile(0.5),
        p99_ns: histogram.value_at_quantile(0.99),
    })
}

/// One hop over many probes.
#[derive(Clone, Debug, Serialize)]
pub struct HopSpread {
    /// A row of the probe in which it was first seen.
    pub row: Row,
    /// In how many probes it was seen.
    pub seen: usize,
    /// Time since the previous hop on its node.
    pub since_previous: Option<Spread>,
}

/// Every hop over all probes, in the order of the path.
pub fn hops(trace: &Trace) -> Vec<HopSpread> {
    let mut order: Vec<Row> = Vec::new();
    for row in trace.probes.iter().flat_map(|traced| &traced.rows) {
        if !order.iter().any(|known| same(known, row)) {
            order.push(row.clone());
        }
    }
    order
        .into_iter()
        .map(|row| {
            let all = || {
                trace
                    .probes
                    .iter()
                    .flat_map(|traced| &traced.rows)
                    .filter(|other| same(&row, other))
            };
            HopSpread {
                seen: all().count(),
                since_previous: spread(all().filter_map(|row| row.since_previous_ns)),
                row: row.clone(),
            }
        })
        .collect()
}

fn same(one: &Row, other: &Row) -> bool {
    let key = |row: &Row| (row.mark, row.direction, row.leg);
    key(one) == key(other) && one.node == other.node && one.device == other.device && one.drop == other.drop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_of_known_times() {
        let spread = spread((1..=100).map(|n| n * 1000)).unwrap();
        assert_eq!(spread.samples, 100);
        assert_eq!(spread.min_ns, 1000);
        assert!((49_900..=50_100).contains(&spread.median_ns), "{spread:?}");
        assert!((98_900..=99_200).contains(&spread.p99_ns), "{spread:?}");
    }

    #[test]
    fn nothing_has_no_spread() {
        assert_eq!(spread([]), None);
    }
}

//! Time as RFC 3339, UTC, without a clock: pure calendar arithmetic.

use crate::names::UnixNs;
use alloc::{format, string::String};

/// `2026-11-21T01:02:03.456Z`.
pub fn rfc3339(at: UnixNs) -> String {
    let seconds = at.0 / 1_000_000_000;
    let millis = at.0 / 1_000_000 % 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

/// Days since the Unix epoch to a date of the proleptic Gregorian calendar, by counting in years that begin in March.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        assert_eq!(rfc3339(UnixNs(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UnixNs(951_782_400_000_000_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(UnixNs(1_795_222_923_456_000_000)), "2026-11-21T01:02:03.456Z");
    }
}

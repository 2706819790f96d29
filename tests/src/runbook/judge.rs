//! In what a triage differs from what is right of a case, and a case moved to another time.

use serde_json::Value;
use verifier_core::{
    intent::objects::rfc3339 as parse,
    names::{NodeName, UnixNs},
    report::rfc3339,
    triage::{Branch, Triage, text},
};

use super::{Case, NOW};

/// What differs; nothing if all is right. Times in the text (a number before `s` or `min`) may differ by `slack`: where the case is put
/// into a real cluster, time passes between its making and its reading.
#[must_use]
pub fn differences(case: &Case, found: &Triage, slack: u64) -> Vec<String> {
    let mut out = Vec::new();
    let said = text(found);
    let branches: Vec<Branch> = found.branches.iter().map(|applies| applies.branch).collect();
    if branches != case.branches {
        out.push(format!("branches {branches:?} instead of {:?}", case.branches));
    }
    let affected: Vec<NodeName> = found.affected.keys().cloned().collect();
    let wanted: Vec<NodeName> = case.nodes.iter().map(|i| NodeName::from(format!("node-{i:02}"))).collect();
    if affected != wanted {
        out.push(format!("affected {affected:?} instead of {wanted:?}"));
    }
    out.extend(
        case.says
            .iter()
            .filter(|words| !stands(&said, words, slack))
            .map(|words| format!("{words:?} is missing")),
    );
    out.extend(
        case.never
            .iter()
            .filter(|words| said.contains(**words))
            .map(|words| format!("{words:?} stands there")),
    );
    out.extend(found.unknown.iter().map(|gap| format!("unknown: {}: {}", gap.source, gap.why)));
    if !out.is_empty() {
        out.push(said);
    }
    out
}

/// Whether words stand in a text, times being off by at most `slack`.
fn stands(said: &str, words: &str, slack: u64) -> bool {
    if said.contains(words) {
        return true;
    }
    let (said, words): (Vec<&str>, Vec<&str>) = (said.split_whitespace().collect(), words.split_whitespace().collect());
    let is_time = |at: usize| words.get(at + 1).is_some_and(|unit| matches!(*unit, "s" | "min"));
    let close = |at: usize, there: &str| match (words[at].parse::<u64>(), there.parse::<u64>()) {
        (Ok(wanted), Ok(there)) if is_time(at) => wanted.abs_diff(there) <= slack,
        _ => words[at] == there,
    };
    said.windows(words.len())
        .any(|window| window.iter().enumerate().all(|(at, there)| close(at, there)))
}

/// Moves every time of an object by as much as `now` lies after the time at which cases are looked at.
pub fn shift(object: &mut Value, now: UnixNs) {
    match object {
        Value::String(text) => {
            let moved = parse(text).zip(parse(NOW)).and_then(|(at, then)| {
                let at = i128::from(now.0) + i128::from(at.0) - i128::from(then.0);
                u64::try_from(at).ok()
            });
            if let Some(moved) = moved {
                let whole = rfc3339(UnixNs(moved));
                let seconds = whole.split('.').next().unwrap_or(&whole);
                // Leases have microseconds, everything else must not.
                let fraction = if text.contains('.') { ".000000Z" } else { "Z" };
                *text = format!("{seconds}{fraction}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shift(item, now)),
        Value::Object(fields) => fields.values_mut().for_each(|field| shift(field, now)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_may_be_off_and_counts_may_not() {
        let said = "the clock of node-01 is at least 177 s ahead, 0 of 2 pods";
        assert!(stands(said, "is at least 180 s ahead,", 5));
        assert!(!stands(said, "is at least 180 s ahead,", 2));
        assert!(!stands(said, "1 of 2 pods", 5));
    }

    #[test]
    fn a_case_moves_as_a_whole() {
        let mut object = json!({ "a": [ NOW, "2026-11-20T11:59:00.000000Z", "node-01" ], "b": { "c": 7 } });
        shift(&mut object, parse("2027-01-01T00:01:00Z").unwrap());
        assert_eq!(
            object,
            json!({ "a": [ "2027-01-01T00:01:00Z", "2027-01-01T00:00:00.000000Z", "node-01" ], "b": { "c": 7 } })
        );
    }
}

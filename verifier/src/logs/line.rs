//! One line of a log: out of the wrapper that a container runtime puts around it, whether it looks like an error, its time, its shape.

use regex::Regex;
use std::{borrow::Cow, sync::LazyLock};
use verifier_core::{intent::objects::rfc3339, names::UnixNs};

/// A pattern of this file. None if it cannot be compiled, which a test excludes.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok() // a test compiles every pattern of this file
}

/// `2026-11-20T06:25:11.123456789Z stderr F …` (CRI), or without the stream (`kubectl logs --timestamps`).
static CRI: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d) ((stdout|stderr) [FP] )?"));
/// Numbers, hexadecimal identifiers, addresses.
static VARIABLE: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"\b[0-9a-fA-F]{8,}(-[0-9a-fA-F]{4,})*\b|cali[0-9a-f]{11}|\d+([.:]\d+)*"));
/// Levels as logrus, klog, zap and BIRD write them.
static LEVEL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r#"\[(ERROR|FATAL|PANIC|WARNING)\]|\b(level|lvl)="?(error|fatal|panic|warning|warn)|(^|\]: )[EF]\d{4} \d\d:|<(ERR|BUG|FATAL|WARN)>|"level":"(error|fatal|panic|warn)"#,
    )
});
/// Words of a line without a level.
static WORDS: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?i)\b(error|errors|failed|failure|fatal|panic|cannot|refused|denied|timed out|segfault|oom-kill\w*)\b"));
/// A level that says it is none.
static CALM: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r#"\[(INFO|DEBUG|TRACE)\]|\b(level|lvl)="?(info|debug|trace)|(^|\]: )I\d{4} \d\d:|"level":"(info|debug)"#));
/// A time of day with its date.
static TIME: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"));

fn has(pattern: &Option<Regex>, line: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(line))
}

/// The line as its program wrote it.
pub(super) fn unwrapped(raw: &str) -> Cow<'_, str> {
    if raw.starts_with("{\"log\":")
        && let Ok(serde_json::Value::Object(mut object)) = serde_json::from_str(raw)
        && let Some(serde_json::Value::String(text)) = object.remove("log")
    {
        return Cow::Owned(text.trim_end().to_owned());
    }
    match CRI.as_ref().and_then(|cri| cri.find(raw)) {
        Some(head) => Cow::Borrowed(raw.get(head.end()..).unwrap_or(raw)),
        None => Cow::Borrowed(raw),
    }
}

/// When the node's container runtime took the line, by the node's clock; only its times say in which zone they are.
pub(super) fn taken_at(raw: &str) -> Option<UnixNs> {
    let head = CRI.as_ref().and_then(|cri| cri.find(raw))?;
    rfc3339(head.as_str().split(' ').next()?)
}

/// Whether a line that no signature knows should be shown.
pub(super) fn looks_like_error(line: &str) -> bool {
    has(&LEVEL, line) || (!has(&CALM, line) && has(&WORDS, line))
}

/// What of a line repeats.
pub(super) fn shape(line: &str) -> String {
    let short: String = line.chars().take(300).collect();
    match VARIABLE.as_ref() {
        Some(variable) => variable.replace_all(&short, "#").into_owned(),
        None => short,
    }
}

/// The line's time, as it stands there.
pub(super) fn time(raw: &str) -> Option<&str> {
    TIME.as_ref().and_then(|time| time.find(raw)).map(|found| found.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        for pattern in [&CRI, &VARIABLE, &LEVEL, &WORDS, &CALM, &TIME] {
            assert!(LazyLock::force(pattern).is_some());
        }
    }

    #[test]
    fn wrappers_come_off() {
        for raw in [
            "hello",
            "2026-11-20T06:25:11.123456789Z stderr F hello",
            "2026-11-20T06:25:11.123456789+01:00 stdout P hello",
            "2026-11-20T06:25:11Z hello",
            r#"{"log":"hello\n","stream":"stderr","time":"2026-11-20T06:25:11Z"}"#,
        ] {
            assert_eq!(unwrapped(raw), "hello", "{raw}");
        }
    }

    #[test]
    fn what_looks_like_an_error() {
        for (line, want) in [
            ("2026-11-20 06:25:11.123 [ERROR][71] felix/x.go 1: odd", true),
            ("2026-11-20 06:25:11.123 [INFO][71] felix/x.go 1: error count is 0", false),
            ("E1120 06:25:11.1 1 x.go:1] odd", true),
            ("Nov 20 06:25:11 a kubelet[1]: E1120 06:25:11.1 1 x.go:1] odd", true),
            ("Nov 20 06:25:11 a kubelet[1]: I1120 06:25:11.1 1 x.go:1] \"failed\" count=0", false),
            ("bird: Mesh_1: something failed", true),
            ("all is well", false),
        ] {
            assert_eq!(looks_like_error(line), want, "{line}");
        }
    }

    #[test]
    fn a_shape_forgets_what_varies() {
        let one = shape("[ERROR][71] x.go 12: pod cali86a12876b92 at 10.244.1.7 id 5b2c99aa11ff failed");
        let two = shape("[ERROR][9] x.go 12: pod cali00000000001 at 10.244.20.9 id 00aa11bb22cc failed");
        assert_eq!(one, two);
        assert!(one.contains("failed"), "{one}");
    }
}

//! `verifier logs`: what lines of Felix, confd, BIRD, the CNI plugin, Typha, the kubelet, the container runtime and the kernel mean.
//!
//! The knowledge is data (`catalogue.toml`); here it is matched. Repeats are counted, and a line that looks like an error and is not in the
//! catalogue is listed as unknown, never hidden. Memory is bounded whatever is fed in: long lines are cut, kinds of unknown lines are
//! limited, and both are counted.

mod catalogue;
mod line;
mod source;

pub use catalogue::{Catalogue, CatalogueError, Kind, Signature};
pub use source::{LAST_BYTES_DEFAULT, Skipped, Source, open};

use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{self, BufRead},
};
use verifier_core::names::UnixNs;

/// Longer lines are cut: nothing that matters stands so far behind.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Kinds of unknown lines that are kept apart.
const UNKNOWN_MAX: usize = 500;
/// Clocks that differ by less agree.
const CLOCK_SECONDS: u64 = 30;
/// How much of a line is kept as an example.
const EXAMPLE_CHARS: usize = 400;

/// A signature that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// How often.
    pub count: u64,
    /// Time of the first, as it stands in the line; none if the line has none.
    pub first: Option<String>,
    /// Time of the last.
    pub last: Option<String>,
    /// The first line, cut.
    pub example: String,
}

/// What was found in some logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Lines read.
    pub lines: u64,
    /// Known lines, by the signature's id.
    pub known: BTreeMap<String, Seen>,
    /// Lines that look like errors and are in no catalogue, by their shape: numbers, addresses and identifiers replaced by `#`.
    pub unknown: BTreeMap<String, Seen>,
    /// Unknown lines beyond the limit of kinds: counted, not kept.
    pub unknown_more: u64,
    /// Lines that were cut because they are too long.
    pub cut: u64,
    /// Lines with bytes that are no text.
    pub not_text: u64,
    /// Bytes of zeros, as a log has that was truncated while it was written to.
    pub holes_bytes: u64,
    /// Time of the latest line, where lines say in which zone they are.
    pub latest: Option<UnixNs>,
    /// By how much time went back from one line to the next at most, in seconds: a clock that was set, or logs put together.
    pub back_seconds_max: u64,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class<'a> {
    /// In the catalogue.
    Known(&'a Signature),
    /// It looks like an error.
    Unknown,
    /// Neither.
    Nothing,
}

/// Time of the first line that says in which zone its time is.
pub fn first_time(bytes: &[u8]) -> Option<UnixNs> {
    let head = bytes.split(|byte| *byte == b'\n').take(20);
    head.filter_map(|line| std::str::from_utf8(line).ok()).find_map(line::taken_at)
}

/// What one line is, wrappers of container runtimes removed.
pub fn classify<'a>(catalogue: &'a Catalogue, raw: &str) -> Class<'a> {
    let line = line::unwrapped(raw);
    match catalogue.first(&line) {
        Some(signature) => Class::Known(signature),
        None if line::looks_like_error(&line) => Class::Unknown,
        None => Class::Nothing,
    }
}

impl Summary {
    /// Reads to the end and counts.
    ///
    /// # Errors
    /// Reading failed; what was counted until then stands.
    pub fn read(&mut self, catalogue: &Catalogue, input: &mut dyn BufRead) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut before: Option<UnixNs> = None;
        loop {
            bytes.clear();
            let cut = read_line(input, &mut bytes)?;
            let Some(cut) = cut else { return Ok(()) };
            self.cut += u64::from(cut);
            let zeros = bytes.iter().filter(|byte| **byte == 0).count();
            if zeros > 0 {
                self.holes_bytes += zeros as u64;
                bytes.retain(|byte| *byte != 0);
            }
            let text = String::from_utf8_lossy(&bytes);
            if let std::borrow::Cow::Owned(_) = text {
                self.not_text += 1;
            }
            let line = text.trim_end();
            if !line.is_empty() {
                self.lines += 1;
                if let Some(at) = line::taken_at(line) {
                    let back = before.map_or(0, |before| before.since_ns(at)) / 1_000_000_000;
                    self.back_seconds_max = self.back_seconds_max.max(back);
                    self.latest = self.latest.max(Some(at));
                    before = Some(at);
                }
                self.count(catalogue, line);
            }
        }
    }

    fn count(&mut self, catalogue: &Catalogue, raw: &str) {
        match classify(catalogue, raw) {
            Class::Known(signature) => note(&mut self.known, signature.id.clone(), raw),
            Class::Unknown => {
                let shape = line::shape(&line::unwrapped(raw));
                if self.unknown.len() >= UNKNOWN_MAX && !self.unknown.contains_key(&shape) {
                    self.unknown_more += 1;
                } else {
                    note(&mut self.unknown, shape, raw);
                }
            }
            Class::Nothing => {}
        }
    }

    /// What the times of the lines say of the clock that made them, against ours.
    pub fn clock(&self, now: UnixNs) -> Option<String> {
        let ahead = self.latest.map_or(0, |latest| latest.since_ns(now)) / 1_000_000_000;
        if ahead >= CLOCK_SECONDS {
            return Some(format!(
                "the clock that wrote it is at least {ahead} s ahead of this one: its times do not compare with those of other nodes"
            ));
        }
        (self.back_seconds_max >= CLOCK_SECONDS).then(|| {
            format!(
                "its times go back by {} s from one line to the next: the clock was set, or several logs were put together",
                self.back_seconds_max
            )
        })
    }

    /// Whether anything weakens what can be said of these logs.
    pub fn is_whole(&self) -> bool {
        self.cut == 0 && self.not_text == 0 && self.holes_bytes == 0 && self.unknown_more == 0
    }
}

fn note(map: &mut BTreeMap<String, Seen>, key: String, raw: &str) {
    let time = line::time(raw).map(str::to_owned);
    map.entry(key)
        .and_modify(|seen| {
            seen.count += 1;
            if time.is_some() {
                seen.last.clone_from(&time);
            }
        })
        .or_insert_with(|| Seen {
            count: 1,
            first: time.clone(),
            last: time,
            example: raw.chars().take(EXAMPLE_CHARS).collect(),
        });
}

/// One line, at most [`LINE_BYTES_MAX`] of it; whether it was longer. None at the end.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    let (mut any, mut cut) = (false, false);
    loop {
        let buffer = match input.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            return Ok(any.then_some(cut));
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or(buffer);
        let room = LINE_BYTES_MAX.saturating_sub(line.len());
        cut |= part.len() > room;
        line.extend_from_slice(part.get(..room).unwrap_or(part));
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(Some(cut));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn read(bytes: &[u8]) -> Summary {
        let catalogue = Catalogue::built_in().unwrap();
        let mut summary = Summary::default();
        summary.read(&catalogue, &mut Cursor::new(bytes)).unwrap();
        summary
    }

    #[test]
    fn repeats_are_counted_with_their_first_and_last_time() {
        let line = |time: &str| format!("2026-11-20 {time} [INFO][71] felix/vxlan_fdb.go 1: VXLAN FDB now in sync.\n");
        let summary = read((line("06:00:00.1") + &line("06:10:00.1") + &line("06:20:00.1")).as_bytes());
        let seen = &summary.known["felix-fdb-in-sync"];
        assert_eq!(
            (seen.count, seen.first.as_deref(), seen.last.as_deref()),
            (3, Some("2026-11-20 06:00:00"), Some("2026-11-20 06:20:00"))
        );
    }

    #[test]
    fn unknown_errors_are_grouped_by_shape_and_limited() {
        let mut text = String::new();
        for i in 0..700 {
            text.push_str(&format!(
                "2026-11-20 06:00:00.1 [ERROR][{i}] felix/x.go 1: strange thing {i} at 10.0.0.{i}\n"
            ));
            let word: String = [i / 26 % 26, i % 26].iter().map(|n| char::from(b'a' + *n as u8)).collect();
            text.push_str(&format!("error: quite {word}{word}z{}\n", ["x", "y"][usize::from(i > 675)]));
        }
        let summary = read(text.as_bytes());
        assert_eq!(summary.unknown.values().map(|s| s.count).max(), Some(700));
        assert_eq!(summary.unknown.len(), UNKNOWN_MAX);
        let kept: u64 = summary.unknown.values().map(|s| s.count).sum();
        assert_eq!(kept + summary.unknown_more, 1400);
        assert!(!summary.is_whole());
    }

    #[test]
    fn holes_long_lines_and_bytes_that_are_no_text_are_counted() {
        let mut bytes = vec![0_u8; 4096];
        bytes.extend_from_slice(b"2026-11-20 06:00:00.1 [INFO][71] felix/x.go 1: VXLAN FDB now in sync.\n");
        bytes.extend_from_slice(&vec![b'x'; LINE_BYTES_MAX * 3]);
        bytes.extend_from_slice(b"\n\xff\xfe error\n");
        let summary = read(&bytes);
        assert_eq!((summary.holes_bytes, summary.cut, summary.not_text, summary.lines), (4096, 1, 1, 3));
        assert!(summary.known.contains_key("felix-fdb-in-sync"));
    }

    #[test]
    fn a_last_line_without_an_end_counts() {
        assert_eq!(read(b"bird: I found another BIRD running.").known.len(), 1);
        assert_eq!(read(b"").lines, 0);
    }
}

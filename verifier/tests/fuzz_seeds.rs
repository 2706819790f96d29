//! The committed seeds of the fuzz targets, replayed: captures from a real kernel, edge cases, and whatever once found a fault.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};
use verifier::fuzzing::{READERS, read};

/// Fewer seeds than this say nothing about a reader.
const SEEDS_MIN: usize = 3;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn seeds(name: &str) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(fuzz().join("seeds").join(name))
        .unwrap_or_else(|error| panic!("seeds of {name}: {error}"))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect()
}

#[test]
fn no_seed_upsets_its_reader() {
    for reader in READERS {
        let seeds = seeds(reader.name);
        assert!(seeds.len() >= SEEDS_MIN, "{} has {} seeds", reader.name, seeds.len());
        for (name, bytes) in &seeds {
            // A panic names the seed.
            eprintln!("{}/{name}", reader.name);
            (reader.read)(bytes);
            // Cut anywhere in its first part, which is where lengths and counts stand.
            for end in 0..bytes.len().min(96) {
                (reader.read)(&bytes[..end]);
            }
        }
    }
}

#[test]
fn every_reader_has_its_target_and_every_target_its_reader() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let listed: BTreeSet<String> = manifest
        .lines()
        .filter_map(|line| Some(line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\"")?.to_owned()))
        .collect();
    let names: BTreeSet<String> = READERS.iter().map(|reader| reader.name.to_owned()).collect();
    assert_eq!(listed, names);
    for name in &names {
        let source = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("read(\"{name}\", bytes)")), "{name}");
    }
    assert!(!read("nobody", &[]));
}

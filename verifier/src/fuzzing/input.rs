//! What people and other programs hand in.

use crate::{
    agent::{
        auth::{Gate, Message, Refusal},
        keys::Keyring,
    },
    intent::files,
    logs::{Catalogue, Summary},
    report::snapshot::ClusterSnapshot,
};
use std::{io::BufReader, path::Path, sync::LazyLock};
use verifier_core::{evidence::Evidence, intent::Cluster, names::UnixNs, report};

/// Manifests in JSON, one document after the other.
pub(super) fn manifest_json(bytes: &[u8]) {
    manifest(bytes, Path::new("fuzz.json"));
}

/// Manifests in YAML.
pub(super) fn manifest_yaml(bytes: &[u8]) {
    manifest(bytes, Path::new("fuzz.yaml"));
}

/// Whatever is read, the intent of every node can be told from it.
fn manifest(bytes: &[u8], file: &Path) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let loaded = match files::load_text(file, text, UnixNs(1)) {
        Ok(loaded) => loaded,
        Err(error) => return assert!(!error.to_string().is_empty(), "an error without a word"),
    };
    let (Evidence::Complete { value } | Evidence::Partial { value, .. }) = loaded.objects else {
        return;
    };
    let cluster = Cluster::compile(value);
    for node in cluster.nodes() {
        assert!(cluster.node_intent(node).is_ok(), "a node that is known and has no intent");
    }
}

/// A snapshot, compressed, in an archive or plain: what can be read can be judged and told, twice the same.
pub(super) fn snapshot(bytes: &[u8]) {
    let Ok(snapshot) = ClusterSnapshot::parse(bytes) else { return };
    let (once, again) = (snapshot.judge(), snapshot.judge());
    assert_eq!(once, again, "two verdicts on one snapshot");
    assert!(!report::text(&once, report::Style::Plain).is_empty(), "a verdict without a word");
}

/// The two headers of a request, a line each. No key is known to the fuzzer, so nothing may pass.
pub(super) fn http_auth(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (protocol, auth) = text.split_once('\n').unwrap_or((&text, ""));
    let mut gate = Gate::new(Keyring::from_secret([7; 32]), UnixNs(0));
    let message = Message {
        method: "GET",
        target: "/report",
        body: &[],
    };
    let now = UnixNs(1_800_000_000_000_000_000);
    match gate.check(message, Some(protocol), Some(auth), now) {
        // Signed with that very key: the seed that shows that the rest of the way is taken. Once, and not again.
        Ok(_) => assert!(
            matches!(gate.check(message, Some(protocol), Some(auth), now), Err(Refusal::Replayed)),
            "a repetition passed"
        ),
        Err(refusal) => assert!(!refusal.to_string().is_empty(), "refused without a word"),
    }
}

/// A file of keys: an error names the line, and none shows what stands there.
pub(super) fn key_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(keyring) = Keyring::parse(Path::new("key"), text) {
        assert!(!keyring.probe_keys().is_empty(), "a keyring without a key");
    }
}

static CATALOGUE: LazyLock<Option<Catalogue>> = LazyLock::new(|| Catalogue::built_in().ok()); // a test compiles it

/// Lines of logs, wrapped by a container runtime or not.
pub(super) fn logs(bytes: &[u8]) {
    let Some(catalogue) = CATALOGUE.as_ref() else { return };
    let mut summary = Summary::default();
    let read = summary.read(catalogue, &mut BufReader::new(bytes));
    assert!(read.is_ok(), "memory cannot fail to be read");
    let told: u64 = summary.known.values().chain(summary.unknown.values()).map(|seen| seen.count).sum();
    assert!(told + summary.unknown_more <= summary.lines, "more lines told than read");
}

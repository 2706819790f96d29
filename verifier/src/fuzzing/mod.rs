//! Every reader of bytes that others wrote, each behind one signature: the kernel's answers, packets, manifests, snapshots, requests, logs.
//!
//! A reader must survive any bytes, and what it says must not claim more than they hold; each function here asserts both. `fuzz/` has a
//! target for each, and `verifier/tests/fuzz_seeds.rs` replays the committed seeds with every test run. Nothing in production calls this.

mod input;
mod kernel;
mod packets;

/// A reader of foreign bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Its name: the fuzz target's, and its seeds' directory.
    pub name: &'static str,
    /// Reads, and asserts what must hold whatever was read.
    pub read: fn(&[u8]),
}

/// All of them.
pub const READERS: &[Reader] = &[
    reader("netlink", kernel::netlink),
    reader("nftables", kernel::nftables),
    reader("iptables_legacy", kernel::iptables_legacy),
    reader("conntrack", kernel::conntrack),
    reader("tc_filter", kernel::tc_filter),
    reader("btf", kernel::btf),
    reader("kallsyms", kernel::kallsyms),
    reader("tracepoint_format", kernel::tracepoint_format),
    reader("packet", packets::packet),
    reader("wire", packets::wire),
    reader("replies", packets::replies),
    reader("manifest_json", input::manifest_json),
    reader("manifest_yaml", input::manifest_yaml),
    reader("snapshot", input::snapshot),
    reader("http_auth", input::http_auth),
    reader("key_file", input::key_file),
    reader("logs", input::logs),
];

const fn reader(name: &'static str, read: fn(&[u8])) -> Reader {
    Reader { name, read }
}

/// Gives bytes to the reader of that name; false if there is none.
pub fn read(name: &str, bytes: &[u8]) -> bool {
    match READERS.iter().find(|reader| reader.name == name) {
        Some(reader) => {
            (reader.read)(bytes);
            true
        }
        None => false,
    }
}

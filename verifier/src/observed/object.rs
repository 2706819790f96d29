//! The eBPF object that the build embedded.

use aya::include_bytes_aligned;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/verifier-ebpf.o"));

/// Twelve digits that tell two builds of the object apart; `none` if this program was built without it.
pub const HASH: &str = env!("VERIFIER_EBPF_HASH");

/// This program was built without the kernel programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this program was built without its kernel programs; remedy: build it with `cargo xtask build`")]
pub struct NotEmbedded;

/// The object.
///
/// # Errors
/// It is not there.
pub fn embedded() -> Result<&'static [u8], NotEmbedded> {
    if OBJECT.is_empty() { Err(NotEmbedded) } else { Ok(OBJECT) }
}

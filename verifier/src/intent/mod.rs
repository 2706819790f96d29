//! Intent's sources. They fill [`verifier_core::intent::objects::Objects`]; what follows from the objects is the core's.

pub mod files;
pub mod watch;

pub(crate) use files::manifests_at;
pub use files::{LoadError, Loaded};
pub use watch::FileSource;

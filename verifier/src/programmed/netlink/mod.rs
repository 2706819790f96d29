//! Netlink as bytes: requests, the attribute walk, and the dump loop that cannot be fooled.
//!
//! High-level clients can return a short list that looks complete: they ignore `NLM_F_DUMP_INTR`, take the end of a stream for the end
//! of a dump and skip what does not decode. The loop in [`dump`] does none of that; whatever falls short is named in the result.

pub mod attr;
pub mod dump;
pub mod request;

pub use attr::{Attrs, Malformed, attrs};
pub use dump::{Channel, DumpFault, Dumped};
pub use request::Request;

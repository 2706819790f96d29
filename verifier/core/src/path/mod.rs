//! The path: which taps a probe must pass according to intent, which it did pass, and where the two first diverge.
//!
//! A probe's *itinerary* has two legs, the request's and the reply's, as one list of [`Waypoint`]s. Records of hops come from any node,
//! in any order; [`Journey::assemble`] sorts them onto the itinerary by node, kind of tap, direction and leg. The last waypoint seen and
//! the one after it are the place of the first divergence.

mod itinerary;
mod journey;

pub use itinerary::{Taps, Waypoint, itinerary};
pub use journey::{Journey, Witness};

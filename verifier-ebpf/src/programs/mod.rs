//! The programs, by what they do.

mod conform;
mod drops;
mod maps;
mod packet;
mod reflector;
mod tap;

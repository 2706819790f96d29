//! Every effect of the dataplane verifier: the same stages as `verifier_core`, each doing the I/O of its stage.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod controller;
pub mod events;
pub mod fuzzing;
pub mod host;
pub mod intent;
pub mod kubernetes;
pub mod logs;
pub mod observed;
pub mod preflight;
pub mod probe;
pub mod programmed;
pub mod report;
pub mod supervisor;
pub mod triage;

//! A failure to look is a value, never an empty answer.
//!
//! Every source yields [`Evidence`]. A claim that something is *absent* may only rest on [`Evidence::Complete`]; anything less makes
//! the check that needed it Unknown, with the gap as the reason.

use alloc::{string::String, vec, vec::Vec};
use serde::{Deserialize, Serialize};

/// What could not be seen, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gap {
    /// The source that fell short, in stage terms: `programmed/routes`, `observed/drops`, `intent/felix-environment`.
    pub source: String,
    /// Why, in words for a person, with the remedy where there is one.
    pub why: String,
}

impl Gap {
    /// A gap of `source` because of `why`.
    pub fn new(source: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            why: why.into(),
        }
    }
}

/// What a look at a source gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Evidence<T> {
    /// Everything there was to see.
    Complete {
        /// What was seen.
        value: T,
    },
    /// Something was seen, and something is known to be missing.
    Partial {
        /// What was seen.
        value: T,
        /// What is missing.
        missing: Vec<Gap>,
    },
    /// Nothing could be seen.
    Unavailable {
        /// Why.
        gap: Gap,
    },
}

impl<T> Evidence<T> {
    /// Complete evidence.
    pub const fn complete(value: T) -> Self {
        Self::Complete { value }
    }

    /// Evidence that is known to lack something. With nothing missing it is complete.
    pub fn partial(value: T, missing: Vec<Gap>) -> Self {
        if missing.is_empty() {
            Self::Complete { value }
        } else {
            Self::Partial { value, missing }
        }
    }

    /// No evidence.
    pub fn unavailable(source: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unavailable {
            gap: Gap::new(source, why),
        }
    }

    /// What was seen, complete or not. Enough for a claim that something *is* there.
    pub const fn seen(&self) -> Option<&T> {
        match self {
            Self::Complete { value } | Self::Partial { value, .. } => Some(value),
            Self::Unavailable { .. } => None,
        }
    }

    /// What was seen, if it was all. Needed for a claim that something is *not* there.
    ///
    /// # Errors
    /// The gaps that forbid the claim.
    pub fn all(&self) -> Result<&T, Vec<Gap>> {
        match self {
            Self::Complete { value } => Ok(value),
            Self::Partial { missing, .. } => Err(missing.clone()),
            Self::Unavailable { gap } => Err(vec![gap.clone()]),
        }
    }

    /// Whether nothing is missing.
    pub const fn is_complete(&self) -> bool {
        matches!(self, Self::Complete { .. })
    }

    /// What is missing.
    pub fn gaps(&self) -> &[Gap] {
        match self {
            Self::Complete { .. } => &[],
            Self::Partial { missing, .. } => missing,
            Self::Unavailable { gap } => core::slice::from_ref(gap),
        }
    }

    /// The same evidence of something derived from it.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Evidence<U> {
        match self {
            Self::Complete { value } => Evidence::Complete { value: f(value) },
            Self::Partial { value, missing } => Evidence::Partial { value: f(value), missing },
            Self::Unavailable { gap } => Evidence::Unavailable { gap },
        }
    }
}

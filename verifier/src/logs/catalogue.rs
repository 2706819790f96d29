//! The catalogue of known lines: parsed from its TOML, its patterns compiled into one set.

use regex::{RegexSet, RegexSetBuilder};
use serde::{Deserialize, Serialize};
use verifier_core::verdict::CauseCode;

const BUILT_IN: &str = include_str!("catalogue.toml");
/// The patterns together compile to a few hundred kilobytes; more would be a mistake in one of them.
const COMPILED_BYTES_MAX: usize = 64 << 20;

/// What a line is to somebody who looks for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something is wrong.
    Fault,
    /// It points at what is wrong.
    Clue,
    /// It looks worse, or better, than it is.
    Misleading,
    /// It means nothing.
    Benign,
    /// A moment worth knowing.
    Marker,
}

/// One known line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Its name.
    pub id: String,
    /// Who writes it.
    pub component: String,
    /// What it is.
    pub kind: Kind,
    /// A regular expression that its text matches.
    pub pattern: String,
    /// What it means; for a benign line, why it does.
    pub meaning: String,
    /// What to do next.
    pub next: String,
    /// The cause that it tells of.
    #[serde(default)]
    pub cause: Option<CauseCode>,
    /// Real incidents.
    #[serde(default)]
    pub incidents: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    signature: Vec<Signature>,
}

/// Why a catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is no catalogue.
    #[error("the catalogue of log lines cannot be parsed")]
    Parse(#[source] toml::de::Error),
    /// A pattern is no regular expression.
    #[error("a pattern of the catalogue of log lines cannot be compiled")]
    Pattern(#[source] regex::Error),
}

/// All known lines.
#[derive(Clone, Debug)]
pub struct Catalogue {
    signatures: Vec<Signature>,
    set: RegexSet,
}

impl Catalogue {
    /// The one that comes with the program.
    ///
    /// # Errors
    /// It is damaged, which a test excludes.
    pub fn built_in() -> Result<Self, CatalogueError> {
        Self::parse(BUILT_IN)
    }

    /// From the text of a catalogue.
    ///
    /// # Errors
    /// It is none, or a pattern is no regular expression.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let file: File = toml::from_str(text).map_err(CatalogueError::Parse)?;
        let set = RegexSetBuilder::new(file.signature.iter().map(|s| &s.pattern))
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(CatalogueError::Pattern)?;
        Ok(Self {
            signatures: file.signature,
            set,
        })
    }

    /// The first signature that matches: the narrow stand before the wide.
    pub fn first(&self, line: &str) -> Option<&Signature> {
        self.set.matches(line).iter().next().and_then(|index| self.signatures.get(index))
    }

    /// A signature by its id.
    pub fn get(&self, id: &str) -> Option<&Signature> {
        self.signatures.iter().find(|s| s.id == id)
    }

    /// All of them, in order.
    pub fn all(&self) -> &[Signature] {
        &self.signatures
    }
}

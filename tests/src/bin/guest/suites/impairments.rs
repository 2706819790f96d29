//! A network that is bad without being broken, under a tunnel of each kind: what lies below the verifier's thresholds is no fault in any of
//! the rounds, what lies above them is named with its figure.

use anyhow::Result;

use super::faults;
use crate::plan::Suite;

pub(crate) fn play(suite: &Suite) -> Result<()> {
    for mode in ["vxlan", "ipip"] {
        let only = suite.only.iter().map(String::as_str);
        faults::demo(suite, &["--impairments", "--encapsulation", mode], only)?;
    }
    Ok(())
}

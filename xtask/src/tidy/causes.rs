//! Rules about the cause table and its pages.

use std::collections::BTreeSet;

use anyhow::Result;
use verifier_core::verdict::{Cause, CauseCode, table};

use super::{Tree, Violation, slashed};
use crate::docs;
use crate::workspace::Workspace;

/// Where the table stands.
const TABLE: &str = "verifier/core/src/verdict/table";

/// The pages say what the table says.
pub(super) fn cause_pages(workspace: &Workspace, _tree: &Tree) -> Result<Vec<Violation>> {
    let stale = docs::compare(workspace)?;
    Ok(stale
        .iter()
        .map(|page| Violation::file(&slashed(&page.path), format!("{}: run `cargo xtask docs`", page.what)))
        .collect())
}

/// Every code has one row, and no cause explains itself, however far around.
pub(super) fn cause_table(_tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for code in CauseCode::ALL {
        let rows = table::all().filter(|cause| cause.code == *code).count();
        if rows != 1 {
            found.push(Violation::file(TABLE, format!("`{code}` has {rows} rows: it must have one")));
        }
        let around = explained_by(*code, |code| code.cause().explains);
        if around.contains(code) {
            found.push(Violation::file(
                TABLE,
                format!("`{code}` explains itself, by way of others: break the cycle"),
            ));
        }
    }
    found.extend(table::all().filter_map(row_style));
    found
}

/// Titles stand in tables and before a full stop that the page sets.
fn row_style(cause: &Cause) -> Option<Violation> {
    let bad = cause.title.contains('\n') || cause.title.ends_with('.') || cause.title.contains('|');
    bad.then(|| {
        Violation::file(
            TABLE,
            format!("the title of `{}` must be one line, without a full stop or `|`", cause.code),
        )
    })
}

/// Everything that follows from a cause, itself included only if it comes back around.
fn explained_by(start: CauseCode, explains: impl Fn(CauseCode) -> &'static [CauseCode]) -> BTreeSet<CauseCode> {
    let mut reached = BTreeSet::new();
    let mut open = vec![start];
    while let Some(code) = open.pop() {
        open.extend(explains(code).iter().copied().filter(|next| reached.insert(*next)));
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use CauseCode::{FdbMissing, NeighborMissing, RouteMissing};

    #[test]
    fn a_cycle_is_found_and_a_diamond_is_not_one() {
        let diamond = |code| -> &'static [CauseCode] {
            match code {
                RouteMissing => &[FdbMissing, NeighborMissing],
                FdbMissing => &[NeighborMissing],
                _ => &[],
            }
        };
        assert!(!explained_by(RouteMissing, diamond).contains(&RouteMissing));
        let cycle = |code| -> &'static [CauseCode] {
            match code {
                RouteMissing => &[FdbMissing],
                FdbMissing => &[RouteMissing],
                _ => &[],
            }
        };
        assert!(explained_by(RouteMissing, cycle).contains(&RouteMissing));
    }

    #[test]
    fn the_table_as_it_stands_keeps_the_rules() {
        assert_eq!(cause_table(&Tree::default()), []);
    }
}

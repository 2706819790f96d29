//! One row of the table: what was measured, against what, and what was hoped for.
//!
//! Each figure is one of a pair taken in the same run, because the machine is shared: the ratio says something, the
//! absolute figure is only there to be looked at. No row makes the program fail.

use serde::Serialize;

/// What came of a measurement.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// It was taken.
    Measured {
        /// In the row's unit.
        value: f64,
        /// What it is compared with, in the same unit.
        against: Option<f64>,
        /// Whether the aim is met.
        met: bool,
    },
    /// It could not be.
    NotMeasured {
        /// Why, with the remedy where there is one.
        why: String,
    },
}

/// A row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What.
    pub(crate) name: String,
    /// Of `value` and `against`.
    pub(crate) unit: &'static str,
    /// What `against` is.
    pub(crate) reference: &'static str,
    /// In words.
    pub(crate) aim: &'static str,
    /// The figure.
    #[serde(flatten)]
    pub(crate) figure: Figure,
    /// The trials behind it, in order.
    pub(crate) trials: Vec<f64>,
}

impl Row {
    /// A row that could not be measured.
    pub(crate) fn missing(name: &str, aim: &'static str, why: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            unit: "",
            reference: "",
            aim,
            figure: Figure::NotMeasured { why: why.into() },
            trials: Vec::new(),
        }
    }

    /// `value` divided by what it is compared with.
    pub(crate) fn ratio(&self) -> Option<f64> {
        match self.figure {
            Figure::Measured {
                value,
                against: Some(against),
                ..
            } if against != 0.0 => Some(value / against),
            _ => None,
        }
    }
}

/// The table, for a person.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut cells = vec![[
        "what".to_owned(),
        "measured".into(),
        "against".into(),
        "ratio".into(),
        "aim".into(),
        String::new(),
    ]];
    let mut remarks = Vec::new();
    for row in rows {
        let (measured, against, verdict) = match &row.figure {
            Figure::Measured { value, against, met } => (
                format!("{} {}", number(*value), row.unit),
                against
                    .map(|against| format!("{} {} ({})", number(against), row.unit, row.reference))
                    .unwrap_or_else(|| "-".to_owned()),
                if *met { "met" } else { "MISSED" },
            ),
            Figure::NotMeasured { why } => {
                remarks.push(format!("{}: not measured: {why}", row.name));
                ("not measured".to_owned(), "-".to_owned(), "")
            }
        };
        let ratio = row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
        cells.push([row.name.clone(), measured, against, ratio, row.aim.to_owned(), verdict.to_owned()]);
    }
    let mut text = String::new();
    let widths: [usize; 6] = std::array::from_fn(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in &cells {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    for remark in remarks {
        text.push_str(&remark);
        text.push('\n');
    }
    text
}

/// Three significant digits or so.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle of some figures; the lower middle of an even number. Not a number for none.
pub(crate) fn median(figures: &[f64]) -> f64 {
    percentile(figures, 50)
}

/// The smallest figure that so many per cent do not exceed. Not a number for none.
pub(crate) fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let figures = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&figures), 3.0);
        assert_eq!(percentile(&figures, 99), 5.0);
        assert_eq!(percentile(&figures, 1), 1.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_row_that_could_not_be_measured_says_why() {
        let text = table(&[Row::missing("throughput", ">= 0.98", "no tcpdump")]);
        assert!(text.contains("throughput: not measured: no tcpdump"), "{text}");
    }

    #[test]
    fn the_ratio_is_value_over_reference() {
        let figure = Figure::Measured {
            value: 9.0,
            against: Some(10.0),
            met: false,
        };
        let row = Row {
            figure,
            unit: "Gbit/s",
            reference: "off",
            ..Row::missing("x", "y", "z")
        };
        assert_eq!(row.ratio(), Some(0.9));
        assert!(table(&[row]).contains("0.900"));
    }
}

//! `verifier explain`: all that the cause table knows of a cause.

use super::{Exit, Failure, say};
use crate::{
    cli::{Explain, PlainOutput},
    logs::Catalogue,
};
use anyhow::anyhow;
use serde_json::{Value, json};
use verifier_core::{
    report,
    verdict::{Cause, CauseCode, table},
};

/// Prints one cause, or the list.
///
/// # Errors
/// There is no such cause.
pub fn run(args: &Explain) -> Result<Exit, Failure> {
    let Some(text) = &args.code else {
        return say(&match args.output {
            PlainOutput::Text => format!(
                "{}\n`verifier explain CODE` says all that is known of one.\n",
                report::explain_all()
            ),
            PlainOutput::Json => pretty(&Value::Array(table::all().map(object).collect())),
        });
    };
    let code = CauseCode::parse(text).ok_or_else(|| Failure::usage(anyhow!("there is no cause {text:?}{}", suggestion(text))))?;
    say(&match args.output {
        PlainOutput::Text => wrapped(&format!("{}{}", report::explain(code), in_logs(code)?), 100),
        PlainOutput::Json => pretty(&object(code.cause())),
    })
}

/// Lines of logs that tell of a cause.
fn in_logs(code: CauseCode) -> Result<String, Failure> {
    let catalogue = Catalogue::built_in().map_err(Failure::internal)?;
    let lines: Vec<String> = catalogue
        .all()
        .iter()
        .filter(|signature| signature.cause == Some(code))
        .map(|signature| format!("- {}, `{}`: {}\n", signature.component, signature.id, signature.meaning))
        .collect();
    Ok(if lines.is_empty() {
        String::new()
    } else {
        format!("\n## How it shows in logs\n\n{}", lines.concat())
    })
}

/// Without a version Calico's part can only be told in general.
const REFRESH_SECONDS_DEFAULT: u32 = 90;

fn object(cause: &'static Cause) -> Value {
    json!({
        "code": cause.code,
        "class": cause.class,
        "severity": cause.severity,
        "scope": cause.scope,
        "title": cause.title,
        "meaning": cause.meaning,
        "detected": cause.detected,
        "remedy": cause.remedy,
        "persist": cause.persist,
        "verify": cause.verify,
        "calico_repairs": cause.repairs.by(None, REFRESH_SECONDS_DEFAULT),
        "hold_off_seconds": cause.hold_off_seconds,
        "explains": cause.explains,
        "explains_at_peers": cause.explains_at_peers,
        "incidents": cause.incidents,
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Text in lines of at most `width`; what is indented or a list keeps its indentation, and a command in backticks stays on one line, to be
/// copied from there.
fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    for paragraph in text.lines() {
        let hang = if paragraph.starts_with("- ") { "  " } else { "" };
        let mut line = String::new();
        for word in unbroken(paragraph, width) {
            if !line.is_empty() && line.len() + 1 + word.len() > width {
                out.push_str(line.trim_end());
                out.push('\n');
                line = hang.to_owned();
            } else if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// Words; those between two backticks are one, if they fit a line.
fn unbroken(paragraph: &str, width: usize) -> Vec<String> {
    let is_odd = |word: &str| word.matches('`').count() % 2 == 1;
    let mut rest: Vec<&str> = paragraph.split_whitespace().rev().collect();
    let mut out: Vec<String> = Vec::new();
    while let Some(word) = rest.pop() {
        let close = rest.iter().rev().position(|word| is_odd(word)).filter(|_| is_odd(word));
        let whole = close.map(|close| {
            let inside = rest.iter().rev().take(close + 1);
            (close + 1, inside.fold(word.to_owned(), |all, word| format!("{all} {word}")))
        });
        match whole.filter(|(_, text)| text.len() + 2 <= width) {
            Some((more, text)) => {
                rest.truncate(rest.len() - more);
                out.push(text);
            }
            None => out.push(word.to_owned()),
        }
    }
    out
}

/// What the writer may have meant.
fn suggestion(text: &str) -> String {
    let words: Vec<&str> = text.split(['-', '_', ' ']).filter(|word| word.len() > 2).collect();
    let close: Vec<&str> = CauseCode::ALL
        .iter()
        .map(|code| code.as_str())
        .filter(|code| words.iter().any(|word| code.contains(&word.to_ascii_lowercase())))
        .take(5)
        .collect();
    if close.is_empty() {
        "; `verifier explain` lists them".to_owned()
    } else {
        format!("; did you mean {}?", close.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_fits_a_terminal_and_loses_no_word() {
        for code in CauseCode::ALL {
            let whole = report::explain(*code);
            let page = wrapped(&whole, 100);
            // A word that is longer than a line (a setting to copy) stays whole, alone on its line.
            let fits = |line: &str| line.len() <= 100 || line.split_whitespace().count() == 1;
            assert!(page.lines().all(fits), "{page}");
            let codes = |text: &str| text.lines().filter(|line| line.matches('`').count() % 2 == 1).count();
            assert_eq!(codes(&page), 0, "{page}");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&page), words(&whole));
        }
    }

    #[test]
    fn an_unknown_code_suggests_neighbours() {
        assert!(suggestion("route-mising").contains("route-missing"));
        assert!(suggestion("xyz").contains("lists them"));
    }
}

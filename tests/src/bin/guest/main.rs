//! The first process of a virtual machine that `cargo xtask vm` boots, and everything else it is there: what the kernel
//! calls to load a module, and the suites, each a process of its own so that it can fail alone.

mod init;
mod modules;
mod plan;
mod say;
mod suites;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let called = words.first().and_then(|word| Path::new(word).file_name()?.to_str());
    let done = match (called, words.get(1..).unwrap_or_default()) {
        (Some("modprobe"), [.., alias]) => modules::load(alias).map(drop),
        (_, ["suite", name]) => suites::play(name).inspect_err(|error| {
            // On the console nobody looks for the reason.
            say::Cases::of(name).tell("the rest", &say::Verdict::Failed(format!("{error:#}")), Duration::ZERO);
        }),
        _ if std::process::id() == 1 => init::run(),
        _ => {
            eprintln!("guest: this is the first process of a virtual machine; `cargo xtask vm` boots it");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! A command line that was not understood, explained in one line.

use std::process::ExitCode;

use clap::error::ErrorKind;

use super::{complain, exit};

/// Prints the help or version that was asked for, or what is wrong and how to mend it.
pub(super) fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // The reader of the help may have closed its end; that is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            complain("say what to do: run, demo or doctor; 'vm-iommu --help' tells more");
            ExitCode::from(exit::CANNOT_START)
        }
        _ => {
            complain(&line(&error.render().to_string()));
            ExitCode::from(exit::CANNOT_START)
        }
    }
}

/// What clap says in several paragraphs, without the usage, in one line.
pub(super) fn line(text: &str) -> String {
    let body = text.strip_prefix("error: ").unwrap_or(text);
    body.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|paragraph| !paragraph.is_empty() && !paragraph.starts_with("Usage:"))
        .map(|paragraph| paragraph.replace("For more information, try", "for help, try"))
        .collect::<Vec<_>>()
        .join("; ")
        .trim_end_matches('.')
        .to_owned()
}

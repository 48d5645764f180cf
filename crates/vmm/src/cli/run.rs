//! `vm-iommu run`.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::ExitCode;

use super::arguments::RunArguments;
use super::{complain, exit};
use crate::io::Console;
use crate::machine::{Ending, Machine};
use crate::one_line::one_line;

/// Runs the machine and returns how it ended.
pub(super) fn run(arguments: RunArguments) -> ExitCode {
    let config = arguments.into_config();
    let report = config.report.clone();
    if let Some(Err(error)) = report.as_deref().map(check_writable) {
        complain(&error);
        return ExitCode::from(exit::CANNOT_START);
    }
    let machine = match Machine::new(config, Console::stdio()) {
        Ok(machine) => machine,
        Err(error) => {
            complain(&one_line(&error));
            return ExitCode::from(exit::CANNOT_START);
        }
    };
    let outcome = match machine.run() {
        Ok(outcome) => outcome,
        Err(error) => {
            complain(&one_line(&error));
            return ExitCode::from(exit::BROKEN);
        }
    };
    match &outcome.ending {
        Ending::PowerOff | Ending::ExitDevice { .. } => log::info!("{}", outcome.ending),
        ending => complain(&ending.to_string()),
    }
    if let Some(path) = report
        && let Err(error) = outcome.report.write(&path)
    {
        complain(&format!(
            "the report cannot be written to {}: {error}",
            path.display()
        ));
        return ExitCode::from(exit::BROKEN);
    }
    ExitCode::from(outcome.ending.exit_code())
}

/// Finds out before the run, not after it, whether the report can be left where it should be.
fn check_writable(path: &Path) -> Result<(), String> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map(drop)
        .map_err(|error| {
            format!(
                "--report {}: the file cannot be written: {error}; name another",
                path.display()
            )
        })
}

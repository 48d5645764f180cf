//! The command line: what a person can ask for, and how the answer ends.

mod arguments;
mod demo;
mod doctor;
mod exit;
mod iommufd;
mod logging;
mod run;
#[cfg(test)]
mod tests;
mod usage;

use std::process::ExitCode;

use clap::Parser;
use log::Level;

use arguments::{Arguments, Command};

/// Does what this process's command line says, and returns the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage::explain(&error),
    };
    let level = match arguments.command {
        // The demo provokes what a log would warn of, and tells of it itself.
        Command::Demo(_) => Level::Error,
        Command::Run(_) | Command::Doctor(_) | Command::Iommufd(_) => Level::Warn,
    };
    logging::start(level, arguments.verbose);
    match arguments.command {
        Command::Run(arguments) => run::run(*arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Iommufd(arguments) => iommufd::iommufd(&arguments),
    }
}

/// Says in one line what is wrong.
fn complain(line: &str) {
    eprintln!("vm-iommu: {line}");
}

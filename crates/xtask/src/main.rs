//! The developer's one entry: boot a guest, test everything, compare with others.
//!
//! Exit codes: 0 all is well; 1 a check failed; 2 the command or the machine is not right.

mod bench;
mod boot;
mod checks;
mod compare;
mod coverage;
mod cpio;
mod disk;
mod emulator;
mod fuzz;
mod hypervisor;
mod initramfs;
mod job;
mod kernel;
mod libraries;
mod modules;
mod peer;
mod place;
mod proc;
mod selftest;
mod test;
mod testbed;
mod tools;
mod ui;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "Boots guests behind the unit, tests everything, compares with others.",
    after_help = "Exit codes: 0 all is well; 1 a check failed; 2 the command or the machine is \
                  not right."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot an unmodified Debian kernel with its disk behind the unit, and check what it found.
    Boot(boot::BootArgs),
    /// Everything that a change must pass: format, lints, tests, the demo, guests.
    Test(test::TestArgs),
    /// Run the kernel's own tests of an interface, unmodified, on ours.
    Selftest(selftest::SelftestArgs),
    /// Compare with others.
    Bench(bench::BenchArgs),
    /// Put the same tables and requests to QEMU's units and to ours, for a third opinion.
    Compare(compare::CompareArgs),
    /// Fuzz targets for a bounded time; what they find is a file that shows it again.
    Fuzz(fuzz::FuzzArgs),
    /// Which part of a crate's lines its own tests execute.
    Coverage(coverage::CoverageArgs),
    /// The harness inside the box: run the jobs that a folder lists.
    #[command(hide = true)]
    BoxAgent {
        /// The shared folder.
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    proc::kill_children_on_signals();
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool> {
    match command {
        Command::Boot(args) => boot::run(args),
        Command::Test(args) => test::run(args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::Compare(args) => compare::run(&args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Coverage(args) => coverage::run(&args),
        Command::BoxAgent { folder } => job::run_all(&folder).map(|()| true),
    }
}

#[cfg(test)]
mod tests;

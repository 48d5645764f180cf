//! QEMU's remapping units as a third opinion. The comparison is a program of its own, so that
//! this one does not link the units, and builds within seconds.

use crate::proc::{Bounded, Ending};
use crate::{tools, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::time::Duration;

/// The comparison ends after the seconds it was given; this is for one that hangs.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

/// What `cargo xtask compare` takes.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct CompareArgs {
    /// What the comparison takes: try --help.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the command; the answer is whether all differences are known ones.
pub fn run(args: &CompareArgs) -> Result<bool> {
    let asks = |flag| args.arguments.iter().any(|argument| argument == flag);
    if !["--help", "-h", "--document"].into_iter().any(asks) {
        tools::ensure(&[tools::QEMU])?;
    }
    let mut command = workspace::cargo();
    command
        .args(["run", "--quiet", "--package", "vm-iommu-compare", "--"])
        .args(&args.arguments);
    let mut running = Bounded::spawn(&mut command, LIMIT).context("cannot start cargo")?;
    match running.wait(|| {})? {
        Ending::Exited(0) => Ok(true),
        Ending::Exited(1) => Ok(false),
        ending => bail!("the comparison could not be made: {ending}"),
    }
}

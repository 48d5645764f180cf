//! `cargo xtask bench drain`: invalidations under devices that do not pause, on real threads.

use crate::proc;
use crate::ui::{spinner, table};
use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// A million invalidations take seconds; this is for a drain that never ends.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// What `cargo xtask bench drain` takes.
#[derive(Debug, Args)]
pub struct DrainBenchArgs {
    /// How many pages are taken away and used again.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    invalidations: u64,
    /// How many devices access memory meanwhile, each on a thread of its own.
    #[arg(long, value_name = "N", default_value_t = 2)]
    devices: u64,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command; the answer is whether no byte came late.
pub fn run(args: &DrainBenchArgs) -> Result<bool> {
    if args.invalidations == 0 || args.devices == 0 {
        bail!("--invalidations and --devices are at least 1");
    }
    let mut build = workspace::cargo();
    build
        .args(["bench", "--package", "vm-iommu-dma", "--bench", "drain"])
        .arg("--no-run");
    let program = workspace::build(build, "drain")?;
    let mut command = Command::new(program);
    command
        .arg("--json")
        .args(["--invalidations", &args.invalidations.to_string()])
        .args(["--devices", &args.devices.to_string()]);
    let bar = spinner(format!(
        "{} invalidations under {} devices",
        args.invalidations, args.devices
    ));
    // A byte that comes late is a panic of the program.
    let outcome = proc::capture(&mut command, LIMIT);
    bar.finish_and_clear();
    let text = match outcome {
        Ok(text) => text,
        Err(error) => {
            println!("failed: {error:#}");
            return Ok(false);
        }
    };
    let figures: Value =
        serde_json::from_str(text.trim()).context("the bench printed no result")?;
    if args.json {
        println!("{figures:#}");
        return Ok(true);
    }
    let mut rows = vec![["figure", "value"].map(str::to_owned).to_vec()];
    for (name, value) in figures.as_object().into_iter().flatten() {
        rows.push(vec![name.replace('_', " "), value.to_string()]);
    }
    println!("\n{}", table(&rows));
    println!("no late byte");
    Ok(true)
}

//! `cargo xtask bench server`: an ioctl through the preload library and the iommufd server.

use crate::proc;
use crate::ui::{spinner, table};
use crate::workspace;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10 * 60);
/// The most that an ioctl may cost, in echoes of a message of the same size.
const TARGET: f64 = 1.5;

/// What `cargo xtask bench server` takes.
#[derive(Debug, Args)]
pub struct ServerBenchArgs {
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command; the answer is whether the target was met.
pub fn run(args: &ServerBenchArgs) -> Result<bool> {
    let preload = workspace::build_preload()?;
    let mut build = workspace::cargo();
    build
        .args(["bench", "--package", "vm-iommufd", "--bench", "server"])
        .arg("--no-run");
    let program = workspace::build(build, "server")?;
    let mut command = Command::new(program);
    command.args(["--json", "--preload"]).arg(preload);
    let bar = spinner("ioctls and echoes in turn");
    let text = proc::capture(&mut command, LIMIT)?;
    bar.finish_and_clear();
    let figures: Value = serde_json::from_str(&text).context("the bench printed no result")?;
    let figure = |name: &str| {
        figures[name]
            .as_f64()
            .context("the bench left a figure out")
    };
    let (echo, ioctl) = (figure("echo_ns")?, figure("ioctl_ns")?);
    let ratio = ioctl / echo;
    let met = ratio <= TARGET;
    if args.json {
        let document = serde_json::json!({
            "targets_met": met,
            "echo_ns": echo,
            "ioctl_ns": ioctl,
            "ratio": ratio,
            "target": TARGET,
        });
        println!("{document:#}");
        return Ok(met);
    }
    let head = ["", "echo", "ioctl", "ratio", "at most"].map(str::to_owned);
    let row = [
        if met { "ok" } else { "MISSED" }.to_owned(),
        format!("{echo:.0} ns"),
        format!("{ioctl:.0} ns"),
        format!("{ratio:.2}"),
        TARGET.to_string(),
    ];
    println!("\n{}", table(&[head.to_vec(), row.to_vec()]));
    Ok(met)
}

//! `cargo xtask bench iommufd`: what iommufd's calls cost on a VT-d unit, as ratios in one run.

use crate::proc;
use crate::ui::{spinner, table};
use crate::workspace;
use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10 * 60);

/// What `cargo xtask bench iommufd` takes.
#[derive(Debug, Args)]
pub struct IommufdBenchArgs {
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// A figure of the bench.
#[derive(Debug, Deserialize, Serialize)]
struct Figure {
    work: String,
    ours_ns: f64,
    /// What ours is held against.
    base_ns: f64,
    ratio: f64,
    /// The largest ratio that is wanted.
    limit: f64,
}

impl Figure {
    fn met(&self) -> bool {
        self.ratio <= self.limit
    }
}

/// Runs the command; the answer is whether all targets were met.
pub fn run(args: &IommufdBenchArgs) -> Result<bool> {
    let mut build = workspace::cargo();
    build
        .args(["bench", "--package", "vm-iommufd", "--bench", "iommufd"])
        .arg("--no-run");
    let program = workspace::build(build, "iommufd")?;
    let mut command = Command::new(program);
    command.arg("--json");
    let bar = spinner("maps, unmaps, attaches and replaces");
    let text = proc::capture(&mut command, LIMIT)?;
    bar.finish_and_clear();
    let figures: Vec<Figure> =
        serde_json::from_str(&text).context("the bench printed no result")?;
    let met = figures.iter().all(Figure::met);
    if args.json {
        let document = serde_json::json!({ "targets_met": met, "figures": figures });
        println!("{document:#}");
        return Ok(met);
    }
    let mut rows = vec![
        ["", "work", "ours", "base", "ratio", "at most"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for figure in &figures {
        let row = [
            if figure.met() { "ok" } else { "MISSED" }.to_owned(),
            figure.work.clone(),
            format!("{:.0} ns", figure.ours_ns),
            format!("{:.0} ns", figure.base_ns),
            format!("{:.2}", figure.ratio),
            figure.limit.to_string(),
        ];
        rows.push(row.to_vec());
    }
    println!("\n{}", table(&rows));
    Ok(met)
}

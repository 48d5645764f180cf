//! `cargo xtask test`: everything that a change must pass, in one table.

mod cargo;
mod guests;
mod instructions;

use crate::ui::{say, seconds, table};
use crate::{place, tools, workspace};
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What `cargo xtask test` takes.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Run only these steps; may be given more than once.
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Step>,
    /// Commit to the instructions that are counted now, instead of comparing.
    #[arg(long)]
    bless: bool,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: place::PlaceArgs,
}

/// A part of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// The format of the source.
    Fmt,
    /// The compiler's and clippy's warnings, in the workspace and the fuzz targets.
    Clippy,
    /// Unit, property and integration tests.
    Unit,
    /// The examples in the documentation.
    Doc,
    /// The models of the caches and epochs, in every order of their steps.
    Loom,
    /// The fuzz targets on their committed inputs, without a fuzzer.
    Corpus,
    /// The instructions that walks and edits take, under callgrind, against the committed counts.
    Instructions,
    /// The kernel's own test of /dev/iommu, on ours.
    Selftest,
    /// The bare-metal demo on this machine's KVM, or in the box where there is none.
    Demo,
    /// Stock Linux guests behind the unit.
    Guests,
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    passed: bool,
    seconds: f64,
    found: String,
}

/// Runs the command; the answer is whether everything passed.
pub fn run(args: TestArgs) -> Result<bool> {
    let wanted = |step: Step| args.only.is_empty() || args.only.contains(&step);
    if wanted(Step::Guests) {
        // First, so that a machine where they cannot be had says so at once.
        tools::ensure(&[tools::BUSYBOX, tools::QEMU, tools::KEYRING])?;
    }
    let logs = workspace::run_folder("test")?;
    let mut rows: Vec<Row> = Step::value_variants()
        .iter()
        .filter(|step| wanted(**step))
        .filter_map(|step| cargo::runs(*step))
        .map(|(name, runs)| timed(name, || cargo::run_all(name, &runs, &logs)))
        .collect();
    if wanted(Step::Instructions) {
        rows.push(timed("instructions", || {
            instructions::run(args.bless, &logs)
        }));
    }
    if wanted(Step::Selftest) {
        rows.push(timed("iommufd selftest", crate::selftest::iommufd_outcome));
    }
    if wanted(Step::Demo) || wanted(Step::Guests) {
        match workspace::build_vmm() {
            Ok(binary) => {
                if wanted(Step::Demo) {
                    rows.extend(guests::DEMOS.iter().map(|iommu| {
                        timed(&format!("demo, {iommu}"), || guests::demo(&binary, iommu))
                    }));
                }
                if wanted(Step::Guests) {
                    rows.extend(guests::guests(&binary, args.place));
                }
            }
            Err(error) => rows.push(timed("build", || Err(error))),
        }
    }
    if rows.iter().all(|row| row.passed) {
        std::fs::remove_dir_all(&logs).ok();
    }
    Ok(conclude(&rows, args.json))
}

/// Runs one step; an error is a failure that is told in one line.
fn timed(name: &str, step: impl FnOnce() -> Result<(bool, String)>) -> Row {
    say(format!("== {name}"));
    let started = Instant::now();
    let (passed, found) = match step() {
        Ok(outcome) => outcome,
        Err(error) => (false, format!("{error:#}")),
    };
    Row {
        name: name.to_owned(),
        passed,
        seconds: started.elapsed().as_secs_f64(),
        found,
    }
}

fn conclude(rows: &[Row], json: bool) -> bool {
    let failed = rows.iter().filter(|row| !row.passed).count();
    let passed = rows.len() - failed;
    if json {
        let document = serde_json::json!({ "passed": failed == 0, "steps": rows });
        println!("{document:#}");
        return failed == 0;
    }
    let mut lines = vec![["step", "", "time", "found"].map(str::to_owned).to_vec()];
    for row in rows {
        lines.push(vec![
            row.name.clone(),
            if row.passed { "ok" } else { "FAILED" }.to_owned(),
            seconds(Duration::from_secs_f64(row.seconds)),
            row.found.clone(),
        ]);
    }
    println!("\n{}", table(&lines));
    println!("{}", verdict(passed, failed));
    failed == 0 && passed > 0
}

/// The last line of the output, which scripts read.
fn verdict(passed: usize, failed: usize) -> String {
    format!("{passed} passed, {failed} failed")
}

#[cfg(test)]
mod tests;

//! `cargo xtask test`: everything that a change must pass, in one table.

use crate::boot::{self, Guest};
use crate::hypervisor::{Place, Vmm};
use crate::initramfs::Program;
use crate::job::{self, Job};
use crate::kernel::Choice;
use crate::proc::{self, Bounded, Ending};
use crate::testbed::{self, TestBed};
use crate::ui::{say, seconds, table};
use crate::{hypervisor, place, tools, workspace};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CARGO_LIMIT: Duration = Duration::from_secs(25 * 60);
const DEMO_LIMIT: Duration = Duration::from_secs(90);
const GUEST_LIMIT: Duration = Duration::from_secs(150);
/// The kernels and processor counts that are booted.
const GUESTS: &[(&str, u32)] = &[("6.1", 1), ("6.1", 4), ("7", 1), ("7", 4)];

/// What `cargo xtask test` takes.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Run only these steps; may be given more than once.
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Step>,
    /// Print the results as JSON instead of a table; tools still print to standard error.
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
    /// The compiler's and clippy's warnings.
    Clippy,
    /// Unit, property and integration tests.
    Unit,
    /// The examples in the documentation.
    Doc,
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
    let mut rows = Vec::new();
    for step in [Step::Fmt, Step::Clippy, Step::Unit, Step::Doc] {
        if wanted(step) {
            rows.push(cargo_step(step));
        }
    }
    if wanted(Step::Demo) || wanted(Step::Guests) {
        match workspace::build_vmm() {
            Ok(binary) => {
                if wanted(Step::Demo) {
                    rows.push(timed("demo", || demo(&binary)));
                }
                if wanted(Step::Guests) {
                    rows.extend(guests(&binary, args.place));
                }
            }
            Err(error) => rows.push(timed("build", || Err(error))),
        }
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

fn cargo_step(step: Step) -> Row {
    let has_nextest = || {
        let mut probe = workspace::cargo();
        probe.args(["nextest", "--version"]);
        proc::capture(&mut probe, Duration::from_secs(60)).is_ok()
    };
    const TARGETS: &[&str] = &["--workspace", "--lib", "--bins", "--tests", "--examples"];
    let (name, arguments): (&str, Vec<&str>) = match step {
        Step::Fmt => ("fmt", vec!["fmt", "--all", "--check"]),
        Step::Clippy => (
            "clippy",
            vec![
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        Step::Doc => ("doc tests", vec!["test", "--workspace", "--doc"]),
        _ if has_nextest() => (
            "unit and property tests",
            [&["nextest", "run"], TARGETS].concat(),
        ),
        _ => ("unit and property tests", [&["test"], TARGETS].concat()),
    };
    timed(name, || {
        let mut command = workspace::cargo();
        command.args(&arguments).stdin(Stdio::null());
        // Standard output is for our own results.
        command.stdout(std::io::stderr());
        let mut running =
            Bounded::spawn(&mut command, CARGO_LIMIT).context("cannot start cargo")?;
        let ending = running.wait(|| {})?;
        let found = match ending {
            Ending::Exited(0) => String::new(),
            other => format!("cargo {}: {other}", arguments.join(" ")),
        };
        Ok((ending.is_success(), found))
    })
}

fn demo(binary: &Path) -> Result<(bool, String)> {
    let has_kvm = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if has_kvm {
        let mut command = Command::new(binary);
        command.arg("demo").stdin(Stdio::null());
        command.stdout(std::io::stderr());
        let mut running = Bounded::spawn(&mut command, DEMO_LIMIT)
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let ending = running.wait(|| {})?;
        return Ok((
            ending.is_success(),
            format!("on this machine's KVM: {ending}"),
        ));
    }
    tools::ensure(&[tools::BUSYBOX, tools::QEMU, tools::KEYRING])?;
    let program: Program = hypervisor::our_program(binary);
    let bed = TestBed::new(Place::Box, vec![program]);
    let folder = workspace::run_folder("demo")?;
    let job = Job {
        name: "demo".to_owned(),
        argv: vec![bed.program("vm-iommu"), "demo".to_owned()],
        limit_ms: DEMO_LIMIT.as_millis() as u64,
    };
    let results = bed.run(&[job], &folder, |result| {
        let console = std::fs::read(job::console_path(&folder, &result.name));
        eprint!("{}", String::from_utf8_lossy(&console.unwrap_or_default()));
        if !result.ending.is_success() {
            testbed::show_console(&folder, result);
        }
    })?;
    let result = results.first().context("the box ran no demo")?;
    if result.ending.is_success() {
        std::fs::remove_dir_all(&folder).ok();
    }
    let found = format!("in the box, since there is no /dev/kvm: {}", result.ending);
    Ok((result.ending.is_success(), found))
}

fn guests(binary: &Path, place: place::PlaceArgs) -> Vec<Row> {
    say("== guests");
    let guests: Vec<Guest> = GUESTS
        .iter()
        .filter_map(|(kernel, cpus)| {
            Some(Guest {
                kernel: kernel.parse::<Choice>().ok()?,
                cpus: *cpus,
                iommu: "vtd".to_owned(),
                memory: "1G".to_owned(),
                cmdline: String::new(),
                limit: GUEST_LIMIT,
            })
        })
        .collect();
    let started = Instant::now();
    let reports = place::choose(place, Some(binary))
        .and_then(|place| boot::run_guests(&guests, Vmm::VmIommu, Some(binary), place, |_| {}));
    match reports {
        Ok(reports) => reports
            .iter()
            .map(|report| {
                let failed = report.checks.iter().filter(|check| !check.passed);
                let failed: Vec<String> = failed
                    .map(|check| format!("{}: {}", check.name, check.found))
                    .collect();
                Row {
                    name: format!("guest {}", report.name),
                    passed: report.passed(),
                    seconds: report.wall_ms / 1e3,
                    found: if failed.is_empty() {
                        format!("{} checks", report.checks.len())
                    } else {
                        failed.join("; ")
                    },
                }
            })
            .collect(),
        Err(error) => vec![Row {
            name: "guests".to_owned(),
            passed: false,
            seconds: started.elapsed().as_secs_f64(),
            found: format!("{error:#}"),
        }],
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
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 0
}

#[cfg(test)]
mod tests;

//! `cargo xtask coverage`: which part of a crate's lines its own tests execute.
//!
//! The compiler's instrumentation counts, and LLVM's tools of the same version read the counts.

use crate::proc::{self, Bounded};
use crate::tools::{self, Tool};
use crate::ui::{say, table};
use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const TEST_LIMIT: Duration = Duration::from_secs(30 * 60);
const READ_LIMIT: Duration = Duration::from_secs(5 * 60);
/// LLVM of the version that rustc has: older ones cannot read its counts.
const LLVM_COV: Tool = Tool {
    name: "llvm-cov-22",
    package: "llvm-22",
};
const LLVM_PROFDATA: Tool = Tool {
    name: "llvm-profdata-22",
    package: "llvm-22",
};

/// What `cargo xtask coverage` takes.
#[derive(Debug, Args)]
pub struct CoverageArgs {
    /// The folder of a crate in `crates`.
    #[arg(default_value = "pagetable")]
    member: String,
    /// The least percentage of lines that is wanted.
    #[arg(long, value_name = "PERCENT", default_value_t = 95.0)]
    least: f64,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What `llvm-cov export` says, as far as it is read.
#[derive(Debug, Deserialize)]
struct Export {
    data: Vec<Data>,
}

#[derive(Debug, Deserialize)]
struct Data {
    files: Vec<File>,
    totals: Summary,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    filename: PathBuf,
    summary: Summary,
}

#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    lines: Lines,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Lines {
    count: u64,
    covered: u64,
    percent: f64,
}

/// Runs the command; the answer is whether enough lines are executed.
pub fn run(args: &CoverageArgs) -> Result<bool> {
    let source = workspace::root()
        .join("crates")
        .join(&args.member)
        .join("src");
    let sources = sources(&source)?;
    tools::ensure(&[LLVM_COV, LLVM_PROFDATA])?;
    let folder = workspace::run_folder("coverage")?;
    say(format!("testing {} with counters", args.member));
    let package = format!("vm-iommu-{}", args.member);
    let programs = workspace::build_all(test(&package, &folder, &["--no-run"]), &package)?;
    let mut command = test(&package, &folder, &[]);
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    let mut running = Bounded::spawn(&mut command, TEST_LIMIT).context("cannot start cargo")?;
    let ending = running.wait(|| {})?;
    if !ending.is_success() {
        bail!("the tests of {package} failed ({ending}); their output is above");
    }
    let data = read(&folder, &programs, &sources)?;
    std::fs::remove_dir_all(&folder).ok();
    let enough = data.totals.lines.percent >= args.least;
    if args.json {
        let document = serde_json::json!({
            "passed": enough,
            "lines": data.totals.lines,
            "files": data.files,
        });
        println!("{document:#}");
    } else {
        println!("\n{}", render(&data, &source));
    }
    Ok(enough)
}

/// A call of `cargo test`, built with counters, which are left in `folder`.
fn test(package: &str, folder: &Path, more: &[&str]) -> Command {
    let mut command = workspace::cargo();
    command
        .args(["test", "--package", package, "--lib", "--tests"])
        .args(more)
        .env("RUSTFLAGS", "-Cinstrument-coverage")
        .env("CARGO_TARGET_DIR", workspace::target().join("coverage"))
        // Each process has a file of its own.
        .env("LLVM_PROFILE_FILE", folder.join("%p-%m.profraw"));
    command
}

/// The sources in `folder` and below, but for tests.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found = Vec::new();
    for path in listing.flatten().map(|entry| entry.path()) {
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What the counters in `folder` say about `sources`.
fn read(folder: &Path, programs: &[workspace::Program], sources: &[PathBuf]) -> Result<Data> {
    let counters = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path());
    let counters = counters.filter(|path| path.extension().is_some_and(|e| e == "profraw"));
    let merged = folder.join("merged");
    let mut merge = Command::new(tools::require(LLVM_PROFDATA)?);
    merge
        .args(["merge", "-sparse", "-o"])
        .arg(&merged)
        .args(counters);
    proc::capture(&mut merge, READ_LIMIT)?;
    let mut export = Command::new(tools::require(LLVM_COV)?);
    export
        .args(["export", "-summary-only", "-instr-profile"])
        .arg(&merged);
    for program in programs {
        export.arg("-object").arg(&program.path);
    }
    export.arg("-sources").args(sources);
    parse(&proc::capture(&mut export, READ_LIMIT)?)
}

fn parse(text: &str) -> Result<Data> {
    let export: Export = serde_json::from_str(text).context("llvm-cov wrote something else")?;
    let data = export.data.into_iter().next();
    data.filter(|data| data.totals.lines.count > 0)
        .context("no line was counted")
}

fn render(data: &Data, source: &Path) -> String {
    let row = |name: String, lines: Lines| {
        let missed = lines.count.saturating_sub(lines.covered);
        let percent = format!("{:.1} %", lines.percent);
        vec![name, lines.count.to_string(), missed.to_string(), percent]
    };
    let mut rows = vec![
        ["file", "lines", "missed", "executed"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for file in &data.files {
        let name = file.filename.strip_prefix(source).unwrap_or(&file.filename);
        rows.push(row(name.display().to_string(), file.summary.lines));
    }
    rows.push(row("all".to_owned(), data.totals.lines));
    table(&rows)
}

#[cfg(test)]
mod tests;

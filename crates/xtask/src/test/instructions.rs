//! The step that counts instructions: pieces of work under callgrind, held against the counts
//! that are committed.
//!
//! Instructions, unlike times, are the same on a busy machine and on an idle one. The compiler is
//! pinned, and the C library is told to use the same variant of each function everywhere.

use crate::proc;
use crate::tools::{self, Tool};
use crate::ui::{say, spinner, table};
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const RUN_LIMIT: Duration = Duration::from_secs(5 * 60);
const VALGRIND: Tool = Tool {
    name: "valgrind",
    package: "valgrind",
};
const PROGRAM: &str = "vm-iommu-instructions";
/// How often a piece of work is done in the shorter of its two runs.
const TIMES: u64 = 1024;
/// How far a count may be from the committed one, as a part of that.
const TOLERANCE: f64 = 0.02;
/// What the C library must not choose by the processor.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-ERMS,-AVX_Fast_Unaligned_Load";

/// Instructions for one time, rounded, by the name of the work.
pub type Counts = BTreeMap<String, u64>;

/// Where the committed counts are.
fn committed() -> PathBuf {
    workspace::root().join("crates/instructions/counts.json")
}

/// Runs the step: counts, prints the table, and compares or, if `bless`, commits to the counts.
pub fn run(bless: bool, logs: &Path) -> Result<(bool, String)> {
    tools::ensure(&[VALGRIND])?;
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--package", PROGRAM]);
    let program = workspace::build(build, PROGRAM)?;
    let list = proc::capture(Command::new(&program).arg("list"), RUN_LIMIT)?;
    let mut found = Counts::new();
    for name in list.lines() {
        let bar = spinner(format!("counting {name}"));
        let once = count(&program, name, TIMES, logs)?;
        let twice = count(&program, name, 2 * TIMES, logs)?;
        bar.finish_and_clear();
        let difference = twice.checked_sub(once).context("more work, fewer counts")?;
        found.insert(name.to_owned(), (difference + TIMES / 2) / TIMES);
    }
    if bless {
        write(&found)?;
        return Ok((true, format!("{} counts written", found.len())));
    }
    let held = read()?;
    eprint!("\n{}", render(&held, &found));
    let complaints = complaints(&held, &found);
    if complaints.is_empty() {
        return Ok((true, format!("{} counts", found.len())));
    }
    say(format!(
        "what each function costs: callgrind_annotate {}/callgrind-NAME",
        logs.display()
    ));
    say("if the new counts are meant to be: cargo xtask test --only instructions --bless");
    Ok((false, complaints.join("; ")))
}

/// Runs a piece of work so many times, and returns the instructions of the whole program.
fn count(program: &Path, name: &str, times: u64, logs: &Path) -> Result<u64> {
    let profile = logs.join(format!("callgrind-{name}"));
    let mut command = Command::new(tools::require(VALGRIND)?);
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args([name, &times.to_string()])
        .env("GLIBC_TUNABLES", TUNABLES);
    proc::output(&mut command, RUN_LIMIT).with_context(|| format!("cannot count {name}"))?;
    let text = std::fs::read_to_string(&profile)
        .with_context(|| format!("no profile in {}", profile.display()))?;
    total(&text).with_context(|| format!("no total in {}", profile.display()))
}

/// The instructions that a profile of callgrind says were executed.
pub fn total(profile: &str) -> Option<u64> {
    let line = profile.lines().find_map(|l| l.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn read() -> Result<Counts> {
    let path = committed();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no list", path.display()))
}

fn write(counts: &Counts) -> Result<()> {
    let path = committed();
    if counts.is_empty() {
        bail!("nothing was counted");
    }
    let text = serde_json::to_string_pretty(counts)? + "\n";
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// How far `found` is from `held`, as a part of that.
fn change(held: u64, found: u64) -> f64 {
    (found as f64 - held as f64) / held.max(1) as f64
}

fn render(held: &Counts, found: &Counts) -> String {
    let mut rows = vec![["work", "held", "found", ""].map(str::to_owned).to_vec()];
    for (name, found) in found {
        let held = held.get(name);
        rows.push(vec![
            name.clone(),
            held.map_or("none".to_owned(), u64::to_string),
            found.to_string(),
            held.map_or(String::new(), |held| {
                format!("{:+.1} %", 100.0 * change(*held, *found))
            }),
        ]);
    }
    table(&rows)
}

/// What is not as committed. A count that fell is to be committed, too: otherwise what was won
/// could be lost again unseen.
pub fn complaints(held: &Counts, found: &Counts) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, count) in found {
        match held.get(name) {
            None => complaints.push(format!("{name}: {count}, no count is committed")),
            Some(held) if change(*held, *count).abs() > TOLERANCE => {
                complaints.push(format!("{name}: {count} instead of {held}"));
            }
            Some(_) => {}
        }
    }
    let gone = held.keys().filter(|name| !found.contains_key(*name));
    complaints.extend(gone.map(|name| format!("{name}: was not counted")));
    complaints
}

#[cfg(test)]
mod tests;

//! `cargo xtask fuzz`: the fuzz targets for a bounded time, on a nightly compiler with the
//! address sanitizer.

mod build;
mod log;

use crate::proc::{Bounded, Ending};
use crate::ui::{percent_bar, say, table, tail};
use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::Args;
use log::Progress;
use serde::Serialize;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest input, in bytes; no target reads further.
const MAX_LENGTH: u32 = 4096;
/// An input that takes longer, in seconds, is a finding.
const INPUT_LIMIT: u32 = 25;
const MEMORY_MIB: u32 = 2048;
/// For reading the corpus, and for writing a finding down.
const GRACE: Duration = Duration::from_secs(120);
const LOG_TAIL: usize = 40;

/// What `cargo xtask fuzz` takes.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// A target, `all` for each in turn, or `list` to name them.
    target: String,
    /// How long each target runs.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    minutes: f64,
    /// Run the target on this file alone, to see a finding again.
    #[arg(long, value_name = "FILE", conflicts_with = "minutes")]
    input: Option<PathBuf>,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// How one target did.
#[derive(Debug, Serialize)]
struct Outcome {
    target: String,
    seconds: f64,
    progress: Progress,
    ending: Ending,
}

impl Outcome {
    fn passed(&self) -> bool {
        self.ending.is_success() && self.progress.findings.is_empty()
    }

    fn found(&self) -> String {
        let findings = &self.progress.findings;
        match (findings.as_slice(), self.ending) {
            ([], Ending::Exited(0)) => "nothing".to_owned(),
            ([], ending) => format!("no artifact, but {ending}"),
            (findings, _) => findings.join(", "),
        }
    }
}

/// Runs the command; the answer is whether nothing was found.
pub fn run(args: FuzzArgs) -> Result<bool> {
    let known = targets()?;
    if args.target == "list" {
        list(&known, args.json);
        return Ok(true);
    }
    let chosen: Vec<&String> = known
        .iter()
        .filter(|name| args.target == "all" || args.target == **name)
        .collect();
    if chosen.is_empty() {
        bail!(
            "no fuzz target is called {}; there are {}, and all",
            args.target,
            known.join(", ")
        );
    }
    if let Some(input) = &args.input {
        let [target] = chosen.as_slice() else {
            bail!("--input needs one target, not all");
        };
        return replay(target, input);
    }
    let time = duration(args.minutes)?;
    let build = build::all()?;
    let mut outcomes = Vec::new();
    for target in chosen {
        outcomes.push(fuzz(target, &build.join(target), time)?);
    }
    conclude(&outcomes, args.json);
    Ok(outcomes.iter().all(Outcome::passed))
}

/// The folder of the fuzz crate.
fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

/// The names of all targets: each has an entry point of its own.
fn targets() -> Result<Vec<String>> {
    let entries = folder().join("fuzz_targets");
    let listing = std::fs::read_dir(&entries)
        .with_context(|| format!("cannot read {}", entries.display()))?;
    let mut names: Vec<String> = listing
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn list(names: &[String], json: bool) {
    if json {
        println!("{:#}", serde_json::json!({ "targets": names }));
        return;
    }
    for name in names {
        println!("{name}");
    }
}

fn duration(minutes: f64) -> Result<Duration> {
    // A day is beyond what anybody waits for, and far from overflow.
    if !(minutes > 0.0 && minutes <= 24.0 * 60.0) {
        bail!("--minutes is more than 0 and at most 1440, not {minutes}");
    }
    Ok(Duration::from_secs_f64((minutes * 60.0).max(1.0)))
}

/// Runs one target for `time`. What it learns stays in the target folder, for the next run; the
/// committed inputs are only read.
fn fuzz(target: &str, binary: &Path, time: Duration) -> Result<Outcome> {
    let artifacts = folder().join("artifacts").join(target);
    let learnt = workspace::target().join("fuzz/corpus").join(target);
    for needed in [&artifacts, &learnt] {
        std::fs::create_dir_all(needed)
            .with_context(|| format!("cannot create {}", needed.display()))?;
    }
    let mut command = Command::new(binary);
    command
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-max_len={MAX_LENGTH}"))
        .arg(format!("-timeout={INPUT_LIMIT}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-detect_leaks=0"])
        .arg(&learnt);
    let committed = folder().join("corpus").join(target);
    if committed.is_dir() {
        command.arg(committed);
    }
    say(format!("{target}: {:.0} s", time.as_secs_f64()));
    let bar = percent_bar(target, time.as_secs());
    let started = Instant::now();
    let (ending, log) = watch(command, time + GRACE, |progress| {
        bar.set_position(started.elapsed().as_secs().min(time.as_secs()));
        bar.set_message(format!("{target}: {progress}"));
    })?;
    bar.finish_and_clear();
    let outcome = Outcome {
        target: target.to_owned(),
        seconds: started.elapsed().as_secs_f64(),
        progress: log.progress,
        ending,
    };
    if !outcome.passed() {
        say(format!("{target}: the end of its output:"));
        let last: Vec<String> = log.last.into();
        eprint!("{}", tail(&last.join("\n"), LOG_TAIL));
        for finding in &outcome.progress.findings {
            say(format!(
                "to see it again: cargo xtask fuzz {target} --input {finding}"
            ));
        }
    }
    Ok(outcome)
}

/// Runs a target on one file, with its output as it comes.
fn replay(target: &str, input: &Path) -> Result<bool> {
    let input = std::path::absolute(input)?;
    if !input.is_file() {
        bail!("{} is not a file", input.display());
    }
    let binary = build::all()?.join(target);
    let mut command = Command::new(binary);
    command
        .arg(format!("-timeout={INPUT_LIMIT}"))
        .args(["-detect_leaks=0"])
        .arg(&input)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null());
    let mut running = Bounded::spawn(&mut command, GRACE).context("cannot start the target")?;
    let ending = running.wait(|| {})?;
    say(format!("{target} on {}: {ending}", input.display()));
    Ok(ending.is_success())
}

/// Runs `command` to its end, reading what it says; `tick` sees how far it is.
fn watch(
    mut command: Command,
    limit: Duration,
    tick: impl Fn(&Progress),
) -> Result<(Ending, log::Log)> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut running = Bounded::spawn(&mut command, limit).context("cannot start the target")?;
    let stderr = running.child().stderr.take().context("no error pipe")?;
    let log = Arc::new(Mutex::new(log::Log::default()));
    let reader = std::thread::spawn({
        let log = Arc::clone(&log);
        move || {
            let mut input = std::io::BufReader::new(stderr);
            let mut line = Vec::new();
            // An input's bytes may be printed as they are, so lines need not be text.
            while input
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                if let Ok(mut log) = log.lock() {
                    log.line(String::from_utf8_lossy(&line).trim_end());
                }
                line.clear();
            }
        }
    });
    let ending = running.wait(|| {
        if let Ok(log) = log.lock() {
            tick(&log.progress);
        }
    })?;
    let _ = reader.join();
    let log = log.lock().map(|log| log.clone()).unwrap_or_default();
    Ok((ending, log))
}

fn conclude(outcomes: &[Outcome], json: bool) {
    if json {
        let passed = outcomes.iter().all(Outcome::passed);
        let document = serde_json::json!({ "passed": passed, "targets": outcomes });
        println!("{document:#}");
        return;
    }
    let head = [
        "target",
        "time",
        "executions",
        "per s",
        "coverage",
        "features",
        "corpus",
        "found",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for outcome in outcomes {
        let progress = &outcome.progress;
        rows.push(vec![
            outcome.target.clone(),
            format!("{:.0} s", outcome.seconds),
            progress.executions.to_string(),
            format!(
                "{:.0}",
                progress.executions as f64 / outcome.seconds.max(1.0)
            ),
            progress.coverage.to_string(),
            progress.features.to_string(),
            progress.corpus.to_string(),
            outcome.found(),
        ]);
    }
    println!("\n{}", table(&rows));
}

#[cfg(test)]
mod tests;

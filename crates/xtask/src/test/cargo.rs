//! The steps that are cargo's.

use super::Step;
use crate::proc::{self, Bounded, Ending};
use crate::ui::{say, spinner, tail};
use crate::workspace;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(25 * 60);
const LOG_TAIL: usize = 60;

/// The tests that are built as cargo's own harness builds them; benches are not run.
const TARGETS: &[&str] = &["--workspace", "--lib", "--bins", "--tests", "--examples"];
/// The fuzz crate without a fuzzer's runtime, as an ordinary library.
const FUZZ: &[&str] = &[
    "--manifest-path",
    "fuzz/Cargo.toml",
    "--no-default-features",
    "--features",
    "vtd,amdvi,iommufd",
];
const DENY_WARNINGS: &[&str] = &["--", "-D", "warnings"];

/// One call of cargo.
#[derive(Debug)]
pub struct Run {
    /// Its arguments.
    pub arguments: Vec<&'static str>,
    /// Compiler flags that need build products of their own, kept in this folder.
    pub flags: Option<(&'static str, &'static str)>,
}

impl Run {
    fn new(parts: &[&[&'static str]]) -> Self {
        Run {
            arguments: parts.concat(),
            flags: None,
        }
    }

    fn command(&self) -> Command {
        let mut command = workspace::cargo();
        command.args(&self.arguments);
        if let Some((folder, flags)) = self.flags {
            command.env("RUSTFLAGS", flags);
            command.env("CARGO_TARGET_DIR", workspace::target().join(folder));
        }
        command
    }
}

/// What a step is called and what it runs, if it is one of these.
pub fn runs(step: Step) -> Option<(&'static str, Vec<Run>)> {
    let run = Run::new;
    Some(match step {
        Step::Fmt => ("fmt", vec![run(&[&["fmt", "--all", "--check"]])]),
        Step::Clippy => (
            "clippy",
            vec![
                run(&[&["clippy", "--workspace", "--all-targets"], DENY_WARNINGS]),
                run(&[&["clippy", "--all-targets"], FUZZ, DENY_WARNINGS]),
            ],
        ),
        Step::Unit if has_nextest() => (
            "unit and property tests",
            vec![run(&[&["nextest", "run", "--no-fail-fast"], TARGETS])],
        ),
        Step::Unit => (
            "unit and property tests",
            vec![run(&[&["test", "--no-fail-fast"], TARGETS])],
        ),
        Step::Doc => ("doc tests", vec![run(&[&["test", "--workspace", "--doc"]])]),
        Step::Loom => (
            "loom models",
            vec![Run {
                // A model's run is thousands of interleavings, so the optimiser earns its time.
                flags: Some(("loom", "--cfg loom")),
                ..run(&[&[
                    "test",
                    "--release",
                    "--package",
                    "vm-iommu-dma",
                    "--lib",
                    "models",
                ]])
            }],
        ),
        Step::Corpus => ("fuzz corpora", vec![run(&[&["test"], FUZZ])]),
        Step::Instructions | Step::Selftest | Step::Demo | Step::Guests => return None,
    })
}

fn has_nextest() -> bool {
    let mut probe = workspace::cargo();
    probe.args(["nextest", "--version"]);
    proc::capture(&mut probe, Duration::from_secs(60)).is_ok()
}

/// Runs a step's calls until one fails; that one's output is shown to its end.
pub fn run_all(name: &str, runs: &[Run], logs: &Path) -> Result<(bool, String)> {
    for (index, run) in runs.iter().enumerate() {
        let log = logs.join(format!("{}-{index}.log", name.replace(' ', "-")));
        let ending = logged(run.command(), name, &log)?;
        if ending == Ending::Exited(0) {
            continue;
        }
        let bytes = std::fs::read(&log).unwrap_or_default();
        say(format!("{name}: the end of {}:", log.display()));
        eprint!("{}", tail(&String::from_utf8_lossy(&bytes), LOG_TAIL));
        let found = format!("cargo {}: {ending}", run.arguments.join(" "));
        return Ok((false, found));
    }
    Ok((true, String::new()))
}

/// Runs `command` with all that it says in the file `log`.
fn logged(mut command: Command, name: &str, log: &Path) -> Result<Ending> {
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let bar = spinner(name);
    let mut running = Bounded::spawn(&mut command, LIMIT).context("cannot start cargo")?;
    let ending = running.wait(|| {})?;
    bar.finish_and_clear();
    Ok(ending)
}

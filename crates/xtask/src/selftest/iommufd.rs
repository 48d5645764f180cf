//! `cargo xtask selftest iommufd`: fetch, build, run, compare.

use super::list::{Comparison, Count, List};
use super::tap::Reader;
use crate::kernel::source::{self, Tree};
use crate::proc::{self, Bounded, Ending};
use crate::ui::{percent_bar, say, spinner, table};
use crate::{tools, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const BUILD_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The whole takes seconds; the harness ends a case that hangs after half a minute.
const RUN_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What `cargo xtask selftest iommufd` takes.
#[derive(Debug, Args)]
pub struct IommufdArgs {
    /// Take the newest source that the mirror has, not the version whose cases are known.
    #[arg(long)]
    newest: bool,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// What the test program takes, to run a part: `-- -f iommufd -t simple_close`; `-- -h` tells.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// A run of the test, held against the list.
struct Run {
    version: String,
    ending: Ending,
    comparison: Comparison,
    good: bool,
}

/// Runs the command; the answer is whether every known case went as it should.
pub fn run(args: &IommufdArgs) -> Result<bool> {
    let run = run_whole(args)?;
    if args.json {
        let document = serde_json::json!({
            "source": run.version,
            "passed": run.good,
            "ending": run.ending.to_string(),
            "results": run.comparison,
        });
        println!("{document:#}");
    } else {
        print(&run);
    }
    Ok(run.good)
}

/// Runs all cases of the known version: whether they went as they should, and how many did.
pub fn outcome() -> Result<(bool, String)> {
    let run = run_whole(&IommufdArgs {
        newest: false,
        json: false,
        arguments: Vec::new(),
    })?;
    let wrong = run.comparison.wrong.first();
    let first = wrong.map_or(String::new(), |wrong| format!(", first {}", wrong.name));
    Ok((run.good, tally(&run.comparison) + &first))
}

fn tally(comparison: &Comparison) -> String {
    let total = &comparison.total;
    format!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    )
}

fn run_whole(args: &IommufdArgs) -> Result<Run> {
    tools::ensure(tools::SELFTEST_BUILD)?;
    let list = List::iommufd()?;
    let tree = source::tree(args.newest)?;
    let program = build(&tree)?;
    let server = workspace::build_vmm()?;
    let preload = workspace::build_preload()?;
    let folder = workspace::run_folder("selftest")?;
    let errors = folder.join("iommufd.stderr.log");
    let (reader, ending) = execute(&server, &preload, &program, &args.arguments, &errors)?;
    let part = !args.arguments.is_empty();
    let ran = reader.cases.len();
    let whole = reader.planned.is_some_and(|planned| planned == ran);
    let comparison = list.compare(reader.cases, part);
    let good = comparison.total.failed == 0 && comparison.total.passed > 0 && (part || whole);
    if good {
        std::fs::remove_dir_all(&folder).ok();
    } else {
        say(format!("what was said is in {}", errors.display()));
    }
    Ok(Run {
        version: tree.version,
        ending,
        comparison,
        good,
    })
}

/// Builds the test as its own makefile does, with nothing changed.
fn build(tree: &Tree) -> Result<PathBuf> {
    let output = workspace::target().join("selftests").join(&tree.version);
    std::fs::create_dir_all(&output)
        .with_context(|| format!("cannot create {}", output.display()))?;
    let program = output.join("iommufd");
    let bar = spinner("building the selftest");
    let mut make = Command::new("make");
    make.arg("-C")
        .arg(tree.root.join("tools/testing/selftests/iommu"))
        .arg(format!("OUTPUT={}", output.display()))
        .arg(format!(
            "KHDR_INCLUDES=-isystem {}",
            tree.root.join("usr/include").display()
        ))
        .arg(&program);
    proc::capture(&mut make, BUILD_LIMIT).context("cannot build the selftest")?;
    bar.finish_and_clear();
    Ok(program)
}

fn execute(
    server: &Path,
    preload: &Path,
    program: &Path,
    arguments: &[String],
    errors: &Path,
) -> Result<(Reader, Ending)> {
    let stderr =
        File::create(errors).with_context(|| format!("cannot create {}", errors.display()))?;
    let mut command = Command::new(server);
    command
        // Without root, the larger cases would fail for their size.
        .args(["iommufd", "--no-lock-limit", "--preload"])
        .arg(preload)
        .arg("--")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr);
    let mut running = Bounded::spawn(&mut command, RUN_LIMIT).context("cannot start the server")?;
    let stdout = running.child().stdout.take().context("no output pipe")?;
    let bar = percent_bar("starting", 1);
    let progress = bar.clone();
    let thread = std::thread::spawn(move || {
        let mut reader = Reader::default();
        // A line of the test itself may hold anything.
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if let Some(name) = reader.line(&line) {
                progress.set_length(reader.planned.unwrap_or(1) as u64);
                progress.set_position(reader.cases.len() as u64);
                progress.set_message(name.to_owned());
            }
        }
        reader
    });
    let ending = running.wait(|| {})?;
    bar.finish_and_clear();
    let Ok(reader) = thread.join() else {
        bail!("the reader of the test's output failed");
    };
    if reader.planned.is_none() {
        let text = std::fs::read_to_string(errors).unwrap_or_default();
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        bail!(
            "the test did not begin ({ending}): {}",
            last.unwrap_or("nothing was said")
        );
    }
    Ok((reader, ending))
}

fn print(run: &Run) {
    let row = |name: &str, count: &Count| {
        let numbers = [count.cases, count.passed, count.skipped, count.failed];
        let mut row = vec![name.to_owned()];
        row.extend(numbers.map(|number| number.to_string()));
        row
    };
    let comparison = &run.comparison;
    let head = ["fixture", "cases", "pass", "skip", "fail"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let ran = comparison
        .fixtures
        .iter()
        .filter(|(_, count)| count.cases > 0);
    rows.extend(ran.map(|(name, count)| row(name, count)));
    rows.push(row("all", &comparison.total));
    println!(
        "\nThe iommufd selftest of Linux {}: {}\n",
        run.version, run.ending
    );
    println!("{}", table(&rows));
    for wrong in &comparison.wrong {
        println!("{}: {}", wrong.name, wrong.found);
        for line in &wrong.said {
            println!("    {line}");
        }
    }
    if !comparison.new.is_empty() {
        println!("cases that are not in the list, and do not count:");
        for case in &comparison.new {
            println!("  {:?} {}", case.outcome, case.name);
        }
    }
    println!("{}", tally(comparison));
}

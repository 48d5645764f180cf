//! `cargo xtask bench dma`: what an access costs, beside the same access without any IOMMU.
//!
//! The bench is built twice, without and with fat link-time optimisation, and so is a program of
//! the accesses without an IOMMU alone, since any of these may make such an access fastest; all
//! programs run in turn. The fastest raw access is what ours, built as embedders build it by
//! default, is held against.

mod target;

use crate::proc;
use crate::ui::{say, spinner, table};
use crate::workspace;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use target::{Limit, TARGETS, Target};

const RUN_LIMIT: Duration = Duration::from_secs(10 * 60);

/// What `cargo xtask bench dma` takes.
#[derive(Debug, Args)]
pub struct DmaBenchArgs {
    /// How often each of the programs runs; the fastest run of each figure counts, which the
    /// machine's other work disturbed least.
    #[arg(long, value_name = "N", default_value_t = 2)]
    rounds: u32,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Nanoseconds by the name of a column.
type Columns = BTreeMap<String, f64>;

/// One build's figures, by the work measured.
type Figures = BTreeMap<String, Columns>;

/// A line of the table.
#[derive(Debug, Serialize)]
struct Line {
    work: &'static str,
    /// What ours is held against, by name and in nanoseconds.
    base: &'static str,
    base_ns: f64,
    ours: &'static str,
    ours_ns: f64,
    /// Ours with link-time optimisation.
    ours_lto_ns: f64,
    ratio: f64,
    /// The largest ratio that is wanted, where one is.
    target: Option<f64>,
    met: bool,
    /// The library's own IOTLB, where it does the same work.
    peer_ns: Option<f64>,
}

/// Runs the command; the answer is whether all targets were met.
pub fn run(args: &DmaBenchArgs) -> Result<bool> {
    if args.rounds == 0 {
        bail!("--rounds is at least 1");
    }
    let programs = [build(None)?, build(Some("fat"))?];
    let mut figures = [Figures::new(), Figures::new()];
    for round in 1..=args.rounds {
        for (programs, figures) in programs.iter().zip(&mut figures) {
            for program in programs {
                let bar = spinner(format!("round {round} of {}", args.rounds));
                let text = output(program)?;
                bar.finish_and_clear();
                merge(figures, &text)?;
            }
        }
    }
    let [plain, lto] = &figures;
    let lines = TARGETS
        .iter()
        .map(|target| line(target, plain, lto))
        .collect::<Result<Vec<Line>>>()?;
    let met = lines.iter().all(|line| line.met);
    if args.json {
        let document = serde_json::json!({
            "targets_met": met,
            "rows": lines,
            "plain_ns": plain,
            "lto_ns": lto,
        });
        println!("{document:#}");
    } else {
        print(&lines);
    }
    Ok(met)
}

/// Builds the bench and the accesses without an IOMMU, and returns their programs.
fn build(lto: Option<&str>) -> Result<[PathBuf; 2]> {
    say(match lto {
        None => "building the bench",
        Some(_) => "building the bench with link-time optimisation",
    });
    let program = |name| {
        let mut command = workspace::cargo();
        command
            .args(["bench", "--package", "vm-iommu-dma", "--bench", name])
            .arg("--no-run");
        if let Some(lto) = lto {
            command.env("CARGO_PROFILE_BENCH_LTO", lto);
            command.env("CARGO_TARGET_DIR", workspace::target().join("lto"));
        }
        workspace::build(command, name)
    };
    Ok([program("raw")?, program("dma")?])
}

/// Runs a program of the bench, its figures one row a line.
fn output(program: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command.arg("--json");
    proc::capture(&mut command, RUN_LIMIT)
}

/// Takes a run's rows into `figures`: of each figure, the least that was seen.
fn merge(figures: &mut Figures, text: &str) -> Result<()> {
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let malformed = || format!("the bench printed a line that is no row: {line}");
        let row: BTreeMap<String, Value> = serde_json::from_str(line).with_context(malformed)?;
        let work = row.get("work").and_then(Value::as_str);
        let columns = figures
            .entry(work.with_context(malformed)?.to_owned())
            .or_default();
        for (name, value) in row.iter().filter(|(name, _)| *name != "work") {
            let value = value.as_f64().with_context(malformed)?;
            let least = columns.entry(name.clone()).or_insert(value);
            *least = least.min(value);
        }
    }
    Ok(())
}

/// The least figure of the same work in either build.
fn least(plain: &Columns, lto: &Columns, column: &str) -> Option<f64> {
    let (plain, lto) = (plain.get(column), lto.get(column));
    plain.into_iter().chain(lto).copied().reduce(f64::min)
}

/// Ours against its base: how many times as long it takes, and both figures.
fn ratio(target: &Target, plain: &Figures, lto: &Figures) -> Result<(f64, f64, f64)> {
    let missing = |column: &str| format!("the bench has no {column} for {}", target.work);
    let (plain, lto) = plain
        .get(target.work)
        .zip(lto.get(target.work))
        .with_context(|| missing("row"))?;
    let base = least(plain, lto, target.base).with_context(|| missing(target.base))?;
    let ours = plain.get(target.ours).copied();
    let ours = ours.with_context(|| missing(target.ours))?;
    Ok((ours / base, base, ours))
}

fn line(target: &Target, plain: &Figures, lto: &Figures) -> Result<Line> {
    let (ratio_found, base_ns, ours_ns) = ratio(target, plain, lto)?;
    let most = match target.limit {
        Limit::None => None,
        Limit::Ratio(most) => Some(most),
        Limit::TimesThatOf(factor, work) => {
            let other = Target { work, ..*target };
            Some(factor * ratio(&other, plain, lto)?.0)
        }
    };
    let find = |figures: &Figures, column: &str| figures.get(target.work)?.get(column).copied();
    Ok(Line {
        work: target.work,
        base: target.base,
        base_ns,
        ours: target.ours,
        ours_ns,
        ours_lto_ns: find(lto, target.ours).unwrap_or(f64::NAN),
        ratio: ratio_found,
        target: most,
        met: most.is_none_or(|most| ratio_found <= most),
        peer_ns: find(plain, target::PEER),
    })
}

fn print(lines: &[Line]) {
    let nanoseconds = |value: f64| format!("{value:.1}");
    let head = [
        "work", "base", "ns", "ours", "ns", "with LTO", "ratio", "target", "", "peer ns",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for line in lines {
        rows.push(vec![
            line.work.to_owned(),
            line.base.to_owned(),
            nanoseconds(line.base_ns),
            line.ours.to_owned(),
            nanoseconds(line.ours_ns),
            nanoseconds(line.ours_lto_ns),
            format!("{:.2}", line.ratio),
            line.target
                .map_or("-".to_owned(), |most| format!("{most:.2}")),
            match (line.target, line.met) {
                (None, _) => "",
                (_, true) => "met",
                (_, false) => "MISSED",
            }
            .to_owned(),
            line.peer_ns.map_or(String::new(), nanoseconds),
        ]);
    }
    println!("\n{}", table(&rows));
    println!(
        "medians in nanoseconds; raw is an access without any IOMMU, the faster of the builds \
         without and with\nlink-time optimisation; ours is the build without; the peer is \
         vm-memory's IommuMemory"
    );
    let missed = lines.iter().filter(|line| !line.met).count();
    let judged = lines.iter().filter(|line| line.target.is_some()).count();
    println!("{} of {judged} targets met", judged - missed);
}

#[cfg(test)]
mod tests;

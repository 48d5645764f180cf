//! `cargo xtask compare`: see the library.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use vm_iommu_compare::amd::run as amd;
use vm_iommu_compare::document::document;
use vm_iommu_compare::qemu::PROGRAM;
use vm_iommu_compare::vtd::run::{Options, Report, run};
use vm_iommu_compare::vtd::session::SESSIONS;

/// Puts the same tables and requests to QEMU's remapping unit and to ours.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask compare",
    after_help = "Exit codes: 0 every difference is a known one; 1 one is not; 2 the command or \
                  the machine is not right."
)]
struct Arguments {
    /// How long, over all units, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 8)]
    seconds: u64,
    /// Where the random choices come from.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Only this of QEMU's units: 48, 39, 48-snoop, 48-device-tlb or amd-v1.
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// Only this case; with the seed and the unit that a report names, it is the same again.
    #[arg(long, value_name = "NUMBER", requires = "session")]
    case: Option<u64>,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
    /// Run nothing: print the page that lists the known differences.
    #[arg(long)]
    document: bool,
}

fn main() -> ExitCode {
    match compare(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn compare(arguments: &Arguments) -> Result<bool> {
    if arguments.document {
        print!("{}", document());
        return Ok(true);
    }
    let version = version()?;
    let time = Duration::from_secs(arguments.seconds);
    // All units get the same time.
    let units = SESSIONS.len() as u32 + 1;
    let (vtd_time, amd_time) = match arguments.session {
        None => (time / units * (units - 1), time / units),
        Some(_) => (time, time),
    };
    let options = Options {
        time: vtd_time,
        seed: arguments.seed,
        session: arguments.session.clone(),
        case: arguments.case,
    };
    let name = arguments.session.as_deref();
    let vtd = match name {
        Some(amd::NAME) => None,
        _ => Some(run(&options)?),
    };
    let amd = match name {
        None | Some(amd::NAME) => Some(amd::run(arguments.seed, amd_time, arguments.case)?),
        Some(_) => None,
    };
    if arguments.json {
        let document = serde_json::json!({ "qemu": version, "vtd": vtd, "amd_v1": amd });
        println!("{document:#}");
    } else {
        println!("{version}");
        vtd.iter().for_each(print);
        amd.iter()
            .for_each(|report| print_amd(arguments.seed, report));
    }
    let unknown = vtd.map_or(0, |report| report.unknown) + amd.map_or(0, |report| report.unknown);
    Ok(unknown == 0)
}

fn print_amd(seed: u64, report: &amd::Report) {
    println!();
    println!(
        "amd-iommu: {} cases, {} requests, {} pass",
        report.cases, report.requests, report.passed
    );
    println!();
    println!("known differences");
    for (name, title, count) in &report.known {
        println!("{count:>8}  {name}: {title}");
    }
    println!("{:>8}  unexplained", report.unknown);
    for example in &report.examples {
        println!();
        println!(
            "again: cargo xtask compare --seed {seed} --session {} --case {}",
            amd::NAME,
            example.case
        );
        println!("  mode {}", example.mode);
        for (address, word) in &example.words {
            println!("  {address:#x}: {word:#018x}");
        }
        println!("  {:x?}", example.request);
        println!("  ours: {}", example.ours);
        println!("  QEMU: {:x?}", example.qemu);
    }
}

fn print(report: &Report) {
    for session in &report.sessions {
        let refused: u64 = session.refused.values().sum();
        println!(
            "intel-iommu,{}: {} cases, {} requests: {} pass, {refused} refused for {} reasons, \
             {} answered otherwise",
            session.properties,
            session.cases,
            session.requests,
            session.passed,
            session.refused.len(),
            session.mismatches,
        );
    }
    println!();
    println!("known differences");
    for known in &report.known {
        println!("{:>8}  {}: {}", known.count, known.name, known.title);
    }
    println!("{:>8}  unexplained", report.unknown);
    for example in &report.examples {
        println!();
        println!(
            "again: cargo xtask compare --seed {} --session {} --case {}",
            report.seed, example.session, example.case
        );
        let [low, high] = example.root;
        println!(
            "  RTADDR {:#x}, root entry {high:#x}:{low:#018x}",
            example.root_address
        );
        let [low, high] = example.context;
        println!("  context entry {high:#x}:{low:#018x}");
        for step in &example.steps {
            match step.entry {
                Some(entry) => println!("  level {} at {:#x}: {entry:#018x}", step.level, step.at),
                None => println!("  level {} at {:#x}: outside", step.level, step.at),
            }
        }
        let kind = if example.request.write {
            "write"
        } else {
            "read"
        };
        println!("  {kind} at {:#x}", example.request.iova);
        println!("  ours: {:x?}", example.ours);
        println!("  QEMU: {:x?}", example.qemu);
    }
}

fn version() -> Result<String> {
    let output = Command::new(PROGRAM)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {PROGRAM}; it is in Debian's qemu-system-x86"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or(PROGRAM).to_owned())
}

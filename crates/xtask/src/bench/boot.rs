//! `cargo xtask bench boot`: our VMM beside QEMU, booting the same guest in turn.

use crate::boot;
use crate::disk;
use crate::hypervisor::{Machine, Place, Vmm};
use crate::job::{self, Job, JobResult};
use crate::kernel::{Choice, Kernel};
use crate::peer::{self, Peer};
use crate::testbed::{self, TestBed};
use crate::ui::{say, table};
use crate::{place, tools, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `cargo xtask bench boot` takes.
#[derive(Debug, Args)]
pub struct BootBenchArgs {
    /// The guest's kernel: a Debian series (6.1, 6.12, 7), or the path of a bzImage.
    #[arg(long, value_name = "SERIES|PATH", default_value = "6.1")]
    kernel: Choice,
    /// The number of processors.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// The guest's memory.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: String,
    /// How often each VMM boots the guest; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// The largest part of QEMU's time that ours may be.
    #[arg(long, value_name = "RATIO", default_value_t = 0.75)]
    target: f64,
    /// How long one boot may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 150)]
    limit: u64,
    /// Which QEMU ours is compared with.
    #[arg(long, value_name = "QEMU", value_enum, default_value_t = Peer::Newest)]
    qemu: Peer,
    /// Print the results as JSON instead of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: place::PlaceArgs,
}

/// One boot's times in milliseconds from the VMM's start.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    /// Until the guest's kernel started its clock.
    kernel_ms: f64,
    /// Until the first line of the guest's init.
    userspace_ms: f64,
    /// Until the guest asked to be powered off.
    done_ms: f64,
    /// Until the VMM had ended.
    poweroff_ms: f64,
}

/// One VMM's boots.
#[derive(Debug, Serialize)]
struct Side {
    vmm: &'static str,
    runs: Vec<Times>,
    median: Times,
    /// The least of each time: what the machine's other work disturbed least.
    best: Times,
    /// The longest silences in the kernel's log, in seconds, with the line before each.
    gaps: Vec<String>,
    /// What the VMM itself reported, or null.
    report: Value,
}

/// Runs the command; the answer is whether the target was met.
pub fn run(args: &BootBenchArgs) -> Result<bool> {
    if args.rounds == 0 || args.cpus == 0 {
        bail!("--rounds and --cpus are at least 1");
    }
    tools::ensure(&[tools::BUSYBOX, tools::QEMU])?;
    let binary = workspace::build_vmm()?;
    let place = place::choose(args.place, Some(&binary))?;
    let (qemu, qemu_version) = peer::program(args.qemu)?;
    let folder = workspace::run_folder("bench")?;
    let programs = vec![boot::program(Vmm::VmIommu, Some(&binary))?, qemu];
    let bed = TestBed::new(place, programs);
    let kernel = Kernel::get(&args.kernel)?;
    let disk_file = "disk".to_owned();
    disk::create(&folder.join(&disk_file))?;
    let bench = Bench {
        args,
        place,
        bed: &bed,
        kernel_file: boot::stage_kernel(&kernel, &folder)?,
        initrd_file: boot::stage_initramfs(&kernel, &folder)?,
        disk_file,
    };
    let jobs = bench.jobs()?;
    say(format!(
        "Linux {}, {} processors, {}; against {qemu_version}",
        kernel.release, args.cpus, args.memory
    ));
    let results = bed.run(&jobs, &folder, |result| {
        say(format!("{}: {:.1} s", result.name, result.wall_ms / 1e3));
    })?;
    for result in &results {
        let right = disk::hash(0, disk::REGION);
        if !testbed::powered_off(result) || result.value("bench_hash") != Some(right.as_str()) {
            testbed::show_console(&folder, result);
            bail!("{} did not boot and read its disk right", result.name);
        }
    }
    let ours = side(Vmm::VmIommu, &results, &folder)?;
    let theirs = side(Vmm::Qemu, &results, &folder)?;
    std::fs::remove_dir_all(&folder).ok();
    let userspace = ours.median.userspace_ms / theirs.median.userspace_ms;
    let poweroff = ours.median.poweroff_ms / theirs.median.poweroff_ms;
    let met = userspace <= args.target && poweroff <= args.target;
    if args.json {
        let document = serde_json::json!({
            "kernel": kernel.release,
            "qemu": qemu_version,
            "cpus": args.cpus,
            "memory": args.memory,
            "userspace_ratio": userspace,
            "poweroff_ratio": poweroff,
            "target": args.target,
            "target_met": met,
            "sides": [ours, theirs],
        });
        println!("{document:#}");
        return Ok(met);
    }
    print_sides(&ours, &theirs);
    println!(
        "to user space {userspace:.2} of QEMU's time, to power-off {poweroff:.2}; at most {:.2} \
         is wanted: {}",
        args.target,
        if met { "met" } else { "MISSED" }
    );
    Ok(met)
}

struct Bench<'a> {
    args: &'a BootBenchArgs,
    place: Place,
    bed: &'a TestBed,
    kernel_file: String,
    initrd_file: String,
    disk_file: String,
}

impl Bench<'_> {
    /// The rounds, each with both VMMs, the order turned every time; then one boot of each
    /// whose guest also tells where its time went.
    fn jobs(&self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for round in 1..=self.args.rounds {
            let mut order = [Vmm::VmIommu, Vmm::Qemu];
            if round % 2 == 0 {
                order.reverse();
            }
            for vmm in order {
                jobs.push(self.job(vmm, "bench", &format!("{}-round-{round}", vmm.label()))?);
            }
        }
        for vmm in [Vmm::VmIommu, Vmm::Qemu] {
            jobs.push(self.job(vmm, "profile", &format!("{}-profile", vmm.label()))?);
        }
        Ok(jobs)
    }

    fn job(&self, vmm: Vmm, mode: &str, name: &str) -> Result<Job> {
        let files = [&self.kernel_file, &self.initrd_file, &self.disk_file].map(String::clone);
        // On this machine's KVM the files are in its page cache; in the box they are copied.
        let (local, [kernel, initrd, disk]) = match self.place {
            Place::Native => (Vec::new(), files),
            Place::Box => {
                let there = files.clone().map(|name| format!("{}/{name}", job::LOCAL));
                (files.to_vec(), there)
            }
        };
        let machine = Machine {
            kernel,
            initrd,
            cmdline: format!("{} quiet", boot::base_cmdline(mode, "vtd")),
            cpus: self.args.cpus,
            memory: self.args.memory.clone(),
            iommu: "vtd".to_owned(),
            disk,
            indirect: false,
            edu: false,
            report: (vmm == Vmm::VmIommu && mode == "profile").then(|| "report.json".to_owned()),
        };
        let mut argv = vec![self.bed.program(boot::program_name(vmm))];
        argv.extend(machine.arguments(vmm, self.place)?);
        Ok(Job {
            name: name.to_owned(),
            argv,
            limit_ms: Duration::from_secs(self.args.limit).as_millis() as u64,
            local,
        })
    }
}

fn times(result: &JobResult) -> Result<Times> {
    let time_of = |key| {
        let time = result.time_of(key);
        time.with_context(|| format!("{} did not report {key}", result.name))
    };
    let clock = result
        .value("clock")
        .and_then(|text| text.parse::<f64>().ok());
    let clock = clock.with_context(|| format!("{} reported no clock", result.name))?;
    Ok(Times {
        kernel_ms: (time_of("clock")? - clock * 1e3).max(0.0),
        userspace_ms: time_of("userspace")?,
        done_ms: time_of("done")?,
        poweroff_ms: result.wall_ms,
    })
}

fn side(vmm: Vmm, results: &[JobResult], folder: &Path) -> Result<Side> {
    let rounds = format!("{}-round-", vmm.label());
    let runs: Vec<Times> = results
        .iter()
        .filter(|result| result.name.starts_with(&rounds))
        .map(times)
        .collect::<Result<_>>()?;
    let median = summary(&runs, median);
    let best = summary(&runs, |values| {
        values.into_iter().fold(f64::INFINITY, f64::min)
    });
    let profile = format!("{}-profile", vmm.label());
    let profile = results.iter().find(|result| result.name == profile);
    let gaps = profile
        .map(|result| result.values("gap").map(str::to_owned).collect())
        .unwrap_or_default();
    let report: PathBuf = folder.join("report.json");
    let report = match vmm {
        Vmm::VmIommu => std::fs::read(report)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        Vmm::Qemu => None,
    };
    Ok(Side {
        vmm: vmm.label(),
        runs,
        median,
        best,
        gaps,
        report: report.unwrap_or(Value::Null),
    })
}

/// Each time on its own, made one number of all runs by `pick`.
fn summary(runs: &[Times], pick: impl Fn(Vec<f64>) -> f64) -> Times {
    let of = |part: fn(&Times) -> f64| pick(runs.iter().map(part).collect());
    Times {
        kernel_ms: of(|t| t.kernel_ms),
        userspace_ms: of(|t| t.userspace_ms),
        done_ms: of(|t| t.done_ms),
        poweroff_ms: of(|t| t.poweroff_ms),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.as_slice()) {
        (_, []) => f64::NAN,
        (1, values) => values[middle],
        (_, values) => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// A named reading of one boot's times.
type Reading = (&'static str, fn(&Times) -> f64);

fn print_sides(ours: &Side, theirs: &Side) {
    let phases: [Reading; 4] = [
        ("VMM, loader, decompressor", |t| t.kernel_ms),
        ("kernel, to user space", |t| t.userspace_ms - t.kernel_ms),
        ("init and disk", |t| t.done_ms - t.userspace_ms),
        ("power-off", |t| t.poweroff_ms - t.done_ms),
    ];
    let totals: [Reading; 2] = [
        ("to user space", |t| t.userspace_ms),
        ("to power-off", |t| t.poweroff_ms),
    ];
    let head = ["median of the rounds", "vm-iommu", "qemu", "ratio"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut row = |name: String, a: f64, b: f64| {
        let ratio = if b > 0.0 {
            format!("{:.2}", a / b)
        } else {
            "-".to_owned()
        };
        let cells = [format!("{:.2} s", a / 1e3), format!("{:.2} s", b / 1e3)];
        rows.push([vec![name], cells.to_vec(), vec![ratio]].concat());
    };
    for (name, pick) in phases.into_iter().chain(totals) {
        row(name.to_owned(), pick(&ours.median), pick(&theirs.median));
    }
    for (name, pick) in totals {
        row(
            format!("{name}, best"),
            pick(&ours.best),
            pick(&theirs.best),
        );
    }
    println!("\n{}", table(&rows));
    for side in [ours, theirs] {
        if side.gaps.is_empty() {
            continue;
        }
        println!("{}: longest silences in the kernel's log", side.vmm);
        for gap in &side.gaps {
            let (time, line) = gap.split_once(['\t', ' ']).unwrap_or((gap.as_str(), ""));
            println!("  {time:>9} s after: {}", line.trim());
        }
        println!();
    }
    if let Some(times) = ours.report.get("times_ms").and_then(Value::as_object) {
        let times: Vec<String> = times
            .iter()
            .filter_map(|(name, at)| Some(format!("{name} {:.0} ms", at.as_f64()?)))
            .collect();
        println!("vm-iommu, by its own clock: {}\n", times.join(", "));
    }
    if let Some(exits) = ours.report.get("exits").and_then(Value::as_object) {
        let mut exits: Vec<(&String, u64)> = exits
            .iter()
            .filter_map(|(name, count)| Some((name, count.as_u64()?)))
            .collect();
        exits.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        println!("vm-iommu: exits to the VMM");
        for (name, count) in exits.iter().take(12) {
            println!("  {count:>9} {name}");
        }
        println!();
    }
}

#[cfg(test)]
mod tests;

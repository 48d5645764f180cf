//! `cargo xtask boot`: a stock kernel behind the unit, and what must be true of it.

use crate::checks::{self, Check, Groups};
use crate::emulator::Version;
use crate::hypervisor::{self, Machine, Place, Vmm};
use crate::initramfs::{self, Program};
use crate::job::{Job, JobResult};
use crate::kernel::{Choice, Kernel};
use crate::proc::Ending;
use crate::testbed::{self, TestBed};
use crate::ui::{say, seconds, table};
use crate::{disk, place, tools, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `cargo xtask boot` takes.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// The guest's kernel: a Debian series (6.1, 6.12, 7), or the path of a bzImage. May be
    /// given more than once; each is booted in turn.
    #[arg(long, value_name = "SERIES|PATH", default_value = "6.1")]
    kernel: Vec<Choice>,
    /// The unit in front of the disk: vtd or amdvi, with options such as vtd,aw=39,eim=off, or
    /// none.
    #[arg(long, value_name = "UNIT", default_value = "vtd")]
    iommu: String,
    /// The number of processors. May be given more than once.
    #[arg(long, value_name = "N", default_value = "2")]
    cpus: Vec<u32>,
    /// The guest's memory.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: String,
    /// Leave a report with all checks, and the VMM's own report, in this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// More words for the kernel's command line.
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    cmdline: String,
    /// Which VMM runs the guest.
    #[arg(long, value_enum, default_value_t = Vmm::VmIommu)]
    vmm: Vmm,
    /// How long one guest may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 150)]
    limit: u64,
    /// Print the results as JSON instead of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: place::PlaceArgs,
}

/// What one guest is to be.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its kernel.
    pub kernel: Choice,
    /// The number of processors.
    pub cpus: u32,
    /// The unit.
    pub iommu: String,
    /// Its memory.
    pub memory: String,
    /// More words for the kernel's command line.
    pub cmdline: String,
    /// How long it may take.
    pub limit: Duration,
}

/// How one guest did.
#[derive(Debug, Serialize)]
pub struct GuestReport {
    /// The job's name.
    pub name: String,
    /// The VMM that ran it.
    pub vmm: &'static str,
    /// From the VMM's start to its end, in milliseconds.
    pub wall_ms: f64,
    /// Whether it came to the end of what it was to do, so that there is something to judge.
    pub finished: bool,
    /// All rows of its table.
    pub checks: Vec<Check>,
    /// What the VMM itself reported, or null.
    pub vmm_report: Value,
    /// Why it did not finish in earlier boxes.
    pub not_finished: Vec<String>,
}

impl GuestReport {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

/// Runs the command; the answer is whether every check passed.
pub fn run(args: BootArgs) -> Result<bool> {
    let mut guests = Vec::new();
    for kernel in &args.kernel {
        for cpus in &args.cpus {
            if *cpus == 0 {
                bail!("--cpus is at least 1");
            }
            guests.push(Guest {
                kernel: kernel.clone(),
                cpus: *cpus,
                iommu: args.iommu.clone(),
                memory: args.memory.clone(),
                cmdline: args.cmdline.clone(),
                limit: Duration::from_secs(args.limit),
            });
        }
    }
    let binary = match args.vmm {
        Vmm::VmIommu => Some(workspace::build_vmm()?),
        Vmm::Qemu => None,
    };
    let place = place::choose(args.place, binary.as_deref())?;
    let binary = binary.as_deref();
    let mut reports = Vec::new();
    for guest in &guests {
        let report = run_to_end(guest, args.vmm, binary, place)?;
        if !args.json {
            print_report(&report);
        }
        reports.push(report);
    }
    let passed = reports.iter().all(GuestReport::passed);
    let document = serde_json::to_string_pretty(&serde_json::json!({
        "passed": passed,
        "guests": reports,
    }))?;
    if args.json {
        println!("{document}");
    }
    if let Some(path) = &args.report {
        std::fs::write(path, document + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        say(format!("report: {}", path.display()));
    }
    Ok(passed)
}

/// Boots a guest, in the box up to four times until it finishes; its report says so.
///
/// The box is emulated hardware, and now and then it is the box that fails: its own kernel
/// panics over a corrupted stack, everything in it stands still, or a processor's state is lost
/// on the way, with two processors for four of a guest's in one boot of five. A guest that did not
/// finish is therefore booted again in the next of [`BOXES`]. One that finished with a failed check
/// is not.
///
/// # Errors
/// The place failed, in the box each time.
pub fn run_to_end(
    guest: &Guest,
    vmm: Vmm,
    binary: Option<&Path>,
    place: Place,
) -> Result<GuestReport> {
    let mut not_finished = Vec::new();
    loop {
        let emulator = BOXES[not_finished.len()];
        let is_last = place == Place::Native || not_finished.len() + 1 == BOXES.len();
        let why = match run_once(guest, vmm, binary, place, emulator) {
            Ok(mut report) if report.finished || is_last => {
                report.not_finished = not_finished;
                return Ok(report);
            }
            Err(error) if is_last => return Err(error),
            // What was not reached fails, too; the first check says how it ended.
            Ok(report) => {
                let mut failed = report.checks.into_iter().filter(|check| !check.passed);
                failed.next().map(|check| check.found).unwrap_or_default()
            }
            Err(error) => format!("{error:#}"),
        };
        say(format!("not finished ({why}): again, in another box"));
        not_finished.push(why);
    }
}

/// What emulates the boxes that a guest which does not finish is booted in, one after another.
const BOXES: [Version; 4] = [Version::New, Version::New, Version::Installed, Version::New];

fn run_once(
    guest: &Guest,
    vmm: Vmm,
    binary: Option<&Path>,
    place: Place,
    emulator: Version,
) -> Result<GuestReport> {
    let needed: &[tools::Tool] = match (place, vmm) {
        (Place::Native, Vmm::VmIommu) => &[tools::BUSYBOX],
        _ => &[tools::BUSYBOX, tools::QEMU],
    };
    tools::ensure(needed)?;
    let bed = TestBed::new(place, vec![program(vmm, binary)?]).with_emulator(emulator);
    let folder = workspace::run_folder("boot")?;
    let (machine, job) = prepare(guest, job_name(guest, vmm), vmm, place, &bed, &folder)?;
    let results = bed.run(&[job], &folder, |result| {
        let ended = seconds(Duration::from_secs_f64(result.wall_ms / 1e3));
        say(format!(
            "{}: ended after {ended} ({})",
            result.name, result.ending
        ));
    })?;
    let result = results.first().context("nothing was booted")?;
    let report = examine(&machine, result, vmm, &folder);
    if report.passed() {
        std::fs::remove_dir_all(&folder).ok();
    } else {
        testbed::show_console(&folder, result);
        say(format!("all files of this run: {}", folder.display()));
    }
    Ok(report)
}

/// The program that runs guests.
pub fn program(vmm: Vmm, binary: Option<&Path>) -> Result<Program> {
    match vmm {
        Vmm::VmIommu => Ok(hypervisor::our_program(
            binary.context("our VMM has not been built")?,
        )),
        Vmm::Qemu => hypervisor::qemu_program(),
    }
}

/// What a guest is called.
fn job_name(guest: &Guest, vmm: Vmm) -> String {
    let series = match &guest.kernel {
        Choice::Series(series) => series,
        Choice::File(_) => "file",
    };
    format!("{}-linux-{series}-{}cpu", vmm.label(), guest.cpus)
}

/// Lays out one guest's files, whose names begin with `name`, in `folder` and describes how to
/// run it.
fn prepare(
    guest: &Guest,
    name: String,
    vmm: Vmm,
    place: Place,
    bed: &TestBed,
    folder: &Path,
) -> Result<(Machine, Job)> {
    let kernel = Kernel::get(&guest.kernel)?;
    let machine = Machine {
        kernel: stage_kernel(&kernel, folder)?,
        initrd: stage_initramfs(&kernel, folder)?,
        cmdline: format!("{} {}", base_cmdline("check", &guest.iommu), guest.cmdline)
            .trim()
            .to_owned(),
        cpus: guest.cpus,
        memory: guest.memory.clone(),
        iommu: guest.iommu.clone(),
        disk: format!("{name}.disk"),
        // So that guests meet both.
        indirect: guest.cpus > 1,
        edu: true,
        report: (vmm == Vmm::VmIommu).then(|| format!("{name}.report.json")),
    };
    disk::create(&folder.join(&machine.disk))?;
    let mut argv = vec![bed.program(program_name(vmm))];
    argv.extend(machine.arguments(vmm, place)?);
    let job = Job {
        name,
        argv,
        limit_ms: guest.limit.as_millis() as u64,
        local: Vec::new(),
    };
    Ok((machine, job))
}

/// The name under which a test bed knows a VMM's program.
pub fn program_name(vmm: Vmm) -> &'static str {
    match vmm {
        Vmm::VmIommu => "vm-iommu",
        Vmm::Qemu => tools::QEMU.name,
    }
}

/// The words that every test guest boots with.
pub fn base_cmdline(mode: &str, iommu: &str) -> String {
    // AMD's driver needs no word.
    let unit = if iommu.starts_with("vtd") {
        " intel_iommu=on"
    } else {
        ""
    };
    format!(
        "console=ttyS0 panic=-1{unit} vmi.mode={mode} vmi.region={} vmi.write_base={}",
        disk::REGION,
        disk::WRITE_BASE
    )
}

/// Copies a kernel into the run's folder, once, and returns its name there.
pub fn stage_kernel(kernel: &Kernel, folder: &Path) -> Result<String> {
    let name = format!("vmlinuz-{}", kernel.release);
    let to = folder.join(&name);
    if !to.exists() {
        std::fs::copy(&kernel.image, &to)
            .with_context(|| format!("cannot copy {}", kernel.image.display()))?;
    }
    Ok(name)
}

/// Builds a kernel's guest initramfs in the run's folder, once, and returns its name there.
pub fn stage_initramfs(kernel: &Kernel, folder: &Path) -> Result<String> {
    let name = format!("initramfs-{}.cpio", kernel.release);
    let to = folder.join(&name);
    if !to.exists() {
        initramfs::guest(kernel, &[], &to)?;
    }
    Ok(name)
}

fn examine(machine: &Machine, result: &JobResult, vmm: Vmm, folder: &Path) -> GuestReport {
    let report = machine.report.as_ref().and_then(|name| {
        let bytes = std::fs::read(folder.join(name)).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    });
    let report = report.unwrap_or(Value::Null);
    let image = folder.join(&machine.disk);
    let groups = fabric_groups(&report);
    let checks = checks::judge(machine, result, &image, groups.as_ref());
    std::fs::remove_file(&image).ok();
    GuestReport {
        name: result.name.clone(),
        vmm: vmm.label(),
        wall_ms: result.wall_ms,
        finished: result.ending != Ending::TimedOut && result.time_of("done").is_some(),
        checks,
        vmm_report: report,
        not_finished: Vec::new(),
    }
}

/// The isolation groups in a VMM's report: a list, under `groups`, of lists of names.
fn fabric_groups(report: &Value) -> Option<Groups> {
    serde_json::from_value(report.get("groups")?.clone()).ok()
}

fn print_report(report: &GuestReport) {
    let mut rows = vec![["check", "", "found"].map(str::to_owned).to_vec()];
    for check in &report.checks {
        let mark = if check.passed { "ok" } else { "FAILED" };
        rows.push(vec![
            check.name.to_owned(),
            mark.to_owned(),
            check.found.clone(),
        ]);
    }
    println!("\n{}\n\n{}", report.name, table(&rows));
    for why in &report.not_finished {
        println!("an earlier attempt did not finish, in another box: {why}");
    }
}

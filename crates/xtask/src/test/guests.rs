//! The steps that run our VMM: the demo, and stock guests.

use super::Row;
use crate::boot::{self, Guest};
use crate::hypervisor::{self, Place, Vmm};
use crate::initramfs::Program;
use crate::job::{self, Job};
use crate::kernel::Choice;
use crate::proc::Bounded;
use crate::testbed::{self, TestBed};
use crate::ui::say;
use crate::{place, tools, workspace};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DEMO_LIMIT: Duration = Duration::from_secs(90);
const GUEST_LIMIT: Duration = Duration::from_secs(150);
/// The kernels and processor counts that are booted.
pub const GUESTS: &[(&str, u32)] = &[("6.1", 1), ("6.1", 4), ("7", 1), ("7", 4)];

/// The demo, where it can run.
pub fn demo(binary: &Path) -> Result<(bool, String)> {
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
        local: Vec::new(),
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

/// Stock guests; a row for each.
pub fn guests(binary: &Path, place: place::PlaceArgs) -> Vec<Row> {
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

//! The steps that run our VMM: the demo, and stock guests.

use super::Row;
use crate::boot::{self, Guest, GuestReport};
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
use std::time::Duration;

const DEMO_LIMIT: Duration = Duration::from_secs(90);
const GUEST_LIMIT: Duration = Duration::from_secs(150);
/// The kernels, processor counts, units, and further words on the command line that are booted.
pub const GUESTS: &[(&str, u32, &str, &str)] = &[
    ("6.1", 1, "vtd", ""),
    ("6.1", 4, "vtd", ""),
    ("7", 1, "vtd", ""),
    ("7", 4, "vtd", ""),
    ("6.1", 2, "amdvi,units=2", ""),
    ("6.12", 1, "amdvi", "iommu=pt"),
    ("6.12", 2, "amdvi", "iommu.strict=1"),
    ("7", 2, "amdvi", ""),
    ("7", 4, "amdvi", "amd_iommu=pgtbl_v2"),
];
/// The units that the demo is run with.
pub const DEMOS: &[&str] = &["vtd", "amdvi"];

/// The demo with a unit, where it can run.
pub fn demo(binary: &Path, iommu: &str) -> Result<(bool, String)> {
    let has_kvm = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if has_kvm {
        let mut command = Command::new(binary);
        command
            .args(["demo", "--iommu", iommu])
            .stdin(Stdio::null());
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
        argv: [&bed.program("vm-iommu"), "demo", "--iommu", iommu]
            .map(str::to_owned)
            .to_vec(),
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

/// Stock guests; a row for each, and in the box a box for each.
pub fn guests(binary: &Path, place: place::PlaceArgs) -> Vec<Row> {
    say("== guests");
    let place = match place::choose(place, Some(binary)) {
        Ok(place) => place,
        Err(error) => return vec![super::timed("guests", || Err(error))],
    };
    GUESTS
        .iter()
        .map(|(kernel, cpus, iommu, cmdline)| {
            let name = format!("guest {kernel}, {cpus} CPUs, {iommu} {cmdline}");
            super::timed(name.trim_end(), || {
                let guest = Guest {
                    kernel: kernel.parse::<Choice>().map_err(anyhow::Error::msg)?,
                    cpus: *cpus,
                    iommu: (*iommu).to_owned(),
                    memory: "1G".to_owned(),
                    cmdline: (*cmdline).to_owned(),
                    limit: GUEST_LIMIT,
                };
                let report = boot::run_to_end(&guest, Vmm::VmIommu, Some(binary), place)?;
                Ok((report.passed(), verdict(&report)))
            })
        })
        .collect()
}

/// What a guest's row says.
fn verdict(report: &GuestReport) -> String {
    let failed: Vec<String> = report
        .checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| format!("{}: {}", check.name, check.found))
        .collect();
    let mut found = if failed.is_empty() {
        format!("{} checks", report.checks.len())
    } else {
        failed.join("; ")
    };
    for why in &report.not_finished {
        found += &format!("; an earlier attempt did not finish: {why}");
    }
    found
}

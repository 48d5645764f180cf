//! The steps that run our VMM: the demo, and stock guests.

use super::Row;
use crate::boot::{self, Guest};
use crate::emulator::Version;
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
/// What emulates the boxes that a guest which does not finish is booted in, one after another.
const BOXES: [Version; 4] = [Version::New, Version::New, Version::Installed, Version::New];
/// The kernels, processor counts and units that are booted.
pub const GUESTS: &[(&str, u32, &str)] = &[
    ("6.1", 1, "vtd"),
    ("6.1", 4, "vtd"),
    ("7", 1, "vtd"),
    ("7", 4, "vtd"),
    ("6.1", 2, "amdvi,units=2"),
    ("7", 2, "amdvi"),
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
///
/// The box is emulated hardware, and now and then it is the box that fails: its own kernel
/// panics over a corrupted stack, everything in it stands still, or a processor's state is lost
/// on the way. A guest that did not finish is therefore booted again in the next of [`BOXES`], and
/// its row says so. One that finished with a failed check is not.
pub fn guests(binary: &Path, place: place::PlaceArgs) -> Vec<Row> {
    say("== guests");
    let place = match place::choose(place, Some(binary)) {
        Ok(place) => place,
        Err(error) => return vec![super::timed("guests", || Err(error))],
    };
    GUESTS
        .iter()
        .map(|(kernel, cpus, iommu)| {
            super::timed(&format!("guest {kernel}, {cpus} CPUs, {iommu}"), || {
                let guest = Guest {
                    kernel: kernel.parse::<Choice>().map_err(anyhow::Error::msg)?,
                    cpus: *cpus,
                    iommu: (*iommu).to_owned(),
                    memory: "1G".to_owned(),
                    cmdline: String::new(),
                    limit: GUEST_LIMIT,
                };
                let mut reasons = Vec::new();
                loop {
                    let emulator = BOXES[reasons.len()];
                    match attempt(&guest, binary, place, emulator) {
                        Attempt::NotFinished(why)
                            if place == Place::Box && reasons.len() + 1 < BOXES.len() =>
                        {
                            say(format!("not finished ({why}): again, in another box"));
                            reasons.push(why);
                        }
                        attempt => return Ok(attempt.verdict(&reasons)),
                    }
                }
            })
        })
        .collect()
}

/// How one boot of a guest went.
enum Attempt {
    /// It did all it was to do; whether all checks passed, and what there is to say.
    Finished(bool, String),
    /// It stopped on the way, or the place it ran in did.
    NotFinished(String),
}

impl Attempt {
    /// What the row says, after earlier attempts that were `not_finished`.
    fn verdict(self, not_finished: &[String]) -> (bool, String) {
        let (passed, mut found) = match self {
            Self::Finished(passed, found) => (passed, found),
            Self::NotFinished(why) => (false, why),
        };
        for why in not_finished {
            found += &format!("; an earlier attempt did not finish: {why}");
        }
        (passed, found)
    }
}

fn attempt(guest: &Guest, binary: &Path, place: Place, emulator: Version) -> Attempt {
    let guests = std::slice::from_ref(guest);
    let binary = Some(binary);
    let reports = boot::run_guests(guests, Vmm::VmIommu, binary, place, emulator, |_| {});
    let report = match reports.map(|mut reports| reports.pop()) {
        Ok(Some(report)) => report,
        Ok(None) => return Attempt::NotFinished("nothing was booted".to_owned()),
        Err(error) => return Attempt::NotFinished(format!("{error:#}")),
    };
    let failed: Vec<String> = report
        .checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| format!("{}: {}", check.name, check.found))
        .collect();
    if !report.finished {
        // What was not reached fails, too; the first check says how it ended.
        return Attempt::NotFinished(failed.into_iter().next().unwrap_or_default());
    }
    match failed.is_empty() {
        true => Attempt::Finished(true, format!("{} checks", report.checks.len())),
        false => Attempt::Finished(false, failed.join("; ")),
    }
}

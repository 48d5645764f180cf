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
use std::time::Duration;

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

/// Stock guests; a row for each, and in the box a box for each.
///
/// The box is an emulated machine under load, and now and then it is the box that stops: its
/// kernel panics, or everything in it stands still. A guest that came to no end is therefore
/// booted once more in another box, and its row says so. One that ended with a failed check is
/// not.
pub fn guests(binary: &Path, place: place::PlaceArgs) -> Vec<Row> {
    say("== guests");
    let place = match place::choose(place, Some(binary)) {
        Ok(place) => place,
        Err(error) => return vec![super::timed("guests", || Err(error))],
    };
    GUESTS
        .iter()
        .map(|(kernel, cpus)| {
            super::timed(&format!("guest {kernel}, {cpus} CPUs"), || {
                let guest = Guest {
                    kernel: kernel.parse::<Choice>().map_err(anyhow::Error::msg)?,
                    cpus: *cpus,
                    iommu: "vtd".to_owned(),
                    memory: "1G".to_owned(),
                    cmdline: String::new(),
                    limit: GUEST_LIMIT,
                };
                match (attempt(&guest, binary, place), place) {
                    (Attempt::NoEnd(why), Place::Box) => {
                        say(format!("no end ({why}): once more, in another box"));
                        let (passed, found) = attempt(&guest, binary, place).verdict();
                        Ok((
                            passed,
                            format!("{found}; at the second attempt, after: {why}"),
                        ))
                    }
                    (attempt, _) => Ok(attempt.verdict()),
                }
            })
        })
        .collect()
}

/// How one boot of a guest went.
enum Attempt {
    /// It ended; whether all checks passed, and what there is to say.
    Ended(bool, String),
    /// It was stopped at its limit, or the place it ran in failed.
    NoEnd(String),
}

impl Attempt {
    fn verdict(self) -> (bool, String) {
        match self {
            Self::Ended(passed, found) => (passed, found),
            Self::NoEnd(why) => (false, why),
        }
    }
}

fn attempt(guest: &Guest, binary: &Path, place: Place) -> Attempt {
    let guests = std::slice::from_ref(guest);
    let reports = boot::run_guests(guests, Vmm::VmIommu, Some(binary), place, |_| {});
    let report = match reports.map(|mut reports| reports.pop()) {
        Ok(Some(report)) => report,
        Ok(None) => return Attempt::NoEnd("nothing was booted".to_owned()),
        Err(error) => return Attempt::NoEnd(format!("{error:#}")),
    };
    if report.timed_out {
        return Attempt::NoEnd(format!("stopped after {:.0} s", report.wall_ms / 1e3));
    }
    let failed: Vec<String> = report
        .checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| format!("{}: {}", check.name, check.found))
        .collect();
    match failed.is_empty() {
        true => Attempt::Ended(true, format!("{} checks", report.checks.len())),
        false => Attempt::Ended(false, failed.join("; ")),
    }
}

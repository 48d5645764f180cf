//! The place where guests run: this machine's own KVM, or the box, an emulated machine whose
//! stock Debian kernel is a KVM host.

use crate::emulator::{self, Version};
use crate::hypervisor::Place;
use crate::initramfs::{self, Program};
use crate::job::{self, Job, JobResult};
use crate::kernel::{Choice, Kernel};
use crate::proc::{Bounded, Ending};
use crate::ui::{say, spinner, tail};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The series whose kernel is the box's: it has kvm-amd, and leaves CPUID leaf 0xD alone.
const BOX_KERNEL: Choice = Choice::Series("6.1");
/// The box's memory: two guests' worth, the initramfs, and the kernel.
const BOX_MEMORY_MIB: u32 = 4096;
/// From the start of the emulator to the box's harness, on a busy machine.
const BOX_START_LIMIT: Duration = Duration::from_secs(120);
const CONSOLE_TAIL: usize = 40;

/// A place that runs jobs, and what it needs for that.
#[derive(Debug)]
pub struct TestBed {
    place: Place,
    programs: Vec<Program>,
    emulator: Version,
}

impl TestBed {
    /// A test bed in `place` that can run `programs`.
    pub fn new(place: Place, programs: Vec<Program>) -> Self {
        TestBed {
            place,
            programs,
            emulator: Version::New,
        }
    }

    /// The same, with a box that is emulated by that QEMU.
    pub fn with_emulator(mut self, version: Version) -> Self {
        self.emulator = version;
        self
    }

    /// The first word of a job that runs the program called `name`.
    pub fn program(&self, name: &str) -> String {
        let found = self.programs.iter().find(|program| program.name == name);
        match (self.place, found) {
            (Place::Native, Some(program)) => program.path.display().to_string(),
            _ => format!("/usr/bin/{name}"),
        }
    }

    /// Runs the jobs one after another in `folder`; `done` sees each result as it comes. A job
    /// that fails is a result; an error means that the place itself failed.
    pub fn run(
        &self,
        jobs: &[Job],
        folder: &Path,
        mut done: impl FnMut(&JobResult),
    ) -> Result<Vec<JobResult>> {
        match self.place {
            Place::Native => jobs
                .iter()
                .map(|job| {
                    let bar = spinner(&job.name);
                    let name = job.name.clone();
                    let watched = bar.clone();
                    let result = job::run(job, folder, move |line| {
                        watched.set_message(format!("{name}: {line}"));
                    })?;
                    bar.finish_and_clear();
                    done(&result);
                    Ok(result)
                })
                .collect(),
            Place::Box => self.run_boxed(jobs, folder, done),
        }
    }

    fn run_boxed(
        &self,
        jobs: &[Job],
        folder: &Path,
        mut done: impl FnMut(&JobResult),
    ) -> Result<Vec<JobResult>> {
        let emulator = emulator::program(self.emulator)?;
        let kernel = Kernel::get(&BOX_KERNEL).context("the box's kernel")?;
        let mut programs = self.programs.clone();
        programs.push(Program {
            path: std::env::current_exe().context("cannot find xtask's own binary")?,
            name: "xtask",
            data: Vec::new(),
        });
        let bar = spinner("building the box");
        let initrd = folder.join("box.cpio");
        initramfs::boxed(&kernel, &programs, &initrd).context("cannot build the box")?;
        let list = serde_json::to_vec_pretty(jobs)?;
        std::fs::write(folder.join("jobs.json"), list)
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        bar.finish_and_clear();

        let all: Duration = jobs.iter().map(|j| Duration::from_millis(j.limit_ms)).sum();
        let mut command = box_command(&emulator, &kernel.image, &initrd, folder);
        let console = folder.join("box.console.log");
        let output = File::create(&console)
            .with_context(|| format!("cannot create {}", console.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut running = Bounded::spawn(&mut command, BOX_START_LIMIT + all)
            .with_context(|| format!("cannot start {}", emulator.display()))?;

        let bar = spinner("starting the box");
        let started = Instant::now();
        let mut watch = Watch::new(jobs, folder);
        let ending = running.wait(|| {
            for result in watch.fresh() {
                bar.suspend(|| done(&result));
            }
            bar.set_message(watch.message(started));
        })?;
        bar.finish_and_clear();
        for result in watch.fresh() {
            done(&result);
        }
        std::fs::remove_file(&initrd).ok();
        let results = watch.results;
        if results.len() == jobs.len() {
            return Ok(results);
        }
        let text = std::fs::read(&console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let reason = text
            .lines()
            .find_map(|line| line.split_once("box_failed=").map(|(_, why)| why.trim()));
        say(format!(
            "the box's last console lines ({}):",
            console.display()
        ));
        eprint!("{}", tail(&text, CONSOLE_TAIL));
        bail!(
            "the box ended ({ending}) after {} of {} guests{}",
            results.len(),
            jobs.len(),
            reason.map(|why| format!(": {why}")).unwrap_or_default()
        );
    }
}

/// Prints the end of a job's console, and what its VMM said.
pub fn show_console(folder: &Path, result: &JobResult) {
    let console = job::console_path(folder, &result.name);
    let stderr = job::stderr_path(folder, &result.name);
    for (what, path) in [("console", console), ("VMM's own messages", stderr)] {
        let bytes = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        if text.trim().is_empty() {
            continue;
        }
        say(format!(
            "{}: the end of its {what} ({}):",
            result.name,
            path.display()
        ));
        eprint!("{}", tail(&text, CONSOLE_TAIL));
    }
}

fn box_command(emulator: &Path, kernel: &Path, initrd: &Path, share: &Path) -> Command {
    let mut command = Command::new(emulator);
    command
        .args(["-accel", "tcg,thread=multi"])
        // Without five-level paging, walks of two stages are shorter.
        .args(["-cpu", "max,+svm,+npt,-la57"])
        .args(["-machine", "q35", "-smp", "2"])
        .args(["-m", &BOX_MEMORY_MIB.to_string()])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-nic", "none", "-vga", "none", "-display", "none"])
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .arg("-fsdev")
        .arg(format!(
            "local,id=share,security_model=none,path={}",
            // A comma in a value is doubled.
            share.display().to_string().replace(',', ",,")
        ))
        .args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]);
    command
}

/// Follows the results that the box's harness leaves in the shared folder.
struct Watch<'a> {
    jobs: &'a [Job],
    folder: &'a Path,
    seen: BTreeSet<String>,
    results: Vec<JobResult>,
}

impl<'a> Watch<'a> {
    fn new(jobs: &'a [Job], folder: &'a Path) -> Self {
        Watch {
            jobs,
            folder,
            seen: BTreeSet::new(),
            results: Vec::new(),
        }
    }

    fn fresh(&mut self) -> Vec<JobResult> {
        let mut fresh = Vec::new();
        for job in self.jobs {
            if self.seen.contains(&job.name) {
                continue;
            }
            let path = job::result_path(self.folder, &job.name);
            let Some(result) = read_result(&path) else {
                continue;
            };
            self.seen.insert(job.name.clone());
            self.results.push(result.clone());
            fresh.push(result);
        }
        fresh
    }

    fn message(&self, started: Instant) -> String {
        let current = self.jobs.iter().find(|job| !self.seen.contains(&job.name));
        let Some(current) = current else {
            return "stopping the box".to_owned();
        };
        let console = job::console_path(self.folder, &current.name);
        let Some(line) = last_line(&console) else {
            let waited = started.elapsed().as_secs();
            return format!("starting the box ({waited} s) for {}", current.name);
        };
        format!(
            "[{}/{}] {}: {line}",
            self.seen.len() + 1,
            self.jobs.len(),
            current.name
        )
    }
}

fn read_result(path: &PathBuf) -> Option<JobResult> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn last_line(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rfind(|line| !line.trim().is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(100).collect())
}

/// Whether a result's VMM ended as a guest that powers off makes it end.
pub fn powered_off(result: &JobResult) -> bool {
    result.ending == Ending::Exited(0) && result.value("done").is_some()
}

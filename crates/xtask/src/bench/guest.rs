//! `cargo xtask bench guest`: 4K random reads of a guest's virtio disk, ours beside QEMU's, with
//! no unit and with each way in which the guest's driver uses one.
//!
//! Beside them a *floor*: our unit with `drain=off`, which tells the guest at once that an
//! invalidation is complete. What is left then is what the guest's own driver costs.

mod judge;

use crate::boot;
use crate::disk;
use crate::hypervisor::{Machine, Place, Vmm};
use crate::initramfs::{self, Program};
use crate::job::{self, Job, JobResult};
use crate::kernel::{Choice, Kernel};
use crate::peer::{self, Peer};
use crate::testbed::{self, TestBed};
use crate::ui::say;
use crate::{place, tools, workspace};
use anyhow::{Result, bail};
use clap::Args;
use judge::{Reading, Table};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const READER: &str = "vm-iommu-reader";
/// How often a guest that did not finish is booted: now and then it is the box that fails.
const ATTEMPTS: u32 = 3;

/// What `cargo xtask bench guest` takes.
#[derive(Debug, Args)]
pub struct GuestBenchArgs {
    /// The guest's kernel: a Debian series (6.1, 6.12, 7), or the path of a bzImage.
    #[arg(long, value_name = "SERIES|PATH", default_value = "6.1")]
    kernel: Choice,
    /// The unit.
    #[arg(long, value_name = "UNIT", value_enum, default_value_t = Kind::Vtd)]
    iommu: Kind,
    /// The number of the guest's processors; with one, the box's other is the VMM's.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// The guest's memory.
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: String,
    /// How often each guest is booted; the fastest window of all counts, which the machine's
    /// other work disturbed least.
    #[arg(long, value_name = "N", default_value_t = 2)]
    rounds: u32,
    /// How many windows are measured in one boot.
    #[arg(long, value_name = "N", default_value_t = 5)]
    windows: u32,
    /// The length of a window, in milliseconds.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000)]
    window: u64,
    /// How many reads are in flight.
    #[arg(long, value_name = "N", default_value_t = 32)]
    depth: u32,
    /// Only these ways; all if none is named.
    #[arg(long = "way", value_name = "WAY", value_enum)]
    ways: Vec<Way>,
    /// How long one guest may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 150)]
    limit: u64,
    /// Which QEMU ours is compared with.
    #[arg(long, value_name = "QEMU", value_enum, default_value_t = Peer::Newest)]
    qemu: Peer,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: place::PlaceArgs,
}

/// Which unit the guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Intel VT-d.
    Vtd,
    /// AMD-Vi. QEMU's has Linux invalidate strictly whatever it is told, so it has no lazy row.
    Amdvi,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Kind::Vtd => "vtd",
            Kind::Amdvi => "amdvi",
        }
    }
}

/// How the guest's driver uses the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Way {
    /// There is no unit.
    None,
    /// The disk's domain is the identity.
    PassThrough,
    /// Invalidations are collected and made in batches.
    Lazy,
    /// Each page is invalidated before it is used again.
    Strict,
    /// As strict, on our unit that waits for nobody.
    Floor,
}

impl Way {
    const ALL: [Way; 5] = [
        Way::None,
        Way::PassThrough,
        Way::Lazy,
        Way::Strict,
        Way::Floor,
    ];

    /// What it is called in names and tables.
    fn label(self) -> &'static str {
        match self {
            Way::None => "none",
            Way::PassThrough => "pass-through",
            Way::Lazy => "lazy",
            Way::Strict => "strict",
            Way::Floor => "floor",
        }
    }

    /// The unit, as `--iommu` names it.
    fn unit(self, kind: Kind) -> String {
        match self {
            Way::None => "none".to_owned(),
            Way::Floor => format!("{},drain=off", kind.label()),
            _ => kind.label().to_owned(),
        }
    }

    /// What the guest's kernel is told.
    fn words(self) -> &'static str {
        match self {
            Way::None => "",
            Way::PassThrough => "iommu=pt",
            Way::Lazy => "iommu.strict=0",
            Way::Strict | Way::Floor => "iommu.strict=1",
        }
    }

    /// What the kernel then calls the disk's domain.
    fn domain(self) -> &'static str {
        match self {
            Way::None => "none",
            Way::PassThrough => "identity",
            Way::Lazy => "DMA-FQ",
            Way::Strict | Way::Floor => "DMA",
        }
    }

    /// Who can do it.
    fn vmms(self, kind: Kind) -> &'static [Vmm] {
        match self {
            Way::Floor => &[Vmm::VmIommu],
            Way::Lazy if kind == Kind::Amdvi => &[Vmm::VmIommu],
            _ => &[Vmm::VmIommu, Vmm::Qemu],
        }
    }
}

/// One guest to boot.
#[derive(Debug, Clone, Copy)]
struct Guest {
    way: Way,
    vmm: Vmm,
    round: u32,
}

impl Guest {
    fn name(self) -> String {
        let Guest { way, vmm, round } = self;
        format!("{}-{}-round-{round}", vmm.label(), way.label())
    }
}

/// Runs the command; the answer is whether the targets were met.
pub fn run(args: &GuestBenchArgs) -> Result<bool> {
    if args.rounds == 0 || args.cpus == 0 || args.windows == 0 || args.depth == 0 {
        bail!("--rounds, --cpus, --windows and --depth are at least 1");
    }
    tools::ensure(&[tools::BUSYBOX, tools::QEMU])?;
    let binary = workspace::build_vmm()?;
    let reader = Program {
        path: workspace::build_static(READER)?,
        name: READER,
        data: Vec::new(),
    };
    let place = place::choose(args.place, Some(&binary))?;
    let folder = workspace::run_folder("bench-guest")?;
    let (qemu, qemu_version) = peer::program(args.qemu)?;
    let programs = vec![boot::program(Vmm::VmIommu, Some(&binary))?, qemu];
    let kernel = Kernel::get(&args.kernel)?;
    disk::create(&folder.join(DISK))?;
    initramfs::guest(&kernel, &[reader], &folder.join(INITRD))?;
    let bench = Bench {
        args,
        place,
        bed: TestBed::new(place, programs),
        kernel_file: boot::stage_kernel(&kernel, &folder)?,
    };
    say(format!(
        "Linux {}, {} processors, {} reads in flight; against {qemu_version}",
        kernel.release, args.cpus, args.depth
    ));
    let readings = bench.readings(&folder)?;
    std::fs::remove_dir_all(&folder).ok();
    let table = Table::new(&readings);
    if args.json {
        println!(
            "{:#}",
            table.document(&kernel.release, &qemu_version, &readings)
        );
    } else {
        table.print();
    }
    Ok(table.met())
}

const DISK: &str = "disk";
const INITRD: &str = "reader.cpio";

/// Where our VMM leaves its account of a guest.
fn report_file(guest: Guest) -> String {
    format!("{}.report.json", guest.name())
}

struct Bench<'a> {
    args: &'a GuestBenchArgs,
    place: Place,
    bed: TestBed,
    kernel_file: String,
}

impl Bench<'_> {
    /// All guests, the order turned every round.
    fn guests(&self) -> Vec<Guest> {
        let wanted = |way: &Way| self.args.ways.is_empty() || self.args.ways.contains(way);
        let mut guests = Vec::new();
        for round in 1..=self.args.rounds {
            let mut all: Vec<Guest> = Way::ALL
                .into_iter()
                .filter(wanted)
                .flat_map(|way| {
                    way.vmms(self.args.iommu)
                        .iter()
                        .map(move |&vmm| Guest { way, vmm, round })
                })
                .collect();
            if round % 2 == 0 {
                all.reverse();
            }
            guests.extend(all);
        }
        guests
    }

    /// Boots all guests, those that did not finish again in another box, and reads what they
    /// report.
    fn readings(&self, folder: &Path) -> Result<Vec<Reading>> {
        let mut left = self.guests();
        let mut readings = Vec::new();
        for attempt in 1..=ATTEMPTS {
            let jobs = left
                .iter()
                .map(|guest| self.job(*guest))
                .collect::<Result<Vec<_>>>()?;
            let mut results = Vec::new();
            let ended = self.bed.run(&jobs, folder, |result| {
                say(format!("{}: {:.1} s", result.name, result.wall_ms / 1e3));
                results.push(result.clone());
            });
            let mut failed = Vec::new();
            for guest in left {
                let result = results.iter().find(|result| result.name == guest.name());
                match result.filter(|result| testbed::powered_off(result)) {
                    Some(result) => readings.push(self.reading(guest, result, folder)?),
                    None => failed.push(guest),
                }
            }
            if failed.is_empty() {
                return Ok(readings);
            }
            for guest in &failed {
                say(format!(
                    "attempt {attempt}: {} did not finish",
                    guest.name()
                ));
                std::fs::remove_file(job::result_path(folder, &guest.name())).ok();
            }
            if let (Place::Native, Err(error)) = (self.place, ended) {
                return Err(error);
            }
            left = failed;
        }
        for guest in &left {
            if let Some(result) = self.unfinished(*guest, folder) {
                testbed::show_console(folder, &result);
            }
        }
        bail!("{} guests did not finish in {ATTEMPTS} boxes", left.len());
    }

    /// A result for a guest that left none, so that its console can be shown.
    fn unfinished(&self, guest: Guest, folder: &Path) -> Option<JobResult> {
        job::console_path(folder, &guest.name())
            .exists()
            .then(|| JobResult {
                name: guest.name(),
                ending: crate::proc::Ending::TimedOut,
                wall_ms: 0.0,
                marks: Vec::new(),
            })
    }

    /// What a guest that finished measured, once it is sure that it measured that.
    fn reading(&self, guest: Guest, result: &JobResult, folder: &Path) -> Result<Reading> {
        let Guest { way, vmm, .. } = guest;
        let right = disk::hash(0, disk::REGION);
        let domain = result.value("domain");
        let rates: Vec<f64> = result
            .values("reads_per_second")
            .filter_map(|rate| rate.parse().ok())
            .collect();
        let problem = if let Some(why) = result.value("read_failed") {
            Some(format!("the reads failed: {why}"))
        } else if result.value("bench_hash") != Some(right.as_str()) {
            Some("the disk was read wrong".to_owned())
        } else if domain != Some(way.domain()) {
            Some(format!(
                "the disk's domain is {domain:?}, not {}",
                way.domain()
            ))
        } else if rates.len() != self.args.windows as usize {
            Some(format!("{} windows were measured", rates.len()))
        } else {
            None
        };
        if let Some(problem) = problem {
            testbed::show_console(folder, result);
            bail!("{}: {problem}", result.name);
        }
        let report = std::fs::read(folder.join(report_file(guest))).unwrap_or_default();
        let report: Value = serde_json::from_slice(&report).unwrap_or_default();
        Ok(Reading {
            way,
            vmm,
            rates,
            exits: report["exits"].clone(),
            threads_ms: report["threads_ms"].clone(),
        })
    }

    /// The guest's unit, which translates DMA with either VMM. An old QEMU's AMD-Vi cannot.
    fn unit(&self, Guest { way, vmm, .. }: Guest) -> String {
        let mut unit = way.unit(self.args.iommu);
        let asks = vmm == Vmm::Qemu && self.args.qemu == Peer::Newest;
        if asks && self.args.iommu == Kind::Amdvi && way != Way::None {
            unit.push_str(",dma-remap=on");
        }
        unit
    }

    fn job(&self, guest: Guest) -> Result<Job> {
        let Guest { way, vmm, .. } = guest;
        let files = [self.kernel_file.as_str(), INITRD, DISK].map(str::to_owned);
        let (local, [kernel, initrd, disk]) = match self.place {
            Place::Native => (Vec::new(), files),
            Place::Box => {
                let there = files.clone().map(|name| format!("{}/{name}", job::LOCAL));
                (files.to_vec(), there)
            }
        };
        let GuestBenchArgs {
            depth,
            windows,
            window,
            ..
        } = self.args;
        let unit = self.unit(guest);
        let machine = Machine {
            kernel,
            initrd,
            cmdline: format!(
                "{} quiet {} vmi.reads={depth},{windows},{window}",
                boot::base_cmdline("reads", &unit),
                way.words(),
            ),
            cpus: self.args.cpus,
            memory: self.args.memory.clone(),
            iommu: unit,
            disk,
            indirect: false,
            edu: false,
            report: (vmm == Vmm::VmIommu).then(|| report_file(guest)),
        };
        let mut argv = vec![self.bed.program(boot::program_name(vmm))];
        argv.extend(machine.arguments(vmm, self.place)?);
        Ok(Job {
            name: guest.name(),
            argv,
            limit_ms: Duration::from_secs(self.args.limit).as_millis() as u64,
            local,
        })
    }
}

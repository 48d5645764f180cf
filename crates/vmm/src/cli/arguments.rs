//! The options, as clap derives them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, value_parser};

use super::exit;
use crate::config::{
    DeviceConfig, FeatureChange, IommuConfig, KernelConfig, MachineConfig, MemorySize, Module,
};

const EXAMPLES: &str = "\
Examples:
  Is KVM here, and what runs where?
    vm-iommu doctor

  See a unit at work:
    vm-iommu demo
    vm-iommu demo --iommu amdvi

  A Linux guest with its disk behind the unit:
    vm-iommu run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0 panic=-1' \\
        --cpus 4 --memory 2G --iommu vtd,aw=48 --device virtio-blk,path=disk.img";

const RUN_EXAMPLES: &str = "\
Examples:
  The same guest with and without a unit:
    vm-iommu run --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0
    vm-iommu run --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0 --iommu none

  Two disks, one of them past the unit:
    vm-iommu run --kernel vmlinuz --device virtio-blk,path=a.img,queues=2 \\
        --device virtio-blk,path=b.img,readonly=on,iommu=off

  A multiboot test image with a module, and its exit code:
    vm-iommu run --kernel test.flat --initrd data.bin,cmdline='a=1' --device edu; echo $?

  A guest without AVX and all that needs it, and an account of the run:
    vm-iommu run --kernel vmlinuz --cpu-features=-avx --report run.json";

const IOMMUFD_HELP: &str = "\
The program and its children must be dynamic, of the GNU C library on x86-64, and stay the user
that they began as. The server ends with the program.

Exits as the program does, with 128 and the signal's number if one ended it, and with 2 if it was
not started.";

/// A virtual machine whose devices sit behind an emulated IOMMU.
#[derive(Debug, Parser)]
#[command(
    name = "vm-iommu",
    version,
    subcommand_required = true,
    after_help = "Run 'vm-iommu help COMMAND' for a command's options and examples.",
    after_long_help = paragraphs(&[EXAMPLES, exit::HELP])
)]
pub(super) struct Arguments {
    /// Tell more on standard error: -v what happens, -vv why, -vvv everything. RUST_LOG, if set,
    /// goes before.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Boot a kernel and run it until it ends; its serial port is this terminal.
    Run(Box<RunArguments>),
    /// Watch a guest program the unit: DMA through its tables, a remapped interrupt, a refused
    /// access. Needs no files, and runs on any KVM.
    #[command(
        after_help = "Exits with 0 if the guest came to its end, with 10 if not, and with 2 without usable KVM."
    )]
    Demo(DemoArguments),
    /// Say what KVM is here, measured, and what will therefore run where.
    #[command(after_help = "Exits with 0 if machines run on this KVM, and with 2 if not.")]
    Doctor(DoctorArguments),
    /// Run a program whose /dev/iommu is this one's: iommufd, without an IOMMU in the machine.
    #[command(
        after_help = "Exits as the program does, with 128 and the signal's number if one ended it, and with 2 if it was not started.",
        after_long_help = IOMMUFD_HELP
    )]
    Iommufd(IommufdArguments),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Try 'vm-iommu help run' for examples and exit codes.",
    after_long_help = paragraphs(&[RUN_EXAMPLES, exit::HELP])
)]
pub(super) struct RunArguments {
    /// The kernel: a bzImage, an x86-64 ELF with a PVH note, or a multiboot image.
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// A file for the kernel; may repeat.
    ///
    /// A bzImage takes all of them together as its initramfs. PVH and multiboot kernels get
    /// modules, each with a command line of its own: everything after ",cmdline=".
    #[arg(long, value_name = "FILE[,cmdline=TEXT]")]
    pub initrd: Vec<Module>,
    /// The kernel's command line.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub cmdline: String,
    /// Number of CPUs; more than 255 need a unit with eim=on or xt=on.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = value_parser!(u16).range(1..=i64::from(MachineConfig::MAX_CPUS))
    )]
    pub cpus: u16,
    /// Guest RAM: a number of MiB, or one with K, M or G.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub memory: MemorySize,
    /// The remapping unit: "vtd" or "amdvi" with options, or "none".
    ///
    /// Options of vtd, with their defaults:
    ///   aw=48              widest second-stage address: 39, 48 or 57 bits
    ///   intremap=on        interrupt remapping
    ///   eim=on             interrupts with 32-bit destinations (x2APIC); off if intremap=off
    ///   caching-mode=off   the guest invalidates entries that become present, too
    ///   pass-through=on    context entries that let requests through untranslated
    ///   caches=on          whether the unit keeps translations
    ///   drain=on           off: enforces nothing, for benches: an invalidation waits for nobody
    ///   fault-records=8    number of fault recording registers, 1 to 256
    ///   ioapic-source=0xff00   source id of the I/O APIC's interrupts: bus, device, function
    ///   units=1            number of such units, 1 to 4; each but the first has a root port
    ///
    /// Options of amdvi, with their defaults:
    ///   hats=6             most levels of host (v1) tables: 4, 5 or 6; or none
    ///   had=on             host tables with accessed and dirty flags; off if hats=none
    ///   gt=on              guest (v2) tables
    ///   gats=5             most levels of guest tables: 4 or 5
    ///   pasid-bits=16      width of PASIDs: 1 to 20; Linux stops at more than 16
    ///   ga=on              interrupt remapping entries of 128 bits, else of 32
    ///   xt=on              interrupts with 32-bit destinations (x2APIC); off if ga=off
    ///   irt=2048           most entries of an interrupt remapping table: 512 or 2048
    ///   ia=on              a command that invalidates everything
    ///   np-cache=off       the guest invalidates entries that become present, too
    ///   ats=off            devices may have translation caches and issue page requests
    ///   segments=8         most segments of the device table: 1, 2, 4 or 8
    ///   caches=on          whether the unit keeps translations
    ///   drain=on           off: enforces nothing, for benches: an invalidation waits for nobody
    ///   ivhd=40            newest type of the ACPI table's blocks: 10, 11 or 40
    ///   units=1            number of such units, 1 to 4; each but the first has a root port
    #[arg(
        long,
        value_name = "UNIT[,OPTION=VALUE]...",
        default_value = "vtd",
        verbatim_doc_comment
    )]
    pub iommu: IommuConfig,
    /// A PCI device; may repeat. They get device numbers 1 and up in this order.
    ///
    /// virtio-blk, a disk, with its options and their defaults:
    ///   path=FILE          a raw image; write two commas for one in its name
    ///   iommu=on           whether it sits behind the unit
    ///   readonly=off       whether the guest may not write
    ///   queues=N           number of request queues; one for each CPU if not given
    ///   indirect=on|off    whether the guest may use indirect descriptors; off behind the unit
    ///                      if not given, where each would be one more mapping
    ///   port=0             0: on the root bus; N: behind the root port of unit N, counted from 0
    ///
    /// edu, the educational device 1234:11e8, with its options and their defaults:
    ///   iommu=on           whether it sits behind the unit
    ///   dma-mask=0xfffffff the address bits that its DMA engine has
    ///   port=0             as for virtio-blk
    #[arg(long, value_name = "DEVICE[,OPTION=VALUE]...", verbatim_doc_comment)]
    pub device: Vec<DeviceConfig>,
    /// CPU features to hide (-NAME) or to offer (+NAME), named as in /proc/cpuinfo; what cannot
    /// work without a hidden one is hidden with it.
    #[arg(
        long,
        value_name = "-NAME|+NAME,...",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub cpu_features: Vec<FeatureChange>,
    /// Leave an account of the run in this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl RunArguments {
    /// The machine that the options describe.
    pub fn into_config(self) -> MachineConfig {
        MachineConfig {
            kernel: Some(KernelConfig {
                path: self.kernel,
                initrds: self.initrd,
                cmdline: self.cmdline,
            }),
            cpus: self.cpus,
            memory: self.memory,
            iommu: self.iommu,
            devices: self.device,
            cpu_features: self.cpu_features,
            report: self.report,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// The remapping unit that the guest programs: "vtd" or "amdvi", with options as for run.
    #[arg(long, value_name = "UNIT[,OPTION=VALUE]...", default_value = "vtd")]
    pub iommu: IommuConfig,
    /// Print one JSON object, for programs.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    /// Print JSON, for programs; "kvm" is "hardware", "interpreted" or "unusable".
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct IommufdArguments {
    /// The preload library; beside this program if not given.
    #[arg(long, value_name = "FILE")]
    pub preload: Option<PathBuf>,
    /// Do not grant programs CAP_SYS_RESOURCE, which lets them choose how pinned memory is
    /// accounted; they have it only if they have it anyway.
    #[arg(long)]
    pub own_capabilities: bool,
    /// Let programs pin as much as they like, whatever RLIMIT_MEMLOCK they have.
    #[arg(long)]
    pub no_lock_limit: bool,
    /// The program, and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM [ARGUMENT]...")]
    pub program: Vec<OsString>,
}

/// Paragraphs with an empty line between.
fn paragraphs(texts: &[&str]) -> String {
    texts.join("\n\n")
}

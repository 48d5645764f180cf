//! The command lines of the VMMs that a test guest can run under.

use crate::disk;
use crate::initramfs::Program;
use crate::tools;
use anyhow::{Result, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// The features that must be hidden together with XSAVE in the box, where a guest's XSETBV is
/// not intercepted and CPUID leaf 0xD would disagree with XCR0.
const NEEDS_XSAVE: &[&str] = &[
    "xsave",
    "avx",
    "avx2",
    "f16c",
    "fma",
    "vaes",
    "vpclmulqdq",
    "pku",
];

/// Which VMM runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Vmm {
    /// Ours.
    VmIommu,
    /// QEMU with its intel-iommu or amd-iommu, to compare with.
    Qemu,
}

impl Vmm {
    /// What a person calls it.
    pub fn label(self) -> &'static str {
        match self {
            Vmm::VmIommu => "vm-iommu",
            Vmm::Qemu => "qemu",
        }
    }
}

/// Where the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this machine's KVM.
    Native,
    /// On the KVM of an emulated machine.
    Box,
}

/// A guest to run; file names are relative to the run's folder.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The bzImage.
    pub kernel: String,
    /// The initramfs.
    pub initrd: String,
    /// The kernel command line.
    pub cmdline: String,
    /// The number of processors.
    pub cpus: u32,
    /// The size of its memory, such as `1G`.
    pub memory: String,
    /// The unit: `vtd` or `amdvi`, with options or without, or `none`.
    pub iommu: String,
    /// The raw disk image.
    pub disk: String,
    /// Whether our disk offers indirect descriptors behind a unit; QEMU's always does.
    pub indirect: bool,
    /// Whether the edu device is there.
    pub edu: bool,
    /// Where the VMM leaves its own report; QEMU has none.
    pub report: Option<String>,
}

impl Machine {
    /// Whether the machine has a unit.
    pub fn has_iommu(&self) -> bool {
        self.iommu != "none"
    }

    /// The kind of the unit: the first word of [`iommu`](Self::iommu).
    pub fn unit(&self) -> &str {
        self.iommu.split(',').next().unwrap_or_default()
    }

    /// Whether the unit has this option.
    pub fn has_option(&self, option: &str) -> bool {
        self.iommu.split(',').skip(1).any(|other| other == option)
    }

    /// Whether the kernel's command line has this word.
    pub fn has_word(&self, word: &str) -> bool {
        self.cmdline.split_whitespace().any(|other| other == word)
    }

    /// Whether the machine's unit remaps interrupts.
    pub fn remaps_interrupts(&self) -> bool {
        self.has_iommu() && !self.has_option("intremap=off")
    }

    /// Whether the machine's AMD-Vi unit remaps interrupts to 32-bit destinations.
    pub fn has_x2apic(&self) -> bool {
        let without = ["xt=off", "ga=off", "ivhd=10", "intremap=off"];
        self.unit() == "amdvi" && !without.iter().any(|option| self.has_option(option))
    }

    /// Whether the guest is told to let devices past the unit's tables.
    pub fn passes_through(&self) -> bool {
        self.has_word("iommu=pt") || self.has_word("iommu.passthrough=1")
    }

    /// The number of units that `--iommu` asks for.
    fn units(&self) -> u8 {
        let mut options = self.iommu.split(',');
        let units = options.find_map(|option| option.strip_prefix("units="));
        units.map_or(1, |units| units.parse().unwrap_or(1))
    }

    /// The number of the disk's queues: one for each processor, as far as the image has room.
    pub fn queues(&self) -> u64 {
        u64::from(self.cpus).min(disk::MAX_QUEUES)
    }

    /// The arguments with which `vmm` runs this machine in `place`.
    pub fn arguments(&self, vmm: Vmm, place: Place) -> Result<Vec<String>> {
        match vmm {
            Vmm::VmIommu => Ok(self.ours(place)),
            Vmm::Qemu => self.qemu(place),
        }
    }

    fn ours(&self, place: Place) -> Vec<String> {
        let mut list = Arguments::default();
        list.word("run");
        list.pair("--kernel", &self.kernel);
        list.pair("--initrd", &self.initrd);
        list.pair("--cmdline", &self.cmdline);
        list.pair("--cpus", self.cpus);
        list.pair("--memory", &self.memory);
        list.pair("--iommu", &self.iommu);
        let queues = self.queues();
        // With several units, the disk is behind the second one's root port, all else behind the
        // first.
        let port = match self.units() {
            0 | 1 => "",
            _ => ",port=1",
        };
        let indirect = if self.indirect { ",indirect=on" } else { "" };
        let disk = format!(
            "virtio-blk,path={},queues={queues}{indirect}{port}",
            self.disk
        );
        list.pair("--device", disk);
        if self.edu {
            list.pair("--device", "edu");
        }
        if place == Place::Box {
            list.pair("--cpu-features", "-xsave");
        }
        if let Some(report) = &self.report {
            list.pair("--report", report);
        }
        list.0
    }

    fn qemu(&self, place: Place) -> Result<Vec<String>> {
        let mut list = Arguments::default();
        list.pair("-accel", "kvm");
        list.pair("-machine", "q35,kernel-irqchip=split");
        let mut cpu = String::from("host");
        if place == Place::Box {
            for feature in NEEDS_XSAVE {
                cpu.push_str(&format!(",-{feature}"));
            }
        }
        list.pair("-cpu", cpu);
        list.pair("-smp", self.cpus);
        list.pair("-m", &self.memory);
        list.word("-nodefaults");
        list.word("-no-user-config");
        list.word("-no-reboot");
        list.pair("-nic", "none");
        list.pair("-vga", "none");
        list.pair("-display", "none");
        list.pair("-serial", "stdio");
        list.pair("-kernel", &self.kernel);
        list.pair("-initrd", &self.initrd);
        list.pair("-append", &self.cmdline);
        if self.has_iommu() {
            list.pair("-device", qemu_unit(&self.iommu)?);
        }
        list.pair(
            "-drive",
            format!(
                "file={},if=none,id=disk,format=raw,file.locking=off",
                self.disk
            ),
        );
        let platform = if self.has_iommu() { "on" } else { "off" };
        list.pair(
            "-device",
            format!(
                "virtio-blk-pci,drive=disk,disable-legacy=on,num-queues={},iommu_platform={platform}",
                self.queues()
            ),
        );
        if self.edu {
            list.pair("-device", "edu");
        }
        Ok(list.0)
    }
}

/// QEMU's words for `vtd[,aw=BITS,eim=on|off,intremap=on|off,caching-mode=on|off]`, and for
/// `amdvi` with options of QEMU's own.
fn qemu_unit(iommu: &str) -> Result<String> {
    let mut options = iommu.split(',');
    match options.next() {
        Some("vtd") => {}
        Some("amdvi") => {
            let mut device = String::from("amd-iommu,intremap=on");
            options.for_each(|option| device.push_str(&format!(",{option}")));
            return Ok(device);
        }
        _ => bail!("with --vmm qemu, --iommu is vtd, amdvi or none, not {iommu}"),
    }
    let mut device = String::from("intel-iommu");
    if !iommu.contains("intremap=") {
        device.push_str(",intremap=on");
    }
    for option in options {
        match option.split_once('=') {
            Some(("aw", bits)) => device.push_str(&format!(",aw-bits={bits}")),
            Some(("eim" | "intremap" | "caching-mode", _)) => {
                device.push_str(&format!(",{option}"));
            }
            _ => bail!(
                "with --vmm qemu, the unit knows aw, eim, intremap and caching-mode, not {option}"
            ),
        }
    }
    Ok(device)
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn word(&mut self, word: &str) {
        self.0.push(word.to_owned());
    }

    fn pair(&mut self, option: &str, value: impl ToString) {
        self.word(option);
        self.0.push(value.to_string());
    }
}

/// QEMU as a program in the box: with the firmware that a direct kernel boot reads.
pub fn qemu_program() -> Result<Program> {
    let firmware = [
        "/usr/share/seabios/bios-256k.bin",
        "/usr/share/qemu/kvmvapic.bin",
        "/usr/share/qemu/linuxboot.bin",
        "/usr/share/qemu/linuxboot_dma.bin",
    ];
    let data = firmware
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect();
    Ok(Program {
        path: tools::require(tools::QEMU)?,
        name: tools::QEMU.name,
        data,
    })
}

/// Our VMM as a program in the box.
pub fn our_program(binary: &Path) -> Program {
    Program {
        path: binary.to_path_buf(),
        name: "vm-iommu",
        data: Vec::new(),
    }
}

#[cfg(test)]
mod tests;

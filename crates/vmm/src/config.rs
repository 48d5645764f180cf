//! What a machine is made of: the description that the command line fills in and the machine is
//! built from.
//!
//! Every part parses from the text of its option (`--iommu vtd,aw=48`), so that a test, a
//! program that embeds the machine, and the command line say the same thing the same way.

mod amdvi;
mod error;
mod options;
mod parse;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use amdvi::AmdViOptions;
pub use error::ConfigError;

use crate::layout;

/// A whole machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// What to load and start; a machine without one is for payloads that are placed by hand.
    pub kernel: Option<KernelConfig>,
    /// Number of virtual CPUs, 1 to [`MachineConfig::MAX_CPUS`].
    pub cpus: u16,
    /// How much RAM there is.
    pub memory: MemorySize,
    /// The DMA and interrupt remapping unit in front of the devices.
    pub iommu: IommuConfig,
    /// The PCI functions, in the order in which they get their device numbers.
    pub devices: Vec<DeviceConfig>,
    /// Changes to the CPUID that the guest sees, applied in order.
    pub cpu_features: Vec<FeatureChange>,
    /// Where to leave an account of the run, as JSON, when the machine stops.
    pub report: Option<PathBuf>,
}

impl MachineConfig {
    /// The most CPUs that a machine can have.
    pub const MAX_CPUS: u16 = 1024;
    /// The most CPUs that interrupts reach without remapping to 32-bit destinations: APIC id 255
    /// means "all".
    pub const MAX_CPUS_WITHOUT_EIM: u16 = 255;
    /// The most devices: the device numbers of one bus, less the host bridge.
    pub const MAX_DEVICES: usize = 31;

    /// The device numbers that devices get on the root bus, in order: all but those of the host
    /// bridge, of the system management bus controller that comes with an AMD-Vi unit, and of the
    /// root ports that come with further units.
    pub fn device_numbers(&self) -> impl Iterator<Item = u8> + use<> {
        let taken = match self.iommu {
            IommuConfig::AmdVi(_) => Some(layout::SMBUS_DEVICE),
            IommuConfig::None | IommuConfig::Vtd(_) => None,
        };
        let ports: Vec<u8> = (1..self.iommu.units()).map(layout::root_port).collect();
        (1..=Self::MAX_DEVICES as u8)
            .filter(move |number| Some(*number) != taken && !ports.contains(number))
    }

    /// Checks what no single option can: that the parts fit together.
    ///
    /// # Errors
    ///
    /// The first part that does not fit.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.cpus == 0 || self.cpus > Self::MAX_CPUS {
            return Err(ConfigError::Cpus {
                given: self.cpus,
                most: Self::MAX_CPUS,
            });
        }
        if self.cpus > Self::MAX_CPUS_WITHOUT_EIM && !self.iommu.extended_interrupts() {
            return Err(ConfigError::CpusNeedEim {
                given: self.cpus,
                most: Self::MAX_CPUS_WITHOUT_EIM,
            });
        }
        let given = self.devices.iter().filter(|device| device.port() == 0);
        let (given, most) = (given.count(), self.device_numbers().count());
        if given > most {
            return Err(ConfigError::TooManyDevices { given, most });
        }
        let mut ports = Vec::new();
        for port in self.devices.iter().map(DeviceConfig::port) {
            if port > 0 && port >= self.iommu.units() {
                return Err(ConfigError::NoPort { port });
            }
            if port > 0 && ports.contains(&port) {
                return Err(ConfigError::PortTaken { port });
            }
            ports.push(port);
        }
        Ok(())
    }
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            kernel: None,
            cpus: 1,
            memory: MemorySize::DEFAULT,
            iommu: IommuConfig::default(),
            devices: Vec::new(),
            cpu_features: Vec::new(),
            report: None,
        }
    }
}

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelConfig {
    /// A bzImage, a PVH ELF or a multiboot image; which of them is seen from its content.
    pub path: PathBuf,
    /// Files handed to the kernel. A bzImage takes their concatenation as its initramfs; PVH and
    /// multiboot kernels get them as separate modules.
    pub initrds: Vec<Module>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// A file handed to the kernel: `PATH[,cmdline=TEXT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The file.
    pub path: PathBuf,
    /// The module's own command line, for kernels that take modules; empty if none was given.
    pub cmdline: String,
}

/// An amount of guest RAM in bytes: whole mebibytes, at least [`MemorySize::MIN`] and at most
/// [`MemorySize::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize(u64);

impl MemorySize {
    /// The least that a machine runs with: 16 MiB.
    pub const MIN: Self = Self(16 << 20);
    /// What a machine has if nothing is said: 1 GiB.
    pub const DEFAULT: Self = Self(1 << 30);
    /// The most that fits below the 64-bit PCI window.
    pub const MAX: Self =
        Self(layout::LOW_RAM_END + (*layout::PCI_WINDOW_64.start() - layout::HIGH_RAM_START));

    /// A size of `bytes`.
    ///
    /// # Errors
    ///
    /// Not whole mebibytes, or out of bounds.
    pub fn from_bytes(bytes: u64) -> Result<Self, ConfigError> {
        if !(Self::MIN.0..=Self::MAX.0).contains(&bytes) {
            return Err(ConfigError::MemoryBounds {
                given: bytes,
                least: Self::MIN.0,
                most: Self::MAX.0,
            });
        }
        if !bytes.is_multiple_of(1 << 20) {
            return Err(ConfigError::MemoryGranularity { given: bytes });
        }
        Ok(Self(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Which remapping unit the machine has: `none`, `vtd[,OPTION=VALUE]…` or
/// `amdvi[,OPTION=VALUE]…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IommuConfig {
    /// Devices reach guest memory untranslated.
    None,
    /// An Intel VT-d unit in front of every device that does not opt out.
    Vtd(VtdOptions),
    /// An AMD-Vi unit in front of every device that does not opt out.
    AmdVi(AmdViOptions),
}

impl IommuConfig {
    /// Whether remapped interrupts can carry 32-bit destinations.
    #[must_use]
    pub fn extended_interrupts(&self) -> bool {
        match self {
            Self::None => false,
            Self::Vtd(options) => options.intremap && options.eim,
            Self::AmdVi(options) => options.extended_interrupts(),
        }
    }

    /// The most units of a machine.
    pub const MAX_UNITS: u8 = 4;

    /// How many units there are, all alike. The first serves the root bus; each further one, what
    /// is behind a root port of its own.
    #[must_use]
    pub fn units(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Vtd(options) => options.units,
            Self::AmdVi(options) => options.units,
        }
    }
}

impl Default for IommuConfig {
    fn default() -> Self {
        Self::Vtd(VtdOptions::default())
    }
}

/// What the VT-d unit offers to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VtdOptions {
    /// `aw=39|48|57`: the widest second-stage address, in bits; narrower ones are offered too.
    pub address_width: u8,
    /// `intremap=on|off`: interrupt remapping.
    pub intremap: bool,
    /// `eim=on|off`: remapped interrupts with 32-bit destinations, which x2APIC mode needs.
    pub eim: bool,
    /// `caching-mode=on|off`: the guest must invalidate after it makes an entry present, too.
    pub caching_mode: bool,
    /// `pass-through=on|off`: context entries that hand requests through untranslated.
    pub pass_through: bool,
    /// `caches=on|off`: whether the unit keeps translations; a guest that invalidates correctly
    /// sees no difference but speed.
    pub caches: bool,
    /// `drain=on|off`: whether an invalidation waits for accesses in flight. Off, the unit
    /// enforces nothing; it is the floor that benches compare with.
    pub drain: bool,
    /// `fault-records=N`: number of fault recording registers, 1 to 256.
    pub fault_records: u16,
    /// `ioapic-source=ID`: who the I/O APIC's interrupts come from, as bus, device and function
    /// in 16 bits; the ACPI table tells the guest. A program that does not read the table may
    /// expect the device whose wire it uses.
    pub ioapic_source: u16,
    /// `units=N`: how many such units there are, 1 to 4; each but the first has a root port.
    pub units: u8,
}

impl Default for VtdOptions {
    fn default() -> Self {
        Self {
            address_width: 48,
            intremap: true,
            eim: true,
            caching_mode: false,
            pass_through: true,
            caches: true,
            drain: true,
            fault_records: 8,
            ioapic_source: layout::IOAPIC_SOURCE_ID,
            units: 1,
        }
    }
}

/// One PCI function: `virtio-blk,path=FILE[,…]` or `edu[,…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceConfig {
    /// A virtio disk on a raw file.
    VirtioBlk(VirtioBlkConfig),
    /// The educational device of QEMU's documentation, 1234:11e8.
    Edu(EduConfig),
}

impl DeviceConfig {
    /// Where it is: 0 on the root bus, else behind the root port of the unit of that number.
    #[must_use]
    pub fn port(&self) -> u8 {
        match self {
            Self::VirtioBlk(disk) => disk.port,
            Self::Edu(edu) => edu.port,
        }
    }
}

/// A virtio disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioBlkConfig {
    /// `path=FILE`: the raw image.
    pub path: PathBuf,
    /// `iommu=on|off`: whether the disk sits behind the unit and offers
    /// `VIRTIO_F_ACCESS_PLATFORM`.
    pub iommu: bool,
    /// `readonly=on|off`: whether writes are refused and the file is opened for reading only.
    pub read_only: bool,
    /// `queues=N`: number of request queues; one for each CPU if not given.
    pub queues: Option<u16>,
    /// `indirect=on|off`: whether the guest may put descriptors into tables of their own; only
    /// where nothing is translated if not given, since each table is one more mapping.
    pub indirect: Option<bool>,
    /// `port=N`: 0 for the root bus, else behind the root port of unit N.
    pub port: u8,
}

impl VirtioBlkConfig {
    /// The most request queues that a disk can have.
    pub const MAX_QUEUES: u16 = 256;
}

/// The edu device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EduConfig {
    /// `iommu=on|off`: whether the device sits behind the unit.
    pub iommu: bool,
    /// `dma-mask=MASK`: the address bits that the device's DMA engine has.
    pub dma_mask: u64,
    /// `port=N`: 0 for the root bus, else behind the root port of unit N.
    pub port: u8,
}

impl Default for EduConfig {
    fn default() -> Self {
        Self {
            iommu: true,
            dma_mask: (1 << 28) - 1,
            port: 0,
        }
    }
}

/// A change to the CPUID that the guest sees: `+NAME` or `-NAME`. Taking a feature away takes
/// along what cannot work without it; which names there are is the CPUID model's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureChange {
    /// The feature, in lower case, as `/proc/cpuinfo` names it.
    pub name: String,
    /// `true` to offer the feature, `false` to hide it.
    pub enable: bool,
}

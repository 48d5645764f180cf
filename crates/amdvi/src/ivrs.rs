//! The ACPI table that tells a guest about its units: IVRS (chapter 5).

use vm_iommu_spec::amd::registers::{ExtendedFeature, ExtendedFeature2};
use vm_iommu_spec::{Iova, PhysAddr, RequesterId};

use crate::AmdViConfig;

/// The IVRS table of a machine (section 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ivrs {
    /// Width of guest physical addresses in bits.
    pub physical_address_width: u8,
    /// DMA remapping opt-in: asks the guest to protect itself from external devices.
    pub dma_remap_opt_in: bool,
    /// The kinds of blocks that describe each unit, in this order. A guest takes the last kind
    /// that it knows.
    pub blocks: Vec<BlockKind>,
    /// The units.
    pub units: Vec<Ivhd>,
    /// Memory that functions use before the guest's driver takes over, or always.
    pub memory: Vec<Ivmd>,
    /// Who made the table: OEMID (6 bytes), OEM table ID (8 bytes).
    pub oem: Oem,
}

impl Default for Ivrs {
    fn default() -> Self {
        Self {
            physical_address_width: 48,
            dma_remap_opt_in: false,
            blocks: vec![BlockKind::Basic, BlockKind::Extended, BlockKind::AcpiHid],
            units: Vec::new(),
            memory: Vec::new(),
            oem: Oem::default(),
        }
    }
}

/// The identification that every ACPI table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oem {
    /// OEMID.
    pub id: [u8; 6],
    /// OEM table ID.
    pub table_id: [u8; 8],
}

impl Default for Oem {
    fn default() -> Self {
        Self {
            id: *b"VMIOMM",
            table_id: *b"VMIOMMU ",
        }
    }
}

/// The kinds of blocks that describe a unit (section 5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockKind {
    /// 10h: feature bits as they were at first, without EFR.
    Basic = 0x10,
    /// 11h: with EFR and EFR2.
    Extended = 0x11,
    /// 40h: the same, with entries for devices that ACPI names.
    AcpiHid = 0x40,
}

/// A unit (IVHD, section 5.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ivhd {
    /// Its PCI function.
    pub function: RequesterId,
    /// Where the capability block is in the function's config space, in bytes.
    pub capability: u16,
    /// Where its registers are.
    pub registers: PhysAddr,
    /// EFR.
    pub feature: ExtendedFeature,
    /// EFR2.
    pub feature_2: ExtendedFeature2,
    /// IotlbSup.
    pub iotlb: bool,
    /// Who is behind it, and who stands for whom.
    pub entries: Vec<DeviceEntry>,
}

impl Ivhd {
    /// The unit of `config`, which serves nobody yet.
    pub fn new(
        config: &AmdViConfig,
        function: RequesterId,
        capability: u16,
        registers: PhysAddr,
    ) -> Self {
        Self {
            function,
            capability,
            registers,
            feature: config.extended_feature(),
            feature_2: config.extended_feature_2(),
            iotlb: config.iotlb_support,
            entries: Vec::new(),
        }
    }
}

/// What the guest's driver is to set in device table entries: DTE Setting (section 5.2.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DteSetting {
    /// INITPass.
    pub init_pass: bool,
    /// EIntPass.
    pub ext_int_pass: bool,
    /// NMIPass.
    pub nmi_pass: bool,
    /// SysMgt, 2 bits.
    pub system_management: u8,
    /// Lint0Pass.
    pub lint0_pass: bool,
    /// Lint1Pass.
    pub lint1_pass: bool,
}

impl DteSetting {
    /// All local interrupts pass, as for an I/O APIC.
    pub const ALL_PASS: Self = Self {
        init_pass: true,
        ext_int_pass: true,
        nmi_pass: true,
        system_management: 0,
        lint0_pass: true,
        lint1_pass: true,
    };

    fn bits(self) -> u8 {
        u8::from(self.init_pass)
            | u8::from(self.ext_int_pass) << 1
            | u8::from(self.nmi_pass) << 2
            | (self.system_management & 3) << 4
            | u8::from(self.lint0_pass) << 6
            | u8::from(self.lint1_pass) << 7
    }
}

/// Who is behind a unit (sections 5.2.2.1 to 5.2.2.5). Device identifiers are bus, device and
/// function as 16 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEntry {
    /// All devices.
    All(DteSetting),
    /// One device.
    Select(u16, DteSetting),
    /// The devices from the first to the last.
    Range(u16, u16, DteSetting),
    /// A device whose requests carry the identifier of another.
    Alias {
        /// The device.
        device: u16,
        /// What its requests carry.
        source: u16,
        /// The setting.
        setting: DteSetting,
    },
    /// The devices from the first to the last, whose requests carry the identifier of another.
    AliasRange {
        /// The first device.
        first: u16,
        /// The last device.
        last: u16,
        /// What their requests carry.
        source: u16,
        /// The setting.
        setting: DteSetting,
    },
    /// An I/O APIC.
    IoApic {
        /// Its identifier in the MADT.
        id: u8,
        /// What its interrupts carry.
        source: u16,
        /// The setting.
        setting: DteSetting,
    },
    /// An HPET that raises its interrupts as messages.
    Hpet {
        /// Its number.
        id: u8,
        /// What its interrupts carry.
        source: u16,
        /// The setting.
        setting: DteSetting,
    },
    /// A device that ACPI names; in blocks of kind 40h only.
    AcpiHid {
        /// What its requests carry.
        source: u16,
        /// Its hardware identifier, _HID, padded with zeroes.
        hid: [u8; 8],
        /// Its compatible identifier, _CID, padded with zeroes.
        cid: [u8; 8],
        /// Its unique identifier, _UID, as a string; at most 255 bytes.
        uid: String,
        /// The setting.
        setting: DteSetting,
    },
}

/// Memory that functions use (IVMD, section 5.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ivmd {
    /// The PCI segment of the functions.
    pub segment: u16,
    /// Which functions.
    pub devices: IvmdDevices,
    /// The first byte, 4-KiB aligned.
    pub start: Iova,
    /// The length in bytes, a multiple of 4 KiB.
    pub length: u64,
    /// What the guest's driver is to do with it.
    pub kind: IvmdKind,
}

/// Which functions use the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvmdDevices {
    /// All of the segment.
    All,
    /// One.
    One(u16),
    /// From the first to the last.
    Range(u16, u16),
}

/// What the guest's driver is to do with memory that functions use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvmdKind {
    /// Map it to itself.
    Unity {
        /// For reads.
        read: bool,
        /// For writes.
        write: bool,
    },
    /// Put it into the exclusion range.
    Exclusion,
}

const HEADER: usize = 36;
const CHECKSUM: usize = 9;

impl Ivrs {
    /// The table as it lies in memory, its checksum included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut table = Vec::new();
        table.extend(*b"IVRS");
        table.extend([0; 4]);
        table.push(2); // Revision.
        table.push(0); // The checksum.
        table.extend(self.oem.id);
        table.extend(self.oem.table_id);
        table.extend(1_u32.to_le_bytes());
        table.extend(*b"VMIO");
        table.extend(1_u32.to_le_bytes());
        debug_assert_eq!(table.len(), HEADER);
        // IVinfo: EFRSup, opt-in, 48-bit guest virtual addresses, the widths.
        let information = 1
            | u32::from(self.dma_remap_opt_in) << 1
            | 2 << 5
            | u32::from(self.physical_address_width & 0x7f) << 8
            | 64 << 15;
        table.extend(information.to_le_bytes());
        table.extend([0; 8]);
        for unit in &self.units {
            for kind in &self.blocks {
                unit.append(&mut table, *kind);
            }
        }
        for memory in &self.memory {
            memory.append(&mut table);
        }
        let length = (table.len() as u32).to_le_bytes();
        table[4..8].copy_from_slice(&length);
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        table[CHECKSUM] = 0_u8.wrapping_sub(sum);
        table
    }
}

impl Ivhd {
    fn append(&self, table: &mut Vec<u8>, kind: BlockKind) {
        let start = table.len();
        let feature = &self.feature;
        // Coherent; the block of kind 10h has two more bits that later ones have in EFR.
        let mut flags = 1 << 5 | u8::from(self.iotlb) << 4;
        if kind == BlockKind::Basic {
            flags |= u8::from(feature.prefetch()) << 6 | u8::from(feature.ppr()) << 7;
        }
        table.extend([kind as u8, flags, 0, 0]);
        table.extend(self.function.source_id().to_le_bytes());
        table.extend(self.capability.to_le_bytes());
        table.extend(self.registers.0.to_le_bytes());
        table.extend(self.function.segment().to_le_bytes());
        table.extend([0; 2]); // IOMMU Info: message 0.
        match kind {
            BlockKind::Basic => {
                let bits = u32::from(feature.x2apic())
                    | u32::from(feature.no_execute()) << 1
                    | u32::from(feature.guest_translation()) << 2
                    | u32::from(feature.guest_cr3_levels()) << 3
                    | u32::from(feature.invalidate_all()) << 5
                    | u32::from(feature.guest_apic()) << 6
                    | u32::from(feature.hardware_error()) << 7
                    | u32::from(feature.pasid_width()) << 8
                    | u32::from(feature.guest_levels()) << 28
                    | u32::from(feature.host_levels()) << 30;
                table.extend(bits.to_le_bytes());
            }
            BlockKind::Extended | BlockKind::AcpiHid => {
                let no_host_tables = feature.host_levels() == 3;
                table.extend(u32::from(no_host_tables).to_le_bytes());
                table.extend(feature.into_bits().to_le_bytes());
                table.extend(self.feature_2.into_bits().to_le_bytes());
            }
        }
        for entry in &self.entries {
            entry.append(table, kind);
        }
        let length = ((table.len() - start) as u16).to_le_bytes();
        table[start + 2..start + 4].copy_from_slice(&length);
    }
}

/// An entry of 4 bytes.
fn short(table: &mut Vec<u8>, kind: u8, device: u16, setting: u8) {
    table.push(kind);
    table.extend(device.to_le_bytes());
    table.push(setting);
}

/// An entry of 8 bytes whose upper half names another device.
fn long(table: &mut Vec<u8>, kind: u8, device: u16, setting: u8, source: u16) {
    short(table, kind, device, setting);
    table.push(0);
    table.extend(source.to_le_bytes());
    table.push(0);
}

/// An entry for a special device.
fn special(table: &mut Vec<u8>, setting: u8, handle: u8, source: u16, variety: u8) {
    short(table, 0x48, 0, setting);
    table.push(handle);
    table.extend(source.to_le_bytes());
    table.push(variety);
}

impl DeviceEntry {
    fn append(&self, table: &mut Vec<u8>, kind: BlockKind) {
        match self {
            Self::All(setting) => short(table, 1, 0, setting.bits()),
            Self::Select(device, setting) => short(table, 2, *device, setting.bits()),
            Self::Range(first, last, setting) => {
                short(table, 3, *first, setting.bits());
                short(table, 4, *last, 0);
            }
            Self::Alias {
                device,
                source,
                setting,
            } => long(table, 0x42, *device, setting.bits(), *source),
            Self::AliasRange {
                first,
                last,
                source,
                setting,
            } => {
                long(table, 0x43, *first, setting.bits(), *source);
                short(table, 4, *last, 0);
            }
            Self::IoApic {
                id,
                source,
                setting,
            } => special(table, setting.bits(), *id, *source, 1),
            Self::Hpet {
                id,
                source,
                setting,
            } => special(table, setting.bits(), *id, *source, 2),
            Self::AcpiHid {
                source,
                hid,
                cid,
                uid,
                setting,
            } => {
                if kind != BlockKind::AcpiHid {
                    return;
                }
                short(table, 0xf0, *source, setting.bits());
                table.extend(hid);
                table.extend(cid);
                let uid = &uid.as_bytes()[..uid.len().min(255)];
                // A string.
                table.push(2);
                table.push(uid.len() as u8);
                table.extend(uid);
            }
        }
    }
}

impl Ivmd {
    fn append(&self, table: &mut Vec<u8>) {
        let (kind, first, last) = match self.devices {
            IvmdDevices::All => (0x20, 0, 0),
            IvmdDevices::One(device) => (0x21, device, 0),
            IvmdDevices::Range(first, last) => (0x22, first, last),
        };
        let flags = match self.kind {
            IvmdKind::Unity { read, write } => 1 | u8::from(read) << 1 | u8::from(write) << 2,
            IvmdKind::Exclusion => 1 << 3,
        };
        table.extend([kind, flags]);
        table.extend(32_u16.to_le_bytes());
        table.extend(first.to_le_bytes());
        table.extend(last.to_le_bytes());
        table.extend(self.segment.to_le_bytes());
        table.extend([0; 6]);
        table.extend(self.start.0.to_le_bytes());
        table.extend(self.length.to_le_bytes());
    }
}

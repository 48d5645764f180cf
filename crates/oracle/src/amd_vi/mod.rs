//! AMD-Vi: what a unit makes of a request of a device, by 48882 sections 2.2.2 (device table),
//! 2.2.6.3 (guest CR3 tables), 2.2.5 (interrupt remapping) and 2.5 (events).

mod interrupt;
mod request;

pub use interrupt::{AmdViDelivery, AmdViInterrupt, amd_vi_interrupt};
pub use request::amd_vi_request;

use crate::page_walk::{Memory, bits};

/// ILLEGAL_DEV_TABLE_ENTRY.
const ILLEGAL_ENTRY: u8 = 1;
/// IO_PAGE_FAULT.
const PAGE_FAULT: u8 = 2;
/// DEV_TAB_HARDWARE_ERROR.
const DEVICE_TABLE_ERROR: u8 = 3;
/// PAGE_TAB_HARDWARE_ERROR.
const PAGE_TABLE_ERROR: u8 = 4;
/// INVALID_DEVICE_REQUEST.
const INVALID_REQUEST: u8 = 8;

/// The capabilities that matter to a request.
#[derive(Clone, Copy, Debug)]
pub struct AmdViCapabilities {
    /// The width of physical addresses.
    pub physical_address_width: u32,
    /// HATS: the most levels of host tables, 4 to 6; 0 if there are none.
    pub host_levels: u32,
    /// GTSup.
    pub guest_translation: bool,
    /// GATS: the most levels of guest tables, 4 or 5.
    pub guest_levels: u32,
    /// GLXSup: the most levels of the guest CR3 table, 1 to 3.
    pub guest_cr3_levels: u32,
    /// GIOSup.
    pub guest_io: bool,
    /// HASup.
    pub host_accessed: bool,
    /// HDSup.
    pub host_dirty: bool,
    /// EPHSup.
    pub enhanced_page_requests: bool,
    /// The number of SMI filter registers.
    pub smi_filters: usize,
    /// HtRangeIgnore: HyperTransport's ranges are addresses like others.
    pub ht_range_ignore: bool,
    /// EFR.NumIntRemapSup: 1 if interrupt remapping tables may have 2048 entries.
    pub long_interrupt_tables: bool,
    /// DevTblSegSup: up to 2^n segments of the device table.
    pub device_table_segments: u32,
    /// PASMax, as a number of bits.
    pub pasid_width: u32,
    /// NXSup.
    pub no_execute: bool,
}

/// The registers that matter to a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct AmdViRegisters {
    /// IOMMU Control Register.
    pub control: u64,
    /// Device Table Base Address Register, and those of segments 1 to 7.
    pub device_tables: [u64; 8],
    /// Exclusion Base Register.
    pub exclusion_base: u64,
    /// Exclusion Range Limit Register.
    pub exclusion_limit: u64,
    /// SMI Filter Registers.
    pub smi_filters: [u64; 16],
}

/// A refused request: the event that reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmdViRefusal {
    /// The event code.
    pub code: u8,
    /// RZ: a reserved bit is set, as opposed to an illegal encoding.
    pub reserved_bit: bool,
    /// PR: what refused was present.
    pub present: bool,
    /// PE: permission is missing.
    pub permission: bool,
}

impl AmdViRefusal {
    const fn of(code: u8) -> Self {
        Self {
            code,
            reserved_bit: false,
            present: false,
            permission: false,
        }
    }

    const fn reserved(self) -> Self {
        Self {
            reserved_bit: true,
            ..self
        }
    }

    const fn present(self) -> Self {
        Self {
            present: true,
            ..self
        }
    }

    const fn permission(self) -> Self {
        Self {
            permission: true,
            ..self
        }
    }
}

/// The four words of a device's entry, the lowest first.
fn device_table_entry(
    capabilities: &AmdViCapabilities,
    registers: &AmdViRegisters,
    memory: &mut dyn Memory,
    source: u16,
) -> Result<[u64; 4], AmdViRefusal> {
    // 1. DevTblSegEn: the upper bits of the identifier select one of 2^n tables, the lower ones
    //    an entry of 32 bytes.
    let asked = bits(registers.control, 36, 34) as u32;
    let per_segment = 65536 / 2_u64.pow(asked.min(capabilities.device_table_segments));
    let segment = u64::from(source) / per_segment;
    let index = u64::from(source) % per_segment;
    let base = registers
        .device_tables
        .get(segment as usize)
        .copied()
        .unwrap_or_default();
    // 2. A table has Size + 1 pages of 4 KiB.
    if index >= (bits(base, 8, 0) + 1) * 4096 / 32 {
        return Err(AmdViRefusal::of(PAGE_FAULT));
    }
    let place = bits(base, 51, 12) * 4096 + index * 32;
    let mut word = |number: u64| {
        memory
            .read(place + number * 8)
            .ok_or(AmdViRefusal::of(DEVICE_TABLE_ERROR))
    };
    Ok([word(0)?, word(1)?, word(2)?, word(3)?])
}

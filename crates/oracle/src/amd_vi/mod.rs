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

/// Type of hardware errors: nobody answers at the address.
const MASTER_ABORT: u8 = 1;

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
    /// Type, of INVALID_DEVICE_REQUEST and hardware errors.
    pub kind: u8,
    /// DomainID, if the device's entry is valid.
    pub domain: Option<u16>,
    /// The address, if it is not the request's own.
    pub address: Option<AmdViAddress>,
    /// Whether it is logged.
    pub logging: AmdViLogging,
}

/// An address that an event reports in place of the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmdViAddress {
    /// The guest physical address that host tables refused on the way through guest tables.
    GuestPhysical(u64),
    /// Where the entry is that is not in memory, while the request's own address was looked up.
    Entry(u64),
    /// The same while a guest physical address was looked up.
    EntryForGuestPhysical(u64),
}

/// Which events of its kind are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmdViLogging {
    /// All.
    All,
    /// The first since the device's entry was invalidated, for the device (SE).
    First,
    /// None (SA, IG, SupIOPF, SmiFLogEn).
    None,
}

impl AmdViRefusal {
    const fn of(code: u8) -> Self {
        let hardware = code == DEVICE_TABLE_ERROR || code == PAGE_TABLE_ERROR;
        Self {
            code,
            reserved_bit: false,
            present: false,
            permission: false,
            kind: if hardware { MASTER_ABORT } else { 0 },
            domain: None,
            address: None,
            logging: AmdViLogging::All,
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

    const fn unlogged(self) -> Self {
        Self {
            logging: AmdViLogging::None,
            ..self
        }
    }

    const fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    const fn at(self, address: AmdViAddress) -> Self {
        Self {
            address: Some(address),
            ..self
        }
    }

    /// With what the device's entry says of events: the DomainID, and, for page faults only,
    /// whether they are logged.
    fn for_device(self, domain: Option<u16>, logging: AmdViLogging) -> Self {
        let mut refusal = Self { domain, ..self };
        if self.code == PAGE_FAULT && self.logging == AmdViLogging::All {
            refusal.logging = logging;
        }
        refusal
    }

    /// The entry of the event log for a read or write by `source` (section 2.5), the lower half
    /// first.
    pub fn event_of_request(
        &self,
        source: u16,
        pasid: Option<u32>,
        address: u64,
        write: bool,
    ) -> [u64; 2] {
        // 1. What is about a guest physical address is not about the PASID (GN clear), and no
        //    error of the device table is.
        let (pasid, address) = match self.address {
            None => (pasid, address),
            Some(AmdViAddress::Entry(entry)) => (pasid, entry),
            Some(
                AmdViAddress::GuestPhysical(other) | AmdViAddress::EntryForGuestPhysical(other),
            ) => (None, other),
        };
        let pasid = pasid.filter(|_| self.code != DEVICE_TABLE_ERROR);
        let mut low = self.common(source, pasid);
        // 2. Bit 53, RW: a write. Not in INVALID_DEVICE_REQUEST.
        if write && self.code != INVALID_REQUEST {
            low += 2_u64.pow(53);
        }
        // 3. US, for a PASID; these requests have user privilege. Bit 50; 49 in
        //    INVALID_DEVICE_REQUEST; hardware errors have none.
        low += match (pasid, self.code) {
            (None, _) | (_, PAGE_TABLE_ERROR) => 0,
            (_, INVALID_REQUEST) => 2_u64.pow(49),
            _ => 2_u64.pow(50),
        };
        [low, address]
    }

    /// The same for an interrupt request to `address`.
    pub fn event_of_interrupt(&self, source: u16, address: u64) -> [u64; 2] {
        let address = match self.address {
            Some(AmdViAddress::Entry(entry)) => entry,
            _ => address,
        };
        // Bit 51, I: an interrupt request.
        [self.common(source, None) + 2_u64.pow(51), address]
    }

    /// The fields that all requests' events have.
    fn common(&self, source: u16, pasid: Option<u32>) -> u64 {
        // 1. Bits 15:0, the device.
        let mut low = u64::from(source);
        // 2. Bits 19:16 and 47:32, the PASID, with GN in bit 48; or bits 47:32, the domain, in
        //    page faults and errors of page tables.
        low += match (pasid, self.domain) {
            (Some(pasid), _) => {
                let (high, low) = (u64::from(pasid) / 65536, u64::from(pasid) % 65536);
                2_u64.pow(48) + low * 2_u64.pow(32) + high * 2_u64.pow(16)
            }
            (None, Some(domain)) if self.code == PAGE_FAULT || self.code == PAGE_TABLE_ERROR => {
                u64::from(domain) * 2_u64.pow(32)
            }
            _ => 0,
        };
        // 3. PR, PE and RZ in bits 52, 54 and 55, the type in 59:57, the code in 63:60.
        for (flag, position) in [
            (self.present, 52),
            (self.permission, 54),
            (self.reserved_bit, 55),
        ] {
            low += u64::from(flag) * 2_u64.pow(position);
        }
        low + u64::from(self.kind) * 2_u64.pow(57) + u64::from(self.code) * 2_u64.pow(60)
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
            .ok_or(AmdViRefusal::of(DEVICE_TABLE_ERROR).at(AmdViAddress::Entry(place)))
    };
    Ok([word(0)?, word(1)?, word(2)?, word(3)?])
}

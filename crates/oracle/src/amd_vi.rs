//! AMD-Vi: what a unit makes of a request of a device, by 48882 sections 2.2.2 (device table),
//! 2.2.6.3 (guest CR3 tables), 2.2.5 (interrupt remapping) and 2.5 (events).

use std::ops::RangeInclusive;

use crate::amd_v1::AmdV1;
use crate::nested::nested;
use crate::page_walk::{Access, Memory, Refusal, Why, bit, bits};
use crate::x86_64::X86_64;

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

/// Addresses that HyperTransport has for interrupts.
const HT_INTERRUPTS: RangeInclusive<u64> = 0xfd_f800_0000..=0xfd_f8ff_ffff;
/// Addresses that HyperTransport has for system management.
const HT_SYSTEM_MANAGEMENT: RangeInclusive<u64> = 0xfd_f910_0000..=0xfd_f91f_ffff;
/// Addresses that HyperTransport has for port I/O.
const HT_PORT_IO: RangeInclusive<u64> = 0xfd_fc00_0000..=0xfd_fdff_ffff;

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

/// An interrupt as the processors receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmdViInterrupt {
    /// The destination.
    pub destination: u32,
    /// Logical destination mode.
    pub logical: bool,
    /// The delivery mode.
    pub delivery_mode: u8,
    /// The vector.
    pub vector: u8,
    /// Level-triggered.
    pub level: bool,
}

/// What becomes of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmdViDelivery {
    /// The processors receive it.
    Processors(AmdViInterrupt),
    /// It is posted to a guest.
    Guest,
}

/// What becomes of an untranslated request of `source` to `address`, outside the interrupt address
/// range: the output address, or why it is refused. The guest CR3 table is looked at before IR
/// and IW, since it is the same for all accesses.
///
/// # Errors
/// [`AmdViRefusal`].
pub fn amd_vi_request(
    capabilities: &AmdViCapabilities,
    registers: &AmdViRegisters,
    memory: &mut dyn Memory,
    source: u16,
    pasid: Option<u32>,
    address: u64,
    access: Access,
) -> Result<u64, AmdViRefusal> {
    // 1. While the unit is disabled (IommuEn), requests pass.
    if !bit(registers.control, 0) {
        return Ok(address);
    }
    // 2. The device's entry of 256 bits is read; requests of devices without one are refused.
    let entry = device_table_entry(capabilities, registers, memory, source)?;
    // 3. V clear: the request passes, unless it has a PASID.
    if !bit(entry[0], 0) {
        return match pasid {
            None => Ok(address),
            Some(_) => Err(AmdViRefusal::of(PAGE_FAULT)),
        };
    }
    // 4. Reserved bits have to be clear.
    let illegal = AmdViRefusal::of(ILLEGAL_ENTRY);
    let mut reserved = vec![(0, 2..=6), (0, 63..=63), (1, 42..=42), (3, 0..=53)];
    if !capabilities.host_accessed {
        reserved.push((0, 7..=7));
    }
    if !capabilities.host_dirty {
        reserved.push((0, 8..=8));
    }
    if !capabilities.enhanced_page_requests {
        reserved.push((0, 52..=53));
    }
    if !capabilities.guest_io {
        reserved.push((0, 54..=54));
    }
    if !capabilities.guest_translation {
        reserved.extend([(0, 55..=60), (1, 16..=31), (1, 43..=63)]);
    }
    for (word, positions) in reserved {
        for position in positions {
            if bit(entry[word], position) {
                return Err(illegal.reserved());
            }
        }
    }
    // 5. So do reserved encodings: IoCtl 3, HAD 2, and, if GV is set, more levels of guest CR3
    //    tables or guest tables than there are.
    let guest_valid = bit(entry[0], 55);
    let cr3_levels = bits(entry[0], 57, 56) as u32 + 1;
    let guest_levels = bits(entry[2], 55, 54) as u32 + 4;
    if bits(entry[1], 36, 35) == 3 || bits(entry[0], 8, 7) == 2 {
        return Err(illegal);
    }
    if guest_valid
        && (cr3_levels > capabilities.guest_cr3_levels || guest_levels > capabilities.guest_levels)
    {
        return Err(illegal);
    }
    // 6. Mode: more levels of host tables than there are is a page fault.
    let fault = AmdViRefusal::of(PAGE_FAULT);
    let mode = bits(entry[0], 11, 9) as u32;
    if mode > capabilities.host_levels {
        return Err(fault.present());
    }
    // 7. Requests with PASID, and with GIoV those without, as of PASID 0, go through guest tables,
    //    if the unit does guest translation (GTEn). Without any, a PASID is in vain.
    let guest = guest_valid && bit(registers.control, 16);
    let pasid = match pasid {
        Some(_) if !guest => return Err(fault),
        Some(pasid) => Some(pasid),
        None => (guest && bit(entry[0], 54)).then_some(0),
    };
    // 8. Addresses that are not guest virtual may lie in a special range. What the exclusion range
    //    (ExEn; for all devices with Allow, else for those with EX) holds passes.
    if pasid.is_none() || !bit(entry[0], 1) {
        let base = registers.exclusion_base;
        let first = bits(base, 51, 12) * 4096;
        let last = bits(registers.exclusion_limit, 51, 12) * 4096 + 4095;
        let excluded = bit(base, 0) && (bit(base, 1) || bit(entry[1], 39));
        if excluded && (first..=last).contains(&address) {
            return Ok(address);
        }
        // HyperTransport's interrupts do not come this way. SysMgt and IoCtl say whether system
        // management and port I/O are blocked, pass, or are translated; of system management's
        // messages, those that are interrupts do not come this way either.
        let invalid = AmdViRefusal::of(INVALID_REQUEST);
        if !capabilities.ht_range_ignore {
            if HT_INTERRUPTS.contains(&address) {
                return Err(invalid);
            }
            if HT_SYSTEM_MANAGEMENT.contains(&address) {
                match bits(entry[1], 41, 40) {
                    0 | 2 => return Err(invalid),
                    1 => return Ok(address),
                    _ => {}
                }
            }
            if HT_PORT_IO.contains(&address) {
                match bits(entry[1], 36, 35) {
                    0 => return Err(invalid),
                    1 => return Ok(address),
                    _ => {}
                }
            }
        }
    }
    // 9. TV clear: nothing is translated, and nothing passes.
    if !bit(entry[0], 1) {
        return Err(fault);
    }
    // 10. IR and IW are the topmost permissions.
    let denied = access.write && !bit(entry[0], 62) || access.read && !bit(entry[0], 61);
    let denied = denied.then_some(fault.present().permission());
    let host = (mode != 0).then_some((
        AmdV1 {
            mode,
            physical_address_width: capabilities.physical_address_width,
            accessed_enable: bit(entry[0], 7),
            dirty_enable: bit(entry[0], 8),
        },
        bits(entry[0], 51, 12) * 4096,
    ));
    let Some(pasid) = pasid else {
        if let Some(denied) = denied {
            return Err(denied);
        }
        return match host {
            None => Ok(address),
            Some((tables, root)) => tables
                .translate(memory, root, address, access)
                .map(|translation| translation.output)
                .map_err(refusal_of),
        };
    };
    // 11. The guest CR3 table: levels of nine bits of the PASID each, the third of two. Its
    //     entries hold guest physical addresses, and so does the device table entry if GCR3TRPMode
    //     says so.
    let width = match cr3_levels {
        1 => 9,
        2 => 18,
        _ => 20,
    };
    if pasid >= 2_u32.pow(width.min(capabilities.pasid_width)) {
        return Err(fault);
    }
    let guest_physical = bit(registers.control, 58);
    let mut table = bits(entry[0], 60, 58) * 2_u64.pow(12)
        + bits(entry[1], 31, 16) * 2_u64.pow(15)
        + bits(entry[1], 63, 43) * 2_u64.pow(31);
    for level in (1..=cr3_levels).rev() {
        let index = match level {
            1 => bits(pasid.into(), 8, 0),
            2 => bits(pasid.into(), 17, 9),
            _ => bits(pasid.into(), 19, 18),
        };
        let mut place = table + index * 8;
        let translated = level < cr3_levels || guest_physical;
        if let (true, Some((tables, root))) = (translated, &host) {
            let read = Access {
                read: true,
                ..Access::default()
            };
            place = tables
                .translate(memory, *root, place, read)
                .map_err(refusal_of)?
                .output;
        }
        let word = memory
            .read(place)
            .ok_or(AmdViRefusal::of(PAGE_TABLE_ERROR))?;
        if !bit(word, 0) {
            return Err(fault);
        }
        // Bits 4:3 are cache controls at the lowest level.
        let lowest_reserved = if level == 1 { 5 } else { 3 };
        if bits(word, 2, 1) != 0 || bits(word, 11, lowest_reserved) != 0 || bits(word, 63, 52) != 0
        {
            return Err(fault.present().reserved());
        }
        table = bits(word, 51, 12) * 4096;
    }
    if let Some(denied) = denied {
        return Err(denied);
    }
    // 12. The guest tables, whose addresses the host tables translate, if there are any. Guest
    //     tables always have their flags set.
    let tables = X86_64 {
        levels: guest_levels,
        // Addresses that host tables translate are as wide as they can be.
        host_address_width: match host {
            None => capabilities.physical_address_width,
            Some(_) => 52,
        },
        pages_1g: true,
        execute_disable: capabilities.no_execute,
        supervisor_enable: true,
        write_protect_enable: true,
        accessed_dirty_enable: true,
        extended_accessed_enable: false,
    };
    match host {
        None => tables
            .translate(memory, table, address, access)
            .map(|translation| translation.output)
            .map_err(refusal_of),
        Some((host, root)) => nested(
            memory,
            &tables,
            &|memory, address, access| host.translate(memory, root, address, access),
            table,
            address,
            access,
        )
        .map(|(_, translation)| translation.output)
        .map_err(|refused| refusal_of(refused.refusal)),
    }
}

/// What becomes of the interrupt request of `source` with the lower half of the address, and the
/// data.
///
/// # Errors
/// [`AmdViRefusal`].
pub fn amd_vi_interrupt(
    capabilities: &AmdViCapabilities,
    registers: &AmdViRegisters,
    memory: &mut dyn Memory,
    source: u16,
    address: u32,
    data: u32,
) -> Result<AmdViDelivery, AmdViRefusal> {
    let (address, data) = (u64::from(address), u64::from(data));
    let unmapped = AmdViInterrupt {
        destination: bits(address, 19, 12) as u32,
        logical: bit(address, 2),
        delivery_mode: bits(data, 10, 8) as u8,
        vector: bits(data, 7, 0) as u8,
        level: bit(data, 15),
    };
    let unmapped = AmdViDelivery::Processors(unmapped);
    // 1. While the unit is disabled, interrupts pass.
    if !bit(registers.control, 0) {
        return Ok(unmapped);
    }
    // 2. The device's entry; IV clear: they pass.
    let entry = device_table_entry(capabilities, registers, memory, source)?;
    let word = entry[2];
    if !bit(word, 0) {
        return Ok(unmapped);
    }
    // 3. Reserved bits and encodings have to be clear.
    let illegal = AmdViRefusal::of(ILLEGAL_ENTRY);
    if bits(word, 53, 52) != 0 || bit(word, 59) {
        return Err(illegal.reserved());
    }
    let control = bits(word, 61, 60);
    let length = bits(word, 4, 1) as u32;
    let mode = bits(registers.control, 44, 43);
    let longest = if capabilities.long_interrupt_tables && mode == 1 {
        11
    } else {
        9
    };
    if control == 3 || control == 2 && length > longest {
        return Err(illegal);
    }
    // 4. What is neither fixed nor arbitrated passes as the entry says. Into a table of more than
    //    512 entries (NumIntRemapMode), bits 10:8 of the data belong to the index instead.
    let blocked = AmdViRefusal::of(PAGE_FAULT).permission();
    let long = control == 2 && length > 9;
    let passes = match bits(data, 10, 8) {
        _ if long => None,
        0 | 1 => None,
        // SMIs pass by the filters, if these are in force (SmiFEn): SmiDV and the device's
        // identifier.
        2 => {
            let mut filters = registers.smi_filters.iter().take(capabilities.smi_filters);
            let in_force = bit(registers.control, 22);
            let admits = |filter: &u64| bit(*filter, 16) && bits(*filter, 15, 0) == source.into();
            if in_force && !filters.any(admits) {
                return Err(AmdViRefusal::of(PAGE_FAULT));
            }
            Some(true)
        }
        4 => Some(bit(word, 58)),
        5 => Some(bit(word, 56)),
        7 => Some(bit(word, 57)),
        _ => Some(false),
    };
    match (passes, control) {
        (Some(true), _) | (None, 1) => return Ok(unmapped),
        (Some(false), _) | (None, 0) => return Err(blocked),
        _ => {}
    }
    // 5. Bits 10:0 of the data select an entry, which has 128 bits with GAEn, else 32.
    let fault = AmdViRefusal::of(PAGE_FAULT);
    let index = bits(data, 10, 0);
    if index >= 2_u64.pow(length) {
        return Err(fault);
    }
    let table = bits(word, 51, 6) * 64;
    let unreadable = AmdViRefusal::of(PAGE_TABLE_ERROR);
    let wide = bit(registers.control, 17);
    let (low, high) = if wide {
        let low = memory.read(table + index * 16).ok_or(unreadable)?;
        (low, memory.read(table + index * 16 + 8).ok_or(unreadable)?)
    } else {
        let pair = memory.read(table + index / 2 * 8).ok_or(unreadable)?;
        let low = if bit(index, 0) {
            bits(pair, 63, 32)
        } else {
            bits(pair, 31, 0)
        };
        (low, 0)
    };
    // 6. RemapEn clear: it is not remapped, and does not pass.
    if !bit(low, 0) {
        return Err(fault);
    }
    // 7. Reserved bits have to be clear, and the type fixed or arbitrated. Without XTEn
    //    destinations have 8 bits. GuestMode is reserved unless GAMEn is 1; then the interrupt is a
    //    guest's.
    let extended = bit(registers.control, 50);
    let beyond = !extended && (bits(low, 31, 16) != 0 || bits(high, 63, 56) != 0);
    if wide && bit(low, 7) && bits(registers.control, 27, 25) == 1 {
        let reserved =
            bits(low, 5, 3) != 0 || bits(high, 11, 8) != 0 || bits(high, 55, 52) != 0 || beyond;
        return if reserved {
            Err(fault.present().reserved())
        } else {
            Ok(AmdViDelivery::Guest)
        };
    }
    let reserved = if wide {
        bit(low, 7) || bits(low, 63, 32) != 0 || bits(high, 55, 8) != 0 || beyond
    } else {
        bit(low, 7) || bits(low, 31, 24) != 0
    };
    if reserved {
        return Err(fault.present().reserved());
    }
    if bits(low, 4, 2) > 1 {
        return Err(fault.present());
    }
    // 8. The entry says what the processors receive.
    Ok(AmdViDelivery::Processors(AmdViInterrupt {
        destination: if wide {
            (bits(low, 31, 8) + bits(high, 63, 56) * 2_u64.pow(24)) as u32
        } else {
            bits(low, 15, 8) as u32
        },
        logical: bit(low, 6),
        delivery_mode: bits(low, 4, 2) as u8,
        vector: if wide {
            bits(high, 7, 0)
        } else {
            bits(low, 23, 16)
        } as u8,
        level: bit(low, 5),
    }))
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

/// The event for a refusal of page tables.
fn refusal_of(refusal: Refusal) -> AmdViRefusal {
    let fault = AmdViRefusal::of(PAGE_FAULT);
    match refusal.why {
        Why::NoMemory => AmdViRefusal::of(PAGE_TABLE_ERROR),
        Why::ReservedBit(_) => fault.present().reserved(),
        Why::NextLevel(_) | Why::PageSize(_) | Why::SkippedBits => fault.present(),
        Why::NoRead | Why::NoWrite | Why::NoExecute | Why::NoUser | Why::NoSupervisor => {
            fault.present().permission()
        }
        Why::TooWide | Why::NotCanonical | Why::NotPresent => fault,
    }
}

//! Requests to memory.

use std::ops::RangeInclusive;

use super::{
    AmdViAddress, AmdViCapabilities, AmdViLogging, AmdViRefusal, AmdViRegisters, ILLEGAL_ENTRY,
    INVALID_REQUEST, PAGE_FAULT, PAGE_TABLE_ERROR, device_table_entry,
};
use crate::amd_v1::AmdV1;
use crate::nested::{NestedRefusal, Stage, nested};
use crate::page_walk::{Access, Memory, Refusal, Why, bit, bits};
use crate::x86_64::X86_64;

/// Addresses to which only interrupts go.
const INTERRUPTS: RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;
/// Addresses that HyperTransport has for interrupts.
const HT_INTERRUPTS: RangeInclusive<u64> = 0xfd_f800_0000..=0xfd_f8ff_ffff;
/// Addresses that HyperTransport has for system management.
const HT_SYSTEM_MANAGEMENT: RangeInclusive<u64> = 0xfd_f910_0000..=0xfd_f91f_ffff;
/// Addresses that HyperTransport has for port I/O.
const HT_PORT_IO: RangeInclusive<u64> = 0xfd_fc00_0000..=0xfd_fdff_ffff;

/// What becomes of an untranslated request of `source` to `address`, which is no interrupt: the
/// output address, or why it is refused. The guest CR3 table is looked at before IR
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
    // 3. V says that events name its DomainID, and whether page faults are logged: SA, SE.
    let (domain, logging) = match (bit(entry[0], 0), bit(entry[1], 34), bit(entry[1], 33)) {
        (false, ..) => (None, AmdViLogging::All),
        (true, true, _) => (Some(entry[1] as u16), AmdViLogging::None),
        (true, false, true) => (Some(entry[1] as u16), AmdViLogging::First),
        (true, false, false) => (Some(entry[1] as u16), AmdViLogging::All),
    };
    by_entry(
        capabilities,
        registers,
        memory,
        &entry,
        pasid,
        address,
        access,
    )
    .map_err(|refusal| refusal.for_device(domain, logging))
}

/// What the device's entry makes of a request.
fn by_entry(
    capabilities: &AmdViCapabilities,
    registers: &AmdViRegisters,
    memory: &mut dyn Memory,
    entry: &[u64; 4],
    pasid: Option<u32>,
    address: u64,
    access: Access,
) -> Result<u64, AmdViRefusal> {
    // 1. V clear: the request passes, unless it has a PASID.
    if !bit(entry[0], 0) {
        return match pasid {
            None => Ok(address),
            Some(_) => Err(AmdViRefusal::of(PAGE_FAULT)),
        };
    }
    // 2. Reserved bits have to be clear.
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
    // 3. So do reserved encodings: IoCtl 3, HAD 2, and, if GV is set, more levels of guest CR3
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
    // 4. Mode: more levels of host tables than there are is a page fault.
    let fault = AmdViRefusal::of(PAGE_FAULT);
    let mode = bits(entry[0], 11, 9) as u32;
    if mode > capabilities.host_levels {
        return Err(fault.present());
    }
    // 5. Requests with PASID, and with GIoV those without, as of PASID 0, go through guest tables,
    //    if the unit does guest translation (GTEn). Without any, a PASID is in vain.
    let guest = guest_valid && bit(registers.control, 16);
    let pasid = match pasid {
        Some(_) if !guest => return Err(fault),
        Some(pasid) => Some(pasid),
        None => (guest && bit(entry[0], 54)).then_some(0),
    };
    // 6. Addresses that are not guest virtual may lie in a special range. Only interrupts go to
    //    theirs. What the exclusion range (ExEn; for all devices with Allow, else for those with
    //    EX) holds passes.
    if pasid.is_none() || !bit(entry[0], 1) {
        if INTERRUPTS.contains(&address) {
            return Err(AmdViRefusal::of(INVALID_REQUEST));
        }
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
                return Err(invalid.kind(5));
            }
            if HT_SYSTEM_MANAGEMENT.contains(&address) {
                match bits(entry[1], 41, 40) {
                    0 | 2 => return Err(invalid.kind(3)),
                    1 => return Ok(address),
                    _ => {}
                }
            }
            if HT_PORT_IO.contains(&address) {
                match bits(entry[1], 36, 35) {
                    0 => return Err(invalid.kind(2)),
                    1 => return Ok(address),
                    _ => {}
                }
            }
        }
    }
    // 7. TV clear: nothing is translated, and nothing passes.
    if !bit(entry[0], 1) {
        return Err(fault);
    }
    // 8. IR and IW are the topmost permissions.
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
    // 9. The guest CR3 table: levels of nine bits of the PASID each, the third of two. Its
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
                .map_err(|refusal| of_host_tables(refusal, place))?
                .output;
        }
        let word = memory
            .read(place)
            .ok_or(AmdViRefusal::of(PAGE_TABLE_ERROR).at(AmdViAddress::Entry(place)))?;
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
    // 10. The guest tables, whose addresses the host tables translate, if there are any. Guest
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
        .map_err(|NestedRefusal { stage, refusal }| match stage {
            Stage::First => refusal_of(refusal),
            Stage::SecondForEntry { address, .. }
            | Stage::SecondForFlags { address, .. }
            | Stage::SecondForPage { address } => of_host_tables(refusal, address),
        }),
    }
}

/// The event for what host tables refuse of a guest physical address on the way through guest
/// tables.
fn of_host_tables(refusal: Refusal, address: u64) -> AmdViRefusal {
    let event = refusal_of(refusal);
    event.at(match event.address {
        Some(_) => AmdViAddress::EntryForGuestPhysical(refusal.address),
        None => AmdViAddress::GuestPhysical(address),
    })
}

/// The event for a refusal of page tables.
fn refusal_of(refusal: Refusal) -> AmdViRefusal {
    let fault = AmdViRefusal::of(PAGE_FAULT);
    match refusal.why {
        Why::NoMemory => {
            AmdViRefusal::of(PAGE_TABLE_ERROR).at(AmdViAddress::Entry(refusal.address))
        }
        Why::ReservedBit(_) => fault.present().reserved(),
        Why::NextLevel(_) | Why::PageSize(_) | Why::SkippedBits => fault.present(),
        Why::NoRead | Why::NoWrite | Why::NoExecute | Why::NoUser | Why::NoSupervisor => {
            fault.present().permission()
        }
        Why::TooWide | Why::NotCanonical | Why::NotPresent => fault,
    }
}

//! Interrupts.

use super::{
    AmdViAddress, AmdViCapabilities, AmdViLogging, AmdViRefusal, AmdViRegisters, ILLEGAL_ENTRY,
    PAGE_FAULT, PAGE_TABLE_ERROR, device_table_entry,
};
use crate::page_walk::{Memory, bit, bits};

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
    // 3. V says that events name its DomainID. IG: page faults are not logged.
    let domain = bit(entry[0], 0).then_some(entry[1] as u16);
    let logging = if bit(word, 5) {
        AmdViLogging::None
    } else {
        AmdViLogging::All
    };
    by_entry(capabilities, registers, memory, source, word, data)
        .map(|delivery| delivery.unwrap_or(unmapped))
        .map_err(|refusal| refusal.for_device(domain, logging))
}

/// What the device's entry, of which `word` concerns interrupts, makes of a message's data; none if
/// it passes unmapped.
fn by_entry(
    capabilities: &AmdViCapabilities,
    registers: &AmdViRegisters,
    memory: &mut dyn Memory,
    source: u16,
    word: u64,
    data: u64,
) -> Result<Option<AmdViDelivery>, AmdViRefusal> {
    // 1. Reserved bits and encodings have to be clear.
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
    // 2. What is neither fixed nor arbitrated passes as the entry says. Into a table of more than
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
                // SmiFLogEn says whether that is logged.
                let refusal = AmdViRefusal::of(PAGE_FAULT);
                return Err(if bit(registers.control, 24) {
                    refusal
                } else {
                    refusal.unlogged()
                });
            }
            Some(true)
        }
        4 => Some(bit(word, 58)),
        5 => Some(bit(word, 56)),
        7 => Some(bit(word, 57)),
        _ => Some(false),
    };
    match (passes, control) {
        (Some(true), _) | (None, 1) => return Ok(None),
        (Some(false), _) | (None, 0) => return Err(blocked),
        _ => {}
    }
    // 3. Bits 10:0 of the data select an entry, which has 128 bits with GAEn, else 32.
    let fault = AmdViRefusal::of(PAGE_FAULT);
    let index = bits(data, 10, 0);
    if index >= 2_u64.pow(length) {
        return Err(fault);
    }
    let table = bits(word, 51, 6) * 64;
    let wide = bit(registers.control, 17);
    let place = table + index * if wide { 16 } else { 4 };
    let unreadable = AmdViRefusal::of(PAGE_TABLE_ERROR).at(AmdViAddress::Entry(place));
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
    // 4. SupIOPF: page faults are not logged. RemapEn clear: it is not remapped, and does not
    //    pass.
    let fault = if bit(low, 1) { fault.unlogged() } else { fault };
    if !bit(low, 0) {
        return Err(fault);
    }
    // 5. Reserved bits have to be clear, and the type fixed or arbitrated. Without XTEn
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
            Ok(Some(AmdViDelivery::Guest))
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
    // 6. The entry says what the processors receive.
    Ok(Some(AmdViDelivery::Processors(AmdViInterrupt {
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
    })))
}

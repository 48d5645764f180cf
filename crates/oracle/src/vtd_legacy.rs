//! VT-d in legacy mode: what a unit makes of a request of a device, by chapters 3, 5 and 7.

use crate::page_walk::{Access, Memory, Why, bit, bits};
use crate::second_stage::SecondStage;

/// The capabilities that matter to a request.
#[derive(Clone, Copy, Debug)]
pub struct VtdCapabilities {
    /// The host address width.
    pub host_address_width: u32,
    /// MGAW, as a number of bits.
    pub maximum_address_width: u32,
    /// SAGAW: whether tables of 3, 4 and 5 levels are supported.
    pub levels: [bool; 3],
    /// 2-MiB pages are supported.
    pub pages_2m: bool,
    /// 1-GiB pages are supported.
    pub pages_1g: bool,
    /// ECAP.PT.
    pub pass_through: bool,
    /// ECAP.DT.
    pub device_tlb: bool,
    /// ECAP.SC.
    pub snoop_control: bool,
}

/// The registers that matter to a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct VtdRegisters {
    /// TES of GSTS_REG.
    pub translation_enabled: bool,
    /// IRES of GSTS_REG.
    pub remapping_enabled: bool,
    /// CFIS of GSTS_REG.
    pub compatibility_enabled: bool,
    /// RTADDR_REG as the root table pointer was set.
    pub root_table: u64,
    /// IRTA_REG as the interrupt remapping table pointer was set.
    pub interrupt_table: u64,
}

/// An interrupt as the processors receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VtdInterrupt {
    /// The destination.
    pub destination: u32,
    /// Logical destination mode.
    pub logical: bool,
    /// The redirection hint.
    pub redirection_hint: bool,
    /// The delivery mode.
    pub delivery_mode: u8,
    /// The vector.
    pub vector: u8,
    /// Level-triggered.
    pub level: bool,
}

/// What becomes of an untranslated request without PASID of `source` to `address`: the output
/// address, or the fault reason.
///
/// # Errors
/// The code of the fault reason.
pub fn vtd_request(
    capabilities: &VtdCapabilities,
    registers: &VtdRegisters,
    memory: &mut dyn Memory,
    source: u16,
    address: u64,
    access: Access,
) -> Result<u64, u8> {
    // 1. While translation is disabled, addresses are not translated.
    if !registers.translation_enabled {
        return Ok(address);
    }
    // 2. The table mode has to be one that the unit has.
    if bits(registers.root_table, 11, 10) != 0 {
        return Err(0x30);
    }
    // 3. The bus number selects a root entry of 16 bytes.
    let root_table = bits(registers.root_table, 63, 12) * 4096;
    let bus = u64::from(source / 256);
    let (low, high) = read_pair(memory, root_table, bus).ok_or(0x08_u8)?;
    if !bit(low, 0) {
        return Err(0x01);
    }
    if bits(low, 11, 1) != 0 || above(low, capabilities) || high != 0 {
        return Err(0x0a);
    }
    // 4. Device and function number select a context entry of 16 bytes.
    let context_table = bits(low, 63, 12) * 4096;
    let function = u64::from(source % 256);
    let (low, high) = read_pair(memory, context_table, function).ok_or(0x09_u8)?;
    if !bit(low, 0) {
        return Err(0x02);
    }
    if bits(low, 11, 4) != 0 || above(low, capabilities) || bit(high, 7) || bits(high, 63, 24) != 0
    {
        return Err(0x0b);
    }
    // 5. Translation type and address width have to be ones that the unit has.
    let levels = match bits(high, 2, 0) {
        1 if capabilities.levels[0] => 3,
        2 if capabilities.levels[1] => 4,
        3 if capabilities.levels[2] => 5,
        _ => return Err(0x03),
    };
    let largest = (0..3).rev().find(|index| capabilities.levels[*index]);
    let width = match levels {
        3 => 39,
        4 => 48,
        _ => 57,
    };
    match bits(low, 3, 2) {
        0 => {}
        1 if capabilities.device_tlb => {}
        2 if capabilities.pass_through && largest == Some(levels as usize - 3) => {
            // 6. Pass-through: the address is checked against the widths, and not translated.
            let limit = width.min(capabilities.maximum_address_width);
            return if bits(address, 63, limit) == 0 {
                Ok(address)
            } else {
                Err(0x04)
            };
        }
        _ => return Err(0x03),
    }
    // 7. The address is checked against the unit's width, then against that of the tables.
    if bits(address, 63, capabilities.maximum_address_width) != 0 {
        return Err(0x04);
    }
    let tables = SecondStage {
        levels,
        host_address_width: capabilities.host_address_width,
        pages_2m: capabilities.pages_2m,
        pages_1g: capabilities.pages_1g,
        snoop_control: capabilities.snoop_control,
        transient_mapping: capabilities.device_tlb,
        execute_enable: false,
        accessed_dirty_enable: false,
    };
    let root = bits(low, 63, 12) * 4096;
    let translation = tables
        .translate(memory, root, address, access)
        .map_err(|refusal| match refusal.why {
            Why::TooWide => 0x04,
            // The context entry is what points to the topmost table.
            Why::NoMemory if refusal.level == levels => 0x03,
            Why::NoMemory => 0x07,
            Why::ReservedBit(_) => 0x0c,
            Why::NotPresent if access.write => 0x05,
            Why::NotPresent => 0x06,
            Why::NoWrite => 0x05,
            Why::NoRead => 0x06,
            _ => 0xff,
        })?;
    // 8. A translation must not yield an interrupt address.
    if bits(translation.output, 63, 20) == 0xfee {
        return Err(0x0e);
    }
    Ok(translation.output)
}

/// What becomes of the interrupt request of `source` with the lower half of the address, and the
/// data.
///
/// # Errors
/// The code of the fault reason.
pub fn vtd_interrupt(
    registers: &VtdRegisters,
    memory: &mut dyn Memory,
    source: u16,
    address: u32,
    data: u32,
) -> Result<VtdInterrupt, u8> {
    let (address, data) = (u64::from(address), u64::from(data));
    let compatibility = VtdInterrupt {
        destination: bits(address, 19, 12) as u32,
        logical: bit(address, 2),
        redirection_hint: bit(address, 3),
        delivery_mode: bits(data, 10, 8) as u8,
        vector: bits(data, 7, 0) as u8,
        level: bit(data, 15),
    };
    // 1. While remapping is disabled, interrupts pass.
    if !registers.remapping_enabled {
        return Ok(compatibility);
    }
    let extended = bit(registers.interrupt_table, 11);
    // 2. Compatibility format passes if that is enabled, and not in extended mode.
    if !bit(address, 4) {
        return if registers.compatibility_enabled && !extended {
            Ok(compatibility)
        } else {
            Err(0x25)
        };
    }
    // 3. The upper half of the data is reserved.
    if bits(data, 31, 16) != 0 {
        return Err(0x20);
    }
    // 4. The index is the handle, plus the subhandle if it is valid.
    let handle = bits(address, 19, 5) + 32768 * u64::from(bit(address, 2));
    let subhandle = if bit(address, 3) {
        bits(data, 15, 0)
    } else {
        0
    };
    let index = handle + subhandle;
    let entries = 2_u64.pow(bits(registers.interrupt_table, 3, 0) as u32 + 1);
    if index >= entries {
        return Err(0x21);
    }
    // 5. The entry of 16 bytes is read and checked.
    let table = bits(registers.interrupt_table, 63, 12) * 4096;
    let (low, high) = read_pair(memory, table, index).ok_or(0x23_u8)?;
    if !bit(low, 0) {
        return Err(0x22);
    }
    let destination_reserved = !extended && (bits(low, 39, 32) != 0 || bits(low, 63, 48) != 0);
    if bits(low, 15, 12) != 0
        || bits(low, 31, 24) != 0
        || bits(high, 63, 20) != 0
        || destination_reserved
    {
        return Err(0x24);
    }
    // 6. The requester is verified.
    let allowed = u16::try_from(bits(high, 15, 0)).unwrap_or_default();
    let verified = match bits(high, 19, 18) {
        0 => true,
        1 => match bits(high, 17, 16) {
            0 => source == allowed,
            // Bit 2, bits 2 to 1, bits 2 to 0 of the function number do not matter.
            1 => source / 8 == allowed / 8 && source % 4 == allowed % 4,
            2 => source / 8 == allowed / 8 && source % 2 == allowed % 2,
            _ => source / 8 == allowed / 8,
        },
        2 => (allowed / 256..=allowed % 256).contains(&(source / 256)),
        _ => false,
    };
    if !verified {
        return Err(0x26);
    }
    // 7. The entry says what the processors receive.
    Ok(VtdInterrupt {
        destination: if extended {
            bits(low, 63, 32) as u32
        } else {
            bits(low, 47, 40) as u32
        },
        logical: bit(low, 2),
        redirection_hint: bit(low, 3),
        delivery_mode: bits(low, 7, 5) as u8,
        vector: bits(low, 23, 16) as u8,
        level: bit(low, 4),
    })
}

/// The two words of entry `index` of a table of 16-byte entries.
fn read_pair(memory: &mut dyn Memory, table: u64, index: u64) -> Option<(u64, u64)> {
    let place = table.checked_add(index * 16)?;
    let low = memory.read(place)?;
    let high = memory.read(place.checked_add(8)?)?;
    Some((low, high))
}

/// Whether address bits above the host address width are set.
fn above(word: u64, capabilities: &VtdCapabilities) -> bool {
    bits(word, 63, capabilities.host_address_width) != 0
}

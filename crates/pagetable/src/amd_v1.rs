//! AMD's tables for host translation, v1 (AMD 48882, section 2.2.3).

use vm_iommu_spec::Access;
use vm_iommu_spec::amd::HostPagingEntry as Entry;

use crate::editor::{Editable, Mapping};
use crate::engine::{self, Format, Next};
use crate::walk::{AttributeFlags, Attributes, MAX_LEVELS, Reason};

/// Next Level of a page whose size is that of its entry's level.
const DEFAULT_SIZE: u8 = 0;
/// Next Level of a page whose address encodes its size.
const ENCODED_SIZE: u8 = 7;

/// How a device table entry configures its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AmdV1Config {
    /// The Mode field: the level of the root table, 1 to 6. Mode 0, no translation, and mode 7,
    /// reserved, are the unit's to handle.
    pub levels: u8,
    /// Width in bits of the unit's physical addresses, up to 52: address bits above are reserved
    /// in entries.
    pub host_address_width: u8,
    /// HAD bit 0: walks set accessed flags.
    pub accessed: bool,
    /// HAD bit 1: walks set dirty flags.
    pub dirty: bool,
}

impl AmdV1Config {
    /// Tables with 52-bit physical addresses, without accessed and dirty flags.
    pub const fn new(levels: u8) -> Self {
        Self {
            levels,
            host_address_width: 52,
            accessed: false,
            dirty: false,
        }
    }
}

/// The format of one set of v1 tables: an [`AmdV1Config`] made ready for [walks](crate::Walker)
/// and [edits](crate::Editor). The permissions of the device table entry are the unit's to add.
#[derive(Clone, Copy, Debug)]
pub struct AmdV1 {
    config: AmdV1Config,
    /// The address bits that are reserved.
    beyond_width: u64,
    accessed: u64,
    dirty: u64,
}

impl AmdV1 {
    /// Prepares the format. Levels outside of 1 to 6 and a host address width outside of 12 to 52
    /// count as the nearest of these.
    pub const fn new(mut config: AmdV1Config) -> Self {
        config.levels = match config.levels {
            0 => 1,
            levels @ 1..=6 => levels,
            _ => MAX_LEVELS as u8,
        };
        Self {
            config,
            beyond_width: engine::beyond_width(config.host_address_width),
            accessed: if config.accessed { Entry::ACCESSED } else { 0 },
            dirty: if config.dirty { Entry::DIRTY } else { 0 },
        }
    }

    /// The configuration.
    pub const fn config(&self) -> &AmdV1Config {
        &self.config
    }

    /// Base-2 logarithm of the page size that the address in `entry` encodes: the lowest clear
    /// bit from bit 12 on, of an address that is extended by zeroes, is the upper half of it.
    #[inline]
    const fn encoded_shift(entry: u64) -> u8 {
        let ones = ((entry & Entry::FRAME) >> 12).trailing_ones() as u8;
        12 + ones + 1
    }

    fn grants(permissions: Access) -> u64 {
        let mut entry = 0;
        if permissions.reads() {
            entry |= Entry::READ;
        }
        if permissions.writes() {
            entry |= Entry::WRITE;
        }
        entry
    }

    /// The address and Next Level fields of a page's entry.
    const fn framed(level: u8, shift: u8, output: u64) -> u64 {
        if shift == engine::entry_reach(level) {
            return output;
        }
        let size = ((1 << (shift - 1)) - 1) & Entry::FRAME;
        output | size | (ENCODED_SIZE as u64) << Entry::NEXT_LEVEL_SHIFT
    }
}

impl Format for AmdV1 {
    const DENIALS: u64 = 0;
    const MAX_LEVEL: u8 = 6;

    #[inline(always)]
    fn root_level(&self) -> u8 {
        self.config.levels
    }

    #[inline(always)]
    fn check(&self, address: u64, _access: Access) -> Result<(), Reason> {
        match address.checked_shr(engine::table_reach(self.config.levels).into()) {
            None | Some(0) => Ok(()),
            Some(_) => Err(Reason::BeyondWidth),
        }
    }

    #[inline(always)]
    fn is_present(&self, entry: u64) -> bool {
        entry & Entry::PRESENT != 0
    }

    #[inline(always)]
    fn decode(&self, level: u8, entry: u64, address: u64) -> Result<Next, Reason> {
        if level > 1 {
            // Nearly every entry above the lowest level has just these values.
            let fields =
                Entry::PRESENT | Entry::NEXT_LEVEL | Entry::RESERVED_TABLE | self.beyond_width;
            let below = u64::from(level - 1) << Entry::NEXT_LEVEL_SHIFT;
            if entry & fields == Entry::PRESENT | below {
                return Ok(Next::Table {
                    address: entry & Entry::FRAME,
                    level: level - 1,
                });
            }
        }
        if !self.is_present(entry) {
            return Err(Reason::NotPresent);
        }
        let next_level = (entry >> Entry::NEXT_LEVEL_SHIFT) as u8 & 7;
        let is_page = matches!(next_level, DEFAULT_SIZE | ENCODED_SIZE);
        let reserved = if is_page {
            Entry::RESERVED_PAGE
        } else {
            Entry::RESERVED_TABLE
        };
        let bits = entry & (reserved | self.beyond_width);
        if bits != 0 {
            return Err(Reason::Reserved {
                bit: bits.trailing_zeros() as u8,
            });
        }
        if is_page {
            return self.decode_page(level, next_level, entry);
        }
        let level = Self::skip(level, next_level, address)?;
        Ok(Next::Table {
            address: entry & Entry::FRAME,
            level,
        })
    }

    #[inline(always)]
    fn refusal(&self, rights: u64, access: Access) -> Option<Reason> {
        if access.writes() && rights & Entry::WRITE == 0 {
            Some(Reason::WriteDenied)
        } else if access.reads() && rights & Entry::READ == 0 {
            Some(Reason::ReadDenied)
        } else if access.contains(Access::EXECUTE) && rights & Entry::READ == 0 {
            Some(Reason::ExecuteDenied)
        } else {
            None
        }
    }

    #[inline(always)]
    fn permissions(&self, rights: u64, _access: Access) -> Access {
        let mut permissions = Access::empty();
        permissions.set(Access::READ | Access::EXECUTE, rights & Entry::READ != 0);
        permissions.set(Access::WRITE, rights & Entry::WRITE != 0);
        permissions
    }

    #[inline(always)]
    fn attributes(&self, page: u64, _shift: u8, _rights: u64) -> Attributes {
        let mut flags = AttributeFlags::empty();
        flags.set(AttributeFlags::SNOOP, page & Entry::FORCE_COHERENT != 0);
        flags.set(
            AttributeFlags::UNTRANSLATED_ONLY,
            page & Entry::UNTRANSLATED_ONLY != 0,
        );
        Attributes {
            flags,
            memory_type: 0,
        }
    }

    #[inline(always)]
    fn flags(&self, is_page: bool, writes: bool) -> u64 {
        self.accessed | if is_page && writes { self.dirty } else { 0 }
    }
}

impl AmdV1 {
    /// The level of a table that does not follow directly.
    #[cold]
    fn skip(level: u8, next_level: u8, address: u64) -> Result<u8, Reason> {
        if next_level >= level {
            return Err(Reason::NextLevel { next_level });
        }
        let skipped = (1 << engine::entry_reach(level)) - (1 << engine::table_reach(next_level));
        if address & skipped != 0 {
            return Err(Reason::SkippedBits);
        }
        Ok(next_level)
    }

    #[inline(always)]
    fn decode_page(&self, level: u8, next_level: u8, entry: u64) -> Result<Next, Reason> {
        if usize::from(level) >= MAX_LEVELS {
            return Err(Reason::NextLevel { next_level });
        }
        let reach = engine::entry_reach(level);
        let shift = if next_level == DEFAULT_SIZE {
            reach
        } else {
            let shift = Self::encoded_shift(entry);
            if shift <= reach || shift >= engine::entry_reach(level + 1) {
                return Err(Reason::PageSize { shift });
            }
            shift
        };
        // Address bits within the page are not part of its address.
        Ok(Next::Page {
            address: entry & Entry::FRAME & !((1 << shift) - 1),
            shift,
        })
    }
}

impl Editable for AmdV1 {
    fn table_entry(&self, table: u64, below: u8) -> u64 {
        let next_level = u64::from(below) << Entry::NEXT_LEVEL_SHIFT;
        table | next_level | Entry::PRESENT | Entry::READ | Entry::WRITE
    }

    #[inline]
    fn page_entry(&self, level: u8, shift: u8, output: u64, mapping: &Mapping) -> u64 {
        let flags = mapping.attributes.flags;
        let mut entry = Self::framed(level, shift, output) | Self::grants(mapping.permissions);
        if !mapping.permissions.is_empty() {
            entry |= Entry::PRESENT;
        }
        if flags.contains(AttributeFlags::SNOOP) {
            entry |= Entry::FORCE_COHERENT;
        }
        if flags.contains(AttributeFlags::UNTRANSLATED_ONLY) {
            entry |= Entry::UNTRANSLATED_ONLY;
        }
        entry
    }

    fn reframe(&self, entry: u64, _from: u8, to: u8, shift: u8, output: u64) -> u64 {
        entry & !(Entry::FRAME | Entry::NEXT_LEVEL) | Self::framed(to, shift, output)
    }

    fn with_permissions(&self, entry: u64, permissions: Access) -> u64 {
        entry & !(Entry::READ | Entry::WRITE) | Self::grants(permissions)
    }

    #[inline]
    fn page_shifts(&self, level: u8) -> u64 {
        if usize::from(level) >= MAX_LEVELS {
            return 0;
        }
        // Nine sizes a level, up to what an output address can be a multiple of.
        (0x1ff << engine::entry_reach(level)) & ((1 << 53) - 1)
    }

    fn output_width(&self) -> u8 {
        self.config.host_address_width.clamp(12, 52)
    }

    fn taller(&self) -> Option<Self> {
        let levels = self.config.levels + 1;
        let config = AmdV1Config {
            levels,
            ..self.config
        };
        (usize::from(levels) <= MAX_LEVELS).then(|| Self::new(config))
    }
}

#[cfg(test)]
mod tests;

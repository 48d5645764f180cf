//! VT-d second-stage tables (sections 3.7 and 9.8).

use vm_iommu_spec::vtd::{self, SecondStageEntry as Entry};
use vm_iommu_spec::{Access, FaultReason};

use crate::editor::{Editable, Mapping};
use crate::engine::{self, Format, Next, SizedEntries};
use crate::walk::{AttributeFlags, Attributes, Reason};

/// How many levels the tables have, and so how wide the addresses are that they translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Levels {
    /// Three: 39 bits.
    Three = 3,
    /// Four: 48 bits.
    Four = 4,
    /// Five: 57 bits.
    Five = 5,
}

impl Levels {
    /// Decodes the AW field of a context or PASID entry, 3 bits (sections 9.3 and 9.6), an
    /// adjusted guest address width; `None` if the encoding is reserved.
    pub const fn from_agaw(field: u8) -> Option<Self> {
        match field {
            1 => Some(Self::Three),
            2 => Some(Self::Four),
            3 => Some(Self::Five),
            _ => None,
        }
    }

    /// The inverse of [`from_agaw`](Self::from_agaw).
    pub const fn agaw(self) -> u8 {
        self.count() - 2
    }

    /// How many levels.
    pub const fn count(self) -> u8 {
        self as u8
    }

    /// The width in bits of the addresses that the tables translate.
    pub const fn address_width(self) -> u8 {
        engine::table_reach(self.count())
    }
}

/// How a unit and the entry that points to the tables configure them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecondStageConfig {
    /// The AW field of the context or PASID entry.
    pub levels: Levels,
    /// CAP.SSLPS bit 0: entries of level 2 may map 2-MiB pages.
    pub two_mib_pages: bool,
    /// CAP.SSLPS bit 1: entries of level 3 may map 1-GiB pages.
    pub one_gib_pages: bool,
    /// Width in bits of the unit's physical addresses (HAW), 32 to 52: address bits above are
    /// reserved in entries.
    pub host_address_width: u8,
    /// ECAP.SC: the SNP field is defined, otherwise reserved.
    pub snoop_control: bool,
    /// Whether the TM field is defined, otherwise reserved: units with device-TLBs, before
    /// revision 3.2 of the architecture.
    pub transient_mapping: bool,
    /// Whether the X field takes part, as the PASID entry enables; otherwise it is ignored, and
    /// whoever may read may execute.
    pub execute: bool,
    /// SSADE of the PASID entry: walks set accessed and dirty flags.
    pub accessed_dirty: bool,
}

impl SecondStageConfig {
    /// Tables of a legacy-mode unit with all page sizes, 52-bit physical addresses and snoop
    /// control.
    pub const fn new(levels: Levels) -> Self {
        Self {
            levels,
            two_mib_pages: true,
            one_gib_pages: true,
            host_address_width: 52,
            snoop_control: true,
            transient_mapping: false,
            execute: false,
            accessed_dirty: false,
        }
    }
}

/// The format of one set of second-stage tables: a [`SecondStageConfig`] made ready for
/// [walks](crate::Walker). Walks check the width of the tables; the unit's own limit (MGAW) is
/// the unit's to check.
#[derive(Clone, Copy, Debug)]
pub struct SecondStage {
    config: SecondStageConfig,
    entries: SizedEntries,
    /// The bits of which one makes an entry present.
    present: u64,
    /// The accessed flag, if walks set it.
    accessed: u64,
    /// The dirty flag, if walks set it.
    dirty: u64,
}

impl SecondStage {
    /// Prepares the format. A host address width outside of 12 to 52 counts as the nearer of
    /// these.
    pub const fn new(config: SecondStageConfig) -> Self {
        let mut page = 0;
        if !config.snoop_control {
            page |= Entry::SNOOP;
        }
        if !config.transient_mapping {
            page |= Entry::TRANSIENT;
        }
        Self {
            config,
            entries: SizedEntries::new(
                config.host_address_width,
                Entry::TRANSIENT | Entry::SNOOP,
                page,
                0,
                config.two_mib_pages,
                config.one_gib_pages,
            ),
            present: Entry::READ | Entry::WRITE | if config.execute { Entry::EXECUTE } else { 0 },
            accessed: if config.accessed_dirty {
                Entry::ACCESSED
            } else {
                0
            },
            dirty: if config.accessed_dirty {
                Entry::DIRTY
            } else {
                0
            },
        }
    }

    /// The configuration.
    pub const fn config(&self) -> &SecondStageConfig {
        &self.config
    }

    /// The fault reason that a unit in legacy mode records for a fault of these tables
    /// (section 7.1.3).
    pub fn legacy_fault(reason: Reason, access: Access) -> FaultReason {
        FaultReason::Vtd(match reason {
            Reason::BeyondWidth | Reason::NotCanonical => vtd::FaultReason::AddressBeyondMgaw,
            Reason::NotPresent if access.writes() => vtd::FaultReason::WriteDenied,
            Reason::WriteDenied => vtd::FaultReason::WriteDenied,
            Reason::TableAccess => vtd::FaultReason::PagingEntryAccess,
            Reason::Reserved { .. }
            | Reason::NextLevel { .. }
            | Reason::PageSize { .. }
            | Reason::SkippedBits => vtd::FaultReason::PagingEntryReserved,
            Reason::Contended => return FaultReason::Contended,
            Reason::NotPresent
            | Reason::ReadDenied
            | Reason::ExecuteDenied
            | Reason::PrivilegeDenied
            | Reason::SupervisorDisabled => vtd::FaultReason::ReadDenied,
        })
    }
}

impl Format for SecondStage {
    const DENIALS: u64 = 0;
    const MAX_LEVEL: u8 = 5;

    #[inline(always)]
    fn root_level(&self) -> u8 {
        self.config.levels.count()
    }

    #[inline(always)]
    fn check(&self, address: u64, _access: Access) -> Result<(), Reason> {
        match address >> self.config.levels.address_width() {
            0 => Ok(()),
            _ => Err(Reason::BeyondWidth),
        }
    }

    #[inline(always)]
    fn is_present(&self, entry: u64) -> bool {
        entry & self.present != 0
    }

    #[inline(always)]
    fn decode(&self, level: u8, entry: u64, _address: u64) -> Result<Next, Reason> {
        if !self.is_present(entry) {
            return Err(Reason::NotPresent);
        }
        self.entries.decode(level, entry)
    }

    #[inline(always)]
    fn refusal(&self, rights: u64, access: Access) -> Option<Reason> {
        if access.writes() && rights & Entry::WRITE == 0 {
            Some(Reason::WriteDenied)
        } else if access.reads() && rights & Entry::READ == 0 {
            Some(Reason::ReadDenied)
        } else if access.contains(Access::EXECUTE)
            && !self.permissions(rights, access).contains(Access::EXECUTE)
        {
            Some(Reason::ExecuteDenied)
        } else {
            None
        }
    }

    #[inline(always)]
    fn permissions(&self, rights: u64, _access: Access) -> Access {
        // R and W stand where READ and WRITE do.
        let mut permissions = Access::from_bits_truncate((rights & 3) as u8);
        let execute = if self.config.execute {
            Entry::EXECUTE
        } else {
            Entry::READ
        };
        permissions.set(Access::EXECUTE, rights & execute != 0);
        permissions
    }

    #[inline(always)]
    fn attributes(&self, page: u64, _shift: u8, _rights: u64) -> Attributes {
        let mut flags = AttributeFlags::empty();
        flags.set(AttributeFlags::SNOOP, page & Entry::SNOOP != 0);
        flags.set(AttributeFlags::TRANSIENT, page & Entry::TRANSIENT != 0);
        flags.set(AttributeFlags::IGNORE_PAT, page & 1 << 6 != 0);
        Attributes {
            flags,
            memory_type: (page >> 3 & 7) as u8,
        }
    }

    #[inline(always)]
    fn flags(&self, is_page: bool, writes: bool) -> u64 {
        self.accessed | if is_page && writes { self.dirty } else { 0 }
    }
}

impl SecondStage {
    /// The fields of a page's entry that permit.
    fn grants(&self, permissions: Access) -> u64 {
        let execute = self.config.execute && permissions.contains(Access::EXECUTE);
        u64::from(permissions.bits() & 3) | if execute { Entry::EXECUTE } else { 0 }
    }

    /// The PS field where it has to be set.
    fn page_size(level: u8) -> u64 {
        if level > 1 { Entry::PAGE_SIZE } else { 0 }
    }
}

impl Editable for SecondStage {
    fn table_entry(&self, table: u64, _below: u8) -> u64 {
        table | self.present
    }

    #[inline]
    fn page_entry(&self, level: u8, _shift: u8, output: u64, mapping: &Mapping) -> u64 {
        let attributes = mapping.attributes;
        let mut entry = output | Self::page_size(level) | self.grants(mapping.permissions);
        entry |= u64::from(attributes.memory_type & 7) << 3;
        if self.config.snoop_control && attributes.flags.contains(AttributeFlags::SNOOP) {
            entry |= Entry::SNOOP;
        }
        if self.config.transient_mapping && attributes.flags.contains(AttributeFlags::TRANSIENT) {
            entry |= Entry::TRANSIENT;
        }
        if attributes.flags.contains(AttributeFlags::IGNORE_PAT) {
            entry |= 1 << 6;
        }
        entry
    }

    fn reframe(&self, entry: u64, _from: u8, to: u8, _shift: u8, output: u64) -> u64 {
        entry & !(Entry::FRAME | Entry::PAGE_SIZE) | output | Self::page_size(to)
    }

    fn with_permissions(&self, entry: u64, permissions: Access) -> u64 {
        entry & !Entry::PERMISSIONS | self.grants(permissions)
    }

    #[inline]
    fn page_shifts(&self, level: u8) -> u64 {
        u64::from(self.entries.may_map(level)) << engine::entry_reach(level)
    }

    fn output_width(&self) -> u8 {
        self.config.host_address_width.clamp(12, 52)
    }
}

#[cfg(test)]
mod tests;

//! x86-64 tables: VT-d's first stage (sections 3.6 and 9.7) and AMD's guest translation, v2
//! (AMD 48882, section 2.2.6).

use vm_iommu_spec::Access;
use vm_iommu_spec::x86_64::PagingEntry as Entry;

use crate::editor::{Editable, Mapping};
use crate::engine::{self, Format, Next, SizedEntries};
use crate::second_stage::Levels;
use crate::walk::{AttributeFlags, Attributes, Reason};

/// How a unit and the entry that points to the tables configure them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct X86_64Config {
    /// Four or five levels: FSPM of the PASID entry (VT-d), GLX or GuestPagingMode (AMD). Three
    /// are walked likewise, but no unit has them.
    pub levels: Levels,
    /// CAP.FS1GP: entries of level 3 may map 1-GiB pages. Those of level 2 always may map 2-MiB
    /// pages.
    pub one_gib_pages: bool,
    /// Width in bits of the addresses that the tables yield, up to 52: address bits above are
    /// reserved in entries.
    pub host_address_width: u8,
    /// Whether the XD field is defined, otherwise reserved.
    pub no_execute: bool,
    /// SRE of the PASID entry: requests with supervisor privilege are served.
    pub supervisor: bool,
    /// WPE of the PASID entry: the R/W field also restrains supervisor privilege.
    pub write_protect: bool,
    /// Whether walks set accessed and dirty flags; all units with these tables do.
    pub accessed_dirty: bool,
    /// EAFE of the PASID entry: walks set extended accessed flags.
    pub extended_accessed: bool,
}

impl X86_64Config {
    /// Tables with 1-GiB pages, 52-bit physical addresses, XD, supervisor requests with write
    /// protection, and accessed and dirty flags, but no extended accessed flag.
    pub const fn new(levels: Levels) -> Self {
        Self {
            levels,
            one_gib_pages: true,
            host_address_width: 52,
            no_execute: true,
            supervisor: true,
            write_protect: true,
            accessed_dirty: true,
            extended_accessed: false,
        }
    }
}

/// The format of one set of x86-64 tables: an [`X86_64Config`] made ready for
/// [walks](crate::Walker) and [edits](crate::Editor).
#[derive(Clone, Copy, Debug)]
pub struct X86_64 {
    config: X86_64Config,
    entries: SizedEntries,
    /// The accessed flags, if walks set them.
    accessed: u64,
    /// The dirty flag, if walks set it.
    dirty: u64,
}

impl X86_64 {
    /// Prepares the format. A host address width outside of 12 to 52 counts as the nearer of
    /// these.
    pub const fn new(config: X86_64Config) -> Self {
        let anywhere = if config.no_execute {
            0
        } else {
            Entry::EXECUTE_DISABLE
        };
        Self {
            config,
            entries: SizedEntries::new(
                config.host_address_width,
                anywhere,
                anywhere,
                Entry::LARGE_PAT,
                true,
                config.one_gib_pages,
            ),
            accessed: if config.accessed_dirty {
                Entry::ACCESSED
            } else {
                0
            } | if config.extended_accessed {
                Entry::EXTENDED_ACCESSED
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
    pub const fn config(&self) -> &X86_64Config {
        &self.config
    }

    /// The fields of a page's entry that permit `permissions`, and the absence of which denies.
    fn grants(&self, permissions: Access) -> u64 {
        let mut entry = 0;
        if !permissions.is_empty() {
            entry |= Entry::PRESENT;
        }
        if permissions.writes() {
            entry |= Entry::WRITABLE;
        }
        if self.config.no_execute && !permissions.contains(Access::EXECUTE) {
            entry |= Entry::EXECUTE_DISABLE;
        }
        entry
    }

    /// The PS field where it has to be set.
    fn page_size(level: u8) -> u64 {
        if level > 1 { Entry::PAGE_SIZE } else { 0 }
    }

    /// Where the PAT field is.
    fn pat(level: u8) -> u64 {
        if level > 1 {
            Entry::LARGE_PAT
        } else {
            Entry::PAT
        }
    }
}

impl Format for X86_64 {
    const DENIALS: u64 = Entry::EXECUTE_DISABLE;
    const MAX_LEVEL: u8 = 5;

    #[inline(always)]
    fn root_level(&self) -> u8 {
        self.config.levels.count()
    }

    #[inline(always)]
    fn check(&self, address: u64, access: Access) -> Result<(), Reason> {
        let unused = 64 - u32::from(self.config.levels.address_width());
        if ((address << unused) as i64 >> unused) as u64 != address {
            Err(Reason::NotCanonical)
        } else if access.contains(Access::PRIVILEGED) && !self.config.supervisor {
            Err(Reason::SupervisorDisabled)
        } else {
            Ok(())
        }
    }

    #[inline(always)]
    fn is_present(&self, entry: u64) -> bool {
        entry & Entry::PRESENT != 0
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
        let permissions = self.permissions(rights, access);
        if !access.contains(Access::PRIVILEGED) && rights & Entry::USER == 0 {
            Some(Reason::PrivilegeDenied)
        } else if access.writes() && !permissions.writes() {
            Some(Reason::WriteDenied)
        } else if access.contains(Access::EXECUTE) && !permissions.contains(Access::EXECUTE) {
            Some(Reason::ExecuteDenied)
        } else {
            None
        }
    }

    #[inline(always)]
    fn permissions(&self, rights: u64, access: Access) -> Access {
        let privileged = access.contains(Access::PRIVILEGED);
        if !privileged && rights & Entry::USER == 0 {
            return Access::empty();
        }
        let mut permissions = Access::READ;
        let overrides = privileged && !self.config.write_protect;
        permissions.set(Access::WRITE, overrides || rights & Entry::WRITABLE != 0);
        // The field is inverted: see DENIALS.
        permissions.set(Access::EXECUTE, rights & Entry::EXECUTE_DISABLE != 0);
        permissions
    }

    #[inline(always)]
    fn attributes(&self, page: u64, shift: u8, rights: u64) -> Attributes {
        let mut flags = AttributeFlags::empty();
        flags.set(AttributeFlags::GLOBAL, page & Entry::GLOBAL != 0);
        flags.set(AttributeFlags::USER, rights & Entry::USER != 0);
        let pat = if shift > 12 {
            Entry::LARGE_PAT
        } else {
            Entry::PAT
        };
        let memory_type = (page >> 3 & 3) as u8 | if page & pat != 0 { 4 } else { 0 };
        Attributes { flags, memory_type }
    }

    #[inline(always)]
    fn flags(&self, is_page: bool, writes: bool) -> u64 {
        self.accessed | if is_page && writes { self.dirty } else { 0 }
    }
}

impl Editable for X86_64 {
    fn table_entry(&self, table: u64, _below: u8) -> u64 {
        table | Entry::PRESENT | Entry::WRITABLE | Entry::USER
    }

    #[inline]
    fn page_entry(&self, level: u8, _shift: u8, output: u64, mapping: &Mapping) -> u64 {
        let Attributes { flags, memory_type } = mapping.attributes;
        let mut entry = output | Self::page_size(level) | self.grants(mapping.permissions);
        entry |= u64::from(memory_type & 3) << 3;
        if memory_type & 4 != 0 {
            entry |= Self::pat(level);
        }
        if flags.contains(AttributeFlags::GLOBAL) {
            entry |= Entry::GLOBAL;
        }
        if flags.contains(AttributeFlags::USER) {
            entry |= Entry::USER;
        }
        entry
    }

    fn reframe(&self, entry: u64, from: u8, to: u8, _shift: u8, output: u64) -> u64 {
        let pat = if entry & Self::pat(from) != 0 {
            Self::pat(to)
        } else {
            0
        };
        entry & !(Entry::FRAME | Entry::PAGE_SIZE) | Self::page_size(to) | pat | output
    }

    fn with_permissions(&self, entry: u64, permissions: Access) -> u64 {
        let fields = Entry::PRESENT | Entry::WRITABLE | Entry::EXECUTE_DISABLE;
        entry & !fields | self.grants(permissions)
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

//! What a walk yields: a translation or a fault, with the entries that it visited.

use core::fmt;
use core::ops::Deref;

use bitflags::bitflags;
use thiserror::Error;
use vm_iommu_spec::{Access, PhysAddr};

/// What an address translates to, and what may be cached of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// What the address asked for translates to, its offset in the page included.
    pub output: PhysAddr,
    /// Base-2 logarithm of the size in bytes of the largest page, aligned to its size on both
    /// sides, that the tables map as one and that holds the address.
    pub page_shift: u8,
    /// What the tables permit to a request of the same privilege: any of read, write, execute.
    pub permissions: Access,
    /// Those of [`permissions`](Self::permissions) that may be exercised again without another
    /// walk. Writes are missing while a dirty flag is still to be set for the first of them.
    pub cacheable: Access,
    /// What else the page's entry says.
    pub attributes: Attributes,
}

impl Translation {
    /// Size of the page in bytes.
    pub const fn page_size(&self) -> u64 {
        1 << (self.page_shift & 63)
    }

    /// Where the page begins in the output space.
    pub const fn page(&self) -> PhysAddr {
        PhysAddr(self.output.0 & !(self.page_size() - 1))
    }
}

/// A successful walk: the [`Translation`], which it dereferences to, and the way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What was found.
    pub translation: Translation,
    /// The entries used, the topmost first.
    pub visited: Visited,
}

impl Deref for Walk {
    type Target = Translation;

    fn deref(&self) -> &Translation {
        &self.translation
    }
}

/// What a page's entry says besides address and permissions. Fields that a format does not have
/// are clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The single-bit ones.
    pub flags: AttributeFlags,
    /// The memory type: EMT (VT-d second stage, 3 bits), or PAT, PCD and PWT as the 3-bit index
    /// into a page attribute table (x86-64).
    pub memory_type: u8,
}

/// Single-bit attributes of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AttributeFlags(u8);

bitflags! {
    impl AttributeFlags: u8 {
        /// Accesses snoop processor caches: SNP (VT-d), FC (AMD v1).
        const SNOOP = 1;
        /// The mapping is transient: TM (VT-d).
        const TRANSIENT = 1 << 1;
        /// The memory type overrides the first stage's: IPAT (VT-d second stage).
        const IGNORE_PAT = 1 << 2;
        /// The page is global: G (x86-64).
        const GLOBAL = 1 << 3;
        /// Requests with user privilege may use the page: U/S of every level (x86-64).
        const USER = 1 << 4;
        /// The U bit of AMD v1, which a device-TLB receives.
        const UNTRANSLATED_ONLY = 1 << 5;
    }
}

/// A refused walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{reason}{}", DisplayPlace(self))]
pub struct WalkFault {
    /// The level of the entry that refused, 1 for the lowest; 0 if the address was refused
    /// before any entry was read.
    pub level: u8,
    /// Why.
    pub reason: Reason,
    /// The entries read, the topmost first. If the last could not be read, its value is 0.
    pub visited: Visited,
}

impl WalkFault {
    /// The entry that refused; `None` if the address was refused before any entry was read.
    pub fn step(&self) -> Option<Step> {
        self.visited.iter().find(|step| step.level == self.level)
    }

    /// Where the entry that refused is.
    pub fn entry_address(&self) -> Option<PhysAddr> {
        self.step().map(|step| step.address)
    }

    /// The entry that refused, as it was read.
    pub fn entry(&self) -> Option<u64> {
        self.step().map(|step| step.entry)
    }
}

struct DisplayPlace<'a>(&'a WalkFault);

impl fmt::Display for DisplayPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.step() {
            Some(step) => write!(f, " ({step})"),
            None => Ok(()),
        }
    }
}

/// Why a walk was refused, one for each check that the specifications name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Reason {
    /// The address has bits beyond the width that the tables translate.
    #[error("address beyond the width of the tables")]
    BeyondWidth,
    /// The address is not canonical: its upper bits are not all equal.
    #[error("address not canonical")]
    NotCanonical,
    /// The entry is not present.
    #[error("entry not present")]
    NotPresent,
    /// A reserved bit of a present entry is set.
    #[error("reserved bit {bit} set in the entry")]
    Reserved {
        /// The lowest of those that are set, 0 to 63.
        bit: u8,
    },
    /// An AMD v1 entry's Next Level field is not below the entry's own level, or says that an
    /// entry of level 6 maps a page.
    #[error("illegal next level {next_level}")]
    NextLevel {
        /// The field.
        next_level: u8,
    },
    /// An AMD v1 entry encodes a page size that is not between those of its level and the next.
    #[error("illegal page size 2^{shift}")]
    PageSize {
        /// Base-2 logarithm of the size in bytes.
        shift: u8,
    },
    /// An AMD v1 entry skips levels whose address bits are not zero.
    #[error("skipped address bits not zero")]
    SkippedBits,
    /// The table is not in memory.
    #[error("table not accessible")]
    TableAccess,
    /// A read without read permission.
    #[error("no read permission")]
    ReadDenied,
    /// A write without write permission.
    #[error("no write permission")]
    WriteDenied,
    /// An instruction fetch without execute permission.
    #[error("no execute permission")]
    ExecuteDenied,
    /// A request with user privilege to a supervisor page.
    #[error("supervisor page")]
    PrivilegeDenied,
    /// A request with supervisor privilege, where these are not enabled.
    #[error("supervisor requests are not enabled")]
    SupervisorDisabled,
    /// Accessed or dirty flags could not be set, because the entries changed each time they were
    /// read. Not a fault of the tables; the request may be retried, a unit aborts it.
    #[error("entry contended")]
    Contended,
}

/// One entry that a walk read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its level, 1 for the lowest.
    pub level: u8,
    /// Where it is. In a first stage over a second, an address that the second translates.
    pub address: PhysAddr,
    /// Its value, before the walk set accessed and dirty flags in it.
    pub entry: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "level {} at {}: {:#018x}",
            self.level, self.address, self.entry
        )
    }
}

/// The largest number of entries that one walk reads, in any format.
pub const MAX_LEVELS: usize = 6;

/// The entries that a walk read, the topmost first.
#[derive(Clone, Copy, Default)]
pub struct Visited {
    addresses: [u64; MAX_LEVELS],
    entries: [u64; MAX_LEVELS],
    levels: [u8; MAX_LEVELS],
    len: u8,
}

impl Visited {
    /// Appends a step; a step too many is dropped, which no walk produces.
    #[inline(always)]
    pub(crate) fn push(&mut self, level: u8, address: u64, entry: u64) {
        let at = usize::from(self.len);
        if at < MAX_LEVELS {
            self.addresses[at] = address;
            self.entries[at] = entry;
            self.levels[at] = level;
            self.len += 1;
        }
    }

    /// How many entries were read.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no entry was read.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, the topmost first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Step> + '_ {
        let len = self.len();
        let places = self.addresses[..len].iter().zip(&self.entries[..len]);
        places
            .zip(&self.levels[..len])
            .map(|((&address, &entry), &level)| Step {
                level,
                address: PhysAddr(address),
                entry,
            })
    }

    /// The last entry read.
    pub fn last(&self) -> Option<Step> {
        self.iter().next_back()
    }
}

impl PartialEq for Visited {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Visited {}

impl fmt::Debug for Visited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests;

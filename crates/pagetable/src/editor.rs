//! A driver's side of the table formats: mapping, unmapping and changing what is mapped while the
//! hardware walks.

mod change;
mod invalidation;
mod map;
mod reshape;

use thiserror::Error;
use vm_iommu_spec::{Access, Iova, PhysAddr};

use crate::TableMemory;
use crate::engine::{self, Format, Next};
use crate::walk::{Attributes, Reason};

pub use invalidation::Invalidation;

/// Size in bytes of a table, and of the smallest page.
const TABLE_SIZE: u64 = 4096;

/// How often an entry is read again because the hardware set a flag in it meanwhile. It can do so
/// twice.
const MAX_REREADS: usize = 8;

/// A source of pages for tables.
pub trait TablePages {
    /// A zeroed page of 4096 bytes in table memory, aligned to its size; `None` if there is none.
    fn allocate_table(&mut self) -> Option<PhysAddr>;

    /// Takes back what [`allocate_table`](Self::allocate_table) gave. No hardware reads it any
    /// more; its content is arbitrary.
    fn free_table(&mut self, table: PhysAddr);
}

/// A table format that an [`Editor`] can write.
pub trait Editable: Format + Clone {
    /// The entry that points to `table`, whose entries are of level `below`, and permits what
    /// entries can permit.
    fn table_entry(&self, table: u64, below: u8) -> u64;

    /// The entry of `level` for a page of `1 << shift` bytes, at `output`.
    fn page_entry(&self, level: u8, shift: u8, output: u64, mapping: &Mapping) -> u64;

    /// The entry of level `to`, for a page of `1 << shift` bytes at `output`, that is in all else
    /// like `entry`, which maps a page and is of level `from`.
    fn reframe(&self, entry: u64, from: u8, to: u8, shift: u8, output: u64) -> u64;

    /// `entry`, which maps a page, with other permissions.
    fn with_permissions(&self, entry: u64, permissions: Access) -> u64;

    /// The page sizes that entries of `level` can map: bit n stands for `1 << n` bytes. A size
    /// above the reach of one entry takes several equal entries.
    fn page_shifts(&self, level: u8) -> u64;

    /// The width in bits of output addresses.
    fn output_width(&self) -> u8;

    /// The dirty flag of an entry that maps a page, if the hardware sets it.
    fn dirty(&self) -> u64 {
        self.flags(true, true) & !self.flags(true, false)
    }

    /// The format with one level more on top, if tables can grow.
    fn taller(&self) -> Option<Self> {
        None
    }
}

/// What to map where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address to translate; a multiple of 4096.
    pub iova: Iova,
    /// What it translates to; a multiple of 4096.
    pub output: PhysAddr,
    /// How many bytes; a multiple of 4096 and not 0.
    pub length: u64,
    /// What is permitted: any of read, write and execute, as the format can express.
    pub permissions: Access,
    /// What else the entries say, as the format can express.
    pub attributes: Attributes,
    /// The largest page to use, as the base-2 logarithm of its size in bytes.
    pub max_page_shift: u8,
}

impl Mapping {
    /// A mapping without attributes, with pages of any size.
    pub fn new(iova: Iova, output: PhysAddr, length: u64, permissions: Access) -> Self {
        Self {
            iova,
            output,
            length,
            permissions,
            attributes: Attributes::default(),
            max_page_shift: 63,
        }
    }
}

/// Why tables could not be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EditError {
    /// An address or length is not a multiple of 4096, or the length is 0.
    #[error("range of {length:#x} bytes at {iova} is empty or not page aligned")]
    Misaligned {
        /// The first address.
        iova: Iova,
        /// The length in bytes.
        length: u64,
    },
    /// The tables do not translate all of the range.
    #[error("range of {length:#x} bytes at {iova} is beyond the width of the tables")]
    BeyondWidth {
        /// The first address.
        iova: Iova,
        /// The length in bytes.
        length: u64,
    },
    /// The output range is misaligned, or beyond the physical address width.
    #[error("output range of {length:#x} bytes at {output} cannot be mapped")]
    Output {
        /// The first output address.
        output: PhysAddr,
        /// The length in bytes.
        length: u64,
    },
    /// The format cannot express the permissions, or they are none.
    #[error("permissions {permissions} cannot be expressed")]
    Permissions {
        /// What was asked for.
        permissions: Access,
    },
    /// Something is mapped at an address that was to be mapped.
    #[error("{iova} is mapped already")]
    AlreadyMapped {
        /// The first such address.
        iova: Iova,
    },
    /// The source of pages for tables has none left.
    #[error("no page left for a table")]
    OutOfTables,
    /// A table is not in memory.
    #[error("no table memory at {address}")]
    TableAccess {
        /// The entry that could not be accessed.
        address: PhysAddr,
    },
    /// A table holds an entry that no editor writes.
    #[error("corrupt entry at {address}: {reason}")]
    Corrupt {
        /// The entry.
        address: PhysAddr,
        /// What is wrong with it.
        reason: Reason,
    },
    /// An entry changed each time it was to be replaced.
    #[error("entry at {address} contended")]
    Contended {
        /// The entry.
        address: PhysAddr,
    },
    /// The format does not allow another level on top.
    #[error("the tables have as many levels as their format allows")]
    Tallest,
}

/// A failed edit, and what has to be invalidated nevertheless.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{error}")]
pub struct EditFailure {
    /// Why.
    pub error: EditError,
    /// What changed before the failure, and was undone as far as possible: the hardware may have
    /// cached it.
    pub invalidation: Invalidation,
}

impl From<EditError> for EditFailure {
    fn from(error: EditError) -> Self {
        Self {
            error,
            invalidation: Invalidation::default(),
        }
    }
}

/// A driver's side of one set of tables.
///
/// Each operation leaves tables that the hardware may walk at any time, in between included, and
/// yields an [`Invalidation`]: what the hardware may have cached and must forget. Tables that are
/// no longer used are freed only by [`Invalidation::completed`].
///
/// Tables that become empty stay in place until a larger page replaces them or a range that covers
/// them whole is unmapped.
#[derive(Clone, Debug)]
pub struct Editor<F> {
    format: F,
    root: PhysAddr,
}

impl<F: Editable> Editor<F> {
    /// An editor of the tables at `root`: a zeroed page, or tables that an editor made.
    pub fn new(format: F, root: PhysAddr) -> Self {
        Self { format, root }
    }

    /// An editor of new, empty tables; `None` if there is no page for the root.
    pub fn create<P: TablePages + ?Sized>(format: F, pages: &mut P) -> Option<Self> {
        Some(Self::new(format, pages.allocate_table()?))
    }

    /// The root table.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// The format.
    pub fn format(&self) -> &F {
        &self.format
    }

    fn edit<'a, M: TableMemory + ?Sized>(&'a self, memory: &'a M) -> Edit<'a, F, M> {
        Edit {
            format: &self.format,
            memory,
            invalidation: Invalidation::default(),
        }
    }

    /// The last address of a range, all of which the tables translate.
    fn last(&self, iova: Iova, length: u64) -> Result<Iova, EditError> {
        if length == 0 || !(iova.0 | length).is_multiple_of(TABLE_SIZE) {
            return Err(EditError::Misaligned { iova, length });
        }
        let beyond = EditError::BeyondWidth { iova, length };
        let last = iova.last_byte(length).ok_or(beyond)?;
        let reach = engine::table_reach(self.format.root_level());
        // A canonical range does not cross from the lower half to the upper.
        let same_half = reach > 63 || (iova.0 ^ last.0) >> (reach - 1) == 0;
        let translates = |address| self.format.check(address, Access::empty()).is_ok();
        if [iova.0, last.0].into_iter().all(translates)
            && (same_half || translates(1 << (reach - 1)))
        {
            Ok(last)
        } else {
            Err(beyond)
        }
    }
}

/// One edit under way.
struct Edit<'a, F, M: ?Sized> {
    format: &'a F,
    memory: &'a M,
    invalidation: Invalidation,
}

/// What an entry is to an editor.
enum Slot {
    Vacant,
    Table { address: u64, level: u8 },
    Page { address: u64, shift: u8 },
}

impl<F: Editable, M: TableMemory + ?Sized> Edit<'_, F, M> {
    #[inline]
    fn load(&self, place: u64) -> Result<u64, EditError> {
        let address = PhysAddr(place);
        self.memory
            .load(address)
            .map_err(|_| EditError::TableAccess { address })
    }

    #[inline]
    fn store(&self, place: u64, entry: u64) -> Result<(), EditError> {
        let address = PhysAddr(place);
        self.memory
            .store(address, entry)
            .map_err(|_| EditError::TableAccess { address })
    }

    /// Replaces an entry by what `change` makes of it, whatever flags the hardware sets meanwhile.
    fn update(
        &self,
        place: u64,
        mut entry: u64,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, EditError> {
        let address = PhysAddr(place);
        for _ in 0..MAX_REREADS {
            match self.memory.compare_exchange(address, entry, change(entry)) {
                Ok(Ok(replaced)) => return Ok(replaced),
                Ok(Err(found)) => entry = found,
                Err(_) => return Err(EditError::TableAccess { address }),
            }
        }
        Err(EditError::Contended { address })
    }

    #[inline]
    fn slot(&self, place: u64, level: u8, entry: u64, iova: u64) -> Result<Slot, EditError> {
        if entry == 0 {
            return Ok(Slot::Vacant);
        }
        match self.format.decode(level, entry, iova) {
            Ok(Next::Table { address, level }) => Ok(Slot::Table { address, level }),
            Ok(Next::Page { address, shift }) => Ok(Slot::Page { address, shift }),
            Err(Reason::NotPresent) => Ok(Slot::Vacant),
            Err(reason) => Err(EditError::Corrupt {
                address: PhysAddr(place),
                reason,
            }),
        }
    }
}

#[cfg(test)]
mod tests;

//! Where walks begin.

use vm_iommu_spec::PhysAddr;

use super::table_reach;

/// Where a walk may start: a table, its level, and what the levels above it permit. The root is
/// one; a walk reports the tables below it, which a paging-structure cache may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The table.
    pub(crate) table: u64,
    /// The level of the table's entries, 1 for the lowest.
    pub(crate) level: u8,
    /// The bitwise and of the entries above, after [`Format::DENIALS`](super::Format::DENIALS) are inverted and flags
    /// are set.
    pub(crate) rights: u64,
}

impl Position {
    pub(crate) const fn root(table: PhysAddr, level: u8) -> Self {
        Self {
            table: table.0,
            level,
            rights: u64::MAX,
        }
    }

    /// A position that was taken apart, to be kept as words.
    pub const fn from_parts(table: PhysAddr, level: u8, rights: u64) -> Self {
        Self {
            table: table.0,
            level,
            rights,
        }
    }

    /// What the entries above permit, in the form of the format that walked: meaningful to
    /// [`from_parts`](Self::from_parts) alone.
    pub const fn rights(&self) -> u64 {
        self.rights
    }

    /// The level of the table's entries, 1 for the lowest.
    pub const fn level(&self) -> u8 {
        self.level
    }

    /// The address of the table.
    pub const fn table(&self) -> PhysAddr {
        PhysAddr(self.table)
    }

    /// How many of an address's lower bits the table translates. All addresses with the same
    /// upper bits use the same table.
    pub const fn reach(&self) -> u8 {
        table_reach(self.level)
    }
}

//! What the hardware must forget after an edit.

use alloc::vec::Vec;

use vm_iommu_spec::{Iova, PhysAddr};

use super::TablePages;

/// What an edit changed, and so what the hardware may have cached that no longer holds; with the
/// tables that no entry points to any more.
///
/// The caller invalidates, waits until that is complete, and calls
/// [`completed`](Self::completed). Dropping it instead loses the tables.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "the hardware may hold what the edit changed"]
pub struct Invalidation {
    range: Option<(Iova, Iova)>,
    pub(super) bytes: u64,
    pub(super) removes: bool,
    pub(super) tables: bool,
    pub(super) retired: Vec<PhysAddr>,
}

impl Invalidation {
    /// The first and the last address whose translation changed, if any did.
    pub fn range(&self) -> Option<(Iova, Iova)> {
        self.range
    }

    /// How many bytes were mapped, unmapped or changed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether translations that existed were changed or removed. Otherwise only hardware that
    /// caches absent entries (caching mode) needs an invalidation.
    pub fn removes(&self) -> bool {
        self.removes
    }

    /// Whether entries that point to tables changed, which paging-structure caches hold.
    /// Otherwise the invalidation may be limited to pages (the invalidation hint of VT-d).
    pub fn tables(&self) -> bool {
        self.tables
    }

    /// How many tables [`completed`](Self::completed) will free.
    pub fn retired(&self) -> usize {
        self.retired.len()
    }

    /// Adds another edit of the same tables, to be invalidated together; the range grows to cover
    /// both.
    pub fn merge(&mut self, other: Self) {
        if let Some((first, last)) = other.range {
            self.cover(first, last);
        }
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.removes |= other.removes;
        self.tables |= other.tables;
        self.retired.extend(other.retired);
    }

    /// Frees the tables that the edit retired. To be called only after the hardware reported
    /// that the invalidation is complete.
    pub fn completed<P: TablePages + ?Sized>(self, pages: &mut P) {
        for table in self.retired {
            pages.free_table(table);
        }
    }

    pub(super) fn cover(&mut self, first: Iova, last: Iova) {
        self.range = Some(match self.range {
            Some((low, high)) => (low.min(first), high.max(last)),
            None => (first, last),
        });
    }
}

//! Domains and accesses that show an address space.

use std::sync::Arc;

use vm_iommu_driver::iommu::Domain;

use super::{Area, Ioas, Owner};
use crate::Errno;
use crate::caller::PAGE_SIZE;

impl Ioas {
    /// Has a domain show all areas, now and in future.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if it cannot map single pages; [`EADDRINUSE`](Errno::EADDRINUSE) if an
    /// area is not aligned for it or beyond what it can map; what pinning and mapping say. Then
    /// nothing has changed.
    pub(crate) fn add_domain(&mut self, table: u32, domain: &Arc<dyn Domain>) -> Result<(), Errno> {
        let geometry = domain.geometry();
        let alignment = smallest(geometry.page_sizes).max(self.alignment);
        if alignment > PAGE_SIZE {
            return Err(Errno::EINVAL);
        }
        self.check_alignment(alignment)?;
        let (first, last) = (geometry.aperture.start().0, geometry.aperture.end().0);
        let result = self
            .reserve_outside(first, last, Owner::Table(table))
            .and_then(|()| self.fill_domain(domain));
        if result.is_err() {
            self.unreserve(Owner::Table(table));
            return result;
        }
        self.alignment = alignment;
        self.domains.insert(table, Arc::clone(domain));
        Ok(())
    }

    /// Has a domain show nothing any more.
    pub(crate) fn remove_domain(&mut self, table: u32) {
        let Some(domain) = self.domains.remove(&table) else {
            return;
        };
        self.areas.values().for_each(|area| area.unfill(&domain));
        self.unreserve(Owner::Table(table));
        // It can only become less strict.
        self.alignment = self.needed_alignment();
    }

    /// Lets an access in, that needs addresses and memory aligned.
    ///
    /// # Errors
    /// [`Errno::EADDRINUSE`] if an area is not aligned.
    pub(crate) fn add_access(&mut self, access: u32, alignment: u64) -> Result<(), Errno> {
        self.check_alignment(alignment)?;
        self.accesses.insert(access, alignment);
        self.alignment = self.needed_alignment();
        Ok(())
    }

    /// Lets an access go.
    pub(crate) fn remove_access(&mut self, access: u32) {
        self.accesses.remove(&access);
        self.alignment = self.needed_alignment();
    }

    /// The accesses to be told of an unmapping.
    pub(crate) fn accesses(&self) -> Vec<u32> {
        self.accesses.keys().copied().collect()
    }

    /// Chooses whether more than a page may be mapped at once.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] to forbid it when a domain maps something already,
    /// [`EADDRINUSE`](Errno::EADDRINUSE) if an area is not of whole pages.
    pub(crate) fn set_large_pages(&mut self, large_pages: bool) -> Result<(), Errno> {
        if !large_pages && self.large_pages {
            if !self.domains.is_empty() && !self.areas.is_empty() {
                return Err(Errno::EINVAL);
            }
            self.check_alignment(PAGE_SIZE)?;
        }
        self.large_pages = large_pages;
        self.alignment = self.needed_alignment();
        Ok(())
    }

    fn reserve_outside(&mut self, first: u64, last: u64, owner: Owner) -> Result<(), Errno> {
        if first > 0 {
            self.reserve(0..=first - 1, owner)?;
        }
        if last < u64::MAX {
            self.reserve(last + 1..=u64::MAX, owner)?;
        }
        Ok(())
    }

    fn fill_domain(&self, domain: &Arc<dyn Domain>) -> Result<(), Errno> {
        for (index, area) in self.areas.values().enumerate() {
            if let Err(error) = area.fill(domain, self.large_pages) {
                let filled = self.areas.values().take(index);
                filled.for_each(|area| area.unfill(domain));
                return Err(error);
            }
        }
        Ok(())
    }

    fn needed_alignment(&self) -> u64 {
        // Where single pages are mapped, each must be whole.
        let own = if self.large_pages { 1 } else { PAGE_SIZE };
        let domains = self
            .domains
            .values()
            .map(|domain| smallest(domain.geometry().page_sizes));
        domains
            .chain(self.accesses.values().copied())
            .fold(own, u64::max)
    }

    fn check_alignment(&self, alignment: u64) -> Result<(), Errno> {
        let fits = |area: &Area| {
            (area.first | area.slice.length | area.page_offset()) & (alignment - 1) == 0
        };
        if alignment <= self.alignment || self.areas.values().all(fits) {
            Ok(())
        } else {
            Err(Errno::EADDRINUSE)
        }
    }
}

/// The smallest page of a set of sizes; whole pages of the processor if the set is empty.
fn smallest(page_sizes: u64) -> u64 {
    if page_sizes == 0 {
        PAGE_SIZE
    } else {
        page_sizes & page_sizes.wrapping_neg()
    }
}

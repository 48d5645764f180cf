//! Mapping and sharing.

use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_iommu_spec::Access;

use super::{Area, Ioas, Pages, Slice};
use crate::Errno;
use crate::caller::PAGE_SIZE;

/// Addresses are aligned as their memory is up to this size, so that large pages fit.
const LARGE_PAGE: u64 = 2 << 20;

/// Some pages that are mapped, or are to be.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub(crate) pages: Arc<Pages>,
    pub(crate) slice: Slice,
}

/// What is to be mapped.
pub(crate) struct Mapping {
    /// One after the other.
    pub(crate) elements: Vec<Element>,
    /// Where; `None` for any place.
    pub(crate) iova: Option<u64>,
    pub(crate) access: Access,
}

impl Ioas {
    /// Maps pages, in all domains; yields where.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for what is not aligned, for reserved addresses and for no length;
    /// [`EEXIST`](Errno::EEXIST) where something is mapped, [`ENOSPC`](Errno::ENOSPC),
    /// [`EOVERFLOW`](Errno::EOVERFLOW), [`EPERM`](Errno::EPERM) to write what may only be read;
    /// [`EFAULT`](Errno::EFAULT) and [`ENOMEM`](Errno::ENOMEM) when pinning. Then nothing is
    /// mapped.
    pub(crate) fn map(&mut self, mapping: Mapping) -> Result<u64, Errno> {
        let Mapping {
            elements,
            iova,
            access,
        } = mapping;
        let lengths = elements.iter().map(|element| element.slice.length);
        let length = lengths.fold(0_u64, u64::saturating_add);
        let first = elements.first().ok_or(Errno::EINVAL)?;
        if length == 0 || length & (self.alignment - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let iova = match iova {
            None => self.find(first.pages.source_address(first.slice.start), length)?,
            Some(iova) => self.check(iova, length)?,
        };
        let mut at = iova;
        let mut areas = Vec::new();
        for Element { pages, slice } in elements {
            let area = Area {
                first: at,
                pages,
                slice,
                access,
                accesses: 0,
                locks: 0,
                closing: false,
                room: self.limit.take()?,
            };
            at = at.wrapping_add(slice.length);
            if access.contains(Access::WRITE) && !area.pages.writable() {
                return Err(Errno::EPERM);
            }
            if area.page_offset() & (self.alignment - 1) != 0 {
                return Err(Errno::EINVAL);
            }
            if !area.pages.contains(slice) {
                return Err(Errno::EOVERFLOW);
            }
            areas.push(area);
        }
        self.fill_domains(&areas)?;
        self.gaps.take(iova..=iova + (length - 1));
        self.areas
            .extend(areas.into_iter().map(|area| (area.first, area)));
        Ok(iova)
    }

    /// The pages at a range of addresses, for mapping them elsewhere.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] for no length, [`EOVERFLOW`](Errno::EOVERFLOW),
    /// [`ENOENT`](Errno::ENOENT) unless all of it is mapped.
    pub(crate) fn pages(&self, iova: u64, length: u64) -> Result<Vec<Element>, Errno> {
        let range = range(iova, length)?;
        let areas = self.contiguous(&range)?;
        Ok(areas
            .into_iter()
            .map(|area| Element {
                pages: Arc::clone(&area.pages),
                slice: area.slice_at(&range),
            })
            .collect())
    }

    /// The areas that cover a range of addresses.
    ///
    /// # Errors
    /// [`Errno::ENOENT`] unless all of it is mapped.
    pub(crate) fn contiguous(&self, range: &RangeInclusive<u64>) -> Result<Vec<&Area>, Errno> {
        let mut areas = Vec::new();
        let mut at = *range.start();
        loop {
            let area = self.area_at(at).ok_or(Errno::ENOENT)?;
            areas.push(area);
            if area.last() >= *range.end() {
                return Ok(areas);
            }
            at = area.last() + 1;
        }
    }

    pub(crate) fn area_mut(&mut self, first: u64) -> Option<&mut Area> {
        self.areas.get_mut(&first)
    }

    fn fill_domains(&self, areas: &[Area]) -> Result<(), Errno> {
        let mut filled = Vec::new();
        for area in areas {
            for domain in self.domains.values() {
                if let Err(error) = area.fill(domain, self.large_pages) {
                    for (area, domain) in filled.into_iter().rev() {
                        Area::unfill(area, domain);
                    }
                    return Err(error);
                }
                filled.push((area, domain));
            }
        }
        Ok(())
    }

    /// A free place for memory that is at `source` in a process or file.
    fn find(&self, source: u64, length: u64) -> Result<u64, Errno> {
        if length >= u64::MAX / 2 {
            return Err(Errno::EOVERFLOW);
        }
        let natural = length.next_power_of_two();
        let alignment = match source {
            0 => natural,
            _ => natural.min(1 << source.trailing_zeros()),
        };
        let alignment = alignment.min(LARGE_PAGE);
        if alignment < self.alignment {
            return Err(Errno::EINVAL);
        }
        // Memory that does not begin on a page keeps its place in the page.
        let offset = source % PAGE_SIZE;
        let modulus = if offset == 0 {
            alignment
        } else {
            alignment.max(PAGE_SIZE)
        };
        self.gaps.find(length, modulus, offset).ok_or(Errno::ENOSPC)
    }

    fn check(&self, iova: u64, length: u64) -> Result<u64, Errno> {
        if iova & (self.alignment - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let range = range(iova, length)?;
        if self.reserved.any(range.clone()) {
            return Err(Errno::EINVAL);
        }
        if self.meets_area(&range) {
            return Err(Errno::EEXIST);
        }
        Ok(iova)
    }
}

/// A range of addresses.
///
/// # Errors
/// [`Errno::EINVAL`] for no length, [`EOVERFLOW`](Errno::EOVERFLOW).
pub(super) fn range(iova: u64, length: u64) -> Result<RangeInclusive<u64>, Errno> {
    let reach = length.checked_sub(1).ok_or(Errno::EINVAL)?;
    Ok(iova..=iova.checked_add(reach).ok_or(Errno::EOVERFLOW)?)
}

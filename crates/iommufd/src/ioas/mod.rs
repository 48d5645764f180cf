//! Address spaces (IOAS): what is mapped at which I/O virtual address, and what may be.
//!
//! Areas, reserved and free ranges are in balanced trees, so that a call costs the logarithm of
//! their number. All domains of a space show the same areas.

mod area;
mod dirty;
mod domains;
mod exported;
mod gaps;
mod map;
mod pages;
mod unmap;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_iommu_driver::iommu::Domain;
use vm_iommu_spec::RequesterId;

pub(crate) use area::Area;
pub(crate) use dirty::BitmapRequest;
pub(crate) use exported::Exported;
use gaps::Gaps;
pub(crate) use map::{Element, Mapping};
pub(crate) use pages::{Pages, Slice, Source};
pub(crate) use unmap::Unmap;

use crate::Errno;
use crate::caller::PAGE_SIZE;
use crate::counts::RangeCount;
use crate::limit::Limit;
use crate::ownership::SpaceId;

/// Whose a reserved range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// A hardware page table, that cannot map it.
    Table(u32),
    /// A device, that would not reach memory there.
    Device(RequesterId),
    /// A test.
    #[cfg(feature = "selftest")]
    Test,
}

/// An address space.
#[derive(Debug)]
pub(crate) struct Ioas {
    space: SpaceId,
    /// What is mapped, by first address.
    areas: BTreeMap<u64, Area>,
    /// The last address by the first of ranges to which allocation is confined, if there are any.
    allowed: BTreeMap<u64, u64>,
    reserved: RangeCount,
    reserved_by: BTreeMap<Owner, Vec<RangeInclusive<u64>>>,
    /// Where an area may be placed automatically.
    gaps: Gaps,
    /// The domains that show the areas, by hardware page table.
    domains: BTreeMap<u32, Arc<dyn Domain>>,
    /// The alignment that each access object needs.
    accesses: BTreeMap<u32, u64>,
    alignment: u64,
    large_pages: bool,
    /// The areas that the context may have.
    limit: Arc<Limit>,
}

impl Ioas {
    pub(crate) fn new(space: SpaceId, limit: Arc<Limit>) -> Self {
        let mut ioas = Self {
            space,
            limit,
            areas: BTreeMap::new(),
            allowed: BTreeMap::new(),
            reserved: RangeCount::default(),
            reserved_by: BTreeMap::new(),
            gaps: Gaps::default(),
            domains: BTreeMap::new(),
            accesses: BTreeMap::new(),
            alignment: 1,
            large_pages: true,
        };
        ioas.find_gaps();
        ioas
    }

    pub(crate) fn space(&self) -> SpaceId {
        self.space
    }

    /// The alignment of addresses and lengths, in bytes.
    pub(crate) fn alignment(&self) -> u64 {
        self.alignment
    }

    pub(crate) fn large_pages(&self) -> bool {
        self.large_pages
    }

    pub(crate) fn domains(&self) -> impl Iterator<Item = &Arc<dyn Domain>> {
        self.domains.values()
    }

    pub(crate) fn areas(&self) -> impl Iterator<Item = &Area> {
        self.areas.values()
    }

    /// The ranges that are not reserved, in ascending order.
    pub(crate) fn usable(&self) -> Vec<RangeInclusive<u64>> {
        self.reserved.holes(0..=u64::MAX)
    }

    /// Confines automatic placement to some ranges, in place of those before; none is no limit.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if a range is empty, has one byte, or meets another;
    /// [`EADDRINUSE`](Errno::EADDRINUSE) if one meets a reserved one.
    pub(crate) fn allow(&mut self, ranges: &[RangeInclusive<u64>]) -> Result<(), Errno> {
        let mut allowed = BTreeMap::new();
        for range in ranges {
            let (first, last) = (*range.start(), *range.end());
            let meets = meets(&allowed, range, |last| *last);
            if first >= last || meets {
                return Err(Errno::EINVAL);
            }
            allowed.insert(first, last);
        }
        if ranges.iter().any(|range| self.reserved.any(range.clone())) {
            return Err(Errno::EADDRINUSE);
        }
        self.allowed = allowed;
        self.find_gaps();
        Ok(())
    }

    /// Reserves a range: nothing is mapped there until its owner gives it back.
    ///
    /// # Errors
    /// [`Errno::EADDRINUSE`] if it meets what is mapped or an allowed range.
    pub(crate) fn reserve(
        &mut self,
        range: RangeInclusive<u64>,
        owner: Owner,
    ) -> Result<(), Errno> {
        if self.meets_area(&range) || meets(&self.allowed, &range, |last| *last) {
            return Err(Errno::EADDRINUSE);
        }
        self.reserved.add(range.clone());
        self.gaps.take(range.clone());
        self.reserved_by.entry(owner).or_default().push(range);
        Ok(())
    }

    /// Gives back all that an owner reserved.
    pub(crate) fn unreserve(&mut self, owner: Owner) {
        for range in self.reserved_by.remove(&owner).unwrap_or_default() {
            for free in self.reserved.remove(range) {
                self.give(free);
            }
        }
    }

    fn meets_area(&self, range: &RangeInclusive<u64>) -> bool {
        meets(&self.areas, range, Area::last)
    }

    /// The area at an address.
    fn area_at(&self, iova: u64) -> Option<&Area> {
        let (_, area) = self.areas.range(..=iova).next_back()?;
        (area.last() >= iova).then_some(area)
    }

    fn find_gaps(&mut self) {
        self.gaps = Gaps::default();
        self.give(0..=u64::MAX);
        let taken: Vec<_> = self.areas.values().map(Area::range).collect();
        taken.into_iter().for_each(|range| self.gaps.take(range));
        let mut at = 0;
        for hole in self.reserved.holes(0..=u64::MAX) {
            if *hole.start() > at {
                self.gaps.take(at..=hole.start() - 1);
            }
            match hole.end().checked_add(1) {
                Some(next) => at = next,
                None => return,
            }
        }
        self.gaps.take(at..=u64::MAX);
    }

    /// Lets areas be placed automatically where nothing is mapped or reserved any more: within
    /// the allowed ranges, and never on the first or the last page.
    fn give(&mut self, free: RangeInclusive<u64>) {
        let mut give = |limit: RangeInclusive<u64>| {
            let first = *free.start().max(limit.start());
            let last = *free.end().min(limit.end());
            if first <= last {
                self.gaps.give(first..=last);
            }
        };
        let all = PAGE_SIZE..=u64::MAX - PAGE_SIZE;
        if self.allowed.is_empty() {
            give(all);
            return;
        }
        for (&first, &last) in self.allowed.range(..=*free.end()).rev() {
            if last < *free.start() {
                break;
            }
            let (first, last) = (first.max(*all.start()), last.min(*all.end()));
            if first <= last {
                give(first..=last);
            }
        }
    }
}

/// Whether a range meets one of a tree of disjoint ones, by first address.
fn meets<T>(
    ranges: &BTreeMap<u64, T>,
    range: &RangeInclusive<u64>,
    last: impl Fn(&T) -> u64,
) -> bool {
    let nearest = ranges.range(..=*range.end()).next_back();
    nearest.is_some_and(|(_, value)| last(value) >= *range.start())
}

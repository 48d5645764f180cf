//! Where a driver's tables and queues come from.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use vm_iommu_pagetable::{TableMemory, TablePages};
use vm_iommu_spec::PhysAddr;

/// Size of a page in bytes: what tables and queues are made of.
pub const PAGE_SIZE: u64 = 4096;

/// A source of zeroed memory for tables and queues.
pub trait Pages {
    /// `1 << order` pages in a row, aligned to their size and zeroed; `None` if there are none.
    fn allocate(&mut self, order: u8) -> Option<PhysAddr>;

    /// Takes back what [`allocate`](Self::allocate) gave for this `order`. No unit reads or
    /// writes it any more.
    fn free(&mut self, start: PhysAddr, order: u8);
}

/// The order of an allocation that holds `bytes`.
pub(crate) fn order_of(bytes: u64) -> u8 {
    bytes
        .div_ceil(PAGE_SIZE)
        .next_power_of_two()
        .trailing_zeros() as u8
}

/// Single pages, as the editor of tables takes them.
pub(crate) struct Tables<'a, P>(pub(crate) &'a mut P);

impl<P: Pages> TablePages for Tables<'_, P> {
    fn allocate_table(&mut self) -> Option<PhysAddr> {
        self.0.allocate(0)
    }

    fn free_table(&mut self, table: PhysAddr) {
        self.0.free(table, 0);
    }
}

/// Pages that go back if not all could be had.
pub(crate) struct Reserved<'a, P: Pages> {
    pages: &'a mut P,
    taken: Vec<(PhysAddr, u8)>,
}

impl<'a, P: Pages> Reserved<'a, P> {
    pub(crate) fn new(pages: &'a mut P) -> Self {
        Self {
            pages,
            taken: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, order: u8) -> Option<PhysAddr> {
        let start = self.pages.allocate(order)?;
        self.taken.push((start, order));
        Some(start)
    }

    /// All could be had.
    pub(crate) fn keep(mut self) {
        self.taken.clear();
    }
}

impl<P: Pages> Drop for Reserved<'_, P> {
    fn drop(&mut self) {
        for (start, order) in self.taken.drain(..) {
            self.pages.free(start, order);
        }
    }
}

/// Pages from one range of memory: each size is cut from its start and kept for its like when it
/// comes back.
#[derive(Debug)]
pub struct PagePool<M> {
    memory: M,
    unused: Range<u64>,
    returned: BTreeMap<u8, Vec<PhysAddr>>,
}

impl<M: TableMemory> PagePool<M> {
    /// A pool of the whole pages in `range`, which must be zero; `memory` is where they are
    /// zeroed again when they come back.
    pub fn new(memory: M, range: Range<PhysAddr>) -> Self {
        Self {
            memory,
            unused: range.start.0..range.end.0,
            returned: BTreeMap::new(),
        }
    }

    /// Zeroes a page; whether it could.
    fn zero(&self, page: PhysAddr) -> bool {
        let lent = self.memory.with_table(page, &mut |words| {
            words
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        });
        let mut words = (0..PAGE_SIZE).step_by(8);
        lent || words.all(|offset| {
            let word = page.checked_add(offset);
            word.is_some_and(|word| self.memory.store(word, 0).is_ok())
        })
    }

    /// How many bytes were never handed out.
    pub fn unused(&self) -> u64 {
        self.unused.end.saturating_sub(self.unused.start)
    }
}

impl<M: TableMemory> Pages for PagePool<M> {
    fn allocate(&mut self, order: u8) -> Option<PhysAddr> {
        if let Some(start) = self.returned.get_mut(&order).and_then(Vec::pop) {
            return Some(start);
        }
        let size = PAGE_SIZE
            .checked_shl(u32::from(order))
            .filter(|s| *s >= PAGE_SIZE)?;
        let start = self.unused.start.checked_next_multiple_of(size)?;
        let end = start.checked_add(size)?;
        if end > self.unused.end {
            return None;
        }
        // What alignment skips serves smaller requests.
        let mut skipped = self.unused.start.next_multiple_of(PAGE_SIZE);
        while skipped < start {
            self.returned.entry(0).or_default().push(PhysAddr(skipped));
            skipped += PAGE_SIZE;
        }
        self.unused.start = end;
        Some(PhysAddr(start))
    }

    fn free(&mut self, start: PhysAddr, order: u8) {
        let size = PAGE_SIZE << order;
        for offset in (0..size).step_by(PAGE_SIZE as usize) {
            let page = start.checked_add(offset);
            if !page.is_some_and(|page| self.zero(page)) {
                // Not memory of this pool: it is not handed out again.
                return;
            }
        }
        self.returned.entry(order).or_default().push(start);
    }
}

#[cfg(test)]
mod tests {
    use vm_iommu_pagetable::testing::MockMemory;

    use super::*;

    const START: u64 = 0x10_0000;

    #[test]
    fn allocations_are_aligned_and_what_alignment_skips_is_not_lost() {
        let memory = MockMemory::new(PhysAddr(START), 16 << 12);
        let mut pool = PagePool::new(&memory, PhysAddr(START)..PhysAddr(START + 0x1_0000));
        let mut allocate = |order| pool.allocate(order).map(|start| start.0 - START);
        assert_eq!(allocate(0), Some(0));
        assert_eq!(allocate(2), Some(0x4000));
        let mut skipped = [allocate(0), allocate(0), allocate(0)];
        skipped.sort();
        assert_eq!(skipped, [Some(0x1000), Some(0x2000), Some(0x3000)]);
        assert_eq!(allocate(3), Some(0x8000));
        assert_eq!(allocate(0), None);
        assert_eq!(allocate(60), None);
    }

    #[test]
    fn returned_pages_come_back_zeroed() {
        let memory = MockMemory::new(PhysAddr(START), 4 << 12);
        let mut pool = PagePool::new(&memory, PhysAddr(START)..PhysAddr(START + 0x4000));
        let start = pool.allocate(2).unwrap();
        memory.store(PhysAddr(START + 0x3ff8), 7).unwrap();
        assert_eq!(pool.allocate(2), None);
        pool.free(start, 2);
        assert_eq!(pool.allocate(2), Some(start));
        assert_eq!(memory.load(PhysAddr(START + 0x3ff8)), Ok(0));
    }

    #[test]
    fn a_range_that_ends_the_address_space_has_an_end() {
        let memory = MockMemory::new(PhysAddr(START), 0);
        let range = PhysAddr(u64::MAX - 0x2800)..PhysAddr(u64::MAX);
        let mut pool = PagePool::new(&memory, range);
        assert_eq!(pool.allocate(0), Some(PhysAddr(0xffff_ffff_ffff_e000)));
        assert_eq!(pool.allocate(0), None);
    }
}

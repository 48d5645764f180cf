//! Where a driver's tables and queues come from.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use vm_iommu_pagetable::TableMemory;
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
        for offset in (0..size).step_by(8) {
            let zeroed = start
                .checked_add(offset)
                .is_some_and(|word| self.memory.store(word, 0).is_ok());
            if !zeroed {
                // Not memory of this pool: it is not handed out again.
                return;
            }
        }
        self.returned.entry(order).or_default().push(start);
    }
}

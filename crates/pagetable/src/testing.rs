//! Table memory and a source of pages for tests.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use vm_iommu_spec::PhysAddr;

use crate::{BadAddress, TableMemory, TablePages};

/// One flat region of zeroed table memory.
///
/// ```
/// use vm_iommu_pagetable::{TableMemory, testing::MockMemory};
/// use vm_iommu_spec::PhysAddr;
///
/// let memory = MockMemory::new(PhysAddr(0x10_0000), 4 << 12);
/// memory.store(PhysAddr(0x10_0008), 7)?;
/// assert_eq!(memory.load(PhysAddr(0x10_0008))?, 7);
/// assert!(memory.load(PhysAddr(0x10_4000)).is_err());
/// # Ok::<(), vm_iommu_pagetable::BadAddress>(())
/// ```
#[derive(Debug)]
pub struct MockMemory {
    base: PhysAddr,
    words: Vec<AtomicU64>,
}

impl MockMemory {
    /// A region that begins at `base` and is `size` bytes long; both multiples of 8, the rest is
    /// dropped.
    pub fn new(base: PhysAddr, size: usize) -> Self {
        let words = (0..size / 8).map(|_| AtomicU64::new(0)).collect();
        Self {
            base: base.align_down(8),
            words,
        }
    }

    /// The address of the first byte.
    pub fn base(&self) -> PhysAddr {
        self.base
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// The words, in the order of their addresses.
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    #[inline]
    fn word(&self, address: PhysAddr) -> Result<&AtomicU64, BadAddress> {
        // The rotation moves the bits below 8 to the top, where they make the index too large.
        let index = address.0.wrapping_sub(self.base.0).rotate_right(3);
        usize::try_from(index)
            .ok()
            .and_then(|i| self.words.get(i))
            .ok_or(BadAddress(address))
    }
}

impl TableMemory for MockMemory {
    #[inline]
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        Ok(self.word(address)?.load(Ordering::Acquire))
    }

    #[inline]
    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        Ok(self
            .word(address)?
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire))
    }

    #[inline]
    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        self.word(address)?.store(value, Ordering::Release);
        Ok(())
    }

    fn with_table(&self, table: PhysAddr, access: &mut dyn FnMut(&[AtomicU64; 512])) -> bool {
        let first = table.0.checked_sub(self.base.0);
        let first = first.filter(|offset| offset.is_multiple_of(8));
        let words = first.and_then(|offset| self.words.get(usize::try_from(offset / 8).ok()?..));
        let words = words.and_then(|words| words.first_chunk());
        words.map(access).is_some()
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        if !address.is_aligned(4) {
            return Err(BadAddress(address));
        }
        let word = self.word(address.align_down(8))?;
        let shift = address.offset_in(8) * 8;
        let merge = |old| Some(old & !(0xffff_ffff << shift) | u64::from(value) << shift);
        // `merge` never declines.
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, merge);
        Ok(())
    }
}

/// A source of table pages: a part of a [`MockMemory`], from its lowest page on.
#[derive(Debug)]
pub struct MockPages<'a> {
    memory: &'a MockMemory,
    next: u64,
    end: u64,
    returned: Vec<PhysAddr>,
    in_use: usize,
}

impl<'a> MockPages<'a> {
    /// The pages from `start` to before `end`, both multiples of 4096; those outside of `memory`
    /// are not handed out.
    pub fn new(memory: &'a MockMemory, start: PhysAddr, end: PhysAddr) -> Self {
        let (base, top) = (
            memory.base().0,
            memory.base().0.saturating_add(memory.size()),
        );
        let next = start.0.max(base);
        Self {
            memory,
            next,
            end: end.0.min(top),
            returned: Vec::new(),
            in_use: 0,
        }
    }

    /// How many pages are handed out.
    pub fn in_use(&self) -> usize {
        self.in_use
    }
}

impl TablePages for MockPages<'_> {
    fn allocate_table(&mut self) -> Option<PhysAddr> {
        let page = match self.returned.pop() {
            Some(page) => page,
            None if self.next.checked_add(4096)? <= self.end => {
                self.next += 4096;
                PhysAddr(self.next - 4096)
            }
            None => return None,
        };
        for offset in (0..4096).step_by(8) {
            self.memory.store(PhysAddr(page.0 + offset), 0).ok()?;
        }
        self.in_use += 1;
        Some(page)
    }

    fn free_table(&mut self, table: PhysAddr) {
        self.in_use = self.in_use.saturating_sub(1);
        self.returned.push(table);
    }
}

#[cfg(test)]
mod tests;

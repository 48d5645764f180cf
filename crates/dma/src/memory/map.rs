//! One state of guest memory: its regions, and which pages of them were written.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_iommu_spec::PhysAddr;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::HostRange;

/// Bytes that one bit of a log stands for, as a power of two.
pub(super) const PAGE_SHIFT: u32 = 12;

pub(super) struct Map {
    pub(super) regions: Box<[Region]>,
    pub(super) memory: Arc<GuestMemoryMmap>,
}

pub(super) struct Region {
    pub(super) range: HostRange,
    /// A bit for each page, from the page of the region's start; none while nothing is logged.
    pub(super) dirty: Option<Box<[AtomicU64]>>,
}

impl Map {
    /// The regions of `memory`, sorted; with a log of writes if `logging`.
    pub(super) fn new(memory: Arc<GuestMemoryMmap>, logging: bool) -> Box<Self> {
        let mut regions: Vec<Region> = memory
            .iter()
            .filter_map(|region| {
                let range = HostRange {
                    start: PhysAddr(region.start_addr().0),
                    len: region.len(),
                    host: NonNull::new(memory.get_host_address(region.start_addr()).ok()?)?,
                };
                Some(Region::new(range, logging))
            })
            .collect();
        regions.sort_by_key(|region| region.range.start);
        Box::new(Self {
            regions: regions.into(),
            memory,
        })
    }

    #[inline]
    pub(super) fn region(&self, address: PhysAddr) -> Option<&Region> {
        self.regions
            .iter()
            .find(|region| address.0.wrapping_sub(region.range.start.0) < region.range.len)
    }

    /// The region that holds all `len` bytes (at least 1) from `address`, and where they are.
    #[inline]
    pub(super) fn locate(&self, address: PhysAddr, len: u64) -> Option<(&Region, NonNull<u8>)> {
        let region = self.region(address)?;
        let offset = address.0 - region.range.start.0;
        if region.range.len - offset < len {
            return None;
        }
        // SAFETY: `offset` is within the mapped region.
        Some((region, unsafe { region.range.host.add(offset as usize) }))
    }

    /// Marks as written, here, what is marked in `other`.
    pub(super) fn adopt_marks(&self, other: &Self) {
        for page in other.regions.iter().flat_map(Region::marked) {
            if let Some(region) = self.region(page) {
                region.mark(page, 1);
            }
        }
    }
}

impl Region {
    fn new(range: HostRange, logging: bool) -> Self {
        let dirty = logging.then(|| {
            let last = range.start.0.saturating_add(range.len - 1);
            let pages = (last >> PAGE_SHIFT) - (range.start.0 >> PAGE_SHIFT) + 1;
            (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
        });
        Self { range, dirty }
    }

    /// Marks the pages of `len` bytes (at least 1) from `address`, as far as they are in the
    /// region.
    #[inline]
    pub(super) fn mark(&self, address: PhysAddr, len: u64) {
        if let Some(dirty) = &self.dirty {
            let base = self.range.start.0 >> PAGE_SHIFT;
            let last = address.0.saturating_add(len.saturating_sub(1));
            let last = last.min(self.range.start.0.saturating_add(self.range.len - 1));
            for page in (address.0 >> PAGE_SHIFT) - base..=(last >> PAGE_SHIFT) - base {
                let bit = 1 << (page % 64);
                if let Some(word) = dirty.get((page / 64) as usize)
                    && word.load(Ordering::Relaxed) & bit == 0
                {
                    word.fetch_or(bit, Ordering::SeqCst);
                }
            }
        }
    }

    /// The first byte of each marked page, in their order.
    fn marked(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        let base = self.range.start.0 >> PAGE_SHIFT;
        let words = self.dirty.iter().flat_map(|dirty| dirty.iter()).enumerate();
        words.flat_map(move |(index, word)| {
            let word = word.load(Ordering::SeqCst);
            (0..64)
                .filter(move |bit| word >> bit & 1 != 0)
                .map(move |bit| {
                    let page = (base + index as u64 * 64 + bit) << PAGE_SHIFT;
                    PhysAddr(page.max(self.range.start.0))
                })
        })
    }

    /// Takes the marks.
    pub(super) fn take_marks(&self) -> Vec<u64> {
        let words = self.dirty.iter().flat_map(|dirty| dirty.iter());
        words.map(|word| word.swap(0, Ordering::SeqCst)).collect()
    }
}

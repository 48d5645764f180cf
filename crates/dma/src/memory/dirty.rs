//! Logging which pages devices write, for migration.
//!
//! While it is on, no translation is cached for writing before its page was marked: the first
//! write to a page misses, is marked, and what is then cached for writing is that page alone. A
//! harvest takes the marks, drops what is cached and drains. Nothing on the way of a hit asks
//! whether logging is on.

use std::sync::atomic::Ordering;

use vm_iommu_spec::PhysAddr;

use super::GuestRam;
use super::map::{Map, PAGE_SHIFT};

/// The pages that were written between two harvests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyPages {
    regions: Vec<(PhysAddr, Vec<u64>)>,
}

impl DirtyPages {
    /// The first byte of each page of 4 KiB, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        self.bitmaps().flat_map(|(start, words)| {
            let bits = words.iter().enumerate();
            bits.flat_map(move |(index, word)| {
                (0..64)
                    .filter(move |bit| word >> bit & 1 != 0)
                    .map(move |bit| PhysAddr(start.0 + ((index as u64 * 64 + bit) << PAGE_SHIFT)))
            })
        })
    }

    /// For each region its first page and a bitmap, the lowest bit of the first word for that
    /// page: the form in which KVM reports its own.
    pub fn bitmaps(&self) -> impl Iterator<Item = (PhysAddr, &[u64])> + '_ {
        self.regions
            .iter()
            .map(|(start, words)| (*start, words.as_slice()))
    }

    /// Whether no page was written.
    pub fn is_empty(&self) -> bool {
        self.bitmaps()
            .all(|(_, words)| words.iter().all(|word| *word == 0))
    }
}

/// What is logged: writes of devices through handles and sessions, and what units themselves write
/// (status words, accessed and dirty flags). Not what vCPUs write, which the hypervisor logs, and
/// not what the VMM writes through [`GuestRam::memory`] or observers by means of their own.
impl GuestRam {
    /// Begins to log. When it returns, every write that still runs will be marked. The caller must
    /// not be inside an epoch. Without effect if it is on.
    pub fn start_dirty_log(&self) {
        let change = self.shared.change();
        if self.shared.logging.load(Ordering::SeqCst) {
            return;
        }
        // A page may be marked before anybody is told to mark, but not the other way round.
        let old = self.shared.publish(Map::new(self.memory(), true));
        self.shared.logging.store(true, Ordering::SeqCst);
        self.shared.quiesce(&change);
        drop(old);
    }

    /// Stops to log and forgets what was not harvested. The caller must not be inside an epoch.
    pub fn stop_dirty_log(&self) {
        let change = self.shared.change();
        if !self.shared.logging.swap(false, Ordering::SeqCst) {
            return;
        }
        let old = self.shared.publish(Map::new(self.memory(), false));
        self.shared.quiesce(&change);
        drop(old);
    }

    /// The pages written since logging began or was last harvested; none while it is off. The
    /// caller must not be inside an epoch.
    ///
    /// When it returns, the writes that led to these marks have ended: a copy of the pages that is
    /// made from now on holds them, and later writes are marked again.
    pub fn harvest_dirty_pages(&self) -> DirtyPages {
        let change = self.shared.change();
        if !self.shared.logging.load(Ordering::SeqCst) {
            return DirtyPages::default();
        }
        // Marks are taken before cached translations go: what is cached after that was marked
        // after that. And a write whose mark was taken is awaited.
        let regions = self.with_map(|map| {
            let regions = map.regions.iter();
            regions
                .map(|region| {
                    let start = region.range.start.align_down(1 << PAGE_SHIFT);
                    (start, region.take_marks())
                })
                .collect()
        });
        self.shared.quiesce(&change);
        DirtyPages { regions }
    }
}

//! Tables, queues and status words in one state of guest memory.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::PhysAddr;

use super::map::{Map, Region};

/// Guest RAM as it is for the length of a walk; see [`GuestRam::tables`](crate::GuestRam::tables).
#[repr(transparent)]
pub struct TableView(Map);

impl TableView {
    #[inline]
    pub(super) fn of(map: &Map) -> &Self {
        // SAFETY: the representation is that of a map.
        unsafe { &*std::ptr::from_ref(map).cast() }
    }

    /// The word of `size` bytes at `address`, if it is aligned and in memory.
    #[inline]
    fn word(&self, address: PhysAddr, size: u64) -> Result<(&Region, NonNull<u8>), BadAddress> {
        match self.0.locate(address, size) {
            Some((region, host))
                if address.is_aligned(size)
                    && host.as_ptr().addr().is_multiple_of(size as usize) =>
            {
                Ok((region, host))
            }
            _ => Err(BadAddress(address)),
        }
    }

    /// The 64-bit word at `address`, if it is aligned and in memory.
    #[inline]
    fn word_u64(&self, address: PhysAddr) -> Result<(&Region, &AtomicU64), BadAddress> {
        let (region, host) = self.word(address, 8)?;
        // SAFETY: the word is mapped while the map lives, aligned, and shared with the guest, so
        // that it is only ever accessed atomically or as volatile bytes.
        Ok((region, unsafe { AtomicU64::from_ptr(host.as_ptr().cast()) }))
    }
}

impl TableMemory for TableView {
    #[inline]
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        let (_, word) = self.word_u64(address)?;
        Ok(u64::from_le(word.load(Ordering::Acquire)))
    }

    #[inline]
    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        let (region, word) = self.word_u64(address)?;
        region.mark(address, 8);
        Ok(word
            .compare_exchange(
                old.to_le(),
                new.to_le(),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .map(u64::from_le)
            .map_err(u64::from_le))
    }

    #[inline]
    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        let (region, word) = self.word_u64(address)?;
        region.mark(address, 8);
        word.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn with_table(&self, table: PhysAddr, access: &mut dyn FnMut(&[AtomicU64; 512])) -> bool {
        let Some((region, host)) = self.0.locate(table, 4096) else {
            return false;
        };
        // Words in memory are little-endian.
        if cfg!(target_endian = "big") || !host.cast::<AtomicU64>().is_aligned() {
            return false;
        }
        // Whoever takes the mark waits for the stores that follow: the map is in use until then.
        region.mark(table, 4096);
        // SAFETY: the words are mapped while the map lives, aligned, and shared with the guest,
        // so that they are only ever accessed atomically or as volatile bytes.
        access(unsafe { host.cast::<[AtomicU64; 512]>().as_ref() });
        true
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        let (region, host) = self.word(address, 4)?;
        region.mark(address, 4);
        // SAFETY: as in `word_u64`.
        let word = unsafe { AtomicU32::from_ptr(host.as_ptr().cast()) };
        word.store(value.to_le(), Ordering::Release);
        Ok(())
    }
}
